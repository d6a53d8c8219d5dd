"""Pictures of edited weights."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .theme import KINDS, points


def edit_sweep(table: pd.DataFrame) -> Figure:
    """Success of edits and their cost against l2 (``l2, neurons, measure, value, low, high``), a panel per measure."""
    measures = list(dict.fromkeys(table["measure"]))
    figure, many = plt.subplots(1, len(measures), figsize=(3.1 * len(measures), 3.2), squeeze=False)
    for axes, measure in zip(many[0], measures, strict=True):
        kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
        for i, kind in enumerate(kinds):
            part = table[(table["measure"] == measure) & (table["neurons"] == kind)].sort_values("l2")
            axes.plot(part["l2"], part["value"], color=KINDS[kind][0], linewidth=1)
            points(axes, part["l2"].to_numpy(float), part, kind, shift=0.2 * i)
        axes.set(xlabel="l2", title=measure, yscale="log" if "perplexity" in measure else "linear")
        axes.set_xticks(part["l2"], [f"{value:g}" for value in part["l2"]])
        if "perplexity" in measure:
            axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            axes.minorticks_off()
        else:
            axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("after / before" if "perplexity" in measure else "share of edits")
    figure.suptitle("Edits against their force l2 (95 % intervals over edits)", x=0.01, ha="left")
    handles, labels = many[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
