"""A picture of verdicts: claims as rows, models as columns."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..statistics.verdicts import HOLDS, IN_PART, NOT, NOT_RUN, OPEN

#: verdict -> (shade of the cell, symbol, colour of the symbol)
LOOKS = {
    HOLDS: ("0.25", "●", "white"),
    IN_PART: ("0.65", "◐", "black"),
    NOT: ("white", "✕", "black"),
    OPEN: ("0.93", "?", "0.3"),
    NOT_RUN: ("white", "", "0.6"),
}


def verdicts(by_claim: pd.DataFrame, claims: pd.DataFrame, models: Mapping[str, str]) -> Figure:
    """The verdict on every claim for every model: a symbol on a shade, hatched where nothing was run.

    Args:
        by_claim: ``id, model, verdict``.
        claims: ``id, source, short``: the rows, in their order, under their sources.
        models: model -> what its column is called.
    """
    found = by_claim.set_index(["id", "model"])["verdict"]
    sources = list(dict.fromkeys(claims["source"]))
    height = len(claims) + len(sources)
    figure, axes = plt.subplots(figsize=(8.6, 1.3 + 0.25 * height))
    labels, places = [], []
    row = 0
    for source in sources:
        axes.text(
            -0.02,
            row + 0.55,
            source,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            weight="bold",
        )
        row += 1
        for line in claims[claims["source"] == source].itertuples():
            labels.append(line.short)
            places.append(row + 0.5)
            for column, model in enumerate(models):
                _cell(axes, column, row, found[line.id, model])
            row += 1
    axes.set(xlim=(0, len(models)), ylim=(height, 0))
    axes.set_yticks(places, labels)
    axes.set_xticks([i + 0.5 for i in range(len(models))], list(models.values()))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    marks = [
        (
            Rectangle((0, 0), 1, 1, facecolor=shade, edgecolor="0.5", hatch=_hatch(name)),
            Line2D([], [], marker=f"${symbol}$" if symbol else "", color=colour, linestyle="", markersize=6),
        )
        for name, (shade, symbol, colour) in LOOKS.items()
    ]
    figure.legend(handles=marks, labels=list(LOOKS), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle("The papers' claims, judged by 95 % intervals of each model's numbers", x=0.01, ha="left")
    return figure


def _cell(axes: Axes, column: int, row: int, verdict: str) -> None:
    shade, symbol, colour = LOOKS[verdict]
    edge = "0.85" if verdict == NOT_RUN else "0.6"  # hatches have the colour of edges
    box = Rectangle(
        (column, row), 1, 1, facecolor=shade, edgecolor=edge, linewidth=0.6, hatch=_hatch(verdict)
    )
    axes.add_patch(box)
    axes.text(column + 0.5, row + 0.5, symbol, ha="center", va="center", color=colour)


def _hatch(verdict: str) -> str:
    return "////" if verdict == NOT_RUN else ""
