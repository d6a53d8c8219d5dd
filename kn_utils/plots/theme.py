"""The theme: colours and markers of each kind of neuron, saving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..base import StudyError

#: kind of neuron -> (colour, marker, label); of different lightness, and of different form
KINDS = {
    "knowledge": ("#12335c", "o", "knowledge neurons"),
    "activation": ("#d1731f", "s", "activation baseline"),
    "random": ("#9b9b9b", "D", "random neurons"),
    "same-layer": ("#5f5f5f", "v", "random neurons of the same layers"),
    "fine-tuning": ("#7fb3d5", "^", "the same slots, fine-tuned"),
    "fine-tuning, same-layer": ("black", "x", "random slots of the same layers, fine-tuned"),
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def use_theme() -> None:
    """Set once per notebook: paper-sized, white, colour-blind safe."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "figure.dpi": 90,
            "savefig.dpi": 160,
            "axes.titlelocation": "left",
        }
    )


def save(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write ``<folder>/<name>.png`` and ``.pdf``.

    No date is written, so that the same picture is the same file.
    """
    path = Path(folder) / f"{name}.png"
    nameless = {"CreationDate": None, "Creator": None, "Producer": None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})
        figure.savefig(path.with_suffix(".pdf"), metadata=nameless)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}.") from error
    return path


def nothing_to_show(title: str) -> Figure:
    """A picture that says that it has nothing to show, where too few facts were asked."""
    figure, axes = plt.subplots(figsize=(8.6, 1.6))
    axes.text(0.5, 0.5, "nothing to show: too few facts were asked", ha="center", va="center", color="0.3")
    axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def written_cells(fmt: str, *, size: float = 8) -> dict[str, Any]:
    """Options of ``seaborn.heatmap``: shades of grey, and in each cell its number instead of a scale beside.

    Args:
        fmt: how numbers are written.
        size: of their letters.
    """
    kept = {"cmap": "Greys", "cbar": False, "linewidths": 0.5}
    return kept | {"annot": True, "fmt": fmt, "annot_kws": {"size": size}}


def interval_lengths(table: pd.DataFrame) -> np.ndarray:
    """How far ``low`` and ``high`` are from ``value``, (2, row); 0 where they are missing."""
    lengths = np.stack([table["value"] - table["low"], table["high"] - table["value"]])
    return np.nan_to_num(np.abs(lengths))


def points(
    axes: Axes,
    x: np.ndarray,
    table: pd.DataFrame,
    kind: str,
    *,
    shift: float = 0.0,
    along: str = "y",
    scale: float = 1,
    styles: Mapping[str, tuple[str, str, str]] = KINDS,
) -> None:
    """Values with their intervals, of one kind of neuron.

    Args:
        axes: where they are drawn.
        x: their places.
        table: ``value, low, high``, a row per place.
        kind: a key of ``styles``.
        shift: is added to the places.
        along: ``"x"`` where values grow to the right and places stand above each other.
        scale: what values are multiplied by.
        styles: kind -> (colour, marker, label).
    """
    colour, marker, label = styles[kind]
    middle, low, high = (scale * table[name].to_numpy(float) for name in ("value", "low", "high"))
    error = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
    style: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 4.5, "elinewidth": 1, "capsize": 0}
    if along == "x":
        axes.errorbar(middle, x + shift, xerr=error, label=label, **style)
    else:
        axes.errorbar(x + shift, middle, yerr=error, label=label, **style)
