"""Pictures of how many neurons there are, where, and how much is shared."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..data.relations import title as relation_title
from ..statistics.languages import ALL_PAIRS
from .theme import MARKERS, interval_lengths


def layers(
    table: pd.DataFrame,
    titles: Mapping[str, str] | None = None,
    *,
    by: str = "bag",
    columns: int | None = None,
) -> Figure:
    """Share of knowledge neurons per layer, one panel per bag.

    Args:
        table: ``<by>, layer, value, low, high`` (:func:`kn_utils.statistics.counts.layer_histograms`).
        titles: bag -> title of its panel, those to draw; default: all of them, by their names.
        by: the column that names the bag.
        columns: panels beside each other; default: all of them.
    """
    parts = dict(list(table.groupby(by, sort=False)))
    histograms = {
        title: parts[bag] for bag, title in (titles or dict(zip(parts, parts, strict=True))).items()
    }
    across = min(columns or len(histograms), len(histograms))
    down = -(-len(histograms) // across)
    size = (3.6 * across + 1, 3) if down == 1 else (2.6 * across + 1, 2 * down + 0.6)
    figure, grid = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes, (label, part) in zip(grid.flat, histograms.items(), strict=False):
        style = {"color": "#7c93b3", "edgecolor": "#12335c", "ecolor": "black"}
        axes.bar(part["layer"], 100 * part["value"], yerr=100 * interval_lengths(part), **style)
        axes.set(title=label)
        axes.set_xticks(part["layer"])
        axes.grid(axis="x", visible=False)
    for axes in list(grid.flat)[len(histograms) :]:
        axes.set_visible(False)
    for i in range(across):  # the lowest panel that is there
        lowest = [axes for axes in grid[:, i] if axes.get_visible()][-1]
        lowest.set_xlabel("layer (0 = lowest)")
        lowest.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("knowledge neurons (%)")
    figure.suptitle(
        "In which layers the knowledge neurons lie (95 % intervals over facts)", x=0.01, ha="left"
    )
    return figure


def between_languages(table: pd.DataFrame) -> Figure:
    """Neurons shared by two languages, a panel each: same fact, another of its relation, by chance.

    Args:
        table: of :func:`kn_utils.statistics.languages.shared_between_languages`. The diagonal has no shade:
            neurons per fact, and what other facts share within a language.
    """
    names = list(dict.fromkeys(table.loc[table["first"] == table["second"], "first"]))
    names = [name for name in names if name != ALL_PAIRS]
    pairs = table[table["first"].isin(names) & table["second"].isin(names)]
    panels = {"value": "the same fact", "other_fact": "another fact of its relation", "chance": "by chance"}
    matrices = {column: _symmetric(pairs, column, names) for column in panels}
    apart = ~np.eye(len(names), dtype=bool)
    top = max([1e-9, *(np.nanmax(m[apart], initial=0) for m in matrices.values())])
    side = 1.6 + 0.42 * len(names)
    figure, many = plt.subplots(1, 3, figsize=(2.8 * side, side), sharey=True)
    for axes, (column, title) in zip(many, panels.items(), strict=True):
        shade = np.where(apart, matrices[column], np.nan)
        numbers(axes, matrices[column], shade=shade, limits=(0, top), digits=2 if column != "chance" else 3)
        axes.set_xticks(range(len(names)), names)
        axes.set(title=title, xlabel="language")
    many[0].set_yticks(range(len(names)), names)
    many[0].set_ylabel("language")
    figure.suptitle(
        "Knowledge neurons shared by two languages, mean number (white diagonal: within one language)",
        x=0.01,
        ha="left",
    )
    return figure


def settings(table: pd.DataFrame, threshold: float, share: float) -> Figure:
    """Neurons against threshold (down) and share (across), a panel per measure.

    Args:
        table: :func:`kn_utils.statistics.sharing.settings_grid`.
        threshold, share: where the study starts; a frame marks it.
    """
    measures = list(dict.fromkeys(table["measure"]))
    thresholds, shares = (sorted(table[name].unique()) for name in ("threshold", "share"))
    size = (1 + len(measures) * (1.2 + 0.62 * len(shares)), 1.5 + 0.42 * len(thresholds))
    figure, many = plt.subplots(1, len(measures), figsize=size, sharey=True, squeeze=False)
    for axes, measure in zip(many[0], measures, strict=True):
        part = table[table["measure"] == measure].pivot(index="threshold", columns="share", values="value")
        values = part.loc[thresholds, shares].to_numpy(float)
        numbers(axes, values, shade=np.sqrt(values))
        axes.set_xticks(range(len(shares)), [f"{value:g}" for value in shares])
        axes.set(title=measure, xlabel="share of a bag's prompts, at least")
        if threshold in thresholds and share in shares:
            corner = (shares.index(share) - 0.5, thresholds.index(threshold) - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d1731f", linewidth=2.5))
    many[0][0].set_yticks(range(len(thresholds)), [f"{value:g}" for value in thresholds])
    many[0][0].set_ylabel("threshold (of the maximum)")
    figure.suptitle("Neurons against threshold and share (framed: where the study starts)", x=0.01, ha="left")
    return figure


def numbers(
    axes: Axes,
    values: np.ndarray,
    *,
    shade: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    digits: int = 2,
) -> None:
    """A grid of numbers on grey cells, darker where ``shade`` is larger.

    Cells without a shade are white, cells without a value empty.
    """
    shade = values if shade is None else shade
    low, high = limits or (0, max(np.nanmax(shade, initial=0), 1e-9))
    axes.imshow(shade, cmap="Greys", vmin=low, vmax=1.25 * high, aspect="auto")  # never quite black
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = np.isfinite(shade[y, x]) and shade[y, x] > 0.7 * high
            colour, number = "white" if dark else "black", f"{value:.{digits}f}"
            axes.text(x, y, number, ha="center", va="center", color=colour, fontsize=8)
    axes.grid(visible=False)


def _symmetric(pairs: pd.DataFrame, column: str, names: list[str]) -> np.ndarray:
    """A column of unordered pairs as a full square."""
    square = pairs.pivot(index="first", columns="second", values=column)
    half = square.reindex(index=names, columns=names).to_numpy(float)
    return np.where(np.isnan(half), half.T, half)


def sharing(table: pd.DataFrame, printed: pd.DataFrame, title: str) -> Figure:
    """Neurons per fact and shared, a row per relation and a panel per data set.

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
            style = {"fmt": MARKERS[i], "color": colour, "markersize": 5, "elinewidth": 1}
            axes.errorbar(part["value"], y, xerr=interval_lengths(part), label=measure, **style)
            said = printed.loc[(printed["dataset"] == dataset) & (printed["quantity"] == measure), "value"]
            style = {"color": "black", "markersize": 9, "zorder": 3, "label": "printed" if i == 2 else None}
            axes.plot(said, [y[-1]] * len(said), "x", **style)
        axes.set_yticks(range(len(relations)), [relation_title(name) for name in relations])
        axes.set(title=dataset, xlabel="neurons", xlim=(0, None), ylabel="relation")
        axes.grid(axis="y", visible=False)
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*many[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
