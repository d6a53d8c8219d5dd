"""Pictures: the theme, one function per figure, saving. Every function takes a table and returns a matplotlib figure.

Readable without colour: each kind of neuron has its own lightness and its own marker.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: kind of neuron -> (colour, marker, label); dark, middle, light
KINDS = {
    "knowledge": ("#12335c", "o", "knowledge neurons"),
    "activation": ("#d1731f", "s", "activation baseline"),
    "random": ("#9b9b9b", "D", "random neurons"),
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def use_theme() -> None:
    """Set once per notebook: paper-sized, white, colour-blind safe."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {"figure.constrained_layout.use": True, "figure.dpi": 90, "savefig.dpi": 160, "axes.titlelocation": "left"}
    )


def save(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write ``<folder>/<name>.png`` without a date inside, so that the same picture is the same file."""
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _points(
    axes: Axes, x: np.ndarray, table: pd.DataFrame, kind: str, *, shift: float = 0.0, along: str = "y", scale: float = 1
) -> None:
    colour, marker, label = KINDS[kind]
    middle, low, high = (scale * table[name].to_numpy(float) for name in ("value", "low", "high"))
    error = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
    place = (middle, x + shift) if along == "x" else (x + shift, middle)
    bars = {"xerr": error} if along == "x" else {"yerr": error}
    axes.errorbar(*place, **bars, fmt=marker, color=colour, label=label, markersize=4.5, elinewidth=1, capsize=0)


def recall(answered: pd.DataFrame, sure: pd.DataFrame) -> Figure:
    """Recall at 1 and mean probability per language, by what the model was taught.

    Args:
        answered, sure: ``group, language, value, low, high`` of recall and of probability (:func:`kn_utils.mean_table`).
    """
    figure, both = plt.subplots(1, 2, figsize=(10, 3.4), sharex=True)
    groups = [name for name in ("all", "this", "another", "never", "all facts") if name in set(answered["group"])]
    colours = sns.color_palette("cividis", len(groups))
    languages = list(dict.fromkeys(answered["language"]))
    for axes, table in zip(both, (answered, sure), strict=True):
        for i, group in enumerate(groups):
            part = table[table["group"] == group].set_index("language").reindex(languages)
            error = np.nan_to_num(np.abs(np.stack([part["value"] - part["low"], part["high"] - part["value"]])))
            x = np.arange(len(languages)) + 0.14 * (i - (len(groups) - 1) / 2)
            axes.errorbar(
                x, part["value"], yerr=error, fmt=MARKERS[i], color=colours[i], markersize=5, elinewidth=1, label=group
            )
        axes.set(xlabel="language", ylim=(-0.02, 1.02))
        axes.set_xticks(range(len(languages)), languages)
        axes.grid(axis="x", visible=False)
    both[0].set(title="What the model answers, by what it was taught", ylabel="recall at 1 (share of prompts)")
    both[1].set(title="How sure it is (95 % intervals over facts)", ylabel="mean P(right answer)")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(groups), frameon=False, title="taught in")
    return figure


def coverage(table: pd.DataFrame) -> Figure:
    """Facts and wordings per relation and language (:func:`kn_utils.coverage`), as two heat maps with their counts."""
    grid = table.set_index(["relation", "language"])[["facts", "wordings"]].unstack(sort=False)
    relations, languages = len(grid), table["language"].nunique()
    figure, panels = plt.subplots(1, 2, figsize=(max(5.5, 2 + 0.75 * languages), 1.6 + 0.19 * relations), sharey=True)
    for axes, what in zip(panels, ("facts", "wordings"), strict=True):
        limits = {"vmin": 0, "vmax": 1.6 * grid[what].to_numpy().max()}
        style = {"annot": True, "fmt": "d", "cmap": "Greys", "cbar": False, "annot_kws": {"size": 7}, "linewidths": 0.5}
        sns.heatmap(grid[what], ax=axes, **limits, **style)
        axes.set(title=f"number of {what}", xlabel="language", ylabel="relation" if what == "facts" else "")
        axes.tick_params(rotation=0, labelsize=8)
    figure.suptitle("What the data set holds, per relation and language")
    return figure


def convergence(table: pd.DataFrame) -> Figure:
    """Error of quadrature rules against their number of points (:func:`kn_utils.convergence`): median and middle 80 %."""
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    for (rule, part), marker, style in zip(
        table.groupby("rule", sort=False), MARKERS, ("-", "--", "-.", ":"), strict=False
    ):
        spread = part.groupby("steps")["error"].quantile([0.1, 0.5, 0.9]).unstack().clip(lower=1e-9)
        axes.plot(spread.index, spread[0.5], marker=marker, linestyle=style, label=rule, markersize=5)
        axes.fill_between(spread.index, spread[0.1], spread[0.9], alpha=0.15)
    axes.set(xscale="log", yscale="log", xlabel="points per layer (cost)", ylabel="largest error / largest score")
    ticks = sorted(table["steps"].unique())
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.xaxis.minorticks_off()
    axes.set_title("Error of quadrature rules against their cost (median, middle 80 % of prompts)")
    axes.legend(frameon=False, title="rule")
    return figure


def benchmark(table: pd.DataFrame) -> Figure:
    """Seconds per prompt of each method (:func:`kn_utils.benchmark.measured`), one panel per model; beside them, times faster."""
    models = list(table["model"].unique())
    figure, panels = plt.subplots(1, len(models), figsize=(3.2 + 3.2 * len(models), 2.9), sharey=True, squeeze=False)
    names = list(table["method"].unique())
    methods = sorted(names, key=lambda name: (name.startswith("kernel"), names.index(name)))[::-1]
    for axes, model in zip(panels[0], models, strict=True):
        part = table[table["model"] == model].set_index("method").reindex(methods)
        for place, (method, row) in enumerate(part.iterrows()):
            if pd.notna(row["seconds"]):
                colour, marker, _ = KINDS["knowledge" if method.startswith("kernel") else "random"]
                axes.plot(row["seconds"], place, marker=marker, color=colour, linestyle="none", markersize=7)
                axes.annotate(
                    f"{row['ratio']:.2g} x", (row["seconds"], place), (8, -3), textcoords="offset points", fontsize=8
                )
        axes.set(xscale="log", xlabel="seconds per prompt (log)", title=f"{model}, {part['device'].dropna().iloc[0]}")
        axes.set_xlim(part["seconds"].min() / 2, part["seconds"].max() * 5)
    panels[0][0].set_yticks(range(len(methods)), methods)
    panels[0][0].set_ylim(-0.6, len(methods) - 0.4)
    figure.suptitle("Attribution of one prompt, all layers: the published procedure (diamonds) and the kernel (discs)")
    return figure


def attribution(scores: np.ndarray, title: str) -> Figure:
    """The scores of one prompt, shape (layer, neuron): each layer's twelve largest, as a heat map."""
    top = -np.sort(-np.asarray(scores), axis=1)[:, :12]
    figure, axes = plt.subplots(figsize=(7, 2.8))
    sns.heatmap(top, cmap="cividis", ax=axes, cbar_kws={"label": "score (part of P)"}, vmin=0)
    axes.set(xlabel="neuron, by rank within its layer", ylabel="layer (0 = lowest)", title=title)
    axes.set_xticklabels(range(1, 13))
    axes.tick_params(axis="y", rotation=0)
    return figure


def settled_shares(report: pd.DataFrame, target: tuple[float, float] = (2, 5)) -> Figure:
    """Neurons per fact and the share that gave them, a row per relation (:func:`kn_utils.refinement_report`)."""
    figure, axes = plt.subplots(figsize=(6.5, 1.1 + 0.24 * len(report)))
    y = np.arange(len(report))[::-1]
    axes.axvspan(*target, color="0.9", zorder=0, label=f"target, {target[0]} to {target[1]}")
    for settled, face, label in ((True, "#12335c", "settled"), (False, "white", "did not settle")):
        part = (report["settled"] == settled).to_numpy()
        axes.scatter(report["mean"][part], y[part], s=36, color=face, edgecolor="#12335c", label=label, zorder=2)
    for place, row in zip(y, report.itertuples(), strict=True):
        axes.annotate(
            f"{row.share:.2f}", (row.mean, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(y, report["relation"])
    axes.set(xlabel="mean neurons per fact (number beside: the share taken)", ylabel="relation")
    axes.set_xlim(0, max(target[1], report["mean"].max()) * 1.12)
    axes.set_title("Knowledge neurons per fact, and where the share settled")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def layers(histograms: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of knowledge neurons per layer, one panel per entry (label -> :func:`kn_utils.layer_histogram`)."""
    figure, many = plt.subplots(1, len(histograms), figsize=(3.6 * len(histograms) + 1, 3), sharey=True, squeeze=False)
    for axes, (label, table) in zip(many[0], histograms.items(), strict=True):
        error = np.nan_to_num(np.abs(np.stack([table["value"] - table["low"], table["high"] - table["value"]])))
        axes.bar(
            table["layer"],
            100 * table["value"],
            yerr=100 * error,
            color="#7c93b3",
            edgecolor="#12335c",
            ecolor="black",
        )
        axes.set(xlabel="layer (0 = lowest)", title=label)
        axes.set_xticks(table["layer"])
        axes.grid(axis="x", visible=False)
    many[0][0].set_ylabel("knowledge neurons (%)")
    figure.suptitle("In which layers the knowledge neurons lie (95 % intervals over facts)", x=0.01, ha="left")
    return figure


def changes(table: pd.DataFrame, title: str) -> Figure:
    """Change of P(right answer) per relation and kind of neuron, silenced on the left and doubled on the right.

    Args:
        table: ``operation, neurons, relation, value, low, high``; value 0.1 = 10 % higher.
    """
    relations = list(dict.fromkeys(table["relation"]))[::-1]
    figure, both = plt.subplots(1, 2, figsize=(10, 1.2 + 0.3 * len(relations)), sharey=True)
    y = np.arange(len(relations))
    for axes, operation, name in zip(both, ("suppress", "amplify"), ("silenced", "doubled"), strict=True):
        axes.axvline(0, color="0.4", linewidth=0.8)
        kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
        for i, kind in enumerate(kinds):
            part = table[(table["operation"] == operation) & (table["neurons"] == kind)]
            part = part.set_index("relation").reindex(relations)
            _points(axes, y, part, kind, shift=0.2 * ((len(kinds) - 1) / 2 - i), along="x", scale=100)
        axes.set(xlabel="change of P(right answer), %", title=f"neurons {name}")
        axes.set_yticks(y, relations)
    both[0].set_ylabel("relation")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def edit_sweep(table: pd.DataFrame) -> Figure:
    """Success of edits and their cost against l2 (``l2, neurons, measure, value, low, high``), a panel per measure."""
    measures = list(dict.fromkeys(table["measure"]))
    figure, many = plt.subplots(1, len(measures), figsize=(3.1 * len(measures), 3.2), squeeze=False)
    for axes, measure in zip(many[0], measures, strict=True):
        kinds = [kind for kind in KINDS if kind in set(table["neurons"])]
        for i, kind in enumerate(kinds):
            part = table[(table["measure"] == measure) & (table["neurons"] == kind)].sort_values("l2")
            axes.plot(part["l2"], part["value"], color=KINDS[kind][0], linewidth=1)
            _points(axes, part["l2"].to_numpy(float), part, kind, shift=0.2 * i)
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


def sharing(table: pd.DataFrame, printed: pd.DataFrame, title: str) -> Figure:
    """Neurons per fact and shared, a row per relation and a panel per data set; a paper's printed values as crosses.

    Args:
        table: ``dataset, measure, relation, value, low, high``; relation ``all`` is the top row.
        printed: ``dataset, quantity, value``; quantity names a measure.
    """
    shades = dict(zip(table["measure"].unique(), ("#12335c", "#d1731f", "#9b9b9b"), strict=False))
    datasets = list(dict.fromkeys(table["dataset"]))
    figure, many = plt.subplots(1, len(datasets), figsize=(5 * len(datasets), 3.4), squeeze=False)
    for axes, dataset in zip(many[0], datasets, strict=True):
        own = table[table["dataset"] == dataset]
        relations = list(dict.fromkeys(own["relation"]))[::-1]
        for i, (measure, colour) in enumerate(shades.items()):
            part = own[own["measure"] == measure].set_index("relation").reindex(relations)
            y = np.arange(len(relations)) + 0.2 * (1 - i)
            error = np.nan_to_num(np.abs(np.stack([part["value"] - part["low"], part["high"] - part["value"]])))
            axes.errorbar(
                part["value"], y, xerr=error, fmt=MARKERS[i], color=colour, markersize=5, elinewidth=1, label=measure
            )
            said = printed.loc[(printed["dataset"] == dataset) & (printed["quantity"] == measure), "value"]
            axes.plot(
                said,
                [y[-1]] * len(said),
                "x",
                color="black",
                markersize=9,
                label="printed" if i == 2 else None,
                zorder=3,
            )
        axes.set_yticks(range(len(relations)), relations)
        axes.set(title=dataset, xlabel="neurons", xlim=(0, None), ylabel="relation")
        axes.grid(axis="y", visible=False)
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*many[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def answer_pieces(shares: pd.DataFrame, title: str) -> Figure:
    """Answers by their number of pieces, stacked: a bar per language, a panel per data set.

    Args:
        shares: index (dataset, language); columns ``pieces_1, pieces_2, pieces_3, unwritable`` (shares of prompts).
    """
    kinds = [
        ("pieces_1", "one piece", "#12335c", ""), ("pieces_2", "two", "#d1731f", "//"),
        ("pieces_3", "three or more", "#cfcfcf", ""), ("unwritable", "cannot be written", "black", ""),
    ]  # fmt: skip
    datasets = list(dict.fromkeys(shares.index.get_level_values(0)))
    figure, many = plt.subplots(1, len(datasets), figsize=(2.9 * len(datasets), 3.2), sharey=True, squeeze=False)
    for axes, dataset in zip(many[0], datasets, strict=True):
        part = shares.loc[dataset]
        floor = np.zeros(len(part))
        for column, label, colour, hatch in kinds:
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.bar(range(len(part)), part[column], bottom=floor, label=label, **style)
            floor += part[column].to_numpy()
        axes.set_xticks(range(len(part)), part.index)
        axes.set(title=dataset, xlabel="language", ylim=(0, 1))
        axes.grid(axis="x", visible=False)
    many[0][0].set_ylabel("share of prompts")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*many[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
