"""Pictures of attribution and refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..data.relations import title as relation_title
from .theme import KINDS, MARKERS, written_cells


def convergence(table: pd.DataFrame) -> Figure:
    """Error of quadrature rules against their number of points: median and middle 80 %.

    Args:
        table: :func:`kn_utils.attribution.judging.convergence`.
    """
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    for (rule, part), marker, style in zip(
        table.groupby("rule", sort=False), MARKERS, ("-", "--", "-.", ":"), strict=False
    ):
        spread = part.groupby("steps")["error"].quantile([0.1, 0.5, 0.9]).unstack().clip(lower=1e-9)
        axes.plot(spread.index, spread[0.5], marker=marker, linestyle=style, label=rule, markersize=5)
        axes.fill_between(spread.index, spread[0.1], spread[0.9], alpha=0.15)
    axes.set(
        xscale="log", yscale="log", xlabel="points per layer (cost)", ylabel="largest error / largest score"
    )
    ticks = sorted(table["steps"].unique())
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.xaxis.minorticks_off()
    axes.set_title("Error of quadrature rules against their cost (median, middle 80 % of prompts)")
    axes.legend(frameon=False, title="rule")
    return figure


def benchmark(table: pd.DataFrame) -> Figure:
    """Seconds per prompt of each method, one panel per model; beside them, times faster.

    Args:
        table: :func:`kn_utils.attribution.benchmark.measured`.
    """
    models = list(table["model"].unique())
    figure, panels = plt.subplots(
        1, len(models), figsize=(3.2 + 3.2 * len(models), 2.9), sharey=True, squeeze=False
    )
    names = list(table["method"].unique())
    methods = sorted(names, key=lambda name: (name.startswith("kernel"), names.index(name)))[::-1]
    for axes, model in zip(panels[0], models, strict=True):
        part = table[table["model"] == model].set_index("method").reindex(methods)
        for place, (method, row) in enumerate(part.iterrows()):
            if pd.notna(row["seconds"]):
                colour, marker, _ = KINDS["knowledge" if method.startswith("kernel") else "random"]
                axes.plot(row["seconds"], place, marker=marker, color=colour, linestyle="none", markersize=7)
                axes.annotate(
                    f"{row['ratio']:.2g} x",
                    (row["seconds"], place),
                    (8, -3),
                    textcoords="offset points",
                    fontsize=8,
                )
        axes.set(
            xscale="log",
            xlabel="seconds per prompt (log)",
            title=f"{model}, {part['device'].dropna().iloc[0]}",
        )
        axes.set_xlim(part["seconds"].min() / 2, part["seconds"].max() * 5)
    panels[0][0].set_yticks(range(len(methods)), methods)
    panels[0][0].set_ylim(-0.6, len(methods) - 0.4)
    figure.suptitle(
        "Attribution of one prompt, all layers: the published procedure (diamonds) and the kernel (discs)"
    )
    return figure


def attribution(scores: np.ndarray, title: str, best: pd.DataFrame | None = None) -> Figure:
    """The scores of one prompt: each layer's ten largest, in each cell the neuron's number.

    Args:
        scores: (layer, neuron).
        title: which prompt.
        best: ``layer, neuron`` of those that get a frame, where they are among them.
    """
    scores = np.asarray(scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    figure, axes = plt.subplots(figsize=(7.4, 1.6 + 0.24 * len(scores)))
    options = written_cells("d", size=7) | {"cbar": True, "vmin": 0}
    options |= {"annot": order, "cbar_kws": {"label": "score (part of P)"}}
    sns.heatmap(np.take_along_axis(scores, order, axis=1), ax=axes, **options)
    for layer, neuron in [] if best is None else best[["layer", "neuron"]].to_numpy().tolist():
        for rank in np.flatnonzero(order[layer] == neuron):
            axes.add_patch(
                Rectangle((float(rank), layer), 1, 1, fill=False, edgecolor="#d1731f", linewidth=2)
            )
    axes.set(xlabel="rank within its layer; in the cells the neurons' numbers", ylabel="layer (0 = lowest)")
    axes.set_xticklabels([str(rank + 1) for rank in range(order.shape[1])])
    axes.tick_params(axis="y", rotation=0)
    axes.set_title(title)
    return figure


def paths(table: pd.DataFrame, kinds: Mapping[str, int], title: str) -> Figure:
    """P(answer) along the paths of a few layers.

    Args:
        table: :func:`kn_utils.attribution.removal.paths`.
        kinds: what kind of path -> a layer of that kind.
        title: which prompt.
    """
    figure, axes = plt.subplots(figsize=(6.5, 3.2))
    looks = zip(("-", "--", ":"), MARKERS, ("#12335c", "#d1731f", "#5f5f5f"), strict=False)
    for (kind, layer), (style, marker, colour) in zip(kinds.items(), looks, strict=False):
        part = table[table["layer"] == layer]
        look: dict[str, Any] = {"linestyle": style, "marker": marker, "color": colour}
        axes.plot(part["a"], part["p"], label=f"{kind}: layer {layer}", markevery=4, markersize=5, **look)
    axes.set(xlabel="a: neurons of the layer at a times their value", ylabel="P(answer)", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def settled_shares(report: pd.DataFrame, target: tuple[float, float] = (2, 5)) -> Figure:
    """Neurons per fact and the share that gave them, a row per relation.

    Args:
        report: :func:`kn_utils.neurons.refine.refinement_report`.
        target: the mean number of neurons that was aimed at.
    """
    figure, axes = plt.subplots(figsize=(6.5, 1.1 + 0.24 * len(report)))
    y = np.arange(len(report))[::-1]
    axes.axvspan(*target, color="0.9", zorder=0, label=f"target, {target[0]} to {target[1]}")
    for settled, face, label in ((True, "#12335c", "settled"), (False, "white", "did not settle")):
        part = (report["settled"] == settled).to_numpy()
        axes.scatter(
            report["mean"][part], y[part], s=36, color=face, edgecolor="#12335c", label=label, zorder=2
        )
    for place, row in zip(y, report.itertuples(), strict=True):
        axes.annotate(
            f"{row.share:.2f}",
            (row.mean, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(y, [relation_title(name) for name in report["relation"]])
    axes.set(xlabel="mean neurons per fact (number beside: the share taken)", ylabel="relation")
    axes.set_xlim(0, max(target[1], report["mean"].max()) * 1.12)
    axes.set_title("Knowledge neurons per fact, and where the share settled")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
