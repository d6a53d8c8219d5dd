"""Pairs and sets of neurons judged: the published rule beside mere addition, interactions, orders.

Losses are of log-odds: of a pair ``D(ab) = L - L(ab)``, with L the log-odds of P(answer). Were the effects of
a and b independent, ``D(ab) = D(a) + D(b)``. The *interaction* is what is lost beyond that,

    I(a, b) = D(ab) - D(a) - D(b),

positive where each stands in for the other, negative where each needs the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .changes import log_odds, mean_table
from .intervals import resample, with_percentiles

#: The published rule: either of a pair may take at most the first share of P(answer), both must take more
#: than the second (Chen et al. 2024, Algorithm 1).
PUBLISHED = (0.20, 0.25)
#: The same ratio, scaled down for models in which one neuron takes little.
SCALED = (PUBLISHED, (0.10, 0.125), (0.05, 0.0625), (0.02, 0.025))
#: An interaction counts where it exceeds this share of what the pair carries.
NOTABLE = 0.1
#: Pairs are compared whose losses, added up, differ by at most this share.
CALIPER = 0.2
COLUMNS = ["value", "low", "high", "n"]


def judged_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """What each pair loses, and would lose by addition.

    Args:
        pairs: of :func:`kn_utils.experiments.degenerate.pairs_silenced`.

    Returns:
        the same with ``drop_a, drop_b, drop_ab`` (shares of P that are lost), ``drop_added`` (that of both,
        if their losses of log-odds added up), ``loss_a, loss_b, loss_ab`` (of log-odds), ``interaction``, and
        ``distance``: ``same layer``, ``next layer`` or ``farther``.
    """
    table = pairs.copy()
    before = log_odds(table["p"])
    for name in ("a", "b", "ab"):
        table[f"drop_{name}"] = 1 - table[f"p_{name}"] / table["p"]
        table[f"loss_{name}"] = before - log_odds(table[f"p_{name}"])
    added = table["loss_a"] + table["loss_b"]
    table["drop_added"] = 1 - 1 / (1 + np.exp(added - before)) / table["p"]
    table["interaction"] = table["loss_ab"] - added
    apart = (table["a_layer"] - table["b_layer"]).abs()
    names = ("same layer", "next layer", "farther")
    return table.assign(distance=[names[min(int(layers), 2)] for layers in apart])


def passes(pairs: pd.DataFrame, low: float, high: float, both: str = "drop_ab") -> pd.Series:
    """Whether the published rule takes each pair; with ``both="drop_added"``: whether addition would pass."""
    return (pairs["drop_a"] <= low) & (pairs["drop_b"] <= low) & (pairs[both] > high)


def members(pairs: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """Both neurons of every pair that the published rule takes: ``fact, relation, layer, neuron``.

    A neuron is there as often as it is in a pair.
    """
    found = pairs[passes(pairs, low, high)]
    sides = [
        found[["fact", "relation", f"{side}_layer", f"{side}_neuron"]].set_axis(
            ["fact", "relation", "layer", "neuron"], axis=1
        )
        for side in ("a", "b")
    ]
    return pd.concat(sides, ignore_index=True)


def usual_thresholds(
    pairs: pd.DataFrame, thresholds: Sequence[tuple[float, float]] = SCALED
) -> tuple[float, float]:
    """Of these thresholds those at which the most facts have a pair; of several the first.

    Args:
        pairs: of :func:`judged_pairs`, of one kind.
        thresholds: low and high, the published ones first.
    """
    facts = [pairs.loc[passes(pairs, *each), "fact"].nunique() for each in thresholds]
    return thresholds[int(np.argmax(facts))]


def published_rule(
    pairs: pd.DataFrame, thresholds: Sequence[tuple[float, float]] = SCALED, *, seed: int = 0
) -> pd.DataFrame:
    """How many pairs the published rule finds, and how many of them addition would have passed.

    Args:
        pairs: of :func:`judged_pairs`.
        thresholds: low and high.
        seed: of the intervals.

    Returns:
        ``measure, kind, threshold, value, low, high, n``; the measures are ``pairs that pass`` (share of all
        pairs), ``facts with a pair``, ``of these pass by addition``, and ``of these interact``
        (:data:`NOTABLE` of the pair's loss or more). Ratios of sums, intervals resample facts; n facts, of
        the last two those with such a pair.
    """
    rows = []
    for kind, part in pairs.groupby("kind", sort=False):
        for low, high in thresholds:
            found = passes(part, low, high)
            told = pd.DataFrame(
                {
                    "fact": part["fact"],
                    "pairs": 1.0,
                    "found": found.astype(float),
                    "added": (found & passes(part, low, high, "drop_added")).astype(float),
                    "interact": (found & (part["interaction"] > NOTABLE * part["loss_ab"])).astype(float),
                }
            )
            sums = told.groupby("fact", sort=False).sum().assign(one=1.0)
            sums["any"] = (sums["found"] > 0).astype(float)
            for measure, (over, under) in {
                "pairs that pass": ("found", "pairs"),
                "facts with a pair": ("any", "one"),
                "of these pass by addition": ("added", "found"),
                "of these interact": ("interact", "found"),
            }.items():
                keys = {"measure": measure, "kind": kind, "threshold": f"{low:g} / {high:g}"}
                rows.append({**keys, **share_of_sums(sums[over], sums[under], seed=seed)})
    return pd.DataFrame(rows, columns=["measure", "kind", "threshold", *COLUMNS])


def share_of_sums(over: pd.Series, under: pd.Series, *, seed: int = 0) -> dict[str, float]:
    """Sum over units of one column over that of another: ``value, low, high, n`` (units with any)."""
    some = under.to_numpy() > 0
    sums = np.stack([over.to_numpy(float)[some], under.to_numpy(float)[some]], 1)
    if not len(sums):
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": 0}
    drawn = resample(len(sums), seed) @ sums
    return with_percentiles(sums[:, 0].sum() / sums[:, 1].sum(), drawn[:, 0] / drawn[:, 1], len(sums))


def additivity(pairs: pd.DataFrame, by: Sequence[str] = ("kind",), *, seed: int = 0) -> pd.DataFrame:
    """How far pairs are from adding up.

    Args:
        pairs: of :func:`judged_pairs`.
        by: columns that tell groups apart.
        seed: of the intervals, which resample facts.

    Returns:
        ``measure, *by, value, low, high, n``: ``additive R2``, 1 - sum I^2 / sum (D(ab) - mean)^2, nothing
        fitted; ``interaction over loss``, sum I / sum |D(ab)|; and of pairs with D(ab) > 0 the shares that
        are ``redundant`` (I at least :data:`NOTABLE` of D(ab)) and ``complementary`` (as far below).
    """
    rows = []
    for key, part in pairs.groupby(list(by), sort=False):
        lost, extra = part["loss_ab"].to_numpy(), part["interaction"].to_numpy()
        some = lost > 0
        told = pd.DataFrame(
            {
                "fact": part["fact"].to_numpy(),
                "pairs": 1.0,
                "lost": lost,
                "squares": lost**2,
                "missed": extra**2,
                "extra": extra,
                "size": np.abs(lost),
                "positive": some.astype(float),
                "redundant": (some & (extra >= NOTABLE * lost)).astype(float),
                "complementary": (some & (extra <= -NOTABLE * lost)).astype(float),
            }
        )
        sums = told.groupby("fact", sort=False).sum()
        drawn = resample(len(sums), seed) @ sums.to_numpy()
        place = {name: i for i, name in enumerate(sums.columns)}
        keys = dict(zip(by, key, strict=True))
        whole = sums.to_numpy().sum(0)[None]
        for measure in ("additive R2", "interaction over loss", "redundant", "complementary"):
            value, samples = (_of_sums(measure, some, place) for some in (whole, drawn))
            rows.append({"measure": measure, **keys, **with_percentiles(value[0], samples, len(sums))})
    return pd.DataFrame(rows, columns=["measure", *by, *COLUMNS])


def _of_sums(measure: str, sums: np.ndarray, place: dict[str, int]) -> np.ndarray:
    """A measure of :func:`additivity` from sums over facts, (resample, column)."""
    column = {name: sums[:, i] for name, i in place.items()}
    if measure == "additive R2":
        over, under = column["missed"], column["squares"] - column["lost"] ** 2 / column["pairs"]
        return 1 - _ratio(over, under)
    if measure == "interaction over loss":
        return _ratio(column["extra"], column["size"])
    return _ratio(column[measure], column["positive"])


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def matched_interactions(
    pairs: pd.DataFrame, *, own: str = "own", caliper: float = CALIPER, seed: int = 0
) -> pd.DataFrame:
    """Interactions of own pairs beside those of other pairs of the same strength.

    Every own pair with D(a) + D(b) > 0 is given the other pair whose D(a) + D(b) is nearest, of whatever
    fact, where one differs by at most ``caliper`` of it.

    Args:
        pairs: of :func:`judged_pairs`, of several kinds; all that are not own may be given.
        own: what own pairs are called.
        caliper: how far strengths may differ.
        seed: of the intervals.

    Returns:
        ``measure, value, low, high, n``: ``own`` and ``matched``, the mean of I / (D(a) + D(b)); ``own less
        matched``, pair by pair; ``redundant, own`` and ``redundant, matched``: the shares of pairs whose
        interaction exceeds the matched ones' 99th percentile (so 1 % of these); ``matched pairs``: the share
        of own pairs for which there is one. Intervals resample facts.
    """
    strength = (pairs["loss_a"] + pairs["loss_b"]).to_numpy()
    relative = pairs["interaction"].to_numpy() / np.where(strength > 0, strength, np.nan)
    mine = (pairs["kind"] == own).to_numpy() & (strength > 0)
    others = np.flatnonzero((pairs["kind"] != own).to_numpy() & (strength > 0))
    if not mine.any():
        return pd.DataFrame(columns=["measure", *COLUMNS])
    others = others[np.argsort(strength[others], kind="stable")]
    near = _nearest(strength[mine], strength[others])
    partner = others[near] if len(others) else np.zeros(mine.sum(), int)
    close = np.abs(strength[partner] - strength[mine]) <= caliper * strength[mine]
    close &= len(others) > 0
    table = pd.DataFrame({"fact": pairs["fact"].to_numpy()[mine], "close": close.astype(float)})
    table["own"], table["matched"] = relative[mine], relative[partner]
    rows = [mean_table(table.assign(measure="matched pairs"), "close", ["measure"], seed=seed)]
    table = table[close]
    if len(table):
        edge = np.quantile(table["matched"], 0.99)
        told = {
            "own": table["own"],
            "matched": table["matched"],
            "own less matched": table["own"] - table["matched"],
            "redundant, own": (table["own"] > edge).astype(float),
            "redundant, matched": (table["matched"] > edge).astype(float),
        }
        for measure, values in told.items():
            part = table.assign(measure=measure, _value=values)
            rows.append(mean_table(part, "_value", ["measure"], seed=seed))
    return pd.concat(rows, ignore_index=True)


def _nearest(wanted: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Which of the sorted values ``there`` lies nearest to each wanted one."""
    if not len(there):
        return np.zeros(len(wanted), int)
    right = np.clip(np.searchsorted(there, wanted), 1, max(len(there) - 1, 1))
    right = np.minimum(right, len(there) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(there[left] - wanted) <= np.abs(there[right] - wanted), left, right)


def noise_of(searched: pd.DataFrame) -> float:
    """The 95th percentile of what sets that should carry nothing carry, up or down."""
    return float(np.quantile(searched["carried"].abs(), 0.95)) if len(searched) else 0.0


def orders(searched: pd.DataFrame, noise: float = 0.0, *, seed: int = 0) -> pd.DataFrame:
    """Order of degeneracy and redundant sets, beside the additive null, fact by fact.

    Args:
        searched: of :func:`kn_utils.experiments.degenerate.sets_searched`.
        noise: facts whose neurons carry no more are left out and counted.
        seed: of the intervals, which resample facts.

    Returns:
        ``measure, kind, value, low, high, n``, means over facts: ``carries something`` (of all facts);
        ``log-odds carried``; ``order``, ``order, additive``, ``order beyond additive`` (the null's taken as 1
        where nothing would be carried); ``order of 2 or more`` and the null's; ``size of the first set`` and
        the null's, as shares of the neurons; ``left to the others`` and the null's; ``redundant sets`` and
        the null's; ``carried beyond the sum``, (carried - sum of single losses) / carried; ``harmful steps``.
    """
    told = searched.assign(some=(searched["carried"] > noise).astype(float))
    parts = [mean_table(told.assign(measure="carries something"), "some", ["measure", "kind"], seed=seed)]
    told = told[told["some"] > 0]
    null = np.maximum(told["order_additive"], 1)
    measures = {
        "log-odds carried": told["carried"],
        "order": told["order"],
        "order, additive": null,
        "order beyond additive": told["order"] - null,
        "order of 2 or more": told["order"] >= 2,
        "order of 2 or more, additive": null >= 2,
        "size of the first set": told["size"] / told["n"],
        "size of the first set, additive": told["size_additive"] / told["n"],
        "left to the others": told["left"],
        "left to the others, additive": told["left_additive"],
        "redundant sets": told["redundant"],
        "redundant sets, additive": told["redundant_additive"],
        "carried beyond the sum": (told["carried"] - told["summed"]) / told["carried"],
        "harmful steps": told["harmful"],
    }
    for measure, values in measures.items():
        part = told.assign(measure=measure, _value=values.astype(float))
        parts.append(mean_table(part, "_value", ["measure", "kind"], seed=seed))
    return pd.concat(parts, ignore_index=True)[["measure", "kind", *COLUMNS]]
