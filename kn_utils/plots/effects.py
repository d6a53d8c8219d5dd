"""Pictures of silencing and doubling."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .theme import KINDS, points


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
            points(axes, y, part, kind, shift=0.2 * ((len(kinds) - 1) / 2 - i), along="x", scale=100)
        axes.set(xlabel="change of P(right answer), %", title=f"neurons {name}")
        axes.set_yticks(y, relations)
    both[0].set_ylabel("relation")
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
