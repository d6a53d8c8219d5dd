"""Do neurons that other languages hold carry a fact in a language that had no say in finding them?

The published test measures language-independent neurons on the very prompts that defined them. Here one
language is left out: what the others hold is silenced (or doubled) in its prompts, beside as many of a single
other language's strongest neurons, as many of its own (a ceiling), and of each of these sets another fact's.
The sources of neurons are those of :mod:`kn_utils.experiments.language_sources`; what is compared with them:

    same answer, another answer     another fact of the relation, from the same source
    another relation                a fact of another relation, with another answer
    the relation's                  those that most other answers of the relation hold, but the fact's own
    generic                         those of most answers of other relations (taken out of all other sets)
    most active                     the fact's most active ones, over the same languages in the same way
    random, same layers             as many of the same layers
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import check_numbers
from ..data.facts import OBJECT, SUBJECT
from ..model.acting import Scaling
from ..model.language_model import LanguageModel
from ..model.typed import candidates_of, typed_answers
from ..neurons.choose import relation_neurons
from ..neurons.language_independent import WHERE, without
from ..statistics.changes import log_odds
from .controls import ACTIVE, GENERIC, OTHERS, OWN, RANDOM
from .effects import TOLD, TOLD_AMONG
from .language_sources import GRADED, INDEPENDENT, SOURCES, Lists, Source, agreed_on, lists_of, sources_for

ANOTHER, SAME, RELATION, SHARED = "another answer", "same answer", "another relation", "the relation's"


class CrossLingualError(StudyError):
    """Nothing to silence, or names that are missing."""


def silenced_across(
    model: LanguageModel,
    prompts: pd.DataFrame,
    found: pd.DataFrame,
    facts: pd.DataFrame,
    every: pd.DataFrame,
    *,
    more: Mapping[str, pd.DataFrame] | None = None,
    k: int = 5,
    factor: float = 0.0,
    sources: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask every prompt with each source's neurons silenced, the fact's own and others'.

    Args:
        model: which to ask.
        prompts: that had no say in finding the neurons.
        found: ``language, fact, relation, layer, neuron, score``: every neuron with a score, of every
            language; generic ones are taken out before (:mod:`kn_utils.neurons.language_independent`).
        facts: ``fact, relation, answer``, the answer the same in all languages (the object's id).
        every: prompts of all facts in all languages: how these write each answer, and what it competes with.
        more: tables of further controls: ``generic``, what was taken out (``relation, layer, neuron,
            share``); ``most active``, columns as ``found``, by activation.
        k: neurons of a set, at most.
        factor: that they are multiplied by.
        sources: those wanted; ``None``: all.
        seed: of other facts, other languages and random neurons.

    Returns:
        a row per prompt and set: ``prompt, fact, relation, source, target, size, neurons`` (``own``, another
        fact's, ``generic``, random), ``operation, before, after, typed_before, typed_after, logit,
        typed_logit, written`` (``alike``, ``shared characters``, ``differently``), ``right_before,
        right_after, typed_right_before, typed_right_after``.

    Raises:
        CrossLingualError: no prompt has a set.
    """
    check_numbers(k=k, factor=factor)
    rows, acting = [], []
    more = more or {}
    others, generic = OtherFacts(facts, seed), {}
    if GENERIC in more:
        by_share = more[GENERIC].sort_values(["share", *WHERE], ascending=[False, True, True])
        generic = lists_of(by_share, "relation")
    place = {prompt: i for i, prompt in enumerate(prompts["prompt"])}
    for target, asked in prompts.groupby("language", sort=False):
        made = sources_for(found, str(target), every, k=k, seed=seed)
        active = agreed_on(more[ACTIVE], str(target), every, k=k) if ACTIVE in more else None
        compared = _Compared(others, model.n_neurons, seed, generic, active)
        for name, source in made.items():
            if sources is not None and name not in sources:
                continue
            for prompt, fact, relation in asked[["prompt", "fact", "relation"]].itertuples(index=False):
                if fact not in source.size:
                    continue
                for kind, neurons in compared.sets(name, source, fact, relation):
                    rows.append((place[prompt], name, kind, len(neurons), source.written[fact]))
                    acting.append(Scaling(neurons, factor))
    if not rows:
        raise CrossLingualError("no prompt has neurons of another language; ask for more facts or languages.")
    table = pd.DataFrame(rows, columns=["_place", "source", "neurons", "size", "written"])
    at = table.pop("_place").to_numpy()
    asked = prompts.iloc[at].reset_index(drop=True)
    # Before and after in one call, so that each question is written in pieces once.
    both = pd.concat([prompts, asked], ignore_index=True)
    candidates = candidates_of(prompts, every)
    among = candidates + [candidates[i] for i in at]
    told = typed_answers(model, both, among, [*([None] * len(prompts)), *acting], label="silenced abroad")
    known, after = told.iloc[at].reset_index(drop=True), told.iloc[len(prompts) :].reset_index(drop=True)
    columns = {"target": asked["language"], "operation": "suppress" if factor == 0 else "amplify"}
    for short, column in (TOLD | TOLD_AMONG).items():
        columns |= {f"{short}before": known[column], f"{short}after": after[column]}
    table = pd.concat([asked[["prompt", "fact", "relation"]], table], axis=1).assign(**columns)
    return table.assign(
        logit=log_odds(table["after"]) - log_odds(table["before"]),
        typed_logit=log_odds(table["typed_after"]) - log_odds(table["typed_before"]),
    )


def in_order(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`silenced_across` by what neurons were found for, then by source."""
    names = [name for name in dict.fromkeys(effects["source"]) if name not in SOURCES]
    place = {name: i for i, name in enumerate([*names, *SOURCES])}
    order = effects.assign(_place=effects["source"].map(place))
    order = order.sort_values(["found_for", "_place"], kind="stable")
    return order.drop(columns="_place").reset_index(drop=True)


def without_answers(prompts: pd.DataFrame) -> pd.DataFrame:
    """The texts of prompts without their blanks, each once: ``language, text``."""
    text = prompts["text"].str.replace(OBJECT, "", regex=False).str.replace(SUBJECT, "", regex=False)
    texts = prompts[["language"]].assign(text=text.str.strip())
    return texts[texts["text"] != ""].drop_duplicates().reset_index(drop=True)


@dataclass(frozen=True)
class _Compared:
    """What a fact's own set is compared with; of the sources whose claim is judged, with more.

    Attributes:
        others: who lends sets.
        width: neurons of a layer.
        seed: of random ones.
        generic: relation -> its generic neurons in order.
        active: where the most active ones come from.
    """

    others: OtherFacts
    width: int
    seed: int
    generic: Lists = field(default_factory=dict)
    active: Source | None = None

    def sets(self, name: str, source: Source, fact: str, relation: str) -> Iterator[tuple[str, np.ndarray]]:
        """The sets of one size that are compared for one fact, by name."""
        size = source.size[fact]
        own = source.held(fact, fact)[:size]
        yield OWN, own
        for kind in (ANOTHER, SAME, RELATION) if name in (INDEPENDENT, GRADED) else (ANOTHER,):
            lent = (source.held(fact, other) for other in self.others.of(fact, *OTHERS[kind]))
            if (full := next((one for one in lent if len(one) >= size), None)) is not None:
                yield kind, full[:size]
        if name == INDEPENDENT:
            more = {SHARED: self._shared(source, fact, relation, own)}
            if relation in self.generic:
                more[GENERIC] = self.generic[relation]
            if self.active is not None:
                more[ACTIVE] = self.active.held(fact, fact)
            yield from ((kind, one[:size]) for kind, one in more.items() if len(one) >= size)
            random = np.random.default_rng([self.seed, *fact.encode()])
            yield RANDOM, drawn_like(own, self.width, random)

    def _shared(self, source: Source, fact: str, relation: str, own: np.ndarray) -> np.ndarray:
        """Neurons by how many other answers of the relation have them in this source, without the own."""
        answer = self.others.facts["answer"]
        held = [
            (relation, answer[other], *pair)
            for other in self.others.of(fact, "same", "other")
            for pair in source.held(fact, other)[: source.size.get(other, 0)].tolist()
        ]
        table = pd.DataFrame(held, columns=["relation", "answer", *WHERE]).drop_duplicates()
        rest = without(table, pd.DataFrame(own, columns=WHERE))
        return relation_neurons(rest, len(own))[WHERE].to_numpy(int)


def drawn_like(own: np.ndarray, width: int, random: np.random.Generator) -> np.ndarray:
    """As many neurons of the same layers, at random."""
    layers, number = np.unique(own[:, 0], return_counts=True)
    parts = [
        np.column_stack([np.full(n, layer), random.choice(width, size=n, replace=False)])
        for layer, n in zip(layers, number, strict=True)
    ]
    return np.concatenate(parts)


class OtherFacts:
    """Other facts, in an order drawn for each fact, so that all its sets are lent by the same one."""

    def __init__(self, facts: pd.DataFrame, seed: int) -> None:
        self.facts = facts.drop_duplicates("fact").set_index("fact")
        self.seed = seed
        self.known: dict[tuple[str, str, str], list[str]] = {}

    def of(self, fact: str, relation: str, answer: str) -> list[str]:
        """Those of the same or of another relation, with the same answer or another."""
        key = (fact, relation, answer)
        if key not in self.known:
            self.known[key] = self._drawn(*key)
        return self.known[key]

    def _drawn(self, fact: str, relation: str, answer: str) -> list[str]:
        own = self.facts.loc[fact]
        same = self.facts["relation"] == own["relation"], self.facts["answer"] == own["answer"]
        wanted = (same[0] if relation == "same" else ~same[0]) & (same[1] if answer == "same" else ~same[1])
        pool = [other for other in self.facts.index[wanted] if other != fact]
        random = np.random.default_rng([self.seed, 1, *fact.encode()])
        return [pool[i] for i in random.permutation(len(pool))]
