"""Statistics: counts, intersections, layers, and intervals. Facts, not prompts or pairs, are what is resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse, stats

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
    return pd.DataFrame(rows)


def relative_change(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Change of the right answer's probability per group: ratio of means ``(sum after - sum before) / sum before``, as published.

    Returns:
        ``*by, value, low, high, n`` (value -0.1 = 10 % lower, n facts) and ``mean_of_ratios, ratios_low, ratios_high``: the mean of
        the prompts' own ``after / before - 1``. All intervals resample facts, with all their prompts.
    """
    effects = effects.assign(_prompts=1.0, _ratio=effects["after"] / effects["before"])
    rows = []
    for key, group in effects.groupby(by, sort=False):
        per_fact = group.groupby("fact", sort=False)[["before", "after", "_prompts", "_ratio"]].sum().to_numpy()
        weights = _resample(len(per_fact), seed)
        means, ratios = (ratio_interval(per_fact[:, pair], weights=weights) for pair in ([0, 1], [2, 3]))
        rows.append([*key, *means.values(), *list(ratios.values())[:3]])
    names = ["value", "low", "high", "n", "mean_of_ratios", "ratios_low", "ratios_high"]
    return pd.DataFrame(rows, columns=[*by, *names])


def mean_over_relations(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """The papers' headline number: each relation's ratio of means (:func:`relative_change`), then the mean of the relations.

    Returns:
        ``*by, value, low, high, n, relations``; n facts. Intervals resample facts within each relation; the relations stay.
    """
    rows = []
    for key, group in effects.groupby(by, sort=False):
        values, drawn = [], []
        for i, (_, part) in enumerate(group.groupby("relation", sort=False)):
            pairs = part.groupby("fact", sort=False)[["before", "after"]].sum().to_numpy()
            sums = _resample(len(pairs), [seed, i]) @ pairs
            values.append(pairs[:, 1].sum() / pairs[:, 0].sum() - 1)
            drawn.append(sums[:, 1] / sums[:, 0] - 1)
        found = _with_percentiles(np.mean(values), np.mean(drawn, axis=0), group["fact"].nunique())
        rows.append({**dict(zip(by, key, strict=True)), **found, "relations": len(values)})
    return pd.DataFrame(rows)


def answer_changes(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Does the first choice change, or only its probability? (the question of Niu et al. 2024)

    Returns:
        ``measure, *by, value, low, high, n``, means over facts. Measures: ``stays right`` (of prompts answered rightly before,
        those that still are), ``becomes right`` (of those answered wrongly), ``first choice changes`` (of all, to whatever answer).
    """
    right = effects["right_before"].astype(bool)
    parts = {
        "stays right": effects[right].assign(_is=effects["right_after"].astype(float)),
        "becomes right": effects[~right].assign(_is=effects["right_after"].astype(float)),
        "first choice changes": effects.assign(_is=effects["changed"].astype(float)),
    }
    tables = [mean_table(part, "_is", by, seed=seed).assign(measure=name) for name, part in parts.items() if len(part)]
    return pd.concat(tables, ignore_index=True)[["measure", *by, "value", "low", "high", "n"]]


def mark_pairs(effects: pd.DataFrame, found: Mapping[str, pd.DataFrame], prompts: pd.DataFrame) -> pd.DataFrame:
    """What a fact's neurons from one language have in common with those of the language it is asked in.

    Args:
        effects: with a column ``found``, the language that the acting neurons come from, beside ``language``, the prompt's.
        found: language -> neurons, as :func:`kn_utils.refine` gives them; of every language in ``effects``.
        prompts: hold the answers as they are written in each language.

    Returns:
        effects with ``shared``, how many neurons the fact has in both languages, and ``spelled``: ``alike`` or ``differently``, the
        answer in the two.
    """
    every = pd.concat([table.assign(found=name) for name, table in found.items()])[["fact", "layer", "neuron", "found"]]
    both = every.merge(every.rename(columns={"found": "language"}), on=["fact", "layer", "neuron"])
    shared = both.groupby(["fact", "found", "language"]).size()
    answer = prompts.drop_duplicates(["fact", "language"]).set_index(["fact", "language"])["answer"]
    here, there = (answer.reindex(pd.MultiIndex.from_frame(effects[["fact", k]])) for k in ("language", "found"))
    pairs = pd.MultiIndex.from_frame(effects[["fact", "found", "language"]])
    return effects.assign(
        shared=shared.reindex(pairs, fill_value=0).to_numpy(),
        spelled=np.where(here.to_numpy() == there.to_numpy(), "alike", "differently"),
    )


def ratio_interval(pairs: np.ndarray, *, seed: int = 0, weights: np.ndarray | None = None) -> dict[str, float]:
    """Of rows (before, after): sum(after)/sum(before) - 1 with a bootstrap percentile interval (``weights``: resamples drawn)."""
    pairs = np.asarray(pairs, dtype=float)
    sums = (_resample(len(pairs), seed) if weights is None else weights) @ pairs
    return _with_percentiles(pairs[:, 1].sum() / pairs[:, 0].sum() - 1, sums[:, 1] / sums[:, 0] - 1, len(pairs))


def counts_per_fact(neurons: pd.DataFrame) -> pd.DataFrame:
    """``fact, relation, neurons``: how many each fact has, facts without any included."""
    facts = _facts(neurons)
    count = neurons.groupby("fact").size()
    return pd.DataFrame(
        {
            "fact": facts.index,
            "relation": facts.to_numpy(),
            "neurons": count.reindex(facts.index, fill_value=0).to_numpy(),
        }
    )


def intersections(
    neurons: pd.DataFrame, within: str = "relation", *, pool: str = "pairs", seed: int = 0
) -> pd.DataFrame:
    """Mean number of neurons that two facts share, over all pairs of facts (exact, no sampling of pairs).

    Args:
        within: ``"relation"``: pairs of facts of one relation; ``"other"``: pairs of facts of different relations.
        pool: ``"pairs"``: every pair counts alike; ``"relations"``: for a fact, every other relation counts alike,
            however many facts it has. The papers' Table II pools pairs within relations, and between relations draws
            the other relation first: there its number is that of ``"relations"``.

    Returns:
        ``relation, value, low, high, n`` per relation and for ``all``; n facts, intervals from resampling facts.
    """
    if within not in ("relation", "other"):
        raise ValueError(f"within={within!r}; it is 'relation' or 'other'.")
    if pool not in ("pairs", "relations"):
        raise ValueError(f"pool={pool!r}; it is 'pairs' or 'relations'.")
    facts = _facts(neurons)
    shared = _shared(neurons, facts.index)
    same = facts.to_numpy()[:, None] == facts.to_numpy()[None]
    pairs = ((same if within == "relation" else ~same) & ~np.eye(len(facts), dtype=bool)).astype(float)
    if pool == "relations":
        pairs /= facts.groupby(facts).transform("size").to_numpy()
    groups = {"all": np.ones(len(facts), bool)}
    groups |= {relation: (facts == relation).to_numpy() for relation in dict.fromkeys(facts)}
    rows = []
    for relation, member in groups.items():
        left = np.flatnonzero(member)
        right = np.flatnonzero(member | (within == "other"))
        mask = pairs[np.ix_(left, right)]
        if mask.sum() == 0:  # one relation only, or one fact of it: nothing to compare with
            if relation == "all":
                rows.append(
                    {"relation": relation, "value": np.nan, "low": np.nan, "high": np.nan, "n": int(member.sum())}
                )
            continue
        weights = _resample(len(facts), seed)
        a, b = weights[:, left], weights[:, right]
        total = np.einsum("rf,rf->r", a @ (shared[np.ix_(left, right)] * mask), b)
        number = np.einsum("rf,rf->r", a @ mask, b)
        value = (shared[np.ix_(left, right)] * mask).sum() / mask.sum()
        drawn = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
        rows.append({"relation": relation, **_with_percentiles(value, drawn, int(member.sum()))})
    return pd.DataFrame(rows)


def difference_of_sharing(neurons: pd.DataFrame, *, seed: int = 0) -> dict[str, float]:
    """Does a fact share more neurons with facts of its own relation than with others?

    Returns:
        mean over facts of (mean shared within its relation) - (mean shared with other relations): ``value, low, high, n``, and
        the permutation ``p`` of its sign.
    """
    facts = _facts(neurons)
    shared = _shared(neurons, facts.index)
    same = facts.to_numpy()[:, None] == facts.to_numpy()[None]
    own = same & ~np.eye(len(facts), dtype=bool)
    comparable = own.any(1) & (~same).any(1)
    if not comparable.any():
        return {**interval(np.array([])), "p": np.nan}
    within, between = ((shared * mask).sum(1)[comparable] / mask.sum(1)[comparable] for mask in (own, ~same))
    return {**interval(within - between, seed=seed), "p": difference_test(within, between, seed=seed)}


def layer_histogram(neurons: pd.DataFrame, n_layers: int | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Where the knowledge neurons lie: ``layer, value, low, high, n``; value = share of all of them, n = how many in the layer."""
    n_layers = n_layers or int(neurons["layer"].max()) + 1
    facts = _facts(neurons)
    per_fact = pd.crosstab(neurons["fact"], neurons["layer"]).reindex(
        index=facts.index, columns=range(n_layers), fill_value=0
    )
    table = per_fact.to_numpy(float)
    sums = _resample(len(table), seed) @ table
    total = sums.sum(1, keepdims=True)
    drawn = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
    value = table.sum(0) / max(table.sum(), 1)
    rows = [
        {
            "layer": layer,
            **_with_percentiles(value[layer], drawn[:, layer], len(table)),
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


def _mean_difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return (a - b).mean(axis=axis)


def _facts(neurons: pd.DataFrame) -> pd.Series:
    """fact -> relation for every fact asked about (from ``refine``), else for those that have a neuron."""
    known = neurons.attrs.get("facts")
    return pd.Series(known, dtype=object) if known else neurons.drop_duplicates("fact").set_index("fact")["relation"]


def _shared(neurons: pd.DataFrame, facts: pd.Index) -> np.ndarray:
    """How many neurons each pair of facts has in common, shape (fact, fact)."""
    row = facts.get_indexer(neurons["fact"])
    column = pd.factorize(neurons["layer"].astype(np.int64) * 10**6 + neurons["neuron"])[0]
    held = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(len(facts), column.max(initial=0) + 1))
    held.data[:] = 1
    return (held @ held.T).toarray()


def _resample(n: int, seed: int | Sequence[int]) -> np.ndarray:
    """How often each of n units is drawn in each resample, shape (resample, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def _with_percentiles(value: float, drawn: np.ndarray, n: int) -> dict[str, float]:
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(drawn, [edge, 100 - edge]) if n > 1 and np.isfinite(drawn).any() else (np.nan, np.nan)
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}
