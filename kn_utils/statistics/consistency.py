"""Do two languages rank the same answers alike, and are they right about the same facts?

RankC (Qi, Fernández and Bisazza 2023) compares two rankings of the same N candidates: the share of the j best
that both have, averaged over j = 1 ... N with weights exp(N - j + 1) normalised, so that the very first
counts 0.63. It asks nothing about who is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from .intervals import interval


def rank_consistency(scores: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """RankC of every pair of languages.

    Args:
        scores: ``fact, relation, language, candidate, score``, a fact and candidate once per language.
        seed: of the resamples.

    Returns:
        ``first, second, value, low, high, n, chance``: the mean over the n facts asked in both, over the
        candidates that both have; ``chance``: each fact against the other facts of its relation, which have
        the same candidates.
    """
    languages = list(dict.fromkeys(scores["language"]))
    rows = []
    for first, second in combinations(languages, 2):
        own, others = [], []
        for a, b in _rankings(scores, first, second):
            every = _every_pair(a, b)
            own += np.diagonal(every).tolist()
            others += every[~np.eye(len(every), dtype=bool)].tolist()
        chance = float(np.mean(others)) if others else np.nan
        rows.append(
            {"first": first, "second": second, **interval(np.array(own), seed=seed), "chance": chance}
        )
    return pd.DataFrame(rows, columns=["first", "second", "value", "low", "high", "n", "chance"])


def _rankings(scores: pd.DataFrame, first: str, second: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per relation the ranks (from 0) of its candidates in both languages, (fact, candidate) each."""
    for _, part in scores[scores["language"].isin([first, second])].groupby("relation", sort=False):
        wide = part.pivot(index=["language", "fact"], columns="candidate", values="score")
        if {first, second} <= set(wide.index.get_level_values(0)):
            a, b = wide.loc[first], wide.loc[second]
            facts = a.index.intersection(b.index)
            both = a.columns[a.loc[facts].notna().all() & b.loc[facts].notna().all()]
            if len(facts) and len(both):
                yield _ranks(a.loc[facts, both]), _ranks(b.loc[facts, both])


def _ranks(scores: pd.DataFrame) -> np.ndarray:
    return np.argsort(np.argsort(-scores.to_numpy(), axis=1, kind="stable"), axis=1)


def _every_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """RankC of every row of ``a`` with every row of ``b``.

    A candidate is among the j best of both from its worse rank on: its part of the sum is looked up there.
    """
    n = a.shape[1]
    weights = np.exp(-np.arange(n, dtype=float))  # exp(n - j + 1), j from 1, up to a factor
    per_rank = weights / weights.sum() / np.arange(1, n + 1)
    from_rank = per_rank[::-1].cumsum()[::-1]
    return from_rank[np.maximum(a[:, None], b[None])].sum(2)


def right_together(report: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How often two languages are right about the same facts.

    Args:
        report: ``fact, language, right``; a fact's prompts of a language count as right if any is.
        seed: of the resamples.

    Returns:
        ``first, second, value, low, high, n, chance``: of the n facts that at least one of the two gets right
        the share that both do; ``chance``: that share if the two were independent.
    """
    right = report.groupby(["fact", "language"])["right"].any().unstack("language")
    rows = []
    for first, second in combinations(dict.fromkeys(report["language"]), 2):
        pair = right[[first, second]].dropna().astype(bool)
        a, b = pair[first].mean(), pair[second].mean()
        either = pair[pair.any(axis=1)].all(axis=1).astype(float)
        chance = a * b / (a + b - a * b) if a + b else np.nan
        rows.append({"first": first, "second": second, **interval(either, seed=seed), "chance": chance})
    return pd.DataFrame(rows, columns=["first", "second", "value", "low", "high", "n", "chance"])


def languages_that_know(report: pd.DataFrame) -> pd.DataFrame:
    """In how many languages facts are answered right.

    Args:
        report: ``fact, language, right``; of facts that are asked in all its languages.

    Returns:
        ``languages, facts, share, of known``: a row for every number from 0 on; ``of known`` leaves out facts
        that no language gets right.
    """
    right = report.groupby(["fact", "language"])["right"].any().unstack("language").dropna().astype(bool)
    number = right.sum(axis=1).value_counts().reindex(range(right.shape[1] + 1), fill_value=0)
    table = pd.DataFrame({"languages": number.index, "facts": number.to_numpy()})
    known = table["facts"].where(table["languages"] > 0)
    return table.assign(**{"share": table["facts"] / max(len(right), 1), "of known": known / known.sum()})
