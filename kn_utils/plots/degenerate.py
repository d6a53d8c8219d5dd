"""Pictures of pairs and sets: do effects add up, and can the others carry what a first set carries?"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..neurons.degenerate import SLACK
from ..statistics.degenerate import passes
from .theme import points

#: kind of set -> what pictures call it, in their order
KINDS_OF_SETS = {
    "own": "located in the fact's other wordings",
    "as strong, not located": "as strong here, not located",
    "another answer": "another fact's, another answer",
    "random, same layers": "random, same layers",
}
#: measure -> (colour, marker, label)
LEFT = {
    "left to the others": ("#12335c", "o", "measured"),
    "left to the others, additive": ("#9b9b9b", "D", "if single losses added up"),
}


def pairs(table: pd.DataFrame, thresholds: tuple[float, float], model: str) -> Figure:
    """What a pair loses against the sum of what its neurons lose alone, a panel per kind.

    Args:
        table: of :func:`kn_utils.statistics.degenerate.judged_pairs`.
        thresholds: pairs that pass the published rule with them are black.
        model: its name, for the title.
    """
    kinds = [kind for kind in KINDS_OF_SETS if kind in set(table["kind"])]
    shape: dict[str, Any] = {"sharex": True, "sharey": True, "squeeze": False}
    figure, panels = plt.subplots(1, len(kinds), figsize=(1.0 + 3.1 * len(kinds), 3.7), **shape)
    added, together = table["loss_a"] + table["loss_b"], table["loss_ab"]
    ends = [min(added.min(), together.min()), max(added.max(), together.max())]
    found = passes(table, *thresholds).to_numpy()
    name = "passes the rule {:g} / {:g}".format(*thresholds)
    for axes, kind in zip(panels[0], kinds, strict=True):
        here = (table["kind"] == kind).to_numpy()
        axes.plot(ends, ends, color="0.5", linewidth=0.8, label="effects add up")
        for some, colour, label in ((here & ~found, "#7fb3d5", "a pair"), (here & found, "black", name)):
            dots = {"color": colour, "s": 8, "linewidths": 0, "alpha": 0.6, "rasterized": True}
            axes.scatter(added[some], together[some], label=label, **dots)
        axes.set_title(KINDS_OF_SETS[kind], fontsize="small")
        axes.set_xlabel("loss of a + loss of b, each alone\n(log-odds of P(answer))")
    panels[0][0].set_ylabel("loss of both together\n(log-odds of P(answer))")
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, markerscale=2)
    figure.suptitle(f"Two neurons silenced together and alone, {model}", x=0.01, ha="left")
    return figure


def left_to_others(table: pd.DataFrame, model: str, slack: float = SLACK) -> Figure:
    """What the neurons outside the first sufficient set carry alone, beside the additive null.

    Args:
        table: ``measure, kind, value, low, high, n`` of :func:`kn_utils.statistics.degenerate.orders`.
        model: its name, for the title.
        slack: of the search: above 1 - slack the others are sufficient as well.
    """
    kinds = [kind for kind in KINDS_OF_SETS if kind in set(table["kind"])]
    figure, axes = plt.subplots(figsize=(7.0, 1.5 + 0.45 * len(kinds)))
    place = np.arange(len(kinds))
    for shift, measure in zip((-0.12, 0.12), LEFT, strict=True):
        part = table[table["measure"] == measure].set_index("kind").reindex(kinds)
        points(axes, place, part, measure, shift=shift, along="x", scale=100, styles=LEFT)
    axes.axvline(100 * (1 - slack), color="black", linestyle="--", linewidth=1)
    note: dict[str, Any] = {"xytext": (4, 8), "textcoords": "offset points", "fontsize": "small"}
    axes.annotate("carried twice", (100 * (1 - slack), 0), **note)
    number = table[table["measure"] == "left to the others"].set_index("kind")["n"].reindex(kinds).fillna(0)
    names = [f"{KINDS_OF_SETS[kind]} ({n:.0f})" for kind, n in zip(kinds, number, strict=True)]
    axes.set_yticks(place, names)
    lowest = 100 * table.loc[table["measure"].isin(LEFT), ["value", "low"]].min(axis=None)
    axes.set(xlim=(min(-20.0, lowest - 5), 118), ylim=(len(kinds) - 0.5, -0.5))
    axes.set_xlabel("carried without the first sufficient set,\n% of what all carry together")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    title = f"Can other neurons stand in? {model} (facts whose set carries something)"
    figure.suptitle(title, x=0.01, ha="left")
    return figure
