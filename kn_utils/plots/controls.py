"""Pictures of what own neurons do beside those of others: per language, and from language to language."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..experiments.controls import CONTROLS
from .theme import points, written_cells

#: set of neurons -> (colour, marker, label); of different lightness, and of different form
STYLES = dict(
    zip(
        CONTROLS,
        [
            ("#12335c", "o", "the fact's own"),
            ("#3f78b5", "^", "another fact's, same answer"),
            ("#d1731f", "s", "another fact's of the relation, another answer"),
            ("#e9ad6b", "D", "another relation's"),
            ("#7a7a7a", "P", "those of most facts (generic)"),
            ("#a5a5a5", "v", "the most active"),
            ("black", "x", "random, same layers"),
        ],
        strict=True,
    )
)
#: Fewer facts than these say nothing that a shade of grey could show.
FEW = 5
#: what neurons were found for -> what pictures call it
TARGETS = {"answer": "found for P(answer)", "typed": "found for P among the relation's answers"}


def controls(table: pd.DataFrame, title: str) -> Figure:
    """Change of the answer's probability per language and set of neurons, for each target and measure.

    Args:
        table: ``target, measure, language, neurons, value, low, high``; value -0.1 = 10 % lower.
        title: what the picture shows.
    """
    targets, measures, languages = (
        list(dict.fromkeys(table[name])) for name in ("target", "measure", "language")
    )
    size = (1.2 + 1.5 * max(3.5, len(languages)) * len(targets) * 0.75, 0.9 + 2.5 * len(measures))
    shape = (len(measures), len(targets))
    figure, grid = plt.subplots(*shape, figsize=size, sharex=True, sharey=True, squeeze=False)
    kinds = [kind for kind in CONTROLS if kind in set(table["neurons"])]
    place = np.arange(len(languages))
    for row, (line, measure) in enumerate(zip(grid, measures, strict=True)):
        for axes, target in zip(line, targets, strict=True):
            axes.axhline(0, color="0.4", linewidth=0.8)
            for i, kind in enumerate(kinds):
                part = table[(table["measure"] == measure) & (table["target"] == target)]
                part = part[part["neurons"] == kind].set_index("language").reindex(languages)
                shift = 0.11 * (i - (len(kinds) - 1) / 2)
                points(axes, place, part, kind, shift=shift, scale=100, styles=STYLES)
            axes.set_xticks(place, languages)
            axes.grid(axis="x", visible=False)
            for band in place[::2]:
                axes.axvspan(band - 0.5, band + 0.5, color="0.95", zorder=0)
            if row == 0:
                axes.set_title("neurons " + TARGETS[target])
            if row == len(grid) - 1:
                axes.set_xlabel("language of prompts and neurons")
        line[0].set_ylabel(f"change of {measure}, %".replace("among the", "among\nthe"))
    figure.suptitle(title, x=0.01, ha="left")
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def excess_between_languages(table: pd.DataFrame) -> Figure:
    """What neurons found in one language do to the same fact in another, beyond another answer's neurons.

    Args:
        table: ``target, measure, found, language, value, n``; value -0.1: own neurons take 10 points more
            away. Darker = more; the frame marks one and the same language; pairs of languages with fewer than
            :data:`FEW` facts are left blank.
    """
    targets, measures = (list(dict.fromkeys(table[name])) for name in ("target", "measure"))
    languages = list(dict.fromkeys([*table["found"], *table["language"]]))
    table = table.assign(value=table["value"].where(table["n"] >= FEW))
    size = (1.2 + 0.62 * len(languages) * len(measures), 1.3 + 0.45 * len(languages) * len(targets))
    shape = (len(targets), len(measures))
    figure, grid = plt.subplots(*shape, figsize=size, sharex=True, sharey=True, squeeze=False)
    for row, (line, target) in enumerate(zip(grid, targets, strict=True)):
        for axes, measure in zip(line, measures, strict=True):
            part = table[(table["target"] == target) & (table["measure"] == measure)]
            part = 100 * part.pivot(index="found", columns="language", values="value")
            part = part.reindex(index=languages, columns=languages).round(0) + 0.0  # no -0.0
            style = written_cells("+.0f") | {"annot": part, "vmin": 0, "vmax": 80}
            sns.heatmap(-part, ax=axes, **style)
            for i in range(len(languages)):
                axes.add_patch(Rectangle((i, i), 1, 1, fill=False, edgecolor="black", linewidth=2))
            axes.set(xlabel="", ylabel="")
            axes.tick_params(axis="y", rotation=0)
            if row == 0:
                axes.set_title(measure)
            if row == len(grid) - 1:
                axes.set_xlabel("language of the prompts")
        line[0].set_ylabel(f"language of the neurons,\n{TARGETS[target]}")
    figure.suptitle(
        f"Change of the answer in points of %, own neurons less another answer's\n(framed: one language; "
        f"blank: fewer than {FEW} facts)",
        x=0.01,
        ha="left",
    )
    return figure
