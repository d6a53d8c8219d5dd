"""Pictures of neurons that several languages hold: how many, and what they do in a language left out."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .controls import TARGETS
from .theme import interval_lengths, nothing_to_show

#: what is compared -> (colour, marker, label); of different lightness, and of different form
LINES = {
    "value": ("#12335c", "o", "the same fact"),
    "other_fact": ("#d1731f", "s", "another fact of the relation"),
    "chance": ("#7a7a7a", "x", "by chance, as many in each layer"),
}
#: colours and markers of a picture with one or two measures
PAIR = (("#12335c", "o"), ("#d1731f", "s"))


def held_by_languages(table: pd.DataFrame) -> Figure:
    """Neurons that a fact holds in at least s languages, beside another fact and chance.

    Args:
        table: ``target, at_least, value, low, high, other_fact, chance``
            (:func:`kn_utils.statistics.independent.independent_counts`), a panel per target.
    """
    targets = list(dict.fromkeys(table["target"]))
    size = (3.6 * len(targets) + 1, 3.2)
    figure, grid = plt.subplots(1, len(targets), figsize=size, sharey=True, squeeze=False)
    for axes, target in zip(grid[0], targets, strict=True):
        part = table[table["target"] == target]
        for column, (colour, marker, label) in LINES.items():
            error = interval_lengths(part) if column == "value" else None
            style = {"fmt": f"{marker}-", "color": colour, "markersize": 5, "linewidth": 1, "label": label}
            axes.errorbar(part["at_least"], part[column], yerr=error, **style)
        axes.set_xticks(part["at_least"])
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set_ylim(0, 2 * table["high"].max())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(title=_title(target), xlabel="held in at least so many languages")
    grid[0][0].set_ylabel("neurons per fact")
    figure.suptitle(
        "Neurons that one fact holds in several languages (95 % intervals over facts)", x=0.01, ha="left"
    )
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _title(target: str) -> str:
    return "neurons " + TARGETS[target].replace(" among ", "\namong ")


def by_source(
    table: pd.DataFrame, title: str, label: str, *, order: Sequence[str] | None = None, scale: float = 1
) -> Figure:
    """A value per source of neurons, with intervals: sources down, a panel per target, a marker per measure.

    Args:
        table: ``target, source, measure, value, low, high``; without a row the picture says so.
        title: what the picture shows.
        label: of the axis of values, with its unit.
        order: the sources, top down; ``None``: as they come.
        scale: what values are multiplied by.
    """
    if table.empty:
        return nothing_to_show(title)
    targets, measures = (list(dict.fromkeys(table[name])) for name in ("target", "measure"))
    sources = list(dict.fromkeys(table["source"])) if order is None else list(order)
    size = (2.4 + 3.2 * len(targets), 1.3 + 0.32 * len(sources))
    figure, grid = plt.subplots(1, len(targets), figsize=size, sharex=True, sharey=True, squeeze=False)
    place = np.arange(len(sources))
    for axes, target in zip(grid[0], targets, strict=True):
        axes.axvline(0, color="0.4", linewidth=0.8)
        for i, (measure, (colour, marker)) in enumerate(zip(measures, PAIR, strict=False)):
            part = table[(table["target"] == target) & (table["measure"] == measure)]
            part = part.set_index("source").reindex(sources)
            shift = 0.18 * (i - (len(measures) - 1) / 2)
            style = {"fmt": marker, "color": colour, "markersize": 5, "elinewidth": 1}
            error = scale * interval_lengths(part)
            axes.errorbar(scale * part["value"], place + shift, xerr=error, label=measure, **style)
        axes.set_yticks(place, sources)
        axes.grid(axis="y", visible=False)
        axes.set(title=_title(target), xlabel=label)
    grid[0][0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left")
    if len(measures) > 1:
        handles = grid[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
