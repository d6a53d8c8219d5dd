"""Pictures of fact checking: how well each score tells true claims from false ones, and what neurons add."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .theme import points

#: how facts were split -> (colour, marker, label)
STYLES = {"by fact": ("#12335c", "o", "halves of facts"), "by object": ("#d1731f", "s", "halves of objects")}


def checking(table: pd.DataFrame, gained: pd.DataFrame, model: str) -> Figure:
    """On the left every score's AUROC, on the right what each adds to the model's probability.

    Args:
        table: ``split, score, value, low, high`` of one measure, in the order to be shown.
        gained: ``split, added, value, low, high``: of some of these scores, the AUROC gained.
        model: its name, for the title.
    """
    scores = list(dict.fromkeys(table["score"]))
    place = np.arange(len(scores))
    size = (9.6, 1.6 + 0.29 * len(scores))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(3, 2))
    panels = ((left, table, "score", 1.0, 0.5), (right, gained, "added", 100.0, 0.0))
    for axes, rows, column, scale, nothing in panels:
        axes.axvline(nothing, color="0.4", linewidth=0.8)
        for shift, split in zip((-0.13, 0.13), STYLES, strict=True):
            part = rows[rows["split"] == split].set_index(column).reindex(scores)
            points(axes, place, part, split, shift=shift, along="x", scale=scale, styles=STYLES)
        for band in place[::2]:
            axes.axhspan(band - 0.5, band + 0.5, color="0.95", zorder=0)
        axes.grid(axis="y", visible=False)
    left.set_yticks(place, scores)
    left.set(ylim=(len(scores) - 0.5, -0.5), xlabel="AUROC of the score alone (0.5: chance)")
    right.set_xlabel("AUROC gained, points of %,\nbeside probability and prior")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    title = f"True claims told from false ones, {model} (95 % intervals over facts)"
    figure.suptitle(title, x=0.01, ha="left")
    return figure
