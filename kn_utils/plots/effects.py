"""Pictures of silencing and doubling."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.relations import title as relation_title
from .theme import KINDS, points

OPERATIONS = {"suppress": "neurons silenced", "amplify": "neurons amplified"}


def changes(table: pd.DataFrame, title: str) -> Figure:
    """Change of P(right answer) per relation and kind of neuron: silenced (left) and amplified (right).

    Args:
        table: ``operation, neurons, relation, value, low, high``; value 0.1 = 10 % higher.
    """
    relations = list(dict.fromkeys(table["relation"]))[::-1]
    figure, both = plt.subplots(1, 2, figsize=(10, 1.4 + 0.36 * len(relations)), sharey=True)
    y = np.arange(len(relations))
    for axes, (operation, name) in zip(both, OPERATIONS.items(), strict=True):
        axes.axvline(0, color="0.4", linewidth=0.8)
        kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
        for i, kind in enumerate(kinds):
            part = table[(table["operation"] == operation) & (table["neurons"] == kind)]
            part = part.set_index("relation").reindex(relations)
            points(axes, y, part, kind, shift=0.19 * ((len(kinds) - 1) / 2 - i), along="x", scale=100)
        axes.set(xlabel="change of P(right answer), %", title=name)
        axes.set_yticks(y, [relation_title(name) for name in relations])
        axes.set_ylim(-0.6, len(relations) - 0.4)
        axes.grid(axis="y", visible=False)
        for place in y[::2]:  # bands instead of lines: four kinds stand around each relation's place
            axes.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    both[0].set_ylabel("relation")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def doses(table: pd.DataFrame) -> Figure:
    """Change of P(right answer) against the factor on the neurons, a line per kind of neuron.

    Args:
        table: ``factor, neurons, value, low, high``.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle=":")
    kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
    for i, kind in enumerate(kinds):
        part = table[table["neurons"] == kind].sort_values("factor")
        shift = 0.03 * (i - (len(kinds) - 1) / 2)
        axes.plot(part["factor"] + shift, 100 * part["value"], color=KINDS[kind][0], linewidth=1)
        points(axes, part["factor"].to_numpy(float), part, kind, shift=shift, scale=100)
    ticks = sorted(table["factor"].unique())
    axes.set_xticks(ticks, [f"{factor:g}" for factor in ticks])
    axes.set(
        xlabel="factor on the neurons at the blank (0: silenced, 1: as they are)",
        ylabel="change of P(right answer), %",
    )
    figure.suptitle("The effect against the dose (95 % intervals over facts)", x=0.01, ha="left")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
