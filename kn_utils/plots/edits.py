"""Pictures of edited weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .theme import KINDS, points, written_cells

#: kind of edit -> (colour, marker, label)
EDITS = {
    "as published": ("#12335c", "o", "the formula as published, times its force"),
    "signed": ("#d1731f", "s", "the same, with the sign of the activation"),
    "fine-tuned": ("#7fb3d5", "^", "the same slots, fine-tuned"),
}


def edit_rates(table: pd.DataFrame) -> Figure:
    """Kinds of edit beside each other: how often answers change (left), and what that costs (right).

    Args:
        table: :func:`kn_utils.statistics.updates.summarise_updates` by ``neurons``.
    """
    rates = {
        "change rate": "another answer\nthan before",
        "success rate": "the new answer",
        "new among the first 5, after": "the new answer\namong the first 5",
    }
    costs = {
        "perplexity within, ratio": "other facts of\nthe relation",
        "perplexity between, ratio": "other relations",
    }
    kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
    figure, (left, right) = plt.subplots(1, 2, width_ratios=[3, 2], figsize=(10, 3.8))
    for axes, measures in ((left, rates), (right, costs)):
        for i, kind in enumerate(kinds):
            part = table[table["neurons"] == kind].set_index("measure").reindex(list(measures))
            points(axes, np.arange(len(measures)), part, kind, shift=0.11 * (i - (len(kinds) - 1) / 2))
        axes.set_xticks(range(len(measures)), measures.values())
        axes.set_xlim(-0.5, len(measures) - 0.5)
        axes.grid(axis="x", visible=False)
    left.set(title="The edited prompt's first choice", ylabel="share of edits", ylim=(-0.03, 1.03))
    right.set_title("The cost to other facts")
    right.set_ylabel("perplexity, after / before (log)")
    _doubling(right, table.loc[table["measure"].isin(list(costs)), ["value", "high"]].to_numpy(float))
    figure.suptitle("Edited facts, by what was edited (95 % intervals over facts)", x=0.01, ha="left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def edit_sweep(table: pd.DataFrame) -> Figure:
    """Success of edits (above) and their cost (below): a column per setting that is varied.

    Args:
        table: ``sweep`` (the setting's name), ``at`` (its value), ``neurons, measure, value, low, high``; two
            measures.
    """
    sweeps, measures = (list(dict.fromkeys(table[name])) for name in ("sweep", "measure"))
    size = (3.3 * len(sweeps), 2.5 * len(measures) + 0.6)
    figure, grid = plt.subplots(len(measures), len(sweeps), figsize=size, squeeze=False, sharey="row")
    kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
    for line, measure in zip(grid, measures, strict=True):
        for axes, sweep in zip(line, sweeps, strict=True):
            part = table[(table["measure"] == measure) & (table["sweep"] == sweep)]
            at = sorted(part["at"].unique())
            for i, kind in enumerate(kinds):
                own = part[part["neurons"] == kind].set_index("at").reindex(at)
                place = np.arange(len(at)) + 0.12 * (i - (len(kinds) - 1) / 2)
                axes.plot(place, own["value"], color=KINDS[kind][0], linewidth=1)
                points(axes, place, own, kind)
            axes.set_xticks(range(len(at)), [f"{value:g}" for value in at])
            axes.set_xlabel(sweep)
            axes.grid(axis="x", visible=False)
        if "perplexity" in measure:
            costs = table.loc[table["measure"] == measure, ["value", "high"]].to_numpy(float)
            _doubling(line[0], costs)
            line[0].set_ylabel(f"{measure}\n(after / before, log)")
        else:
            line[0].set(ylim=(-0.03, 1.03), ylabel=f"{measure}\n(share of edits)")
    figure.suptitle("Edits, one setting varied at a time (95 % intervals)", x=0.01, ha="left")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def edit_tradeoff(table: pd.DataFrame, cost: str = "cost, same relation") -> Figure:
    """What edits achieve against what they cost, a line per kind of edit along its forces.

    Args:
        table: :func:`kn_utils.statistics.forces.by_force` of one kind of neurons; a kind of edit without
            forces is a point.
        cost: the measure of the horizontal axis.
    """
    measures = {
        "new answer first": "over the whole vocabulary",
        "new answer first, typed": "among the relation's objects",
    }
    figure, many = plt.subplots(1, len(measures), figsize=(10, 3.6), sharey=True)
    for axes, (measure, title) in zip(many, measures.items(), strict=True):
        for kind, style in EDITS.items():
            part = table[(table["edit"] == kind) & table["measure"].isin([measure, cost])]
            if part.empty:
                continue
            part = part.assign(force=part["force"].fillna(0))
            wide = part.pivot(index="force", columns="measure", values="value").reindex(
                columns=[measure, cost]
            )
            shown = part[part["measure"] == measure].set_index("force").reindex(wide.index)
            axes.plot(wide[cost], wide[measure], color=style[0], linewidth=1)
            points(axes, wide[cost].to_numpy(), shown, kind, styles=EDITS)
            for force in wide.index[wide.index >= 1]:  # weaker ones lie close together
                place = (wide.loc[force, cost], wide.loc[force, measure])
                axes.annotate(f"{force:g}", place, xytext=(3, 4), textcoords="offset points", fontsize=7)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda nats, _: f"{nats:g}")
        axes.set(title=f"New answer first, {title}", ylim=(-0.03, 1.08))
        axes.set_xlabel("cost to the relation's other facts (nats; logarithmic beyond 1)")
    many[0].set_ylabel("share of held-out wordings")
    figure.suptitle("What an edit achieves, and what it costs, by its force", x=0.01, ha="left")
    figure.legend(*many[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def edit_languages(tables: Mapping[str, pd.DataFrame], languages: Sequence[str]) -> Figure:
    """Shares of edits by the language edited through (row) and asked in (column), a heat map per entry.

    Args:
        tables: title -> ``through, language, value``; a cell that a table lacks stays empty.
        languages: the order of rows and columns; ``all`` is a row only.
    """
    size = (3.5 * len(tables) + 0.4, 3.6)
    figure, many = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False)
    asked = [language for language in languages if language != "all"]
    for axes, (title, table) in zip(many[0], tables.items(), strict=True):
        grid = table.pivot(index="through", columns="language", values="value")
        grid = grid.reindex(index=languages, columns=asked)
        sns.heatmap(grid.astype(float), ax=axes, vmin=0, vmax=1.2, **written_cells(".2f"))
        axes.set(title=title, xlabel="asked in", ylabel="edited through" if axes is many[0][0] else "")
        axes.tick_params(rotation=0)
        axes.grid(False)
        for row, column in np.argwhere(grid.isna().to_numpy()):
            axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color="0.4")
    figure.suptitle(
        "An edit made through one language, asked for in another (share of facts)", x=0.01, ha="left"
    )
    return figure


def _doubling(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis with ticks at 1, 2, 4, ... and a line at 1, where nothing changed.

    Where little changed the ticks are closer; where much did there are powers of ten, not all of them.
    """
    top = max(2.0, float(np.nanmax(values)) if np.isfinite(values).any() else 2.0)
    ticks = np.array([1, 1.5, 2, 3, 4, 6]) if top <= 6 else 2.0 ** np.arange(int(np.log2(top)) + 1)
    ticks = ticks[ticks <= 1.1 * top]
    if len(ticks) > 8:
        powers = int(np.log10(top))
        ticks = 10.0 ** np.arange(0, powers + 1, 1 + powers // 6)
    axes.set_yscale("log", base=2)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    bottom = float(np.nanmin(values)) if np.isfinite(values).any() else 1.0
    axes.set_ylim(min(0.8, 0.9 * bottom), 1.1 * top)
    axes.minorticks_off()
    axes.axhline(1, color="0.4", linewidth=0.8, zorder=0)
