"""What the explorer knows: one model, one data set, and every table that its widgets show.

No widgets here: each method takes a question or neurons and gives a table, computed by the calls that the
notebooks use, so that a program can have the same (:mod:`kn_utils.explorer.program`). What a look around
needs again is kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..attribution.attribute import attribute
from ..attribution.reading import read_neurons
from ..data.blanks import find_blanks
from ..data.facts import Facts
from ..data.prompts import make_prompts
from ..data.sources import load_passages
from ..data.words import in_words, labels_in
from ..experiments.activating import activations
from ..model.askable import askable
from ..model.interventions import amplify
from ..model.language_model import LanguageModel
from ..model.rows import encode
from ..model.slots import Text, best_pieces
from ..model.typed import typed_answers, typed_distribution
from ..model.written import shown_piece, written_pieces
from ..neurons.choose import strongest
from ..neurons.language_independent import generic_by_relation
from ..neurons.refine import above_threshold
from ..run.parameters import StudyParameters
from ..run.studies import DEFAULTS
from ..study import Study
from .alone import one_at_a_time
from .question import Question, of_fact, of_text, search, search_index

#: (done, of all, what): told while something takes long.
Progress = Callable[[int, int, str], None]
#: Facts of each relation that neurons are compared with, and of the fact's own relation, in one wording each.
OTHERS, SAME_RELATION = 2, 16
SENTENCES_OF = 8  # facts of the question's relation
#: Wordings of a fact that find its neurons in each language, where languages stand side by side.
EACH_LANGUAGE = 3
AT_ONCE = 8  # prompts between two words about progress
TOP = 50  # pieces of the vocabulary that are kept of an answer
STOPS = {"ja": "。", "zh": "。"}
PAPERS = 0.2  # a prompt holds a neuron whose score is this part of its largest, as the papers have it

Factors = Mapping[tuple[int, int], float]


def silent(done: int, of_all: int, what: str) -> None:
    """Tell nobody."""


class Answers(NamedTuple):
    """What a model answers.

    Attributes:
        row: :func:`kn_utils.model.typed.typed_answers` of the question, one row.
        plain: ``answer, probability``: the best (first) pieces of the whole vocabulary.
        typed: ``answer, probability``: all candidates, the best first.
    """

    row: pd.Series
    plain: pd.DataFrame
    typed: pd.DataFrame


@one_at_a_time
class Explorer:
    """One model and data set, looked at question by question; by one thread at a time.

    Example:
        >>> from kn_utils import StudyParameters
        >>> explorer = Explorer(StudyParameters(rule="gradient"))
        >>> question = explorer.ask_fact("P36:Q142:Q90", "en")
        >>> question.text, question.answer
        ('The capital of France is [Y].', 'Paris')
        >>> explorer.neurons(question, 3).columns.tolist()
        ['layer', 'neuron', 'score', 'share', 'activation']
    """

    def __init__(self, parameters: StudyParameters) -> None:
        self.study, self.lock = Study(parameters), RLock()
        self.facts = self.study.everything
        self._scores: dict[str, pd.DataFrame] = {}
        self._others: dict[tuple[str, str | None], pd.DataFrame] = {}
        self._common: dict[tuple[tuple[str, ...], int], pd.DataFrame] = {}

    @property
    def model(self) -> LanguageModel:
        """The model, loaded when it is first asked for."""
        return self.study.model

    @property
    def languages(self) -> list[str]:
        """Those of the data set that the model speaks, as far as that is known of it."""
        usual = DEFAULTS.get(self.study.parameters.model, {}).get("usual", {})
        speaks = usual.get("languages", "").split(",") if "languages" in usual else self.facts.languages
        return [name for name in self.facts.languages if name in speaks]

    @cached_property
    def every(self) -> pd.DataFrame:
        """All prompts of the data set."""
        return make_prompts(self.facts, "all")

    @cached_property
    def _index(self) -> pd.DataFrame:
        return search_index(self.facts)

    def found(self, typed: str, language: str, relation: str | None = None) -> pd.DataFrame:
        """Facts that hold what was typed, in any language: ``fact, label`` (in words of ``language``)."""
        table = search(self._index, typed, relation)
        labels = labels_in(self.facts, language)
        return pd.DataFrame({"fact": table["fact"], "label": in_words(table, labels)}).reset_index(drop=True)

    def named(self, facts: Sequence[str], language: str) -> list[str]:
        """Facts in words; what is no fact of the data set as it is."""
        table = self.facts.facts.set_index("fact").reindex(pd.unique(pd.Series(facts, dtype=object)))
        words = in_words(table.dropna(), labels_in(self.facts, language))
        return [str(words.get(fact, fact)) for fact in facts]

    def ask_fact(self, fact: str, language: str, number: int = 0) -> Question:
        """A fact of the data set (:func:`kn_utils.explorer.question.of_fact`)."""
        return of_fact(self.model, self.facts, self.every, fact, language, number)

    def ask_text(self, text: str, answer: str, language: str, relation: str | None = None) -> Question:
        """A text of one's own (:func:`kn_utils.explorer.question.of_text`).

        One that the data set has, with this answer, is its fact's.
        """
        # Without a full stop a masked model's first choice for the blank is just that.
        end = "" if self.model.causal else STOPS.get(language, ".")
        own = of_text(self.every, text, answer, language, relation, end=end)
        every = self.every[self.every["language"] == language]
        same = every[(every["text"] == own.text) & (every["answer"] == own.answer)]
        if same.empty or relation not in (None, same["relation"].iloc[0]):
            return own
        fact = self.ask_fact(str(same["fact"].iloc[0]), language)
        number = np.flatnonzero(fact.prompts["text"] == own.text)
        return self.ask_fact(fact.fact, language, int(number[0])) if len(number) else own

    def answers(self, question: Question, factors: Factors | None = None) -> Answers:
        """What the model answers, over the vocabulary and among the candidates.

        Args:
            question: what is asked.
            factors: (layer, neuron) -> what it is multiplied by at the blank.
        """
        asked, names = question.asked, [question.candidates]
        first = encode(self.model.tokenizer, asked, causal=self.model.causal)[0]
        with ExitStack() as stack:
            for factor, neurons in by_factor(factors or {}).items():
                stack.enter_context(amplify(self.model, neurons, factor=factor))
            row = typed_answers(self.model, asked, names, progress=False).iloc[0]
            typed = typed_distribution(self.model, asked, question.candidates)
            logp, pieces = best_pieces(self.model, [Text(first.ids, (first.position,))], TOP)
        plain = [shown_piece(self.model, piece) for piece in pieces[0]]
        return Answers(row, pd.DataFrame({"answer": plain, "probability": np.exp(logp[0])}), typed)

    def scores(self, prompts: pd.DataFrame, progress: Progress = silent, what: str = "") -> pd.DataFrame:
        """Attribution scores of prompts, by the rule of the parameters; a prompt is computed once."""
        missing = prompts[~prompts["prompt"].isin(self._scores)].drop_duplicates("prompt")
        rule: dict[str, Any] = {**self.study.rule, "keep": self.study.parameters.keep}
        for start in range(0, len(missing), AT_ONCE):
            part = missing.iloc[start : start + AT_ONCE].reset_index(drop=True)
            table = attribute(self.model, part, progress=False, **rule)
            assert isinstance(table, pd.DataFrame)  # no file was asked for
            empty = table.iloc[:0]
            by_prompt = dict(list(table.groupby("prompt", sort=False)))
            self._scores |= {name: by_prompt.get(name, empty) for name in part["prompt"]}
            progress(min(start + AT_ONCE, len(missing)), len(missing), what)
        held = [self._scores[name] for name in prompts["prompt"]]
        return pd.concat(held, ignore_index=True) if held else pd.DataFrame()

    def neurons(self, question: Question, k: int = 5) -> pd.DataFrame:
        """The neurons that the answer leans on most, over the question's wordings.

        Returns:
            ``layer, neuron, score`` (the mean over wordings), ``share`` (of the wordings: those in which its
            score is at least 0.2 of the largest; the papers ask for 0.7), ``activation`` (at the blank of the
            wording shown; of several pieces their mean), the k highest scores first.
        """
        scores = self.scores(question.prompts)
        best = strongest(scores, question.prompts, None, None, k).sort_values("score", ascending=False)
        holding = above_threshold(scores, PAPERS, keep=self.study.parameters.keep)
        share = holding.groupby(["layer", "neuron"]).size() / len(question.prompts)
        where = pd.MultiIndex.from_frame(best[["layer", "neuron"]])
        rows = encode(self.model.tokenizer, question.asked, causal=self.model.causal)
        active = read_neurons(self.model, rows)[0].mean(0).cpu().numpy()
        best = best.assign(share=share.reindex(where).fillna(0).to_numpy())
        best = best.assign(activation=active[best["layer"], best["neuron"]])
        return best[["layer", "neuron", "score", "share", "activation"]].reset_index(drop=True)

    def cloud(self, question: Question) -> pd.DataFrame:
        """Every neuron whose mean score is stored: ``layer, neuron, score``, for the picture of layers."""
        every = self.model.n_layers * self.model.n_neurons
        return strongest(self.scores(question.prompts), question.prompts, None, None, every)

    def others(self, language: str, relation: str | None = None) -> pd.DataFrame:
        """Prompts of other facts that neurons are compared with: some of each relation, more of one's own.

        Each is asked in its first wording that the model can be asked; facts are drawn by the seed.
        """
        key = language, relation
        if key not in self._others:
            numbers = {name: OTHERS for name in self.facts.relations}
            if relation is not None:
                numbers[relation] = SAME_RELATION
            self._others[key] = self._drawn(language, numbers)
        return self._others[key]

    def _drawn(self, language: str, numbers: Mapping[str, int]) -> pd.DataFrame:
        """The first wording that can be asked of so many facts of each relation."""
        here = self.every[self.every["language"] == language]
        facts = here.drop_duplicates("fact").sample(frac=1, random_state=self.study.parameters.seed)
        number = facts["relation"].map(numbers)
        place = facts.groupby("relation").cumcount()
        # Twice as many as are wanted: of some no wording can be asked.
        order = facts.loc[place < 2 * number, "fact"].tolist()
        here = here[here["fact"].isin(order)]
        can = here[(askable(self.model, here, self.facts)["reason"] == "").to_numpy()]
        first = can.drop_duplicates("fact").set_index("fact", drop=False)
        first = first.loc[[fact for fact in order if fact in first.index]]
        place = first.groupby("relation").cumcount()
        return first[place < first["relation"].map(numbers)].reset_index(drop=True)

    def common(self, languages: Sequence[str], k: int = 5, progress: Progress = silent) -> pd.DataFrame:
        """The neurons that many answers of other relations hold among their k strongest.

        Returns:
            ``relation, layer, neuron, share`` (:func:`generic_by_relation`), over a few facts of each
            relation (:meth:`others`).
        """
        key = tuple(languages), k
        if key not in self._common:
            sets = {}
            for name in languages:
                asked = self.others(name)
                scores = self.scores(asked, progress, f"other facts, {name}")
                if len(asked):
                    sets[name] = strongest(scores, asked, None, None, k)
            self._common[key] = generic_by_relation(sets, self.facts.facts.set_index("fact")["object"])
        return self._common[key]

    def shared_by_most(self, question: Question, k: int = 5, progress: Progress = silent) -> pd.DataFrame:
        """:meth:`common` neurons as seen from this question: ``layer, neuron, share``.

        A text of one's own whose relation is not in the data set has those of any relation.
        """
        found = self.common([question.language], k, progress)
        own = found[found["relation"] == question.relation]
        if own.empty and question.relation not in set(self.facts.relations):
            own = found.groupby(["layer", "neuron"], as_index=False)["share"].max()
        return own[["layer", "neuron", "share"]].reset_index(drop=True)

    def served(
        self, question: Question, layer: int, neuron: int, progress: Progress = silent, n: int = 12
    ) -> pd.DataFrame:
        """The facts and wordings whose answers lean on one neuron.

        Args:
            question: whose wordings, and whose relation's facts, are looked through beside others.
            layer, neuron: which.
            progress: is told how far it is.
            n: so many rows at most.

        Returns:
            ``fact`` (in words), ``text``, ``score``, ``part`` (of that prompt's largest score), the largest
            part first; prompts in which that is below 0.2 are not there.
        """
        relation = question.relation if question.relation in self.facts.relations else None
        asked = pd.concat([question.prompts, self.others(question.language, relation)])
        asked = asked.drop_duplicates("prompt").reset_index(drop=True)
        scores = self.scores(asked, progress, "other facts")
        top = scores.groupby("prompt")["score"].max()
        own = above_threshold(scores, PAPERS, keep=self.study.parameters.keep)
        own = own[(own["layer"] == layer) & (own["neuron"] == neuron)].merge(
            asked[["prompt", "fact", "text"]], on="prompt"
        )
        own = own.assign(part=own["score"] / own["prompt"].map(top))
        own = own.sort_values("part", ascending=False, kind="stable").head(n)
        own = own.assign(fact=self.named(own["fact"].tolist(), question.language))
        return own[["fact", "text", "score", "part"]].reset_index(drop=True)

    def sentences(
        self, question: Question, neurons: pd.DataFrame, progress: Progress = silent
    ) -> pd.DataFrame:
        """The neurons' activation at the blanks of sentences, English ones.

        They are sentences about a few facts (the question's own, ``SENTENCES_OF`` of its relation, one
        of each other), with one word hidden each (:func:`kn_utils.data.blanks.find_blanks`).

        Returns:
            ``layer, neuron, activation, hidden, text``, the most active first; empty where the data set has
            no sentences.
        """
        blanks = self._blanks(question.fact, question.relation)
        parts = []
        for start in range(0, len(blanks), 4 * AT_ONCE):
            part = blanks.iloc[start : start + 4 * AT_ONCE].reset_index(drop=True)
            facts = part[["fact"]].drop_duplicates()
            read = {"chosen": facts.merge(neurons[["layer", "neuron"]], how="cross")}
            told = activations(self.model, part, read, progress=False)
            parts.append(told.merge(part[["prompt", "text", "answer"]], on="prompt"))
            progress(start + len(part), len(blanks), "sentences")
        columns = ["layer", "neuron", "activation", "hidden", "text"]
        if not parts:
            return pd.DataFrame(columns=columns)
        table = pd.concat(parts, ignore_index=True).rename(columns={"answer": "hidden"})
        return table.sort_values("activation", ascending=False, kind="stable")[columns].reset_index(drop=True)

    def _blanks(self, fact: str, relation: str) -> pd.DataFrame:
        """Sentences with a blank, of a few facts."""
        seed, dataset = self.study.parameters.seed, self.study.parameters.dataset
        passages = load_passages(dataset, missing_ok=True)
        told = self.facts.facts[self.facts.facts["fact"].isin(passages["fact"])]
        mixed = told.sample(frac=1, random_state=seed)
        near = mixed[mixed["relation"] == relation].head(SENTENCES_OF)
        chosen = pd.concat([told[told["fact"] == fact], near, mixed.drop_duplicates("relation")])
        chosen = chosen.drop_duplicates("fact").reset_index(drop=True)
        if chosen.empty:
            return pd.DataFrame(columns=["prompt", "fact", "text", "answer"])
        some = Facts(self.facts.dataset, self.facts.entities, chosen, self.facts.templates)
        return find_blanks(passages, some, seed=seed)[0]

    def written(self, neurons: pd.DataFrame, k: int = 10) -> pd.DataFrame:
        """What value slots write (:func:`kn_utils.model.written.written_pieces`)."""
        return written_pieces(self.model, neurons, k)


def by_factor(factors: Factors) -> dict[float, list[tuple[int, int]]]:
    """Factor -> the neurons that it multiplies; those left as they are (1) are not there."""
    found: dict[float, list[tuple[int, int]]] = {}
    for neuron, factor in factors.items():
        if factor != 1:
            found.setdefault(float(factor), []).append((int(neuron[0]), int(neuron[1])))
    return found
