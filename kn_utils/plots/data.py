"""Pictures of data sets, tokenizers and recall."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..data.relations import with_names
from .theme import MARKERS, interval_lengths, written_cells


def recall(answered: pd.DataFrame, sure: pd.DataFrame) -> Figure:
    """Recall at 1 and mean probability per language, by what the model was taught where that is known.

    Args:
        answered, sure: ``group, language, value, low, high`` of recall and of probability
            (:func:`kn_utils.statistics.changes.mean_table`).
    """
    figure, both = plt.subplots(1, 2, figsize=(10, 3.4), sharex=True)
    groups = [
        name for name in ("all", "this", "another", "never", "all facts") if name in set(answered["group"])
    ]
    colours = sns.color_palette("cividis", len(groups))
    languages = list(dict.fromkeys(answered["language"]))
    for axes, table in zip(both, (answered, sure), strict=True):
        for i, group in enumerate(groups):
            part = table[table["group"] == group].set_index("language").reindex(languages)
            error = interval_lengths(part)
            x = np.arange(len(languages)) + 0.14 * (i - (len(groups) - 1) / 2)
            style = {"fmt": MARKERS[i], "color": colours[i], "markersize": 5, "elinewidth": 1}
            axes.errorbar(x, part["value"], yerr=error, label=group, **style)
        axes.set(xlabel="language", ylim=(-0.02, 1.02))
        axes.set_xticks(range(len(languages)), languages)
        axes.grid(axis="x", visible=False)
    title = "What the model answers" + (", by what it was taught" if len(groups) > 1 else "")
    both[0].set(title=title, ylabel="recall at 1 (share of prompts)")
    both[1].set(title="How sure it is (95 % intervals over facts)", ylabel="mean P(right answer)")
    if len(groups) == 1:
        return figure
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(groups), frameon=False, title="taught in"
    )
    return figure


def coverage(table: pd.DataFrame) -> Figure:
    """Facts and wordings per relation and language, as two heat maps with their counts.

    Args:
        table: :func:`kn_utils.data.facts.coverage`.
    """
    grid = with_names(table).set_index(["relation", "language"])[["facts", "wordings"]].unstack(sort=False)
    relations, languages = len(grid), table["language"].nunique()
    figure, panels = plt.subplots(
        1, 2, figsize=(max(5.5, 2 + 0.75 * languages), 1.6 + 0.19 * relations), sharey=True
    )
    for axes, what in zip(panels, ("facts", "wordings"), strict=True):
        limits = {"vmin": 0, "vmax": 1.6 * grid[what].to_numpy().max()}
        sns.heatmap(grid[what], ax=axes, **limits, **written_cells("d", size=7))
        axes.set(title=f"number of {what}", xlabel="language", ylabel="relation" if what == "facts" else "")
        axes.tick_params(rotation=0, labelsize=8)
    figure.suptitle("What the data set holds, per relation and language")
    return figure


def answer_pieces(shares: pd.DataFrame, title: str) -> Figure:
    """Answers by their number of pieces, stacked: a bar per language, a panel per data set.

    Args:
        shares: index (dataset, language); columns ``pieces_1, pieces_2, pieces_3, unwritable`` (shares of
            prompts).
    """
    kinds = [
        ("pieces_1", "one piece", "#12335c", ""),
        ("pieces_2", "two", "#d1731f", "//"),
        ("pieces_3", "three or more", "#cfcfcf", ""),
        ("unwritable", "cannot be written", "black", ""),
    ]
    datasets = list(dict.fromkeys(shares.index.get_level_values(0)))
    figure, many = plt.subplots(
        1, len(datasets), figsize=(2.9 * len(datasets), 3.2), sharey=True, squeeze=False
    )
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
