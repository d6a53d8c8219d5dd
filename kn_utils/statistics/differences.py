"""Tests: do paired values, or groups of facts, differ?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from .changes import mean_table
from .intervals import RESAMPLES, interval


def difference_test(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value that paired values have the same mean (permutation of signs)."""
    tested = stats.permutation_test(
        (np.asarray(first, float), np.asarray(second, float)),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(tested.pvalue)


def difference_of_groups(
    table: pd.DataFrame, value: str, first: str, second: str, *, group: str = "group", seed: int = 0
) -> dict[str, float]:
    """Do facts of group ``first`` have more than facts of group ``second`` *of their own relation*?

    Args:
        table: ``fact, relation, <group>, <value>``; a fact's rows in a group are averaged. Relations differ
            much, so groups of different composition are compared within them; facts of a relation that lacks
            one of the groups do not count.

    Returns:
        ``value, low, high, n``: mean over the n facts of ``first`` of what each has more than the mean fact
        of ``second`` of its relation, intervals over these facts; ``p``, two-sided, at least 1 / (RESAMPLES +
        1): the groups' names permuted within relations.
    """
    rows = table[table[group].isin([first, second])]
    facts = rows.groupby(["relation", group, "fact"], sort=False)[value].mean().reset_index()
    facts = facts[facts.groupby("relation")[group].transform("nunique") == 2]
    random = np.random.default_rng(seed)
    excess, permuted = [np.array([])], np.zeros(RESAMPLES)
    for _, part in facts.groupby("relation", sort=False):
        values, chosen = part[value].to_numpy(float), (part[group] == first).to_numpy()
        n = int(chosen.sum())
        excess.append(values[chosen] - values[~chosen].mean())
        mixed = random.permuted(np.broadcast_to(values, (RESAMPLES, len(values))), axis=1)
        permuted += n * (mixed[:, :n].mean(1) - mixed[:, n:].mean(1))
    every = np.concatenate(excess)
    as_far = np.abs(permuted) >= abs(every.sum()) - 1e-9
    return {
        **interval(every, seed=seed),
        "p": float((1 + as_far.sum()) / (1 + RESAMPLES)) if len(every) else np.nan,
    }


def compare_groups(
    table: pd.DataFrame, value: str, reference: str, *, group: str = "group", seed: int = 0
) -> pd.DataFrame:
    """The mean of every group of facts, and what each has more than the reference group of its relations.

    Args:
        table: ``fact, relation, <group>, <value>``; a fact's rows in a group are averaged.
        value: the column that is compared.
        reference: the group that the others are compared with.
        group: the column that holds the groups.
        seed: of the resamples and permutations.

    Returns:
        a row per group: ``<group>, value, low, high, n``; and of :func:`difference_of_groups` ``more, more
        low, more high, more n, p``, missing for the reference itself and where it does not occur.
    """
    means = mean_table(table, value, [group], seed=seed)
    others = [name for name in means[group] if name != reference and reference in set(means[group])]
    rows = [
        {group: name, **difference_of_groups(table, value, name, reference, group=group, seed=seed)}
        for name in others
    ]
    more = pd.DataFrame(rows, columns=[group, "value", "low", "high", "n", "p"])
    names = {"value": "more", "low": "more low", "high": "more high", "n": "more n"}
    return means.merge(more.rename(columns=names), on=group, how="left")


def _mean_difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return (a - b).mean(axis=axis)
