"""What edits of facts achieved and what they cost: the paper's Table IV, with intervals over edits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .intervals import LEVEL, RESAMPLES, interval


def summarise_updates(edits: pd.DataFrame, by: Sequence[str] = ("neurons",)) -> pd.DataFrame:
    """The paper's Table IV, with intervals over edits.

    Args:
        edits: :func:`kn_utils.experiments.updating.evaluate_updates`.
        by: columns that tell kinds of edits apart.

    Returns:
        ``*by, measure, value, low, high, n``.

    Of perplexities (exp of the mean -ln P) the *rise* is as published, exp(mean after) - exp(mean before)
    over all edits; the *ratio* is, per edit, after / before (geometric mean over edits).
    """
    shares = {
        "change rate": "changed",
        "success rate": "success",
        "new among the first 5, before": "first_before",
        "new among the first 5, after": "first_after",
        "P(new answer), before": "new_before",
        "P(new answer), after": "new_after",
        "P(old answer), before": "old_before",
        "P(old answer), after": "old_after",
        "length of the move": "moved",
    }
    rows = []
    for key, group in edits.groupby(list(by), sort=False):
        measures = {name: interval(group[column]) for name, column in shares.items()}
        for when in ("before", "after"):
            measures[f"reciprocal rank of the new answer, {when}"] = interval(1 / group[f"rank_{when}"])
        for side in ("within", "between"):
            before, after = group[f"{side}_before"], group[f"{side}_after"]
            logs = {"before": before, "after": after, "ratio": after - before}
            for name, values in logs.items():
                measures[f"perplexity {side}, {name}"] = _exp(interval(values))
            measures[f"perplexity {side}, rise"] = _rise(before, after)
        named = dict(zip(by, key, strict=True))
        rows += [{**named, "measure": name, **values} for name, values in measures.items()]
    return pd.DataFrame(rows)


def _exp(logs: dict[str, float]) -> dict[str, float]:
    """An interval of logarithms as one of what they are the logarithms of."""
    return {name: value if name == "n" else float(np.exp(value)) for name, value in logs.items()}


def _rise(before: pd.Series, after: pd.Series) -> dict[str, float]:
    """exp(mean after) - exp(mean before) of mean -ln P, with an interval over edits."""
    there = before.notna() & after.notna()
    pair = (before[there].to_numpy(), after[there].to_numpy())
    if len(pair[0]) < 2:
        value = float(np.exp(pair[1][0]) - np.exp(pair[0][0])) if len(pair[0]) else np.nan
        return {"value": value, "low": np.nan, "high": np.nan, "n": len(pair[0])}
    ends = stats.bootstrap(
        pair,
        _difference_of_perplexities,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        rng=np.random.default_rng(0),
        vectorized=True,
    ).confidence_interval
    value = float(_difference_of_perplexities(*pair))
    return {"value": value, "low": float(ends.low), "high": float(ends.high), "n": len(pair[0])}


def _difference_of_perplexities(before: np.ndarray, after: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.exp(after.mean(axis=axis)) - np.exp(before.mean(axis=axis))
