"""How active neurons are at the blanks of sentences: means, contrasts, extremes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..base import StudyError
from ..statistics.differences import difference_test
from ..statistics.intervals import column_means, interval

RELATIONS, FACTS = "mean of relations", "mean of facts"


class ActivationsError(StudyError):
    """A comparison that is none."""


def mean_activation(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The paper's Table 4: mean activation per kind of neurons, kind of sentences and relation.

    First a neuron's mean over a fact's sentences, then the mean over all (fact, neuron) of a relation, then
    over relations. A last row takes every fact alike instead.

    Returns:
        ``neurons, sentences, relation, value, low, high, n``; n facts; intervals from resampling facts
        (within their relation).
    """
    each = table.groupby(["neurons", "sentences", "fact", "relation", "layer", "neuron"], sort=False)[
        "activation"
    ].mean()
    facts = (
        each.groupby(level=["neurons", "sentences", "fact", "relation"], sort=False)
        .agg(["mean", "size"])
        .reset_index()
    )
    columns = ["neurons", "sentences", "relation", "value", "low", "high", "n"]
    parts = [pd.DataFrame(columns=columns)] if facts.empty else []
    for (kind, sentences), group in facts.groupby(["neurons", "sentences"], sort=False):
        values, weights = (
            group.pivot(index="fact", columns="relation", values=name) for name in ("mean", "size")
        )
        order = list(dict.fromkeys(group["relation"]))
        relation = group.set_index("fact")["relation"]
        found = column_means(
            values[order], relation, weights=weights[order].fillna(0), mean=RELATIONS, seed=seed
        )
        found.loc[len(found)] = {"column": FACTS, **interval(group["mean"], seed=seed)}
        parts.append(found.rename(columns={"column": "relation"}).assign(neurons=kind, sentences=sentences))
    return pd.concat(parts, ignore_index=True)[columns]


def contrasts(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, of: str = "sentences", seed: int = 0
) -> pd.DataFrame:
    """Is a fact's mean activation higher in one kind of ``sentences`` than in another (or of one kind of
    ``neurons``)?

    Returns:
        ``neurons`` (or ``sentences``), ``contrast, value, low, high, n, p``: mean over the facts that have
        both of the difference, and the p of its sign.
    """
    if of not in ("sentences", "neurons"):
        raise ActivationsError(f"of={of!r}; it is 'sentences' or 'neurons'.")
    other = "neurons" if of == "sentences" else "sentences"
    each = table.groupby([other, "fact", of, "layer", "neuron"], sort=False)["activation"].mean()
    facts = each.groupby(level=[other, "fact", of], sort=False).mean().unstack(of)
    rows = []
    for kind in facts.index.unique(other):
        group = facts.loc[kind]
        for first, second in pairs:
            if first in group and second in group:
                both = group[[first, second]].dropna()
                p = difference_test(both[first], both[second], seed=seed) if len(both) > 1 else np.nan
                found = interval(both[first] - both[second], seed=seed)
                rows.append({other: kind, "contrast": f"{first} - {second}", **found, "p": p})
    return pd.DataFrame(rows, columns=[other, "contrast", "value", "low", "high", "n", "p"])
