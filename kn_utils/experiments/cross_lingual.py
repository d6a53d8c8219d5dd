"""Do neurons that other languages hold carry a fact in a language that had no say in finding them?

The published test measures language-independent neurons on the very prompts that defined them. Here one
language is left out: what the others hold is silenced in its prompts, beside as many of a single other
language's strongest neurons, as many of its own (a ceiling), and of each of these sets another fact's. The
sources of neurons:

    en, nl, ...                     one language, its k strongest
    independent                     held by two or more of the other languages, at most k
    independent, any spelling       the same, whether or not they write the answer as the target does
    graded                          the k best by mean less standard deviation over languages
    together                        several languages' neurons silenced at once, the strongest of each in turn
    one other language, as many     as many of one other language, drawn, as are independent
    one other language, as wide     as many as are taken together
    the same language, as many      the target's own strongest, as many as are independent

But for the second, the other languages are those that write the answer differently from the target: where a
name is written alike, or with the same characters, a neuron of the word is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import check_numbers
from ..data.facts import OBJECT, SUBJECT
from ..model.acting import Scaling
from ..model.language_model import LanguageModel
from ..model.typed import candidates_of, typed_answers
from ..neurons.language_independent import WHERE, best_first, graded, in_turn, most_held
from ..statistics.changes import log_odds
from ..statistics.controls import nearest_spelling, spelling
from .controls import GENERIC, OTHERS, OWN, RANDOM
from .effects import TOLD, TOLD_AMONG

INDEPENDENT, ANY_SPELLING = "independent", "independent, any spelling"
GRADED, TOGETHER = "graded", "together"
AS_MANY, AS_WIDE = "one other language, as many", "one other language, as wide"
SAME_AS_MANY = "the same language, as many"
#: Sources of neurons beside single languages.
SOURCES = (INDEPENDENT, ANY_SPELLING, GRADED, TOGETHER, AS_MANY, AS_WIDE, SAME_AS_MANY)
#: How many times k neurons are silenced together.
WIDE = 3
ANOTHER, SAME, RELATION = "another answer", "same answer", "another relation"

Lists = dict[str, np.ndarray]


class CrossLingualError(StudyError):
    """Nothing to silence, or names that are missing."""


@dataclass(frozen=True)
class Source:
    """Where neurons come from.

    Attributes:
        size: fact -> how many are taken for it; facts without any are not there.
        held: (the fact they are taken for, the fact they belong to) -> these neurons in order, (n, 2).
        written: fact -> how the source's languages write its answer beside the target.
    """

    size: Mapping[str, int]
    held: Callable[[str, str], np.ndarray]
    written: Mapping[str, str]


def silenced_across(
    model: LanguageModel,
    prompts: pd.DataFrame,
    found: pd.DataFrame,
    facts: pd.DataFrame,
    every: pd.DataFrame,
    *,
    generic: pd.DataFrame | None = None,
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
        generic: ``relation, layer, neuron, share``: what was taken out; the control ``generic``.
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
    shape = (model.n_layers, model.n_neurons)
    others = OtherFacts(facts, seed)
    place = {prompt: i for i, prompt in enumerate(prompts["prompt"])}
    for target, asked in prompts.groupby("language", sort=False):
        made = sources_for(found, str(target), every, k=k, seed=seed)
        for name, source in made.items():
            if sources is not None and name not in sources:
                continue
            for prompt, fact, relation in asked[["prompt", "fact", "relation"]].itertuples(index=False):
                if fact not in source.size:
                    continue
                for kind, neurons in _sets(name, source, fact, relation, others, generic, shape, seed):
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


def _sets(
    name: str,
    source: Source,
    fact: str,
    relation: str,
    others: OtherFacts,
    generic: pd.DataFrame | None,
    shape: tuple[int, int],
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """The sets of one size that are compared for one fact, by name."""
    size = source.size[fact]
    own = source.held(fact, fact)[:size]
    yield OWN, own
    kinds = [ANOTHER]
    if name in (INDEPENDENT, GRADED):
        kinds += [SAME, RELATION]
    for kind in kinds:
        for other in others.of(fact, *OTHERS[kind]):
            lent = source.held(fact, other)[:size]
            if len(lent) == size:
                yield kind, lent
                break
    if name == INDEPENDENT:
        if generic is not None:
            here = generic[generic["relation"] == relation]
            here = here.sort_values(["share", *WHERE], ascending=[False, True, True]).head(size)
            if len(here) == size:
                yield GENERIC, here[WHERE].to_numpy(int)
        random = np.random.default_rng([seed, *fact.encode()])
        yield RANDOM, drawn_like(own, shape[1], random)


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


def lists_of(table: pd.DataFrame) -> Lists:
    """fact -> its (layer, neuron) pairs in the table's order."""
    pairs = table[WHERE].to_numpy(int)
    return {str(fact): pairs[rows] for fact, rows in table.groupby("fact", sort=False).indices.items()}


def languages_apart(names: pd.DataFrame, target: str) -> pd.DataFrame:
    """How each other language writes a fact's answer beside the target's.

    Args:
        names: ``fact, language, answer``.
        target: a language.

    Returns:
        ``fact, language, written``; facts without a name in the target are not there.
    """
    own = names.drop_duplicates(["fact", "language"])
    here = own[own["language"] == target].set_index("fact")["answer"]
    rest = own[(own["language"] != target) & own["fact"].isin(here.index)]
    written = [spelling(here[fact], there) for fact, there in zip(rest["fact"], rest["answer"], strict=True)]
    return rest[["fact", "language"]].assign(written=written).reset_index(drop=True)


def sources_for(
    found: pd.DataFrame, target: str, names: pd.DataFrame, *, k: int = 5, seed: int = 0
) -> dict[str, Source]:
    """The sources of neurons for prompts of one language, which is left out of all but its own.

    Args:
        found, k, seed: as :func:`silenced_across` takes them.
        target: the language of the prompts.
        names: ``fact, language, answer``: how each language writes it.

    Returns:
        name (a language, or one of :data:`SOURCES`) -> source.
    """
    by_language = {str(name): best_first(own) for name, own in found.groupby("language", sort=False)}
    every = {name: lists_of(own) for name, own in by_language.items()}
    apart = languages_apart(names, target)
    written = {
        str(name): dict(zip(own["fact"], own["written"], strict=True))
        for name, own in apart.groupby("language", sort=False)
    }
    written[target] = dict.fromkeys(every.get(target, {}), "alike")
    made = {name: _one_language(lists, k, written.get(name, {})) for name, lists in every.items()}
    others = {name: own for name, own in by_language.items() if name != target}
    unlike = {
        name: own[own["fact"].map(written.get(name, {})) == "differently"] for name, own in others.items()
    }
    unlike = {name: own for name, own in unlike.items() if len(own)}
    nearest = {fact: nearest_spelling(own["written"]) for fact, own in apart.groupby("fact", sort=False)}
    differently = dict.fromkeys(names["fact"], "differently")
    made[INDEPENDENT] = _independent(unlike, k, differently)
    made[ANY_SPELLING] = _independent(others, k, nearest)
    several = _in_two(unlike)
    ordered, wide = lists_of(graded(unlike)), lists_of(in_turn(unlike))
    made[GRADED] = _of_lists(ordered, {f: k for f in several if len(ordered[f]) >= k}, differently)
    sizes = {f: WIDE * k for f in several if len(wide[f]) >= WIDE * k}
    made[TOGETHER] = _of_lists(wide, sizes, differently)
    many = made[INDEPENDENT].size
    made[AS_MANY] = _drawn_language(every, unlike, many, seed)
    made[AS_WIDE] = _drawn_language(every, unlike, sizes, seed)
    own = every.get(target, {})
    made[SAME_AS_MANY] = _of_lists(
        own, {f: n for f, n in many.items() if len(own.get(f, ())) >= n}, differently
    )
    return made


def _of_lists(lists: Lists, size: Mapping[str, int], written: Mapping[str, str]) -> Source:
    nothing = np.zeros((0, 2), int)
    return Source(size, lambda _, owner: lists.get(owner, nothing), written)


def _one_language(lists: Lists, k: int, written: Mapping[str, str]) -> Source:
    size = {fact: k for fact, own in lists.items() if len(own) >= k and fact in written}
    return _of_lists(lists, size, written)


def _in_two(by_language: Mapping[str, pd.DataFrame]) -> list[str]:
    """Facts that have neurons in two of these languages or more."""
    count = pd.Series([fact for own in by_language.values() for fact in own["fact"].unique()], dtype=object)
    count = count.value_counts()
    return [str(fact) for fact in count.index[count > 1]]


def _independent(by_language: Mapping[str, pd.DataFrame], k: int, written: Mapping[str, str]) -> Source:
    """Neurons of two or more languages; lent ones are those that most languages hold, however few."""
    ordered = most_held(by_language, k)
    number = ordered[ordered["languages"] > 1].groupby("fact").size().clip(upper=k)
    return _of_lists(lists_of(ordered), number.to_dict(), written)


def _drawn_language(
    every: Mapping[str, Lists], unlike: Mapping[str, pd.DataFrame], size: Mapping[str, int], seed: int
) -> Source:
    """The strongest of one other language, drawn for each fact from those that write it differently."""
    spoken: dict[str, list[str]] = {}
    for name, own in unlike.items():
        for fact in own["fact"].unique():
            spoken.setdefault(str(fact), []).append(name)
    drawn, kept = {}, {}
    for fact, number in size.items():
        random = np.random.default_rng([seed, 2, *fact.encode()])
        fits = [name for name in spoken.get(fact, []) if len(every[name][fact]) >= number]
        if fits:
            drawn[fact], kept[fact] = fits[random.integers(len(fits))], number
    nothing = np.zeros((0, 2), int)
    return Source(
        kept, lambda fact, owner: every[drawn[fact]].get(owner, nothing), dict.fromkeys(kept, "differently")
    )
