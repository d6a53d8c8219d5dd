"""How many neurons one fact has in common in two languages, and whether that is more than other facts have.

*Chance* is as in :mod:`kn_utils.statistics.held`. *Other facts*: neurons that serve a relation, a language
or every answer are shared by different facts too, so permutations of facts are the stricter comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, combinations_with_replacement

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from ..neurons.refine import Refined, facts_of
from . import intervals as statistics
from .held import expected_by_chance, held_neurons
from .intervals import interval

#: The names that the shared neurons of all pairs of languages go by in :func:`shared_between_languages`.
ALL_PAIRS = "all pairs"


def shared_between_languages(
    by_language: Mapping[str, Refined],
    shape: tuple[int, int],
    *,
    without: pd.DataFrame | None = None,
    groups: pd.Series | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How many neurons the same fact's bags of two languages share, and whether other facts share as many.

    Args:
        by_language: language -> its neurons and bags (``refine_bags``).
        shape: (layers, neurons per layer) of the model.
        without: ``first, second, fact`` to leave out, such as facts whose answer two languages spell alike. A
            fact that is left out for one pair does not count for the mean of all pairs.
        groups: fact -> group, in place of its relation (such as facts with the same answer). Facts alone in
            theirs do not count.

    Returns:
        a row per pair of languages (``first, second``), and one for the mean of all pairs (``all pairs``). A
        language with itself gives the number of neurons per fact; its chance and p are missing.

        - ``value, low, high, n``: shared by the same fact, mean over the n facts asked about in both (in all)
          languages, intervals over these;
        - ``jaccard``: all shared over all held by either;
        - ``chance``: shared by the same fact if neurons were drawn, as many in each layer;
        - ``other_fact``: shared by a fact in one language and each *other* fact of its relation in the other;
        - ``p``: share of permutations of the facts within relations in which as many are shared, one-sided,
          at least 1 / (RESAMPLES + 1);
        - ``q``: p adjusted for the number of pairs of languages (false discovery rate, Benjamini and Hochberg
          1995);
        - ``any_fact, p_any``: as ``other_fact, p``, with other facts of whatever relation.
    """
    rows: list[dict[str, object]] = []
    left_out: dict[tuple[str, str], set[str]] = {}
    if without is not None:
        left_out = without.groupby(["first", "second"])["fact"].agg(set).to_dict()
    for first, second in combinations_with_replacement(by_language, 2):
        gone = left_out.get((first, second), set()) | left_out.get((second, first), set())
        row = _same_fact([by_language[first], by_language[second]], shape[1], gone, groups, seed)
        if first == second:
            row |= {"jaccard": np.nan, "chance": np.nan, "p": np.nan, "p_any": np.nan}
        rows.append({"first": first, "second": second, **row})
    if len(by_language) > 1:
        gone = set().union(*left_out.values())
        row = _same_fact(list(by_language.values()), shape[1], gone, groups, seed)
        rows.append({"first": ALL_PAIRS, "second": ALL_PAIRS, **row})
    table = pd.DataFrame(rows)
    pairs = table["p"].notna() & (table["first"] != ALL_PAIRS)
    table.insert(table.columns.get_loc("p") + 1, "q", np.nan)
    table.loc[pairs, "q"] = false_discovery_control(table.loc[pairs, "p"])
    return table


def shared_per_fact(by_language: Mapping[str, Refined]) -> pd.DataFrame:
    """How many neurons two languages share, fact by fact, to be averaged over groups of facts.

    Returns:
        ``first, second, fact, relation, shared, either``: ``shared`` counts the neurons that the fact's bags
        of both languages hold, ``either`` those that at least one of them holds.

    ``shared``: neurons that the fact's bags of both languages hold; ``either``: those that at least one of
    them holds.
    """
    parts = []
    for first, second in combinations(by_language, 2):
        pair = [by_language[first], by_language[second]]
        facts = _asked_in_all(pair)
        a, b = held_neurons([refined.neurons for refined in pair], facts.index)
        shared = (a * b).sum(axis=1)
        counts = {"shared": shared, "either": a.sum(axis=1) + b.sum(axis=1) - shared}
        table = pd.DataFrame({"fact": facts.index, "relation": facts.to_numpy(), **counts})
        parts.append(table.assign(first=first, second=second))
    columns = ["first", "second", "fact", "relation", "shared", "either"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def different_languages(shared: pd.DataFrame) -> pd.DataFrame:
    """The pairs of two different languages and their mean, without the languages by themselves.

    Args:
        shared: of :func:`shared_between_languages`.

    Returns:
        its rows, indexed by ``first, second``.
    """
    pairs = shared[(shared["first"] != shared["second"]) | (shared["first"] == ALL_PAIRS)]
    return pairs.set_index(["first", "second"])


def mark_spelling(per_fact: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`shared_per_fact`, marked by whether the two languages spell the answer alike.

    Args:
        per_fact: ``first, second, fact``.
        prompts: ``fact, language, answer``, the facts in all these languages.

    Returns:
        the rows with ``answer``: ``spelled alike`` or ``spelled differently``.
    """
    answers = prompts.drop_duplicates(["fact", "language"]).set_index(["fact", "language"])["answer"]
    first, second = (
        answers.reindex(pd.MultiIndex.from_frame(per_fact[["fact", side]])).to_numpy()
        for side in ("first", "second")
    )
    return per_fact.assign(answer=np.where(first == second, "spelled alike", "spelled differently"))


def same_fact_against(
    by_language: Mapping[str, Refined],
    shape: tuple[int, int],
    per_fact: pd.DataFrame,
    answer: pd.Series,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Do two languages share more of the same fact than of another one, whichever other one is meant?

    Args:
        by_language: language -> its neurons and bags.
        shape: (layers, neurons per layer) of the model.
        per_fact: of :func:`mark_spelling`.
        answer: fact -> its answer (in any one language).
        seed: of the resamples and permutations.

    Returns:
        ``another fact``: of the relation; of the relation, without facts that any two languages spell alike;
        of the relation, with the same answer; and of each the mean over all pairs of languages, ``value, low,
        high, n, other_fact, p`` (:func:`shared_between_languages`). With one language there are no rows.
    """
    columns = ["another fact", "value", "low", "high", "n", "other_fact", "p"]
    if len(by_language) < 2:
        return pd.DataFrame(columns=columns)
    alike = set(per_fact.loc[per_fact["answer"] == "spelled alike", "fact"])
    relation = next(iter(by_language.values())).bags.set_index("fact")["relation"].reindex(answer.index)
    ways: dict[str, tuple[set[str], pd.Series | None]] = {
        "of the relation": (set(), None),
        "of the relation, spelled differently": (alike, None),
        "of the relation, same answer": (set(), relation + " " + answer),
    }
    rows = [
        {"another fact": name, **_same_fact(list(by_language.values()), shape[1], without, groups, seed)}
        for name, (without, groups) in ways.items()
    ]
    return pd.DataFrame(rows)[columns]


def _same_fact(
    languages: list[Refined], width: int, without: set[str], groups: pd.Series | None, seed: int
) -> dict[str, float]:
    """The row of :func:`shared_between_languages` for these languages.

    It is the mean over their pairs, of the facts asked about in all of them.
    """
    tables = [refined.neurons for refined in languages]
    facts = _asked_in_all(languages)
    facts = facts[~facts.index.isin(without)]
    if groups is not None:
        facts = groups.reindex(facts.index)
        facts = facts[facts.groupby(facts).transform("size") > 1]
    pairs = list(combinations(range(len(tables)), 2))
    held = held_neurons(tables, facts.index)
    shared = [(held[a] @ held[b].T).toarray() for a, b in pairs]  # each (fact in a, fact in b)
    mean = sum(shared) / len(pairs)
    either = sum((held[a].sum() + held[b].sum()) / len(pairs) for a, b in pairs) - np.trace(mean)
    chance = [np.trace(expected_by_chance(tables[a], tables[b], facts.index, width)) for a, b in pairs]
    row = interval(np.diagonal(mean), seed=seed)
    row["jaccard"] = np.trace(mean) / either if either else np.nan
    row["chance"] = float(np.mean(chance)) / len(facts) if len(facts) else np.nan
    relation, alike = pd.factorize(facts)[0], np.zeros(len(facts), dtype=int)
    for name, p, group in (("other_fact", "p", relation), ("any_fact", "p_any", alike)):
        row[name] = _shared_with_others(mean, group)
        row[p] = np.nan if np.isnan(row[name]) else _permutation_p(shared, pairs, group, seed)
    return row


def _shared_with_others(shared: np.ndarray, group: np.ndarray) -> float:
    """What a fact shares with the mean other fact of its group; the mean over facts that have another."""
    others = (group[:, None] == group) & ~np.eye(len(group), dtype=bool)
    number = others.sum(1)
    has = number > 0
    return float(((shared * others).sum(1)[has] / number[has]).mean()) if has.any() else np.nan


def _asked_in_all(languages: list[Refined]) -> pd.Series:
    """fact -> relation of the facts that all of them were asked about, in the order of the first."""
    facts, *others = (facts_of(refined.neurons, refined.bags) for refined in languages)
    for other in others:
        facts = facts[facts.index.isin(other.index)]
    return facts


def _permutation_p(
    shared: list[np.ndarray], pairs: list[tuple[int, int]], group: np.ndarray, seed: int
) -> float:
    """Share of permutations whose traces sum to at least the observed one.

    Each language's facts are permuted within groups on their own.
    """
    languages, random = len(set().union(*pairs)), np.random.default_rng(seed)
    observed = sum(np.trace(matrix) for matrix in shared)
    count = 1  # the order as it is
    for size in statistics.in_parts(statistics.RESAMPLES, len(group) * (languages - 1)):
        order = _orders(group, languages, size, random)
        permuted = [
            matrix[order[:, a], order[:, b]].sum(1) for matrix, (a, b) in zip(shared, pairs, strict=True)
        ]
        count += (np.sum(permuted, axis=0) >= observed - 1e-9).sum()
    return float(count / (1 + statistics.RESAMPLES))


def _orders(group: np.ndarray, languages: int, size: int, random: np.random.Generator) -> np.ndarray:
    """The first language's facts as they are, then of each other one a permutation within the groups.

    All that so many times: shape (size, language, fact).
    """
    orders = np.empty((size, languages, len(group)), dtype=int)
    orders[:, 0] = np.arange(len(group))
    drawn = random.random((size, languages - 1, len(group)))  # below 1: groups stay in their order
    orders[:, 1:, np.argsort(group, kind="stable")] = np.argsort(group + drawn, axis=-1)
    return orders
