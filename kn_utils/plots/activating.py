"""Pictures of what switches neurons on."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.relations import title as relation_title
from .theme import KINDS, points

#: Kinds of sentences -> colour, marker, label.
SENTENCES = {
    "both": ("#12335c", "o", "subject and object, object hidden"),
    "other word": ("#7fb3d5", "^", "the same sentences, another word hidden"),
    "head": ("#d1731f", "s", "subject only, a random word hidden"),
    "random": ("#9b9b9b", "D", "about other facts, a random word hidden"),
}


def activations(table: pd.DataFrame, title: str) -> Figure:
    """Mean activation of knowledge neurons at the blank, per relation and kind of sentences.

    Args:
        table: ``sentences, relation, value, low, high``.
    """
    relations = list(dict.fromkeys(table["relation"]))
    figure, axes = _rows(table.rename(columns={"relation": "row"}), relations, title)
    means = sum(name.startswith("mean") for name in relations)
    if 0 < means < len(relations):
        axes.axhline(means - 0.5, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_ylabel("relation")
    return figure


def activation_kinds(table: pd.DataFrame, title: str) -> Figure:
    """Mean activation at the blank, per kind of neurons and kind of sentences.

    Args:
        table: ``neurons, sentences, value, low, high``.
    """
    named = {kind: label for kind, (_, _, label) in KINDS.items()}
    table = table.assign(row=table["neurons"].map(lambda kind: named.get(kind, f"{kind} knowledge neurons")))
    return _rows(table, list(dict.fromkeys(table["row"])), title)[0]


def _rows(table: pd.DataFrame, rows: list[str], title: str) -> tuple[Figure, Axes]:
    """A place per ``row``, from above; the kinds of sentences beside each other in it."""
    kinds = [kind for kind in SENTENCES if kind in set(table["sentences"])]
    figure, axes = plt.subplots(figsize=(8.5, 1.6 + 0.42 * len(rows)))
    axes.axvline(0, color="0.4", linewidth=0.8)
    for i, kind in enumerate(kinds):
        part = table[table["sentences"] == kind].set_index("row").reindex(rows[::-1])
        shift = 0.17 * ((len(kinds) - 1) / 2 - i)
        points(axes, np.arange(len(rows)), part, kind, shift=shift, along="x", styles=SENTENCES)
    axes.set_yticks(range(len(rows)), [relation_title(row) for row in rows[::-1]])
    axes.set(xlabel="mean activation at the blank (after the non-linearity)", ylim=(-0.6, len(rows) - 0.4))
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, axes
