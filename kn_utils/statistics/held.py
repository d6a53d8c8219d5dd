"""Which neurons facts hold, as matrices, and how many of them two facts would share by chance.

*Chance*: if each fact's neurons were drawn again, as many in each layer, two facts with n_l and m_l neurons
in layer l of ``width`` neurons would share ``sum_l n_l m_l / width`` on average (exact, no drawing).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse


def held_neurons(tables: Sequence[pd.DataFrame], facts: pd.Index) -> list[sparse.csr_array]:
    """Which neurons each fact has, one (fact, neuron) matrix of zeros and ones per table.

    The columns are the same in all.
    """
    kept = [_neurons_of(facts, table) for table in tables]
    place = pd.concat([table["layer"].astype(np.int64) * 10**6 + table["neuron"] for table in kept])
    column, names = pd.factorize(place)
    ends = np.cumsum([len(table) for table in kept])[:-1]
    return [
        sparse.csr_array(
            (np.ones(len(table)), (facts.get_indexer(table["fact"]), own)),
            shape=(len(facts), max(len(names), 1)),
        )
        for table, own in zip(kept, np.split(column, ends), strict=True)
    ]


def _neurons_of(facts: pd.Index, table: pd.DataFrame) -> pd.DataFrame:
    """Their neurons, each once."""
    return table.loc[table["fact"].isin(facts), ["fact", "layer", "neuron"]].drop_duplicates()


def expected_by_chance(first: pd.DataFrame, second: pd.DataFrame, facts: pd.Index, width: int) -> np.ndarray:
    """How many neurons facts would share if each fact's were drawn within their layers, (first, second)."""
    layers = 1 + max((int(table["layer"].max()) for table in (first, second) if len(table)), default=0)
    counts = []
    for table in (first, second):
        table = _neurons_of(facts, table)
        count = np.zeros((len(facts), layers))
        np.add.at(count, (facts.get_indexer(table["fact"]), table["layer"].to_numpy(int)), 1)
        counts.append(count)
    return counts[0] @ counts[1].T / width
