"""How many neurons facts have, and in which layers.

Facts without neurons have no row in a table of neurons, so every count and mean takes ``bags`` beside it: the
table of all facts asked about (:func:`kn_utils.neurons.refine.refine_bags`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..neurons.refine import Refined, facts_of
from .intervals import resample, with_percentiles


def counts_per_fact(neurons: pd.DataFrame, bags: pd.DataFrame) -> pd.DataFrame:
    """``fact, relation, neurons``: how many each fact of ``bags`` has, facts without any included."""
    facts = facts_of(neurons, bags)
    count = neurons.groupby("fact").size()
    return pd.DataFrame(
        {
            "fact": facts.index,
            "relation": facts.to_numpy(),
            "neurons": count.reindex(facts.index, fill_value=0).to_numpy(),
        }
    )


def counts_of_bags(found: Mapping[str, Refined], *, name: str = "bag") -> pd.DataFrame:
    """:func:`counts_per_fact` of several refinements, one below the other.

    Args:
        found: neurons and bags by name.
        name: what that name is called in the table.

    Returns:
        ``<name>, fact, relation, neurons``.
    """
    parts = [counts_per_fact(one.neurons, one.bags).assign(**{name: key}) for key, one in found.items()]
    return pd.concat(parts, ignore_index=True)[[name, "fact", "relation", "neurons"]]


def counts_of_groups(found: Mapping[str, Refined], groups: pd.DataFrame) -> pd.DataFrame:
    """:func:`counts_of_bags` of every language, each fact with its group there.

    Args:
        found: neurons and bags by language.
        groups: ``fact, language, group``; a fact without one is left out.

    Returns:
        ``language, fact, relation, neurons, group``.
    """
    counts = counts_of_bags(found, name="language")
    return counts.merge(groups[["fact", "language", "group"]], on=["fact", "language"])


def layer_histograms(
    found: Mapping[str, Refined], *, n_layers: int, name: str = "bag", seed: int = 0
) -> pd.DataFrame:
    """:func:`layer_histogram` of several refinements, one below the other.

    Args:
        found: neurons and bags by name.
        n_layers: of the model.
        name: what that name is called in the table.
        seed: of the resamples.

    Returns:
        ``<name>, layer, value, low, high, n``.
    """
    parts = [
        layer_histogram(one.neurons, one.bags, n_layers=n_layers, seed=seed).assign(**{name: key})
        for key, one in found.items()
    ]
    return pd.concat(parts, ignore_index=True)[[name, "layer", "value", "low", "high", "n"]]


def layer_histogram(
    neurons: pd.DataFrame, bags: pd.DataFrame | None = None, *, n_layers: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Where the knowledge neurons lie, layer by layer.

    Args:
        neurons: ``fact, layer, neuron``.
        bags: every fact asked about; intervals resample them. Without it only facts that have a neuron are
            resampled, and a warning says so.
        n_layers: of the model; without it up to the highest layer that holds a neuron.
        seed: of the resamples.

    Returns:
        ``layer, value, low, high, n``: value is the layer's share of all neurons, n their number in it.

    Example:
        >>> import pandas as pd
        >>> from kn_utils import layer_histogram
        >>> bags = pd.DataFrame({"fact": ["a", "b"], "relation": "P36"})
        >>> neurons = pd.DataFrame({"fact": "a", "layer": [0, 2, 2, 2], "neuron": [1, 2, 3, 4]})
        >>> layer_histogram(neurons, bags)["value"].tolist()
        [0.25, 0.0, 0.75]
    """
    n_layers = n_layers or int(neurons["layer"].max()) + 1
    facts = facts_of(neurons, bags)
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
