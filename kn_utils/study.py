"""One study's tables, each loaded if it was made before, else computed, so that a notebook runs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from .data.prompts import draw
from .experiments.controls import control_sets
from .experiments.degenerate import located_kinds
from .experiments.localisation import selections
from .neurons.choose import random_neurons, strongest
from .neurons.refine import Refined, refine_bags
from .scored import Scores

#: Threshold of the activation baseline (Dai et al.'s code; activations are less peaked than attributions).
ACTIVATION_THRESHOLD = 0.5
#: Of a fact's ranking as far down as sets of one size may reach.
DEPTH = 60


class Study(Scores):
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

    def neurons(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
        *,
        target: str | None = None,
    ) -> pd.DataFrame:
        """Refined knowledge neurons, or those of the activation baseline (``method="activation"``).

        ``prompts`` takes other bags than :meth:`prompts`.
        """
        return self.refined(language, method, prompts, target=target).neurons

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
        *,
        target: str | None = None,
    ) -> Refined:
        """Knowledge neurons, bags, and how the share moved, of the same arguments as :meth:`neurons`."""
        p = self.parameters
        prompts = self._scored(self.prompts(language) if prompts is None else prompts, method, target)
        least = 0 if method == "integrated-gradients" else ACTIVATION_THRESHOLD
        threshold = max(p.threshold, least)
        scores = self.scores(language, method, prompts, target=target)
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

    def equal_sets(
        self,
        k: int,
        language: str | None = None,
        prompts: pd.DataFrame | None = None,
        *,
        target: str | None = None,
        method: str = "integrated-gradients",
    ) -> pd.DataFrame:
        """The ``k`` neurons of each fact with the highest mean score, common ones among them.

        So that sets of one size can be compared, a fact with fewer than ``k`` scores is left out; other
        arguments as :meth:`neurons` takes them.

        Returns:
            ``fact, relation, layer, neuron, score``.
        """
        asked = self._scored(self.prompts(language) if prompts is None else prompts, method, target)
        scores = self.scores(language, method, asked, target=target)
        best = strongest(scores, asked, None, None, k)
        return best[best.groupby("fact")["fact"].transform("size") == k].reset_index(drop=True)

    def found_and_held(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """:meth:`halves` of every language, one below the other; of those held out one for each fact."""
        halves = [self.halves(name) for name in self.languages]
        found = pd.concat([first for first, _ in halves], ignore_index=True)
        held = [draw(second, seed=self.parameters.seed) for _, second in halves if len(second)]
        return found, pd.concat([*held, found.iloc[:0]], ignore_index=True)

    def ranked(
        self,
        prompts: pd.DataFrame,
        *,
        target: str | None = None,
        method: str = "integrated-gradients",
        k: int = DEPTH,
    ) -> pd.DataFrame:
        """Each fact's ``k`` strongest neurons in every language of these prompts, as far as it has so many.

        Args:
            prompts: those that find them, of any languages.
            target, method: as :meth:`score_tables` takes them.
            k: at most so many for a fact and language.

        Returns:
            ``language, fact, relation, layer, neuron, score`` (the mean over its prompts).
        """
        parts = [
            strongest(scores, asked, None, None, k).assign(language=language)
            for language, scores, asked in self._scores_by_language(prompts, target, method)
        ]
        found = pd.concat(parts, ignore_index=True)
        return found[["language", *(name for name in found.columns if name != "language")]]

    def by_threshold(
        self, prompts: pd.DataFrame, threshold: float, *, target: str | None = None
    ) -> dict[str, pd.DataFrame]:
        """The published choice: scores of at least so large a part of their prompt's largest, by language.

        Args:
            prompts, target: as :meth:`ranked` takes them.
            threshold: the part.

        Returns:
            language -> neurons that the parameters' ``share`` of a fact's prompts hold; that share stays
            where it is.
        """
        options: dict[str, Any] = {"threshold": threshold, "share": self.parameters.share}
        options |= {"target": None, "keep": self.parameters.keep}
        return {
            language: refine_bags(scores, asked, **options).neurons
            for language, scores, asked in self._scores_by_language(prompts, target)
        }

    def controlled(
        self, language: str, target: str, k: int = 5, facts: int | None = 8, wordings: int = 3
    ) -> dict[str, Any]:
        """Sets of ``k`` neurons to compare (:func:`kn_utils.experiments.controls.control_sets`).

        They are found with every other wording, at most ``wordings``, of at most ``facts`` facts of each
        relation; one of the wordings that had no say is drawn of each fact to measure their effect on.

        Returns:
            ``prompts, candidates, before, kinds``, as :func:`kn_utils.experiments.effects.effects_by_kind`
            takes them; ``kinds`` is empty where no fact of this language has wordings for both and ``k``
            scores.
        """
        seed = self.parameters.seed
        chosen = self.facts.sample(facts, seed).facts["fact"]
        found, held = (half[half["fact"].isin(chosen)] for half in self.halves(language))
        found = found[found["fact"].isin(held["fact"])].groupby("fact", sort=False).head(wordings)
        found = found.reset_index(drop=True)
        if found.empty:
            return {"prompts": found, "candidates": [], "before": None, "kinds": {}}
        own = self.equal_sets(k, language, found, target=target)
        active = self.equal_sets(k, language, found, method="activation")
        asked = draw(held[held["fact"].isin(own["fact"])], seed=seed)
        kinds = control_sets(own, asked, self.shape, active=active, seed=seed)
        given: dict[str, Any] = {"candidates": self.candidates(asked), "before": self.answers(asked)}
        return {"prompts": asked, **given, "kinds": kinds}

    def located_sets(
        self, k: int, language: str, *, facts: int | None = None, wordings: int = 3
    ) -> dict[str, Any]:
        """Located neurons of known facts, and others (:mod:`kn_utils.experiments.degenerate`).

        Located are the at most ``k`` neurons with the highest mean score in every other wording, at most
        ``wordings``; one of the wordings that had no say is drawn to silence them in. Facts are those that
        the model knows (:meth:`knowledge`), at most ``facts`` of each relation.

        Returns:
            ``prompts, candidates, kinds``; ``candidates`` is ``None`` unless the parameters' target is typed.
            ``prompts`` and ``kinds`` are empty where no known fact has wordings for both.
        """
        found, asked = self.known_halves(language, facts, wordings)
        if asked.empty:
            return {"prompts": asked, "candidates": None, "kinds": {}}
        located, here = (
            strongest(self.scores(language, prompts=part), part, None, None, number)
            for part, number in ((found, k), (asked, 3 * k))
        )
        kinds = located_kinds(located, here, asked, self.shape, k, seed=self.parameters.seed)
        typed = self.parameters.target == "typed"
        return {"prompts": asked, "candidates": self.candidates(asked) if typed else None, "kinds": kinds}

    def to_localise(self, language: str, *, facts: int | None = None, wordings: int = 3) -> dict[str, Any]:
        """Known facts of relations with two or more, to localise, and how neurons are ordered.

        Returns:
            ``found, asked`` of :meth:`known_halves`; ``ways``, name -> arguments of
            :func:`kn_utils.experiments.localisation.strongest_first`, all for the parameters' target.
        """
        found, asked = self.known_halves(language, facts, wordings)
        found = self._scored(found, "integrated-gradients", None)
        found = found[found.groupby("relation")["fact"].transform("nunique") > 1].reset_index(drop=True)
        asked = asked[asked["fact"].isin(found["fact"])].reset_index(drop=True)
        usual = {key: value for key, value in self.rule.items() if value is not None}
        typed = self.parameters.target == "typed"
        target = {"target": "typed", "candidates": self.candidates(found)} if typed else {}
        ways = selections(self.model, **usual)
        ways = {name: way if "method" in way else way | target for name, way in ways.items()}
        return {"found": found, "asked": asked, "ways": ways}
