"""The explorer's pictures: where an answer's neurons lie, and what it answers before and after."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .theme import KINDS

#: From here on lie scripts that matplotlib's own font lacks.
BEYOND = 0x2E80
CLOSE = 8  # layers; with more of them numbers stand above their points


def drawable(text: str, instead: str) -> str:
    """The text, or another one where a picture could not show it (Chinese, Japanese, Korean)."""
    return instead if any(ord(letter) >= BEYOND for letter in text) else text


def neurons_in_layers(
    cloud: pd.DataFrame, neurons: pd.DataFrame, common: np.ndarray, n_layers: int, title: str
) -> Figure:
    """Scores against layers: all that are stored in grey, the strongest by name.

    Args:
        cloud: ``layer, neuron, score``.
        neurons: the strongest, ``layer, neuron, score``.
        common: which of these many other facts have too; they are hollow.
        n_layers: of the model.
        title: what is asked.
    """
    figure, axes = plt.subplots(figsize=(6.6, 3.3))
    grey, dark = KINDS["random"][0], KINDS["knowledge"][0]
    axes.scatter(cloud["layer"], cloud["score"], s=9, color=grey, label="other neurons", zorder=1)
    for hollow, label in ((False, "strongest"), (True, "strongest, shared by many facts")):
        part = neurons[np.asarray(common, bool) == hollow]
        if len(part):
            face = "white" if hollow else dark
            axes.scatter(
                part["layer"], part["score"], s=46, color=face, edgecolor=dark, label=label, zorder=2
            )
    _name(axes, neurons, n_layers)
    axes.set(xlabel="layer (0 = lowest)", ylabel="score (part of P)", xlim=(-0.5, n_layers - 0.3))
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    top = max(cloud["score"].max(), neurons["score"].max()) if len(neurons) else 1
    axes.set_ylim(0, 1.15 * top if top > 0 else 1)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _name(axes: Axes, neurons: pd.DataFrame, n_layers: int) -> None:
    """Write each neuron's number beside it, or above it where layers stand close."""
    gap, last = 0.075 * (neurons["score"].max() if len(neurons) else 1), dict[int, float]()
    close = n_layers > CLOSE
    for row in neurons.sort_values("score", ascending=False).itertuples():
        before = last.get(row.layer, np.inf)
        height = float(row.score) if close else min(float(row.score), before - gap)
        last[row.layer] = height
        beside: dict[str, Any] = {"xytext": (6, 0), "va": "center"}
        if close:
            below = before - height < 2 * gap
            beside = {"xytext": (0, -5 if below else 5), "va": "top" if below else "bottom", "ha": "center"}
        axes.annotate(f"{row.neuron}", (row.layer, height), textcoords="offset points", fontsize=8, **beside)
