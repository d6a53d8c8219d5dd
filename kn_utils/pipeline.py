"""One study's tables, each loaded if an earlier notebook made it, else computed: what lets a notebook run on its own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import cuda

from .artifacts import (
    cached,
    code_version,
    fingerprint,
    full_origin,
    git_commit,
    load_table,
    save_json,
    save_table,
    stored,
)  # fmt: skip
from .attribution import attribute
from .config import StudyParameters, run_folder
from .evaluation import answer_probability
from .facts import Facts, make_prompts
from .models import REGISTERED, LanguageModel, load_model
from .neurons import random_neurons, refine
from .sources import load_facts
from .streaming import prompts_file

#: Threshold of the activation baseline (Dai et al.'s code; activations are less peaked than attributions).
ACTIVATION_THRESHOLD = 0.5


class Study:
    """The tables of one model, data set, language and relation, under ``parameters.folder``.

    Every method that takes ``language`` uses the parameters' language unless told otherwise, so a notebook can set
    ``en`` beside ``all``. Nothing is computed twice: tables lie on disk with their origin (:mod:`kn_utils.artifacts`).
    """

    def __init__(self, parameters: StudyParameters) -> None:
        self.parameters = parameters
        relations = None if parameters.relation == "all" else [parameters.relation]
        languages = None if parameters.language == "all" else [parameters.language]
        load_facts(
            parameters.dataset, languages=languages, relations=relations
        )  # refuses unknown names before a model is loaded

    @cached_property
    def model(self) -> LanguageModel:
        p = self.parameters
        return load_model(p.model, p.revision, device=p.device, dtype=self.dtype)

    @property
    def dtype(self) -> str:
        """``auto``: float64 for the bundled model, whose stored outputs are compared digit by digit; else float32."""
        p = self.parameters
        small = p.model == "mini" and p.device in ("auto", "cpu") and p.precision is None
        return ("float64" if small else "float32") if p.dtype == "auto" else p.dtype

    @cached_property
    def facts(self) -> Facts:
        """The facts of the relation(s), at most ``facts_per_relation`` of each, drawn by the seed; all languages."""
        p = self.parameters
        relations = None if p.relation == "all" else [p.relation]
        data = load_facts(p.dataset, relations=relations)
        if p.language not in ("all", *data.languages):  # one that is not among the data set's usual ones
            data = load_facts(p.dataset, languages=[p.language], relations=relations)
        return data.sample(p.facts_per_relation, p.seed)

    def folder(self, language: str | None = None) -> Path:
        """Where this language's tables lie: beside the run's own folder."""
        p = self.parameters
        if language in (None, p.language):
            return p.folder
        usual = run_folder(p.model, p.dataset, p.language, p.relation)
        same = p.folder.resolve() == usual.resolve()
        return run_folder(p.model, p.dataset, language, p.relation) if same else p.folder / language

    def prompts(self, language: str | None = None) -> pd.DataFrame:
        """The bags: a language's wordings, or for ``all`` one wording of each language (unless ``wordings`` says more)."""
        language = language or self.parameters.language
        wordings = self.parameters.wordings or (1 if language == "all" else None)
        return make_prompts(self.facts, language, wordings=wordings)

    def recall(self) -> pd.DataFrame:
        """Probability, rank and first choice of every prompt in every wording of every language (``answer_probability``)."""
        prompts = make_prompts(self.facts, "all")
        return self._table("recall", answer_probability, "all", prompts=prompts)

    def probabilities(self, language: str | None = None) -> pd.DataFrame:
        """``answer_probability`` of :meth:`prompts`."""
        return self._table("probabilities", answer_probability, language, prompts=self.prompts(language))

    def scores(self, language: str | None = None, method: str = "integrated-gradients") -> pd.DataFrame:
        """Attribution scores (or those of the activation baseline) of :meth:`prompts`; streamed, so a broken run goes on."""
        p, name = self.parameters, "scores" if method == "integrated-gradients" else f"scores-{method}"
        options: dict[str, Any] = {"method": method, "keep": p.keep, "precision": p.precision}
        if method == "integrated-gradients":
            options |= {"rule": p.rule, "steps": p.steps, "baseline": p.baseline, "multiplier": p.multiplier}
        path, prompts = self.folder(language) / "tables" / f"{name}.parquet", self.prompts(language)
        origin = {**self.origin(), "prompts": fingerprint(prompts), **options}
        table = stored(path, origin)
        if table is None:
            every = [f"cuda:{i}" for i in range(cuda.device_count())] if p.device == "cuda:all" else None
            attribute(
                self.model, prompts, **options, batch_size=p.batch_size, out=path, origin=full_origin(origin), devices=every
            )  # fmt: skip
            table = load_table(path)[0]
        table.attrs |= {"prompts": load_table(prompts_file(path))[0].to_dict("list"), "keep": p.keep}
        return table

    def neurons(self, language: str | None = None, method: str = "integrated-gradients") -> pd.DataFrame:
        """Refined knowledge neurons; ``method="activation"`` gives the baseline's."""
        p = self.parameters
        threshold = p.threshold if method == "integrated-gradients" else max(p.threshold, ACTIVATION_THRESHOLD)
        return refine(self.scores(language, method), self.prompts(language), threshold=threshold, share=p.share)

    def random(self, language: str | None = None, *, same_layers: bool = False) -> pd.DataFrame:
        """As many random neurons per fact as :meth:`neurons` has."""
        shape = (self.model.n_layers, self.model.n_neurons)
        return random_neurons(self.neurons(language), shape, same_layers=same_layers, seed=self.parameters.seed)

    def origin(self) -> dict[str, Any]:
        """Where the numbers come from; stored with every table."""
        p = self.parameters
        place = Path(REGISTERED.get(p.model, p.model))
        weights = sorted(place.glob("*.safetensors")) if place.is_dir() else []
        data = self.facts
        return {
            "model": p.model, "revision": p.revision, "weights": fingerprint(*weights) if weights else None, "dtype": self.dtype,
            "dataset": p.dataset, "data": fingerprint(data.entities, data.facts, data.templates), "relation": p.relation,
        }  # fmt: skip

    def save(self, table: pd.DataFrame, name: str) -> Path:
        """Store a notebook's result as ``tables/<name>.parquet`` with its origin."""
        origin = {
            **self.origin(),
            "parameters": self.parameters.model_dump(),
            "code": code_version(),
            "commit": git_commit(),
        }
        return save_table(table, self.folder() / "tables" / f"{name}.parquet", origin)

    def summarise(self, notebook: str, title: str, rows: pd.DataFrame) -> Path:
        """Named numbers for the end of a run and for README: ``name, value, low, high, n``."""
        numbers = rows[["name", "value", "low", "high", "n"]].astype(object)
        content = {
            "title": title, "rows": numbers.where(numbers.notna(), None).to_dict("records"), "origin": self.origin(),
            "parameters": self.parameters.model_dump(), "code": code_version(),
        }  # fmt: skip
        return save_json(content, self.folder() / "tables" / f"summary_{notebook}.json")

    def _table(
        self, name: str, make: Any, language: str | None, *, prompts: pd.DataFrame, **options: Any
    ) -> pd.DataFrame:
        path = self.folder(language) / "tables" / f"{name}.parquet"
        origin = {**self.origin(), "prompts": fingerprint(prompts), **options}
        return cached(path, self._call, make, prompts, options, origin=origin)

    def _call(self, make: Any, prompts: pd.DataFrame, options: dict[str, Any]) -> pd.DataFrame:
        size = self.parameters.batch_size
        return make(self.model, prompts, **({"batch_size": size} if size else {}), **options)
