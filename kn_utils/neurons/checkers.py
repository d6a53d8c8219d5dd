"""Neurons of a relation that shall tell true claims from false ones: the published choice, and controls.

Of the facts of one half the neurons are counted, fact by fact (of degenerate pairs: pair by pair), and those
that are counted most are the relation's checker for claims of the *other* half (Chen et al. 2024; the
released code keeps counts above ``int(0.7 max)``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..checks import check_numbers, check_table
from .choose import random_neurons

#: Of the largest count; more must be there.
SHARE = 0.7
COLUMNS = ["set", "split", "half", "relation", "layer", "neuron"]


def most_counted(neurons: pd.DataFrame, share: float = SHARE) -> pd.DataFrame:
    """Of every relation the neurons that occur more often than ``int(share * the most frequent's count)``.

    Returns:
        ``relation, layer, neuron, count``.

    Example:
        >>> import pandas as pd
        >>> neurons = pd.DataFrame({"relation": "P36", "layer": 0, "neuron": [1, 1, 1, 2, 2, 3]})
        >>> most_counted(neurons)["neuron"].tolist()
        [1]
    """
    check_table("neurons", neurons, "relation layer neuron")
    check_numbers(share=share)
    where = ["relation", "layer", "neuron"]
    count = neurons.groupby(where).size().rename("count").reset_index()
    most = count.groupby("relation")["count"].transform("max")
    return count[count["count"] > np.floor(share * most)].reset_index(drop=True)


def checkers(
    kinds: Mapping[str, pd.DataFrame],
    halves: pd.DataFrame,
    shape: tuple[int, int],
    *,
    like: str,
    seed: int = 0,
) -> pd.DataFrame:
    """The checkers of every split and half, each counted in the facts of the other half.

    Args:
        kinds: name -> ``fact, relation, layer, neuron``: what is counted.
        halves: ``split, fact, half``: which half, 0 or 1, each fact is in.
        shape: layers, and neurons of each.
        like: the kind that random sets of the same layers are drawn for.
        seed: of these.

    Returns:
        ``set, split, half, relation, layer, neuron``; ``half`` is that of the claims which it checks, and
        ``set`` a name of ``kinds``, or ``random, same layers``.
    """
    tables = [pd.DataFrame(columns=COLUMNS)]
    for split, part in halves.groupby("split", sort=False):
        half_of = part.drop_duplicates("fact").set_index("fact")["half"]
        for half in (0, 1):
            others = half_of.index[half_of == 1 - half]
            for name, neurons in kinds.items():
                counted = most_counted(neurons[neurons["fact"].isin(others)])
                tables.append(counted.assign(set=name, split=split, half=half)[COLUMNS])
                if name == like and len(counted):
                    drawn = random_neurons(
                        counted.assign(fact=counted["relation"]), shape, same_layers=True, seed=seed + half
                    )
                    drawn = drawn.assign(set="random, same layers", split=split, half=half)
                    tables.append(drawn[COLUMNS])
    whole = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    return whole.astype({"half": int, "layer": int, "neuron": int})
