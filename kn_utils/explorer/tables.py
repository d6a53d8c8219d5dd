"""Tables as a browser shows them: numbers short, bars behind probabilities, what is common greyed."""

from __future__ import annotations

import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

BAR = "#bccfe4"
STYLES: list[dict[str, Any]] = [
    {"selector": "", "props": "border-collapse: collapse; font-size: 13px; margin: 2px 0 10px 0"},
    {
        "selector": "th, td, caption",
        "props": "text-align: left; line-height: 1.35; padding: 2px 10px 2px 4px",
    },
    {"selector": "th, caption", "props": "font-weight: 600; white-space: nowrap"},
    {"selector": "caption", "props": "caption-side: top"},
]


def as_html(
    table: pd.DataFrame,
    caption: str = "",
    *,
    digits: Mapping[str, int | str] | None = None,
    bars: Sequence[str] = (),
    bold: np.ndarray | None = None,
    grey: np.ndarray | None = None,
) -> str:
    """A table as HTML; whatever it holds is shown as text.

    Args:
        table: its columns' names are the heads.
        caption: what stands above it.
        digits: column -> digits behind the point, or a format such as ``.2g``; others as they are.
        bars: columns of probabilities, behind which bars of that length stand.
        bold, grey: rows that are so.
    """
    # Its name on the page is of what is in it: the same table is the same text.
    content = repr([table.to_dict("list"), caption, bold, grey])
    name = hashlib.sha256(content.encode()).hexdigest()[:10]
    style = table.style.set_uuid(name).hide(axis="index").set_table_styles(STYLES)
    if caption:
        style = style.set_caption(html.escape(caption))
    formats = {name: f".{how}f" if isinstance(how, int) else how for name, how in (digits or {}).items()}
    told = {name: f"{{:{how}}}" for name, how in formats.items() if name in table}
    style = style.format(told, escape="html", na_rep="")
    style = style.format_index(escape="html", axis=1)
    for name in bars:
        if len(table):
            style = style.bar(subset=[name], color=BAR, vmin=0, vmax=1, height=70)
    for rows, look in ((bold, "font-weight: 700"), (grey, "color: #9b9b9b")):
        if rows is not None and len(table):
            marks = np.where(np.asarray(rows, bool)[:, None], look, "").repeat(table.shape[1], axis=1)
            style = style.apply(lambda _, marks=marks: marks, axis=None)
    return style.to_html()


def as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG; it is closed."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=96, metadata={"Software": None})
    plt.close(figure)
    return file.getvalue()


def line(text: str, kind: str = "note") -> str:
    """One line of text for a person: a ``note``, or an ``error``."""
    colour = {"note": "#444444", "error": "#a40000"}[kind]
    said = html.escape(" ".join(text.split()))
    return f'<div class="kn-{kind}" style="color: {colour}; line-height: 1.4">{said}</div>'


def neuron_name(layer: int, neuron: int) -> str:
    """``layer 5, neuron 401``."""
    return f"layer {layer}, neuron {neuron}"
