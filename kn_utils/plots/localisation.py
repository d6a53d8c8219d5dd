"""Pictures of localisation: P against how many of the strongest neurons are silenced, or alone are kept."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..experiments.localisation import ACTIVE, ANOTHER, DEFAULT, RANDOM
from ..statistics.localisation import WAYS, steps

#: selection -> (colour, marker, line); of different lightness, and of different form
STYLES = {
    DEFAULT: ("#12335c", "o", "-"),
    "replacement": ("#d1731f", "s", "-"),
    "replacement-each": ("#e9ad6b", "D", "-"),
    "replacement-content": ("#8c4a0f", "^", "--"),
    "relation-mean": ("#3f78b5", "v", "--"),
    "AMIG as released": ("#a8321f", "P", ":"),
    "gradient": ("#7fb3d5", "X", "--"),
    ACTIVE: ("#8a8a8a", "*", "-"),
    ANOTHER: ("#5f5f5f", "d", ":"),
    RANDOM: ("black", "x", ":"),
}
HEADS = {"silenced": "the k strongest silenced", "kept": "the k strongest kept, all others silenced"}


def localisation_curves(pooled: pd.DataFrame, title: str, *, intervals: tuple[str, ...] = ()) -> Figure:
    """P(answer), as a share of P with nothing silenced, against k: silenced (left), kept (right).

    Args:
        pooled: ``selection, way, k, value, low, high``
            (:func:`kn_utils.statistics.localisation.pooled_curves`).
        title: what the picture shows.
        intervals: selections whose intervals are drawn as bands; all of them would hide each other.
    """
    figure, both = plt.subplots(1, 2, figsize=(11, 5.2))  # what is kept may be many times P
    names = [name for name in STYLES if name in set(pooled["selection"])]
    names += sorted(set(pooled["selection"]) - set(names))
    spare = cycle([("0.5", ".", "-.")])
    sizes = sorted(pooled["k"].unique())
    for axes, way in zip(both, WAYS, strict=True):
        axes.axhline(100, color="0.4", linewidth=0.8)
        axes.axhline(0, color="0.4", linewidth=0.8)
        for name in names:
            colour, marker, line = STYLES[name] if name in STYLES else next(spare)
            part = pooled[(pooled["selection"] == name) & (pooled["way"] == way)].sort_values("k")
            x = steps(part["k"])
            style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.2}
            axes.plot(x, 100 * part["value"], label=name, **style)
            if name in intervals:
                axes.fill_between(x, 100 * part["low"], 100 * part["high"], color=colour, alpha=0.18, lw=0)
        axes.set_xticks(steps(sizes), [f"{k}" for k in sizes])
        axes.set(xlabel="k, the number of strongest neurons (equal steps of log2)", title=HEADS[way])
    both[0].set_ylabel("P(answer), % of P with nothing silenced")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure
