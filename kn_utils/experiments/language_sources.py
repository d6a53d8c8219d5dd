"""Where the neurons come from that are silenced in a language that had no say in finding them.

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

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..neurons.language_independent import WHERE, best_first, graded, in_turn, most_held
from ..statistics.controls import nearest_spelling, spelling

INDEPENDENT, ANY_SPELLING = "independent", "independent, any spelling"
GRADED, TOGETHER = "graded", "together"
AS_MANY, AS_WIDE = "one other language, as many", "one other language, as wide"
SAME_AS_MANY = "the same language, as many"
#: Sources of neurons beside single languages.
SOURCES = (INDEPENDENT, ANY_SPELLING, GRADED, TOGETHER, AS_MANY, AS_WIDE, SAME_AS_MANY)
#: How many times k neurons are silenced together.
WIDE = 3

Lists = dict[str, np.ndarray]


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


def lists_of(table: pd.DataFrame, by: str = "fact") -> Lists:
    """fact (or what ``by`` names) -> its (layer, neuron) pairs in the table's order."""
    pairs = table[WHERE].to_numpy(int)
    return {str(name): pairs[rows] for name, rows in table.groupby(by, sort=False).indices.items()}


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
        found, k, seed: as :func:`kn_utils.experiments.cross_lingual.silenced_across` takes them.
        target: the language of the prompts.
        names: ``fact, language, answer``: how each language writes it.

    Returns:
        name (a language, or one of :data:`SOURCES`) -> source.
    """
    by_language = {str(name): best_first(own) for name, own in found.groupby("language", sort=False)}
    every = {name: lists_of(own) for name, own in by_language.items()}
    apart = languages_apart(names, target)
    written = _written(apart)
    unlike = _unlike(by_language, target, written)
    written[target] = dict.fromkeys(every.get(target, {}), "alike")
    made = {name: _one_language(lists, k, written.get(name, {})) for name, lists in every.items()}
    others = {name: own for name, own in by_language.items() if name != target}
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


def agreed_on(found: pd.DataFrame, target: str, names: pd.DataFrame, *, k: int = 5) -> Source:
    """The source :data:`INDEPENDENT` alone, of whatever neurons: such as each language's most active ones."""
    by_language = {str(name): best_first(own) for name, own in found.groupby("language", sort=False)}
    unlike = _unlike(by_language, target, _written(languages_apart(names, target)))
    return _independent(unlike, k, dict.fromkeys(names["fact"], "differently"))


def _written(apart: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Language -> fact -> how it writes the answer beside the target."""
    return {
        str(name): dict(zip(own["fact"], own["written"], strict=True))
        for name, own in apart.groupby("language", sort=False)
    }


def _unlike(
    by_language: Mapping[str, pd.DataFrame], target: str, written: Mapping[str, Mapping[str, str]]
) -> dict[str, pd.DataFrame]:
    """The other languages' neurons of the facts whose answer they write differently."""
    unlike = {
        name: own[own["fact"].map(written.get(name, {})) == "differently"]
        for name, own in by_language.items()
        if name != target
    }
    return {name: own for name, own in unlike.items() if len(own)}


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
