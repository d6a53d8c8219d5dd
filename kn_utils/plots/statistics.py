"""Pictures of how many neurons there are, where, and how much is shared."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .theme import MARKERS


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
