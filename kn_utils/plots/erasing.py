"""Pictures of erased relations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.relations import title as relation_title
from .theme import KINDS, points, written_cells

ANOTHER = "another relation"
STYLES = KINDS | {ANOTHER: ("#7fb3d5", "^", "another relation's knowledge neurons")}
ENDS = ["value", "low", "high"]
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10**4, 10**5, 10**6)


def erased(table: pd.DataFrame, printed: pd.DataFrame, title: str) -> Figure:
    """How many times larger perplexity gets, per relation: the erased one (left) and all others (right).

    Args:
        table: ``asked`` (erased relation, other relations), ``neurons, relation, value, low, high``; value 1
            = doubled.
        printed: a paper's values, ``asked, relation, value``, drawn as crosses.
    """
    relations = list(dict.fromkeys(table["relation"]))[::-1]
    y = np.arange(len(relations))
    figure, both = plt.subplots(1, 2, figsize=(10, 1.6 + 0.4 * len(relations)), sharey=True)
    kinds = [kind for kind in STYLES if kind in set(table["neurons"])]
    for axes, asked in zip(both, ("erased relation", "other relations"), strict=True):
        axes.axvline(1, color="0.4", linewidth=0.8)
        for i, kind in enumerate(kinds):
            part = table[(table["asked"] == asked) & (table["neurons"] == kind)]
            part = part.set_index("relation").reindex(relations)
            shift = 0.16 * ((len(kinds) - 1) / 2 - i)
            points(axes, y, 1 + part[ENDS], kind, shift=shift, along="x", styles=STYLES)
        said = printed[(printed["asked"] == asked) & printed["relation"].isin(relations)]
        if len(said):
            place = [relations.index(relation) for relation in said["relation"]]
            label = "the paper's (other model, data)"
            axes.plot(1 + said["value"], place, "x", color="black", markersize=7, label=label)
        _log(axes, "x")
        axes.set(
            xlabel="perplexity after / before",
            title=f"asked about the {asked}",
            ylim=(-0.6, len(relations) - 0.4),
        )
        axes.set_yticks(y, [relation_title(name) for name in relations])
        if "mean" in relations[0]:
            axes.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
    both[0].set_ylabel("erased relation")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def erased_sweep(table: pd.DataFrame, title: str) -> Figure:
    """How many times larger perplexity gets, against the number of erased neurons.

    Args:
        table: ``asked, neurons, k, value, low, high``; value 1 = doubled. A panel per ``asked``.
    """
    asked = list(dict.fromkeys(table["asked"]))
    figure, many = plt.subplots(
        1, len(asked), figsize=(1 + 3.8 * len(asked), 3.4), sharey=True, squeeze=False
    )
    kinds = [kind for kind in STYLES if kind in set(table["neurons"])]
    for axes, name in zip(many[0], asked, strict=True):
        axes.axhline(1, color="0.4", linewidth=0.8)
        for i, kind in enumerate(kinds):
            part = table[(table["asked"] == name) & (table["neurons"] == kind)].sort_values("k")
            x = part["k"].to_numpy(float) * 1.05**i
            axes.plot(x, 1 + part["value"], color=STYLES[kind][0], linewidth=1)
            points(axes, x, 1 + part[ENDS], kind, styles=STYLES)
        ticks = sorted(table["k"].unique())
        axes.set(xscale="log", xlabel="erased neurons, at most", title=f"asked about the {name}")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.minorticks_off()
        _log(axes, "y")
    many[0][0].set_ylabel("perplexity after / before")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*many[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def erased_languages(table: pd.DataFrame, title: str) -> Figure:
    """ln(perplexity after / before) of the erased relation: source of the neurons by language asked in.

    Args:
        table: ``to, source, language, value``; a panel per ``to``.
    """
    ways = list(dict.fromkeys(table["to"]))
    rows, columns = (list(dict.fromkeys(table[name])) for name in ("source", "language"))
    size = (1.8 + (1.4 + 0.55 * len(columns)) * len(ways), 1.6 + 0.36 * len(rows))
    figure, many = plt.subplots(1, len(ways), figsize=size, sharey=True, squeeze=False)
    for axes, to in zip(many[0], ways, strict=True):
        grid = table[table["to"] == to].pivot(index="source", columns="language", values="value")
        grid = grid.reindex(index=rows, columns=columns)
        limits = {"vmin": min(0, grid.min().min()), "vmax": 1.4 * max(grid.max().max(), 1e-9)}
        sns.heatmap(grid, ax=axes, **limits, **written_cells(".2f"))
        axes.set(title=f"slots become {to}", xlabel="language asked in", ylabel="")
        axes.tick_params(rotation=0)
    many[0][0].set_ylabel("neurons found in")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _log(axes: Axes, along: str) -> None:
    """A logarithmic axis with ticks that people read; the range is the data's."""
    axes.set(**{f"{along}scale": "log"})
    low, high = getattr(axes, f"get_{along}lim")()
    inside = [tick for tick in TICKS if low <= tick <= high]
    if len(inside) < 3:  # a narrow range
        inside = [tick for tick in np.round(np.arange(0.5, 2.01, 0.05), 2) if low <= tick <= high]
        inside = inside[:: 1 + len(inside) // 7]
    elif len(inside) > 7:
        inside = [tick for tick in inside if tick in (1, 10, 100, 1000, 10**4, 10**5, 10**6)]
    getattr(axes, f"set_{along}ticks")(inside, [f"{tick:g}" for tick in inside])
    getattr(axes, f"{along}axis").minorticks_off()
