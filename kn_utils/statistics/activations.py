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

    Args:
        table: :func:`kn_utils.experiments.activating.activations`.
        seed: of the resamples.

    Returns:
        ``neurons, sentences, relation, value, low, high, n``; n facts; intervals from resampling facts
        (within their relation).
    """
    of_fact = ["neurons", "sentences", "fact", "relation"]
    each = table.groupby([*of_fact, "layer", "neuron"], sort=False)["activation"].mean()
    facts = each.groupby(level=of_fact, sort=False).agg(["mean", "size"]).reset_index()
    columns = ["neurons", "sentences", "relation", "value", "low", "high", "n"]
    parts = [pd.DataFrame(columns=columns)] if facts.empty else []
    for (kind, sentences), group in facts.groupby(["neurons", "sentences"], sort=False):
        order = list(dict.fromkeys(group["relation"]))
        values = group.pivot(index="fact", columns="relation", values="mean")[order]
        weights = group.pivot(index="fact", columns="relation", values="size")[order].fillna(0)
        relation = group.set_index("fact")["relation"]
        means = column_means(values, relation, weights=weights, mean=RELATIONS, seed=seed)
        means.loc[len(means)] = {"column": FACTS, **interval(group["mean"], seed=seed)}
        parts.append(means.rename(columns={"column": "relation"}).assign(neurons=kind, sentences=sentences))
    return pd.concat(parts, ignore_index=True)[columns]


def contrasts(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, of: str = "sentences", seed: int = 0
) -> pd.DataFrame:
    """Is a fact's mean activation higher in one kind of sentences (or of neurons) than in another?

    Args:
        table: :func:`kn_utils.experiments.activating.activations`.
        pairs: the kinds to compare, (first, second).
        of: what the kinds are of, ``"sentences"`` or ``"neurons"``.
        seed: of the resamples and permutations.

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
                difference = interval(both[first] - both[second], seed=seed)
                rows.append({other: kind, "contrast": f"{first} - {second}", **difference, "p": p})
    return pd.DataFrame(rows, columns=[other, "contrast", "value", "low", "high", "n", "p"])
