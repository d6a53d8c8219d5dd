"""Neurons that one fact holds in several languages, and sets of one size to compare them with.

Chen et al. (2024) call a neuron *language-independent* for a fact if its score exceeds a threshold in every
language. With few neurons per language that intersection is nearly empty by arithmetic, so there are two
softer forms: held in at least s languages, and graded, z_ik being the score of neuron i in language k over
the largest of that fact and language,

    g_i = mean_k z_ik - c sd_k z_ik,

the mean less what languages disagree by (after Cao et al. 2024; c = 1; a score too small to be stored counts
as 0). Facts without such a neuron are not dropped: they have no row here, and whoever counts knows them from
the table of facts asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import check_numbers, check_table

WHERE = ["layer", "neuron"]
NEURON = ["fact", "relation", *WHERE]
#: A generic neuron is held by at least so many answers of other relations, and by so large a share of them.
LEAST, COMMON = 3, 0.1


class LanguagesError(StudyError):
    """Languages that are not there, or more of them than there are."""


def check_enough(languages: Sequence[str], least: int = 3) -> None:
    """Refuse too few languages: one is left out, and two others may share a neuron.

    Raises:
        LanguagesError: fewer than ``least``.
    """
    if len(set(languages)) < least:
        named = ", ".join(languages) or "none"
        raise LanguagesError(
            f"{least} languages are needed, one to leave out and others to share; there are: {named}."
        )


def language_independent(
    by_language: Mapping[str, pd.DataFrame],
    languages: Sequence[str] | None = None,
    at_least: int | None = None,
) -> pd.DataFrame:
    """The neurons that a fact holds in at least so many languages.

    Args:
        by_language: language -> ``fact, relation, layer, neuron``, such as :func:`kn_utils.refine` gives.
        languages: those that count; ``None``: all.
        at_least: of them; ``None``: every one (as published).

    Returns:
        ``fact, relation, layer, neuron, languages`` (how many hold it), ``which`` (their names, in the order
        given, by spaces), sorted.

    Raises:
        LanguagesError: a language that is not there; more, or fewer, than there can be.

    Example:
        >>> import pandas as pd
        >>> one = pd.DataFrame({"fact": "a", "relation": "P36", "layer": 5, "neuron": [1, 2]})
        >>> both = language_independent({"en": one, "zh": one.tail(1)})
        >>> both[["neuron", "languages", "which"]].values.tolist()
        [[2, 2, 'en zh']]
    """
    chosen = list(by_language) if languages is None else list(dict.fromkeys(languages))
    if missing := [name for name in chosen if name not in by_language]:
        raise LanguagesError(f"no neurons of language {missing[0]!r}; known: {', '.join(by_language)}.")
    least = len(chosen) if at_least is None else at_least
    if not chosen or isinstance(least, bool) or not 1 <= least <= len(chosen):
        raise LanguagesError(f"at_least={least!r} of {len(chosen)} languages; it is one of them at least.")
    parts = []
    for name in chosen:
        check_table(f"neurons of {name}", by_language[name], " ".join(NEURON))
        parts.append(by_language[name][NEURON].drop_duplicates().assign(which=name))
    held = pd.concat(parts, ignore_index=True).groupby(NEURON, sort=True)["which"]
    table = held.agg(languages="size", which=" ".join).reset_index()
    return table[table["languages"] >= least].reset_index(drop=True)


def graded(by_language: Mapping[str, pd.DataFrame], *, c: float = 1.0) -> pd.DataFrame:
    """Every neuron's graded score over the languages in which its fact has neurons.

    Args:
        by_language: language -> ``fact, relation, layer, neuron, score``
            (:func:`kn_utils.neurons.choose.strongest`).
        c: how many standard deviations (of the languages at hand) are taken off.

    Returns:
        ``fact, relation, layer, neuron, score`` (g), a fact's best first, ties to the lower layer and neuron.
    """
    parts = []
    for name, table in by_language.items():
        check_table(f"neurons of {name}", table, " ".join([*NEURON, "score"]))
        top = table.groupby("fact")["score"].transform("max")
        parts.append(table[NEURON].assign(z=table["score"] / top, language=name))
    if not parts:
        return pd.DataFrame(columns=[*NEURON, "score"])
    table = pd.concat(parts, ignore_index=True)
    number = table.groupby("fact")["language"].nunique()
    sums = table.assign(square=table["z"] ** 2).groupby(NEURON, sort=False)[["z", "square"]].sum()
    sums = sums.reset_index()
    n = sums["fact"].map(number)
    mean = sums["z"] / n
    spread = np.sqrt((sums["square"] / n - mean**2).clip(lower=0))
    return best_first(sums[NEURON].assign(score=mean - c * spread))


def best_first(table: pd.DataFrame, by: Sequence[str] = ("score",)) -> pd.DataFrame:
    """A fact's neurons by these columns, the largest first, ties to the lower layer and neuron."""
    order = ["fact", *by, *WHERE]
    ascending = [True, *(False for _ in by), True, True]
    return table.sort_values(order, ascending=ascending, kind="stable").reset_index(drop=True)


def strongest_of(found: pd.DataFrame, k: int) -> dict[str, pd.DataFrame]:
    """Every fact's k strongest neurons, by language.

    Args:
        found: ``language, fact, relation, layer, neuron, score``.
        k: so many, or as many as there are.
    """
    check_numbers(k=k)
    parts = found.groupby("language", sort=False)
    return {str(name): best_first(own).groupby("fact").head(k).reset_index(drop=True) for name, own in parts}


def most_held(by_language: Mapping[str, pd.DataFrame], k: int, *, c: float = 1.0) -> pd.DataFrame:
    """A fact's neurons by how many languages hold them, among those by their graded score.

    Args:
        by_language: language -> ``fact, relation, layer, neuron, score``.
        k: a language *holds* a fact's k strongest.
        c: as in :func:`graded`.

    Returns:
        ``fact, relation, layer, neuron, score, languages`` (how many hold it, 0 of those that no language has
        among its k strongest), the neurons of most languages first.
    """
    check_numbers(k=k)
    every = graded(by_language, c=c)
    sets = {name: best_first(table).groupby("fact").head(k) for name, table in by_language.items()}
    sets = {name: table for name, table in sets.items() if len(table)}
    if not sets:
        return every.assign(languages=0)
    held = language_independent(sets, at_least=1)[[*NEURON, "languages"]]
    table = every.merge(held, on=NEURON, how="left").fillna({"languages": 0}).astype({"languages": int})
    return best_first(table, ["languages", "score"])


def in_turn(by_language: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Several languages' neurons together: the strongest of each in turn, then the second of each, ...

    Args:
        by_language: language -> ``fact, relation, layer, neuron, score``.

    Returns:
        ``fact, relation, layer, neuron`` in that order, each neuron once.
    """
    parts = []
    for number, table in enumerate(by_language.values()):
        own = best_first(table)
        parts.append(own[NEURON].assign(turn=own.groupby("fact").cumcount(), language=number))
    if not parts:
        return pd.DataFrame(columns=NEURON)
    table = pd.concat(parts, ignore_index=True).sort_values(["fact", "turn", "language"], kind="stable")
    return table.drop_duplicates(["fact", *WHERE])[NEURON].reset_index(drop=True)


def generic_by_relation(
    by_language: Mapping[str, pd.DataFrame], answer: pd.Series, *, common: float = COMMON, least: int = LEAST
) -> pd.DataFrame:
    """For each relation the neurons that many answers of *other* relations hold: those of a form.

    Answers are counted, not facts, since facts of several relations may have the same answer, whose own
    neurons are not generic.

    Args:
        by_language: language -> ``fact, relation, layer, neuron``, every fact's k strongest.
        answer: fact -> its answer, the same in all languages (such as the object's id).
        common: at least this share of the other relations' answers in some language,
        least: and at least so many.

    Returns:
        ``relation, layer, neuron, share`` (the largest over languages).
    """
    check_numbers(common=common)
    parts = [pd.DataFrame({"relation": [], "layer": [], "neuron": [], "share": []})]
    for table in by_language.values():
        held = table[NEURON].assign(answer=table["fact"].map(answer))
        for relation in held["relation"].unique():
            others = held[held["relation"] != relation]
            number = others["answer"].nunique()
            count = others.drop_duplicates([*WHERE, "answer"]).groupby(WHERE).size()
            count = count[(count >= least) & (count >= common * number)]
            found = (count / max(number, 1)).rename("share").reset_index()
            parts.append(found.assign(relation=relation))
    found = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    found = found.groupby(["relation", *WHERE], as_index=False)["share"].max()
    return found.astype({"layer": int, "neuron": int})


def without(table: pd.DataFrame, gone: pd.DataFrame) -> pd.DataFrame:
    """A table of neurons without those in another one.

    Args:
        table: ``layer, neuron`` and whatever else.
        gone: ``layer, neuron``; with ``relation`` each is taken out of its relation's facts only.
    """
    keys = ["relation", *WHERE] if "relation" in gone else WHERE
    out = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(gone[keys]))
    return table[~out].reset_index(drop=True)


class Cleaned(NamedTuple):
    """Rankings without generic neurons.

    Attributes:
        found: ``language, fact, relation, layer, neuron, score``, those that are left.
        sets: language -> every fact's k strongest of these.
        generic: :func:`generic_by_relation` of the k strongest before.
        taken: language -> the share of the k strongest that was taken out.
    """

    found: pd.DataFrame
    sets: dict[str, pd.DataFrame]
    generic: pd.DataFrame
    taken: dict[str, float]


def without_generic(found: pd.DataFrame, answer: pd.Series, k: int) -> Cleaned:
    """Take generic neurons out of every fact's ranking, and say how many they were.

    Args:
        found: ``language, fact, relation, layer, neuron, score``.
        answer: fact -> its answer, the same in all languages.
        k: a language holds a fact's k strongest.
    """
    first = strongest_of(found, k)
    generic = generic_by_relation(first, answer)
    left = without(found, generic)
    return Cleaned(left, strongest_of(left, k), generic, shares_taken(first, generic))


def shares_taken(sets: Mapping[str, pd.DataFrame], gone: pd.DataFrame) -> dict[str, float]:
    """The share of each language's sets that :func:`without` would take out."""
    return {name: 1 - len(without(own, gone)) / max(len(own), 1) for name, own in sets.items()}
