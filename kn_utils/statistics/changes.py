"""What an intervention changed: means and ratios per group, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .intervals import RESAMPLES, interval, ratio_interval, resample, with_percentiles

_EDGE = 1e-12  # a probability of 0 or 1 has no log-odds


def log_odds(p: np.ndarray | pd.Series | Sequence[float]) -> np.ndarray:
    """ln(p / (1 - p)), the logit; probabilities are kept off 0 and 1 by 1e-12.

    Example:
        >>> log_odds([0.5]).tolist()
        [0.0]
    """
    p = np.clip(np.asarray(p, dtype=float), _EDGE, 1 - _EDGE)
    return np.log(p) - np.log1p(-p)


def mean_table(
    table: pd.DataFrame, value: str, by: list[str], *, unit: str = "fact", seed: int = 0
) -> pd.DataFrame:
    """Means of a column per group, with intervals over units.

    A unit's rows are averaged first.

    Returns:
        ``*by, value, low, high, n``.
    """
    unit_means = table.groupby([*by, unit], sort=False)[value].mean().reset_index()
    rows = []
    for key, group in unit_means.groupby(by, sort=False):
        rows.append({**dict(zip(by, key, strict=True)), **interval(group[value], seed=seed)})
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])  # also where there is no row


def relative_change(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Change of the right answer's probability per group.

    As published it is a ratio of means, ``(sum after - sum before) / sum before``.

    Returns:
        ``*by, value, low, high, n`` (value -0.1 = 10 % lower, n facts) and ``mean_of_ratios, ratios_low,
        ratios_high``: the mean of the prompts' own ``after / before - 1``. All intervals resample facts, with
        all their prompts.
    """
    effects = effects.assign(_prompts=1.0, _ratio=effects["after"] / effects["before"])
    rows = []
    for key, group in effects.groupby(by, sort=False):
        sums = group.groupby("fact", sort=False)[["before", "after", "_prompts", "_ratio"]].sum()
        per_fact = sums.to_numpy()
        weights = resample(len(per_fact), seed)
        means, ratios = (ratio_interval(per_fact[:, pair], weights=weights) for pair in ([0, 1], [2, 3]))
        rows.append([*key, *means.values(), *list(ratios.values())[:3]])
    names = ["value", "low", "high", "n", "mean_of_ratios", "ratios_low", "ratios_high"]
    return pd.DataFrame(rows, columns=[*by, *names])


def mean_over_relations(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """The papers' headline number: each relation's ratio of means, then the mean over relations.

    The ratio is that of :func:`relative_change`.

    Returns:
        ``*by, value, low, high, n, relations``; n facts. Intervals resample facts within each relation; the
        relations stay. With one fact of each there is nothing to resample: no interval.
    """
    rows = []
    for key, group in effects.groupby(by, sort=False):
        values, drawn = [], []
        for i, (_, part) in enumerate(group.groupby("relation", sort=False)):
            pairs = part.groupby("fact", sort=False)[["before", "after"]].sum().to_numpy()
            sums = resample(len(pairs), [seed, i]) @ pairs
            values.append(pairs[:, 1].sum() / pairs[:, 0].sum() - 1)
            drawn.append(sums[:, 1] / sums[:, 0] - 1)
        facts = group["fact"].nunique()
        mean = np.mean(drawn, axis=0) if facts > len(values) else np.full(RESAMPLES, np.nan)
        middle = with_percentiles(float(np.mean(values)), mean, facts)
        rows.append({**dict(zip(by, key, strict=True)), **middle, "relations": len(values)})
    return pd.DataFrame(rows)


def answer_changes(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Does the first choice change, or only its probability?

    The question is that of Niu et al. 2024.

    Returns:
        ``measure, *by, value, low, high, n``, means over facts. Measures: ``stays right`` (of prompts
        answered rightly before, those that still are), ``becomes right`` (of those answered wrongly), ``first
        choice changes`` (of all, to whatever answer).
    """
    right = effects["right_before"].astype(bool)
    after = effects.assign(_is=effects["right_after"].astype(float))
    parts = {
        "stays right": after[right],
        "becomes right": after[~right],
        "first choice changes": effects.assign(_is=effects["changed"].astype(float)),
    }
    tables = [
        mean_table(part, "_is", by, seed=seed).assign(measure=name)
        for name, part in parts.items()
        if len(part)
    ]
    return pd.concat(tables, ignore_index=True)[["measure", *by, "value", "low", "high", "n"]]
