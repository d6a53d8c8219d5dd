"""A relation's checker: the neurons counted most in the other half."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from kn_utils.neurons.checkers import checkers, most_counted


def some_neurons(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    facts = [f"{relation}{i}" for relation in "PQ" for i in range(6)]
    rows = [(fact, fact[0], int(n) % 3, int(n)) for fact in facts for n in random.choice(9, 4, replace=False)]
    return pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron"])


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_counts_above_the_share_of_the_largest_are_kept(share):
    neurons = some_neurons()
    found = most_counted(neurons, share)
    for relation, part in neurons.groupby("relation"):
        count = Counter(zip(part["layer"], part["neuron"], strict=True))
        most = max(count.values())
        wanted = {pair for pair, n in count.items() if n > int(share * most)}
        kept = found[found["relation"] == relation]
        assert set(zip(kept["layer"], kept["neuron"], strict=True)) == wanted


def test_each_half_is_checked_by_what_the_other_one_found():
    neurons = some_neurons()
    facts = neurons["fact"].unique()
    halves = pd.concat(
        [
            pd.DataFrame({"split": "a", "fact": facts, "half": np.arange(12) % 2}),
            pd.DataFrame({"split": "b", "fact": facts, "half": np.arange(12) // 3 % 2}),
        ]
    )
    found = checkers({"k": neurons}, halves, (3, 20), like="k")
    for split, half in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        others = set(halves[(halves["split"] == split) & (halves["half"] != half)]["fact"])
        wanted = most_counted(neurons[neurons["fact"].isin(others)])
        here = found[(found["split"] == split) & (found["half"] == half)]
        keys = ["relation", "layer", "neuron"]
        assert here[here["set"] == "k"][keys].values.tolist() == wanted[keys].values.tolist()
        drawn = here[here["set"] == "random, same layers"]
        per_layer = wanted.groupby(["relation", "layer"]).size()
        pd.testing.assert_series_equal(drawn.groupby(["relation", "layer"]).size(), per_layer)
        assert not drawn.duplicated(keys).any()


def test_without_neurons_there_is_no_checker():
    neurons = some_neurons().iloc[:0]
    found = checkers(
        {"k": neurons}, pd.DataFrame({"split": ["a"], "fact": ["x"], "half": [0]}), (3, 20), like="k"
    )
    assert found.empty and list(found) == ["set", "split", "half", "relation", "layer", "neuron"]
