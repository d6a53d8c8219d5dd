"""Areas under curves of localisation, their differences, and AMIG's success rate beside selectivity.

Numbers of neurons k stand at equal steps: k = 0 at x = 0, k = 1, 2, 4, ... at x = 1 + log2 k = 1, 2, 3, ...
A fact's curve has a mean height: its area by trapezoids over x, divided by the length of x. Over facts P is a
ratio of sums, as everywhere:

    silenced    1 - sum of mean heights / sum of P with nothing silenced: 0 where silencing does nothing
    kept            sum of mean heights / sum of P with nothing silenced: 1 where no neuron is missed

and of log-odds both are means of what is lost or left, in nats: L(nothing) - L, and L - L(nothing). So the
greater the better, for either. An area may be negative, or above 1: silencing may raise P, and what is kept
may do without what works against the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from ..base import StudyError
from ..neurons.shares import LEAST
from .changes import log_odds, mean_table
from .controls import COLUMNS, PLAIN, TYPED
from .intervals import draws, with_percentiles

LOGIT = "log-odds of P(answer)"
#: Measure -> the column of the curves that it is of.
MEASURES = {PLAIN: "p", TYPED: "typed", LOGIT: "p"}
WAYS = ("silenced", "kept")
#: Whose neurons act: the fact's, or those of another relation's fact with another answer.
OWN, UNRELATED = "own", "another relation"
#: Operation -> what it does to neurons, in words.
ACTS = {"suppress": "silenced", "amplify": "amplified"}


class AreaError(StudyError):
    """Curves without an area."""


def steps(sizes: Sequence[int]) -> np.ndarray:
    """Where numbers of neurons stand: 0 at 0, k at 1 + log2 k.

    Example:
        >>> steps([0, 1, 2, 1024]).tolist()
        [0.0, 1.0, 2.0, 11.0]
    """
    k = np.asarray(sizes, dtype=float)
    return np.where(k > 0, 1 + np.log2(np.maximum(k, 1)), 0.0)


def mean_height(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The area under curves (..., size) by trapezoids over :func:`steps`, divided by their length.

    Raises:
        AreaError: fewer than two sizes.

    Example:
        >>> mean_height([0.5, 0.5, 0.5], [0, 1, 4]).tolist()
        0.5
    """
    x = steps(sizes)
    if len(x) < 2:
        raise AreaError("an area needs curves of two numbers of neurons or more.")
    return trapezoid(np.asarray(values, dtype=float), x, axis=-1) / (x[-1] - x[0])


def areas(curves: pd.DataFrame, *, over: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Areas under the curves of every selection, or how much more each has than another one.

    Args:
        curves: of :func:`kn_utils.experiments.localisation.curves`, with ``selection``; every selection's
            curves are of the same sizes, the least of them 0.
        over: the selection that others are compared with, fact by fact, over the facts of both.
        seed: of the resamples, the same for every selection.

    Returns:
        ``measure, way, selection, value, low, high, n``; intervals resample facts within relations.

    Raises:
        AreaError: sizes that differ or do not begin with 0; ``over`` that is not there.
    """
    names = list(dict.fromkeys(curves["selection"]))
    if over is not None and over not in names:
        raise AreaError(f"there are no curves of {over!r}; there are those of {', '.join(names)}.")
    rows = []
    for measure, column in MEASURES.items():
        if column not in curves:
            continue
        parts = {name: _by_fact(curves[curves["selection"] == name], measure, column) for name in names}
        for way in WAYS:
            for name in names:
                if name == over:
                    continue
                own = parts[name]
                if over is not None:
                    other = parts[over]
                    own = own[own.index.isin(other.index)]
                    own = own.assign(**{way: own[way] - other.loc[own.index, way]})
                if own.empty:
                    continue
                drawn = draws(own["relation"].to_numpy(), seed)
                value = _pooled(own, way, np.ones((1, len(own))), measure, over is not None)
                samples = _pooled(own, way, drawn, measure, over is not None)
                rows.append([measure, way, name, *with_percentiles(value[0], samples, len(own)).values()])
    return pd.DataFrame(rows, columns=["measure", "way", "selection", *COLUMNS])


def _by_fact(curves: pd.DataFrame, measure: str, column: str) -> pd.DataFrame:
    """fact -> ``relation``, ``plain`` (nothing silenced) and the mean height of either way."""
    values = log_odds(curves[column]) if measure == LOGIT else curves[column]
    means = (
        curves.assign(_value=values).groupby(["fact", "relation", "way", "k"], sort=False)["_value"].mean()
    )
    wide = means.unstack("k").sort_index(axis=1)
    sizes = wide.columns.tolist()
    if sizes[:1] != [0] or wide.isna().any(axis=None):
        raise AreaError("curves need the same numbers of neurons for every fact, the least of them 0.")
    heights = pd.Series(mean_height(wide.to_numpy(), sizes), wide.index).unstack("way")
    plain = wide[0].unstack("way")["silenced"]
    return heights.assign(plain=plain).reset_index("relation")[["relation", "plain", *WAYS]]


def _pooled(own: pd.DataFrame, way: str, weights: np.ndarray, measure: str, difference: bool) -> np.ndarray:
    """The area of each resample (resample, fact) of the facts."""
    height, plain = weights @ own[way].to_numpy(), weights @ own["plain"].to_numpy()
    if measure == LOGIT:
        left = (height - (0 if difference else plain)) / weights.sum(1)
    else:
        left = height / plain
    if way == "kept":
        return left
    return -left if difference or measure == LOGIT else 1 - left


def pooled_curves(curves: pd.DataFrame, *, measure: str = PLAIN, seed: int = 0) -> pd.DataFrame:
    """Of every selection and number of neurons P as a share of P with nothing silenced, a ratio of sums.

    Returns:
        ``selection, way, k, value, low, high, n``; intervals resample facts within relations.
    """
    column, rows = MEASURES[measure], []
    for name, part in curves.groupby("selection", sort=False):
        wide = part.groupby(["fact", "relation", "way", "k"], sort=False)[column].mean().unstack(["way", "k"])
        drawn = draws(wide.index.get_level_values("relation").to_numpy(), seed)
        plain = wide["silenced", 0].to_numpy()
        for way, k in wide.columns:
            values = wide[way, k].to_numpy()
            told = with_percentiles(values.sum() / plain.sum(), drawn @ values / (drawn @ plain), len(values))
            rows.append([name, way, k, *told.values()])
    return pd.DataFrame(rows, columns=["selection", "way", "k", *COLUMNS])


def numbers_for(pooled: pd.DataFrame, share: float = 0.5) -> pd.DataFrame:
    """How many neurons it takes: the least number asked at which P has fallen, or is back, to a share.

    Args:
        pooled: of :func:`pooled_curves`.
        share: of P with nothing silenced.

    Returns:
        a row per selection: ``silenced`` and ``kept``; missing where none of the numbers does.
    """
    reached = pooled[
        ((pooled["way"] == "silenced") & (pooled["value"] <= share))
        | ((pooled["way"] == "kept") & (pooled["value"] >= share))
    ]
    least = reached.groupby(["selection", "way"])["k"].min().unstack("way")
    return least.reindex(index=dict.fromkeys(pooled["selection"]), columns=list(WAYS)).astype("Int64")


def success_rates(effects: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """AMIG's success rate of every selection, what it is made of, and selectivity.

    Equation 11 of Chen et al. 2024: over suppressing and amplifying the sum of |own / unrelated|, each the
    mean over facts of a prompt's relative change of P, signed as in their code, and here unclipped. The
    divisor may be near 0, and then the rate says nothing; so both are given, and beside them

        selectivity = mean change of the log-odds on own facts - that on unrelated ones, paired by fact,

    of silencing (below 0 where it is selective) and of amplifying (above 0).

    Args:
        effects: of :func:`kn_utils.experiments.localisation.own_and_unrelated`, with ``selection``; facts
            without both are left out, and with one relation all.
        seed: of the resamples.

    Returns:
        ``measure, selection, value, low, high, n``. Measures: ``success rate``; ``relative change, own,
        silenced`` and the like; ``selectivity, silenced`` and ``selectivity, amplified``.
    """
    told = effects.assign(
        relative=effects["after"] / effects["before"] - 1,
        logit=log_odds(effects["after"]) - log_odds(effects["before"]),
    )
    rows = []
    for name, part in told.groupby("selection", sort=False):
        wide = part.groupby(["fact", "relation", "operation", "neurons"], sort=False)[["relative", "logit"]]
        wide = wide.mean().unstack(["operation", "neurons"]).dropna().sort_index(axis=1)
        if wide.empty or ("relative", "suppress", UNRELATED) not in wide:  # there is one relation
            continue
        drawn = draws(wide.index.get_level_values("relation").to_numpy(), seed)
        drawn = np.concatenate([np.ones((1, len(wide))), drawn]) / len(wide)
        rate = np.zeros(len(drawn))
        values: dict[str, np.ndarray] = {}
        for operation, word in ACTS.items():
            own, unrelated = (
                drawn @ wide["relative", operation, kind].to_numpy() for kind in (OWN, UNRELATED)
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = rate + np.abs(own / unrelated)
            values |= {f"relative change, own, {word}": own, f"relative change, unrelated, {word}": unrelated}
            logit = wide["logit", operation]
            values[f"selectivity, {word}"] = drawn @ (logit[OWN] - logit[UNRELATED]).to_numpy()
        for measure, found in ({"success rate": rate} | values).items():
            rows.append([measure, name, *with_percentiles(found[0], found[1:], len(wide)).values()])
    return pd.DataFrame(rows, columns=["measure", "selection", *COLUMNS])


def selectivity_gained(effects: pd.DataFrame, over: str, *, seed: int = 0) -> pd.DataFrame:
    """How much more selective every selection is than another one, fact by fact.

    Args:
        effects: as :func:`success_rates` takes them.
        over: the selection that others are compared with.
        seed: of the resamples.

    Returns:
        ``measure`` (``selectivity, silenced``, ``selectivity, amplified``), ``selection, value, low, high,
        n``; the change of log-odds of the selection less that of ``over``.
    """
    logit = log_odds(effects["after"]) - log_odds(effects["before"])
    keys = ["operation", "selection", "fact", "relation"]
    wide = effects.assign(_logit=logit).groupby([*keys, "neurons"], sort=False)["_logit"].mean()
    wide = wide.unstack("neurons").dropna()
    if UNRELATED not in wide:
        return pd.DataFrame(columns=["measure", "selection", *COLUMNS])
    each = wide[OWN] - wide[UNRELATED]
    rows = []
    for operation, word in ACTS.items():
        here = each.loc[operation]
        for name in dict.fromkeys(effects["selection"]):
            if name == over:
                continue
            pair = pd.concat([here.loc[name], here.loc[over]], axis=1, keys=["own", "over"]).dropna()
            gain = (pair["own"] - pair["over"]).to_numpy()
            drawn = draws(pair.index.get_level_values("relation").to_numpy(), seed) / max(len(gain), 1)
            told = with_percentiles(float(gain.mean()), drawn @ gain, len(gain))
            rows.append([f"selectivity, {word}", name, *told.values()])
    return pd.DataFrame(rows, columns=["measure", "selection", *COLUMNS])


def divisible(sums: pd.DataFrame, prompts: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The share of prompts in which equation 5 could be used: every layer's scores add up to more than 0.

    Args:
        sums: of :func:`kn_utils.neurons.shares.layer_sums`.
        prompts: ``prompt, fact``, those that they are of.
        seed: of the resamples.

    Returns:
        ``measure, selection, value, low, high, n``; intervals over facts.
    """
    above = (sums["sum"] >= LEAST).groupby(sums["prompt"]).all().astype(float).rename("above").reset_index()
    told = above.merge(prompts[["prompt", "fact"]], on="prompt")
    told = told.assign(measure="every layer's scores add up to more than 0", selection="default")
    return mean_table(told, "above", ["measure", "selection"], seed=seed)


def named(table: pd.DataFrame, *, over: str = "", where: str = "") -> pd.DataFrame:
    """Areas or rates as named numbers: ``measure, neurons, where, value, low, high, n``.

    Args:
        table: of :func:`areas`, :func:`success_rates` or :func:`selectivity_gained`; a ``way`` becomes a part
            of the measure (``area, silenced, P(answer)``).
        over: the selection that these are more than, for the neurons' name: ``replacement - default``.
        where: in which reading.
    """
    measure = table["measure"]
    if "way" in table:
        measure = "area, " + table["way"] + ", " + measure
    neurons = table["selection"] + (f" - {over}" if over else "")
    told = table[["value", "low", "high", "n"]].assign(measure=measure, neurons=neurons, where=where)
    return told[["measure", "neurons", "where", "value", "low", "high", "n"]]
