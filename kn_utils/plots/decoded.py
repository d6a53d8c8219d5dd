"""Pictures of decoded answers: recall by the choice of length, and consistency between languages."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .theme import points

#: choice of the number of blanks -> (colour, marker, label)
CHOICES = {
    "mean": ("#12335c", "o", "mean (X-FACTR)"),
    "sum": ("#7fb3d5", "s", "sum"),
    "calibrated": ("#9b9b9b", "D", "calibrated"),
    "prior": ("#d1731f", "^", "prior from other facts' answers"),
    "given": ("black", "x", "length given"),
}


def decoded_recall(recall: pd.DataFrame) -> Figure:
    """Recall per language, a panel per decoding, a series per choice of the number of blanks.

    Args:
        recall: ``decoding, choose, language, value, low, high`` of one measure and subset.
    """
    decodings, languages = (list(dict.fromkeys(recall[name])) for name in ("decoding", "language"))
    width = max(4.5, 1.5 + 2.9 * len(decodings))
    figure, panels = plt.subplots(1, len(decodings), figsize=(width, 3.5), sharey=True, squeeze=False)
    choices = [name for name in CHOICES if name in set(recall["choose"])]
    x = np.arange(len(languages))
    for axes, decoding in zip(panels[0], decodings, strict=True):
        for i, choice in enumerate(choices):
            part = recall[(recall["decoding"] == decoding) & (recall["choose"] == choice)]
            part = part.set_index("language").reindex(languages)
            shift = 0.15 * (i - (len(choices) - 1) / 2)
            points(axes, x, part, choice, shift=shift, scale=100, styles=CHOICES)
        axes.set(title=decoding, xlabel="language", ylim=(-3, 103))
        axes.set_xticks(x, languages)
        axes.grid(axis="x", visible=False)
        for place in x[::2]:
            axes.axvspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    panels[0][0].set_ylabel("answers that are right, %")
    figure.suptitle(
        "Decoded answers, by how their length is chosen (95 % intervals over facts)", x=0.01, ha="left"
    )
    if len(choices) > 1:
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(choices), frameon=False)
    return figure


def consistency(ranks: pd.DataFrame, together: pd.DataFrame) -> Figure:
    """RankC and facts known together, a heat map each over pairs of languages.

    Args:
        ranks, together: ``first, second, value`` (:mod:`kn_utils.statistics.consistency`).
    """
    titles = {
        "RankC: do they rank the same answers alike?": ranks,
        "Facts that both get right, of those that one does": together,
    }
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.9))
    for axes, (title, table) in zip(panels, titles.items(), strict=True):
        languages = list(dict.fromkeys([*table["first"], *table["second"]]))
        grid = pd.DataFrame(np.nan, index=languages, columns=languages)
        for row in table.itertuples():
            grid.loc[row.first, row.second] = grid.loc[row.second, row.first] = row.value
        style = {"annot": True, "fmt": ".2f", "cmap": "Blues", "vmin": 0, "vmax": 1, "linewidths": 0.5}
        sns.heatmap(grid, ax=axes, square=True, cbar=False, annot_kws={"size": 8}, **style)
        axes.set(title=title, xlabel="", ylabel="")
        axes.tick_params(rotation=0)
        axes.grid(False)
    return figure
