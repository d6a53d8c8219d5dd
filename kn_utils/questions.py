"""What a study asks, and of which model: its facts, their prompts, the answers, and which facts it knows."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from .base import StudyError
from .data.downloads.identity import BUNDLED, model_digest, model_label, pinned
from .data.facts import Facts
from .data.prompts import draw, make_prompts
from .data.sources import load_facts
from .model.askable import askable
from .model.language_model import LanguageModel
from .model.loading import load_model
from .model.typed import candidates_of, typed_answers
from .run.kept import KeepsResults
from .run.parameters import StudyParameters
from .store.growing import GrowingTable
from .store.origin import fingerprint, full_origin
from .store.tables import save_table


class Asks(KeepsResults):
    """The prompts and answers of one model, data set, language and relation.

    Every method that takes ``language`` uses the parameters' language unless told otherwise, so a notebook
    can set ``en`` beside ``all``.
    """

    made_by = (load_model,)

    def __init__(self, parameters: StudyParameters) -> None:
        self.parameters = parameters
        relations = None if parameters.relation == "all" else [parameters.relation]
        # Refuses unknown names before a model is loaded.
        for languages in (parameters.among, None if parameters.language == "all" else [parameters.language]):
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

        Under ``auto`` a bundled model, whose stored outputs are compared digit by digit, computes in
        ``float64`` on the CPU.
        """
        p = self.parameters
        small = p.model in BUNDLED and p.device in ("auto", "cpu") and p.precision is None
        return ("float64" if small else "float32") if p.dtype == "auto" else p.dtype

    @cached_property
    def everything(self) -> Facts:
        """All facts of the relation(s), all languages."""
        p = self.parameters
        relations = None if p.relation == "all" else [p.relation]
        data = load_facts(p.dataset, languages=p.among, relations=relations)
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

    @cached_property
    def every_prompt(self) -> pd.DataFrame:
        """All wordings of the drawn facts in all languages, what keeps the model from being asked beside.

        Returns:
            prompts, with the columns of :func:`kn_utils.model.askable.askable`: ``reason`` (empty: it can be
            asked), ``unseen``, ``copied``.
        """
        prompts = make_prompts(self.facts, "all")
        told = askable(self.model, prompts, self.everything)
        return pd.concat([prompts, told.drop(columns="prompt")], axis=1)

    def askable(self, prompts: pd.DataFrame) -> pd.DataFrame:
        """Those of these prompts that the model can be asked (:func:`kn_utils.model.askable.askable`)."""
        can = (askable(self.model, prompts, self.everything)["reason"] == "").to_numpy()
        return prompts[can].reset_index(drop=True)

    def prompts(self, language: str | None = None) -> pd.DataFrame:
        """The bags: a language's wordings, or for ``all`` one wording of each language.

        The parameter ``wordings`` asks for another number; ``known`` leaves facts out that the model does not
        know (:meth:`knowledge`).

        Raises:
            StudyError: it knows none in the parameters' language.
        """
        own = language in (None, self.parameters.language)
        language = language or self.parameters.language
        every = self._asked_about(language)
        if own and every.empty and self.parameters.known is not None:
            raise StudyError(
                f"{self.parameters.model} knows none of the {len(self.facts.facts)} facts drawn, asked in "
                f"{language}: ask for more facts, or fewer right wordings (known={self.parameters.known})."
            )
        wordings = self.parameters.wordings or (1 if language == "all" else None)
        return every if wordings is None else every[_number(every) < wordings].reset_index(drop=True)

    def halves(self, language: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Prompts to find neurons with, and prompts held out to measure their effect on, of the same facts.

        Of one language every other wording (at most ``wordings`` each); of ``all`` each language's first
        wordings, and the next.
        """
        language = language or self.parameters.language
        both = self._asked_about(language)
        number = _number(both)
        if language == "all":
            each = self.parameters.wordings or 1
            first = number < each
        else:
            each = self.parameters.wordings or len(both)
            first = number % 2 == 0
        within = number < 2 * each
        return both[first & within].reset_index(drop=True), both[~first & within].reset_index(drop=True)

    def _asked_about(self, language: str) -> pd.DataFrame:
        """A language's prompts that the model can be asked, of facts that it knows where that is wanted."""
        every = self.every_prompt
        every = every[every["reason"] == ""]
        if language != "all":
            every = every[every["language"] == language]
        if self.parameters.known is not None:
            known = self.knowledge(language)
            known = known[known["known"]].set_index(["fact", "language"]).index
            here = pd.MultiIndex.from_frame(every[["fact", "language"]])
            every = every[here.isin(known) & ~every["copied"]]
        return every.drop(columns=["reason", "unseen", "copied"]).reset_index(drop=True)

    def knowledge(self, language: str = "all") -> pd.DataFrame:
        """How often the model answers each fact rightly, among the objects of its relation.

        Prompts whose answer is spelled in their own text are not counted: repeating a text is no knowledge.

        Returns:
            ``fact, relation, language, wordings, right`` (the first choice over the vocabulary),
            ``typed_right`` (among the candidates), ``known`` (typed right in at least as many wordings as the
            parameter ``known`` says, 2 where it says nothing). Facts that cannot be asked are not there.
        """
        every = self.every_prompt
        asked = every[(every["reason"] == "") & ~every["copied"].astype(bool)]
        if language != "all":
            asked = asked[asked["language"] == language]
        told = asked.reset_index(drop=True).merge(self.answers(asked), on="prompt")
        by = told.groupby(["fact", "relation", "language"], sort=False)
        table = by.agg(
            wordings=("prompt", "size"), right=("correct", "sum"), typed_right=("typed_correct", "sum")
        )
        enough = self.parameters.known or 2
        return table.assign(known=table["typed_right"] >= enough).reset_index()

    def known_halves(
        self, language: str, facts: int | None, wordings: int
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Prompts that find known facts' neurons, and one of each fact that had no say.

        Args:
            language: see :meth:`halves`.
            facts: of each relation at most, drawn by the seed.
            wordings: that find neurons, of each fact at most.
        """
        known = self.knowledge(language)
        known = known.loc[known["known"], "fact"]
        found, held = (half[half["fact"].isin(known)] for half in self.halves(language))
        found = found[found["fact"].isin(held["fact"])].groupby("fact", sort=False).head(wordings)
        held = held[held["fact"].isin(found["fact"])]
        asked = draw(held, facts=facts, seed=self.parameters.seed)
        return found[found["fact"].isin(asked["fact"])].reset_index(drop=True), asked

    def set_aside(self) -> pd.DataFrame:
        """How many prompts of the drawn facts the model is not asked, and why.

        Returns:
            ``language, reason, prompts``; those that it can be asked are rows of no reason, and those whose
            answer is spelled in their text of the reason ``answer spelled in the text`` (they are asked, and
            left out where ``known`` facts are wanted).
        """
        every = self.every_prompt
        copied = (every["reason"] == "") & every["copied"]
        every = every.assign(reason=every["reason"].mask(copied, "answer spelled in the text"))
        return every.groupby(["language", "reason"], sort=False).size().rename("prompts").reset_index()

    def candidates(self, prompts: pd.DataFrame) -> list[list[str]]:
        """What each prompt's answer competes with: the other answers of its relation in the data set."""
        return candidates_of(prompts, self._pool)

    @cached_property
    def _pool(self) -> pd.DataFrame:
        return make_prompts(self.everything, "all")

    def recall(self) -> pd.DataFrame:
        """:meth:`answers` to every prompt in every wording of every language."""
        every = self.every_prompt
        return self.answers(every[every["reason"] == ""])

    def probabilities(self, language: str | None = None, prompts: pd.DataFrame | None = None) -> pd.DataFrame:
        """:meth:`answers` to :meth:`prompts`, or to others of this language."""
        return self.answers(self.prompts(language) if prompts is None else prompts)

    def answers(self, prompts: pd.DataFrame) -> pd.DataFrame:
        """How probable each answer is, over the vocabulary and among its candidates, before anything acts.

        See :func:`kn_utils.model.typed.typed_answers`. Of all prompts of this model and data set one table is
        stored; only what is not there yet is asked.
        """
        path = self.folder("all") / "tables" / "answers.parquet"
        origin = full_origin(self.origin(), typed_answers, candidates_of, load_model, make_prompts)

        def compute(held: pd.DataFrame | None, missing: pd.DataFrame) -> None:
            missing = missing.reset_index(drop=True)
            size = self.parameters.batch_size
            made = typed_answers(self.model, missing, self.candidates(missing), batch_size=size)
            save_table(pd.concat([held, made], ignore_index=True), path, origin)

        return GrowingTable(path, origin).completed(prompts, compute)[0]

    def origin(self) -> dict[str, Any]:
        """Where the numbers come from; stored with every table."""
        p = self.parameters
        data = self.everything
        return {
            "model": model_label(p.model, p.revision),
            "identity": self.identity,
            "dtype": self.dtype,
            "dataset": p.dataset,
            "data": fingerprint(data.entities, data.facts, data.templates),
            "relation": p.relation,
        }


def _number(prompts: pd.DataFrame) -> pd.Series:
    """Which of its fact's wordings in its language each prompt is, from 0."""
    return prompts.groupby(["fact", "language"], sort=False).cumcount()
