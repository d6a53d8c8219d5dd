"""How many neurons facts have, and in which layers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .intervals import resample, with_percentiles


def facts_of(neurons: pd.DataFrame) -> pd.Series:
    """fact -> relation for every fact asked about (from ``refine``), else for those that have a neuron."""
    known = neurons.attrs.get("facts")
    return (
        pd.Series(known, dtype=object)
        if known
        else neurons.drop_duplicates("fact").set_index("fact")["relation"]
    )


def counts_per_fact(neurons: pd.DataFrame) -> pd.DataFrame:
    """``fact, relation, neurons``: how many each fact has, facts without any included."""
    facts = facts_of(neurons)
    count = neurons.groupby("fact").size()
    return pd.DataFrame(
        {
            "fact": facts.index,
            "relation": facts.to_numpy(),
            "neurons": count.reindex(facts.index, fill_value=0).to_numpy(),
        }
    )


def layer_histogram(neurons: pd.DataFrame, n_layers: int | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Where the knowledge neurons lie: ``layer, value, low, high, n``; value = share of all of them, n = how
    many in the layer."""
    n_layers = n_layers or int(neurons["layer"].max()) + 1
    facts = facts_of(neurons)
    per_fact = pd.crosstab(neurons["fact"], neurons["layer"]).reindex(
        index=facts.index, columns=range(n_layers), fill_value=0
    )
    table = per_fact.to_numpy(float)
    sums = resample(len(table), seed) @ table
    total = sums.sum(1, keepdims=True)
    drawn = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
    value = table.sum(0) / max(table.sum(), 1)
    rows = [
        {
            "layer": layer,
            **with_percentiles(value[layer], drawn[:, layer], len(table)),
            "n": int(table[:, layer].sum()),
        }
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows)
