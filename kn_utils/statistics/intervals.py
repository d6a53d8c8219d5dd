"""Bootstrap intervals: facts, not prompts or pairs, are what is drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..base import StudyError

LEVEL, RESAMPLES = 0.95, 2000


def interval(values: np.ndarray | pd.Series, *, seed: int = 0, level: float = LEVEL) -> dict[str, float]:
    """Mean of independent values with a bootstrap percentile interval: ``value, low, high, n``."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        only = float(values[0]) if len(values) else np.nan
        return {"value": only, "low": np.nan, "high": np.nan, "n": len(values)}
    ends = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=level,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {"value": float(values.mean()), "low": float(ends.low), "high": float(ends.high), "n": len(values)}


def ratio_interval(
    pairs: np.ndarray, *, seed: int = 0, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Of rows (before, after): sum(after) / sum(before) - 1 with a bootstrap percentile interval.

    Args:
        pairs: a row per unit, (n, 2).
        seed: of the resamples.
        weights: resamples that were drawn already (:func:`resample`).

    Returns:
        ``value, low, high, n``.
    """
    pairs = np.asarray(pairs, dtype=float)
    sums = (resample(len(pairs), seed) if weights is None else weights) @ pairs
    return with_percentiles(
        pairs[:, 1].sum() / pairs[:, 0].sum() - 1, sums[:, 1] / sums[:, 0] - 1, len(pairs)
    )


def resample(n: int, seed: int | Sequence[int]) -> np.ndarray:
    """How often each of n units is drawn in each resample, shape (resample, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def in_parts(number: int, size: int, most: int = 2**21) -> Iterator[int]:
    """Cut a number of resamples into parts of which none holds more than ``most`` numbers (or one resample).

    Args:
        number: of resamples.
        size: numbers that each of them holds.
        most: numbers at a time.

    Yields:
        how many resamples each part has.
    """
    at_once = max(1, most // max(size, 1))
    for start in range(0, number, at_once):
        yield min(at_once, number - start)


def with_percentiles(value: float, drawn: np.ndarray, n: int) -> dict[str, float]:
    """A value with the percentiles of resamples (``drawn``, one each) around it: ``value, low, high, n``.

    Low and high are missing for fewer than two units, and where no resample is a number.
    """
    edge = 100 * (1 - LEVEL) / 2
    free = n > 1 and np.isfinite(drawn).any()
    low, high = np.nanpercentile(drawn, [edge, 100 - edge]) if free else (np.nan, np.nan)
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


class ResamplingError(StudyError):
    """Values that belong to no fact."""


def column_means(
    values: pd.DataFrame,
    relation: pd.Series,
    *,
    weights: pd.DataFrame | None = None,
    mean: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of every column over facts and, as a last row, the mean of the columns' means.

    Args:
        values: a row per fact; missing where a fact says nothing about a column.
        relation: of every fact (indexed by fact).
        weights: how much each value counts, of ``values``' shape; alike without it.
        mean: name of the last row; without it there is none.
        seed: of the resamples.

    Returns:
        ``column, value, low, high, n`` (n facts). Intervals are 95 % bootstrap percentiles; missing where no
        relation of the column has two facts.

    Raises:
        ResamplingError: a fact without a relation.
    """
    strata = relation.reindex(values.index)
    if strata.isna().any():
        raise ResamplingError(f"no relation is known of the fact {strata.index[strata.isna()][0]}.")
    x = values.to_numpy(float)
    given = 1.0 if weights is None else weights.loc[values.index, values.columns].to_numpy(float)
    w = np.where(np.isnan(x), 0.0, given)
    x, said = np.where(w > 0, x, 0.0), w > 0
    drawn = draws(strata.to_numpy(), seed)
    total, number = drawn @ (x * w), drawn @ w
    samples = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    middle = np.divide((x * w).sum(0), w.sum(0), out=np.full(x.shape[1], np.nan), where=w.sum(0) > 0)
    free = [_varies(strata.to_numpy()[column]) for column in said.T]
    rows = [
        {"column": name, "value": middle[i], **_edges(samples[:, i], free[i]), "n": int(said[:, i].sum())}
        for i, name in enumerate(values.columns)
    ]
    if mean is not None:
        there = ~np.isnan(middle)
        ends = _edges(samples[:, there].mean(1) if there.any() else np.array([np.nan]), any(free))
        value = middle[there].mean() if there.any() else np.nan
        rows.append({"column": mean, "value": value, **ends, "n": int(said.any(1).sum())})
    return pd.DataFrame(rows, columns=["column", "value", "low", "high", "n"])


def draws(strata: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often each fact is drawn in each resample, (resample, fact).

    Every stratum keeps its number of facts.
    """
    random = np.random.default_rng(seed)
    times = np.zeros((RESAMPLES, len(strata)))
    for stratum in pd.unique(strata):
        here = np.flatnonzero(strata == stratum)
        times[:, here] = random.multinomial(len(here), np.full(len(here), 1 / len(here)), size=RESAMPLES)
    return times


def _varies(strata: np.ndarray) -> bool:
    """Whether drawing again within strata can change anything."""
    return len(strata) > len(pd.unique(strata))


def _edges(samples: np.ndarray, free: bool) -> dict[str, float]:
    """``low, high`` of resamples; missing where they are not ``free`` to differ."""
    if not free or np.isnan(samples).all():
        return {"low": np.nan, "high": np.nan}
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(samples, [edge, 100 - edge])
    return {"low": float(low), "high": float(high)}
