"""One study's tables, each loaded if it was made before, else computed, so that a notebook runs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import cuda

from .attribution.attribute import attribute
from .attribution.streaming import ScoreTables, prompts_file
from .data.downloads.identity import model_digest, model_label, pinned
from .data.facts import Facts
from .data.prompts import make_prompts
from .data.sources import load_facts
from .model.answers import answer_probability
from .model.askable import askable
from .model.language_model import LanguageModel
from .model.loading import load_model
from .neurons.choose import random_neurons, strongest
from .neurons.refine import Refined, refine_bags
from .run.kept import KeepsResults
from .run.parameters import StudyParameters
from .store.growing import GrowingTable
from .store.origin import fingerprint, full_origin
from .store.tables import save_table

#: Threshold of the activation baseline (Dai et al.'s code; activations are less peaked than attributions).
ACTIVATION_THRESHOLD = 0.5


class Study(KeepsResults):
    """The tables of one model, data set, language and relation, under ``parameters.folder``.

    Every method that takes ``language`` uses the parameters' language unless told otherwise, so a notebook
    can set ``en`` beside ``all``. Nothing is computed twice: tables lie on disk with their origin
    (:mod:`kn_utils.store.tables`).

    Example:
        >>> from kn_utils import Study, StudyParameters
        >>> study = Study(StudyParameters(relation="P36", facts_per_relation=2))
        >>> study.prompts()["fact"].nunique()
        2
    """

    made_by = (load_model,)

    def __init__(self, parameters: StudyParameters) -> None:
        self.parameters = parameters
        relations = None if parameters.relation == "all" else [parameters.relation]
        languages = None if parameters.language == "all" else [parameters.language]
        # Refuses unknown names before a model is loaded.
        load_facts(parameters.dataset, languages=languages, relations=relations)

    @cached_property
    def model(self) -> LanguageModel:
        """The model that the parameters name, loaded when it is first asked for."""
        p = self.parameters
        return load_model(p.model, pinned(p.model, p.revision), device=p.device, dtype=self.dtype)

    @cached_property
    def identity(self) -> str | None:
        """A digest of the model that is asked, whatever it is called; of one of the Hub the commit."""
        p = self.parameters
        known = model_digest(p.model, p.revision)
        if known is None and self.model.name:  # not here yet: it is once it is loaded
            known = model_digest(p.model, p.revision)
        return known

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, and neurons of each."""
        return self.model.n_layers, self.model.n_neurons

    @property
    def dtype(self) -> str:
        """The model's number format: ``float32``, unless the parameters say otherwise.

        Under ``auto`` the bundled model, whose stored outputs are compared digit by digit, computes in
        ``float64`` on the CPU.
        """
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
        return p.folder if language in (None, p.language) else p.beside(language)

    def prompts(self, language: str | None = None) -> pd.DataFrame:
        """The bags: a language's wordings, or for ``all`` one wording of each language.

        The parameter ``wordings`` asks for another number.
        """
        language = language or self.parameters.language
        wordings = self.parameters.wordings or (1 if language == "all" else None)
        return self.askable(make_prompts(self.facts, language, wordings=wordings))

    def askable(self, prompts: pd.DataFrame) -> pd.DataFrame:
        """Those of these prompts that the model can be asked (:func:`kn_utils.model.askable.askable`)."""
        can = (askable(self.model, prompts, self.everything)["reason"] == "").to_numpy()
        return prompts[can].reset_index(drop=True)

    def set_aside(self, language: str = "all") -> pd.DataFrame:
        """How many prompts of all facts the model cannot be asked, and why.

        Returns:
            ``language, reason, prompts``; those that it can be asked are rows of no reason.
        """
        prompts = make_prompts(self.everything, language)
        told = askable(self.model, prompts, self.everything).assign(language=prompts["language"].to_numpy())
        return told.groupby(["language", "reason"], sort=False).size().rename("prompts").reset_index()

    def halves(self, language: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Prompts to find neurons with, and prompts held out to measure their effect on, of the same facts.

        Of one language every other wording (at most ``wordings`` each); of ``all`` each language's first
        wordings, and the next.
        """
        language = language or self.parameters.language
        if language == "all":
            each = self.parameters.wordings or 1
            both = self.askable(make_prompts(self.facts, "all", wordings=2 * each))
            first = both["prompt"].isin(make_prompts(self.facts, "all", wordings=each)["prompt"])
        else:
            both = self.askable(make_prompts(self.facts, language))
            place = both.groupby("fact", sort=False).cumcount()
            first = place % 2 == 0
            if self.parameters.wordings:
                both = both[place < 2 * self.parameters.wordings]
        first = first.reindex(both.index)
        return both[first].reset_index(drop=True), both[~first].reset_index(drop=True)

    def recall(self) -> pd.DataFrame:
        """:func:`kn_utils.answer_probability` of every prompt in every wording of every language."""
        return self._answers("recall", "all", self.askable(make_prompts(self.facts, "all")))

    def probabilities(self, language: str | None = None, prompts: pd.DataFrame | None = None) -> pd.DataFrame:
        """:func:`kn_utils.answer_probability` of :meth:`prompts`, or of others of this language."""
        prompts = self.prompts(language) if prompts is None else prompts
        return self._answers("probabilities", language, prompts)

    @property
    def rule(self) -> dict[str, Any]:
        """The rule of the scores, as ``attribute`` takes it: that of the parameters.

        But their default, four points in every layer, is exact enough for the bundled model alone. Any other
        model gets what has a known error: ``auto``, which is the gradient where paths have no integral.
        """
        p = self.parameters
        usual = (p.rule, p.steps) == ("gauss-legendre", 4)
        if p.rule in ("auto", "gradient") or (usual and p.model != "mini"):
            return {"rule": p.rule if p.rule == "gradient" else "auto"}
        return {"rule": p.rule, "steps": p.steps}

    def scores(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Attribution scores of :meth:`prompts`, or of others of this language."""
        return self.score_tables(language, method, prompts).scores

    def score_tables(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
        *,
        gap: bool = False,
    ) -> ScoreTables:
        """Scores, and the table per prompt: ``prompt, probability, maximum, gap, error, points``.

        They are streamed to disk, so a broken run goes on; only prompts whose scores are not stored yet are
        computed, and with ``gap`` those that were stored without their completeness gap.

        Args:
            language: another than the parameters'.
            method: ``"integrated-gradients"``, or ``"activation"``: the baseline.
            prompts: others than :meth:`prompts`, of this language.
            gap: whether the completeness gap is needed.
        """
        p, name = self.parameters, "scores" if method == "integrated-gradients" else f"scores-{method}"
        options: dict[str, Any] = {"method": method, "keep": p.keep, "precision": p.precision}
        if method == "integrated-gradients":
            options |= self.rule | {"baseline": p.baseline, "multiplier": p.multiplier}
        prompts = self.prompts(language) if prompts is None else prompts
        path = self.folder(language) / "tables" / f"{name}.parquet"
        origin = full_origin(self.origin() | options, attribute, load_model, make_prompts)
        columns = ["gap"] if gap and method == "integrated-gradients" else []
        growing = GrowingTable(path, origin, prompts_file(path), columns)

        def compute(held: pd.DataFrame | None, missing: pd.DataFrame) -> None:
            every = [f"cuda:{i}" for i in range(cuda.device_count())] if p.device == "cuda:all" else None
            out = path if held is None else path.with_name(f"{name}.more.parquet")
            place: dict[str, Any] = {"out": out, "origin": origin, "devices": every}
            attribute(self.model, missing, **options, gap=bool(columns), batch_size=p.batch_size, **place)
            if held is not None:
                growing.append(out, prompts_file(out))

        tables = ScoreTables(*growing.completed(prompts, compute))
        tables.scores.attrs["keep"] = p.keep  # a guard, no more: it refuses thresholds below what is there
        return tables

    def neurons(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Refined knowledge neurons, or those of the activation baseline (``method="activation"``).

        ``prompts`` takes other bags than :meth:`prompts`.
        """
        return self.refined(language, method, prompts).neurons

    def bags(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Every fact asked about, with or without neurons, and the share that its relation took."""
        return self.refined(language, method, prompts).bags

    def refined(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
    ) -> Refined:
        """Knowledge neurons, bags, and how the share moved, of the same arguments as :meth:`neurons`."""
        p = self.parameters
        prompts = self.prompts(language) if prompts is None else prompts
        least = 0 if method == "integrated-gradients" else ACTIVATION_THRESHOLD
        threshold = max(p.threshold, least)
        scores = self.scores(language, method, prompts)
        return refine_bags(scores, prompts, threshold=threshold, share=p.share, keep=p.keep)

    def random(self, like: pd.DataFrame, *, same_layers: bool = False) -> pd.DataFrame:
        """As many random neurons per fact as ``like`` has."""
        return random_neurons(like, self.shape, same_layers=same_layers, seed=self.parameters.seed)

    def kinds(
        self,
        language: str | None = None,
        prompts: pd.DataFrame | None = None,
        only: Sequence[str] = ("knowledge", "activation", "random", "same-layer"),
    ) -> dict[str, pd.DataFrame]:
        """Knowledge neurons and what they are compared with, or ``only`` these kinds of neurons."""
        knowledge = self.neurons(language, prompts=prompts)
        ways: dict[str, Callable[[], pd.DataFrame]] = {
            "knowledge": lambda: knowledge,
            "activation": lambda: self.neurons(language, "activation", prompts),
            "random": lambda: self.random(like=knowledge),
            "same-layer": lambda: self.random(like=knowledge, same_layers=True),
        }
        return {kind: ways[kind]() for kind in only}

    def strongest(
        self, k: int, method: str = "integrated-gradients", prompts: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """The ``k`` neurons of each fact with the highest mean score.

        Those that are common in its relation are left out (:func:`kn_utils.neurons.choose.strongest`);
        ``prompts`` asks for some of the facts only.
        """
        neurons, bags, _ = self.refined(method=method)
        asked = self.prompts() if prompts is None else prompts
        return strongest(self.scores(method=method), asked, neurons, bags, k)

    def origin(self) -> dict[str, Any]:
        """Where the numbers come from; stored with every table."""
        p = self.parameters
        data = self.everything
        return {
            "model": model_label(p.model, p.revision),
            "weights": self.identity,
            "dtype": self.dtype,
            "dataset": p.dataset,
            "data": fingerprint(data.entities, data.facts, data.templates),
            "relation": p.relation,
        }

    def _answers(self, name: str, language: str | None, prompts: pd.DataFrame) -> pd.DataFrame:
        path = self.folder(language) / "tables" / f"{name}.parquet"
        origin = full_origin(self.origin(), answer_probability, load_model, make_prompts)

        def compute(held: pd.DataFrame | None, missing: pd.DataFrame) -> None:
            made = [held, answer_probability(self.model, missing, batch_size=self.parameters.batch_size)]
            save_table(pd.concat(made, ignore_index=True), path, origin)

        return GrowingTable(path, origin).completed(prompts, compute)[0]
