"""One study's tables, each loaded if an earlier notebook made it, else computed: what lets a notebook run on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import cuda

from .artifacts import (
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
from .locks import alone
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
    def everything(self) -> Facts:
        """All facts of the relation(s), all languages."""
        p = self.parameters
        relations = None if p.relation == "all" else [p.relation]
        data = load_facts(p.dataset, relations=relations)
        if p.language not in ("all", *data.languages):  # one that is not among the data set's usual ones
            data = load_facts(p.dataset, languages=[p.language], relations=relations)
        return data

    @cached_property
    def facts(self) -> Facts:
        """Of those at most ``facts_per_relation`` of each relation, drawn by the seed."""
        return self.everything.sample(self.parameters.facts_per_relation, self.parameters.seed)

    @cached_property
    def languages(self) -> list[str]:
        """Those in which any of these facts can be asked for."""
        asked = set(make_prompts(self.facts, "all", wordings=1)["language"])
        return [name for name in self.facts.languages if name in asked]

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

    def halves(self, language: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Prompts to find neurons with, and prompts held out to measure their effect on, of the same facts.

        Of one language every other wording (at most ``wordings`` each); of ``all`` each language's first wordings, and the next.
        """
        language = language or self.parameters.language
        if language == "all":
            each = self.parameters.wordings or 1
            both = make_prompts(self.facts, "all", wordings=2 * each)
            first = both["prompt"].isin(make_prompts(self.facts, "all", wordings=each)["prompt"])
        else:
            both = make_prompts(self.facts, language)
            place = both.groupby("fact", sort=False).cumcount()
            first = place % 2 == 0
            if self.parameters.wordings:
                both = both[place < 2 * self.parameters.wordings]
        found, held = both[first.reindex(both.index)], both[~first.reindex(both.index)]
        return found.reset_index(drop=True), held.reset_index(drop=True)

    def recall(self) -> pd.DataFrame:
        """Probability, rank and first choice of every prompt in every wording of every language (``answer_probability``)."""
        return self._answers("recall", "all", make_prompts(self.facts, "all"))

    def probabilities(self, language: str | None = None, prompts: pd.DataFrame | None = None) -> pd.DataFrame:
        """``answer_probability`` of :meth:`prompts`, or of others of this language."""
        return self._answers("probabilities", language, self.prompts(language) if prompts is None else prompts)

    def scores(
        self, language: str | None = None, method: str = "integrated-gradients", prompts: pd.DataFrame | None = None, *,
        gap: bool = False,
    ) -> pd.DataFrame:  # fmt: skip
        """Attribution scores (or those of the activation baseline) of :meth:`prompts`, or of others of this language.

        Streamed, so a broken run goes on; only prompts whose scores are not stored yet are computed, and with ``gap`` those
        that were stored without their completeness gap.
        """
        p, name = self.parameters, "scores" if method == "integrated-gradients" else f"scores-{method}"
        options: dict[str, Any] = {"method": method, "keep": p.keep, "precision": p.precision}
        if method == "integrated-gradients":
            options |= {"rule": p.rule, "steps": p.steps, "baseline": p.baseline, "multiplier": p.multiplier}
        prompts = self.prompts(language) if prompts is None else prompts
        path = self.folder(language) / "tables" / f"{name}.parquet"
        origin = self.origin() | options
        columns = ["gap"] if gap and method == "integrated-gradients" else []
        look = partial(_known, path, origin, "attribution", prompts, prompts_file(path), columns)

        def compute(held: pd.DataFrame | None, missing: pd.DataFrame) -> None:
            every = [f"cuda:{i}" for i in range(cuda.device_count())] if p.device == "cuda:all" else None
            out = path if held is None else path.with_name(f"{name}.more.parquet")
            place = {"out": out, "origin": full_origin(origin, "attribution"), "devices": every}
            attribute(self.model, missing, **options, gap=bool(columns), batch_size=p.batch_size, **place)
            if held is not None:
                _append(path, out)

        table, notes = _completed(path, look, compute)
        table, notes = _of(prompts, table), _of(prompts, notes)
        table.attrs |= {"prompts": notes.to_dict("list"), "keep": p.keep}
        return table

    def neurons(
        self, language: str | None = None, method: str = "integrated-gradients", prompts: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Refined knowledge neurons; ``method="activation"`` gives the baseline's; ``prompts`` other bags than :meth:`prompts`."""
        p = self.parameters
        prompts = self.prompts(language) if prompts is None else prompts
        threshold = p.threshold if method == "integrated-gradients" else max(p.threshold, ACTIVATION_THRESHOLD)
        return refine(self.scores(language, method, prompts), prompts, threshold=threshold, share=p.share)

    def random(self, like: pd.DataFrame, *, same_layers: bool = False) -> pd.DataFrame:
        """As many random neurons per fact as ``like`` has."""
        shape = (self.model.n_layers, self.model.n_neurons)
        return random_neurons(like, shape, same_layers=same_layers, seed=self.parameters.seed)

    def kinds(self, language: str | None = None, prompts: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
        """Knowledge neurons and what they are compared with: knowledge, activation, random, same-layer."""
        knowledge = self.neurons(language, prompts=prompts)
        return {
            "knowledge": knowledge, "activation": self.neurons(language, "activation", prompts),
            "random": self.random(like=knowledge), "same-layer": self.random(like=knowledge, same_layers=True),
        }  # fmt: skip

    def origin(self) -> dict[str, Any]:
        """Where the numbers come from; stored with every table."""
        p = self.parameters
        place = Path(REGISTERED.get(p.model, p.model))
        weights = sorted(place.glob("*.safetensors")) if place.is_dir() else []
        data = self.everything
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

    def _answers(self, name: str, language: str | None, prompts: pd.DataFrame) -> pd.DataFrame:
        path, origin = self.folder(language) / "tables" / f"{name}.parquet", self.origin()
        look = partial(_known, path, origin, "evaluation", prompts)

        def compute(held: pd.DataFrame | None, missing: pd.DataFrame) -> None:
            made = [held, answer_probability(self.model, missing, batch_size=self.parameters.batch_size)]
            save_table(pd.concat(made, ignore_index=True), path, full_origin(origin, "evaluation"))

        return _of(prompts, _completed(path, look, compute)[0])


def _completed(path: Path, look: Callable[..., Any], compute: Callable[..., None]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What ``look`` (:func:`_known`) finds, once ``compute`` has added what is missing; one process at a time adds."""
    table, notes, missing = look(quiet=True)  # what is there is read without waiting for those who add to it
    if table is None or len(missing):
        with _alone(path):
            table, notes, missing = look()
            if table is None or len(missing):
                compute(table, missing)
                table, notes, _ = look()
    return table, notes


def _alone(path: Path) -> AbstractContextManager[None]:
    """Of two notebooks that need a table one computes it, the other waits and reads."""
    return alone(path.with_name(f".{path.name}.lock"), f"{path.name}: another process is computing it; waiting")


def _known(
    path: Path, origin: dict[str, Any], room: str, prompts: pd.DataFrame, per_prompt: Path | None = None,
    columns: Sequence[str] = (), *, quiet: bool = False,
) -> tuple[pd.DataFrame | None, pd.DataFrame | None, pd.DataFrame]:  # fmt: skip
    """The stored table and its table per prompt (None: there is none of this origin), and the prompts that they do not hold.

    Args:
        per_prompt: where the table per prompt lies; None where the table itself has a row per prompt.
        columns: a prompt without a value in one of these is not held.
    """
    notes = stored(per_prompt or path, origin, room, quiet=quiet)  # first: while a table grows, this one is written last
    table = stored(path, origin, room, quiet=quiet) if per_prompt and notes is not None else notes
    if table is None:
        return None, None, prompts
    held = notes.dropna(subset=list(columns))["prompt"]
    return table, notes, prompts[~prompts["prompt"].isin(held)]


def _append(path: Path, more: Path) -> None:
    """Put another run's scores behind those at ``path``, and remove its files."""
    origin = load_table(path)[1]
    for whole, part in ((path, more), (prompts_file(path), prompts_file(more))):  # prompts last: they say what is there
        held, new = (load_table(file)[0] for file in (whole, part))
        held = held[~held["prompt"].isin(new["prompt"])]  # there already: without a gap, or from a run stopped between the files
        save_table(pd.concat([held, new], ignore_index=True), whole, origin)
    more.unlink()
    prompts_file(more).unlink()


def _of(prompts: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of these prompts, in their order."""
    return prompts[["prompt"]].merge(table, on="prompt")
