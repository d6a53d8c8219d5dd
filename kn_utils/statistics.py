"""Statistics: counts, layers, intervals and tests. Facts, not prompts or pairs, are what is resampled."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

LEVEL, RESAMPLES = 0.95, 2000


def interval(values: np.ndarray | pd.Series, *, seed: int = 0, level: float = LEVEL) -> dict[str, float]:
    """Mean of independent values with a bootstrap percentile interval: ``value, low, high, n``."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        only = float(values[0]) if len(values) else np.nan
        return {"value": only, "low": np.nan, "high": np.nan, "n": len(values)}
    found = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=level,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {"value": float(values.mean()), "low": float(found.low), "high": float(found.high), "n": len(values)}


def mean_table(table: pd.DataFrame, value: str, by: list[str], *, unit: str = "fact", seed: int = 0) -> pd.DataFrame:
    """Means of a column per group, with intervals over units (a unit's rows are averaged first): ``*by, value, low, high, n``."""
    unit_means = table.groupby([*by, unit], sort=False)[value].mean().reset_index()
    rows = []
    for key, group in unit_means.groupby(by, sort=False):
        rows.append({**dict(zip(by, key, strict=True)), **interval(group[value], seed=seed)})
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])  # the columns of an empty table, too


def relative_change(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Change of the right answer's probability per group: ratio of means ``(sum after - sum before) / sum before``, as published.

    Returns:
        ``*by, value, low, high, n`` (value -0.1 = 10 % lower) with intervals from resampling facts, and ``mean_of_ratios``.
    """
    rows = []
    for key, group in effects.groupby(by, sort=False):
        per_fact = group.groupby("fact", sort=False)[["before", "after"]].sum().to_numpy()
        ratio = (group["after"] / group["before"] - 1).mean()
        rows.append(
            {**dict(zip(by, key, strict=True)), **ratio_interval(per_fact, seed=seed), "mean_of_ratios": float(ratio)}
        )
    return pd.DataFrame(rows)


def ratio_interval(pairs: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Of rows (before, after): sum(after)/sum(before) - 1 with a bootstrap percentile interval."""
    pairs = np.asarray(pairs, dtype=float)
    weights = resample(len(pairs), seed)
    sums = weights @ pairs
    return with_percentiles(pairs[:, 1].sum() / pairs[:, 0].sum() - 1, sums[:, 1] / sums[:, 0] - 1, len(pairs))


def facts_of(neurons: pd.DataFrame) -> pd.Series:
    """fact -> relation for every fact asked about (from ``refine``), else for those that have a neuron."""
    known = neurons.attrs.get("facts")
    return pd.Series(known, dtype=object) if known else neurons.drop_duplicates("fact").set_index("fact")["relation"]


def counts_per_fact(neurons: pd.DataFrame) -> pd.DataFrame:
    """``fact, relation, neurons``: how many each fact has, facts without any included."""
    facts = facts_of(neurons)
    count = neurons.groupby("fact").size()
    return pd.DataFrame(
        {
            "fact": facts.index,
            "relation": facts.to_numpy(),
            "neurons": count.reindex(facts.index, fill_value=0).to_numpy(),
        }
    )


def layer_histogram(neurons: pd.DataFrame, n_layers: int | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Where the knowledge neurons lie: ``layer, value, low, high, n``; value = share of all of them, n = how many in the layer."""
    n_layers = n_layers or int(neurons["layer"].max()) + 1
    facts = facts_of(neurons)
    per_fact = pd.crosstab(neurons["fact"], neurons["layer"]).reindex(
        index=facts.index, columns=range(n_layers), fill_value=0
    )
    table = per_fact.to_numpy(float)
    sums = resample(len(table), seed) @ table
    total = sums.sum(1, keepdims=True)
    drawn = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
    value = table.sum(0) / max(table.sum(), 1)
    rows = [
        {
            "layer": layer,
            **with_percentiles(value[layer], drawn[:, layer], len(table)),
            "n": int(table[:, layer].sum()),
        }
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows)


def difference_test(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value that paired values have the same mean (permutation of signs)."""
    found = stats.permutation_test(
        (np.asarray(first, float), np.asarray(second, float)), _mean_difference, permutation_type="samples",
        vectorized=True, n_resamples=RESAMPLES, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def difference_of_groups(
    table: pd.DataFrame, value: str, first: str, second: str, *, group: str = "group", seed: int = 0
) -> dict[str, float]:
    """Do facts of group ``first`` have more than facts of group ``second`` *of their own relation*?

    Args:
        table: ``fact, relation, <group>, <value>``; a fact's rows in a group are averaged. Relations differ much, so groups of
            different composition are compared within them; facts of a relation that lacks one of the groups do not count.

    Returns:
        ``value, low, high, n``: mean over the n facts of ``first`` of what each has more than the mean fact of ``second`` of its
        relation, intervals over these facts; ``p``, two-sided, at least 1 / (RESAMPLES + 1): the groups' names permuted within
        relations.
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
    return {**interval(every, seed=seed), "p": float((1 + as_far.sum()) / (1 + RESAMPLES)) if len(every) else np.nan}


def _mean_difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return (a - b).mean(axis=axis)


def resample(n: int, seed: int) -> np.ndarray:
    """How often each of n units is drawn in each resample, shape (resample, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def with_percentiles(value: float, drawn: np.ndarray, n: int) -> dict[str, float]:
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(drawn, [edge, 100 - edge]) if n > 1 and np.isfinite(drawn).any() else (np.nan, np.nan)
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}
