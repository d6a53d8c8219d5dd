"""Statistics against values worked out by hand, plain loops over pairs, and a simulation of coverage."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest

from kn_utils.neurons.refine import RefinementError
from kn_utils.statistics import intervals as statistics
from kn_utils.statistics.changes import mean_table, relative_change
from kn_utils.statistics.counts import counts_per_fact, layer_histogram
from kn_utils.statistics.differences import difference_test
from kn_utils.statistics.intervals import interval, ratio_interval
from kn_utils.statistics.sharing import intersections

Tables = tuple[pd.DataFrame, pd.DataFrame]


def neurons_of(held: dict[str, list[tuple[int, int]]], relation_of: dict[str, str]) -> Tables:
    """Neurons and bags as ``refine_bags`` gives them: facts without neurons appear among the bags only."""
    rows = [(fact, relation_of[fact], *pair) for fact, pairs in held.items() for pair in pairs]
    neurons = pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron"])
    return neurons, pd.DataFrame(relation_of.items(), columns=["fact", "relation"])


@pytest.fixture
def held() -> dict[str, list[tuple[int, int]]]:
    return {
        "a": [(0, 1), (0, 2), (1, 1)],
        "b": [(0, 1), (1, 1)],
        "c": [],
        "d": [(1, 1), (2, 5)],
        "e": [(2, 5), (0, 2), (1, 2)],
    }


@pytest.fixture
def relation_of() -> dict[str, str]:
    return {"a": "P36", "b": "P36", "c": "P36", "d": "P30", "e": "P30"}


@pytest.fixture
def neurons(held, relation_of) -> Tables:
    return neurons_of(held, relation_of)


@pytest.fixture
def random_neurons_table() -> Tables:
    """Thirty facts of three relations, each with up to six of forty neurons in four layers."""
    random = np.random.default_rng(3)
    relation_of = {f"f{i}": f"P{i % 3}" for i in range(30)}
    held = {
        fact: sorted({(int(random.integers(4)), int(random.integers(10))) for _ in range(random.integers(7))})
        for fact in relation_of
    }
    return neurons_of(held, relation_of)


def held_by(tables: Tables) -> dict[str, set[tuple[int, int]]]:
    neurons, bags = tables
    found = {fact: set() for fact in bags["fact"]}
    for row in neurons.itertuples():
        found[row.fact].add((row.layer, row.neuron))
    return found


def relations_of(tables: Tables) -> dict[str, str]:
    return tables[1].set_index("fact")["relation"].to_dict()


def test_counts_include_facts_without_neurons(neurons):
    table = counts_per_fact(*neurons)
    assert table.to_numpy().tolist() == [
        ["a", "P36", 3],
        ["b", "P36", 2],
        ["c", "P36", 0],
        ["d", "P30", 2],
        ["e", "P30", 3],
    ]


def test_a_fact_without_neurons_counts_whatever_was_done_to_the_table(neurons):
    table, bags = neurons
    taught = pd.DataFrame({"fact": list("abde"), "taught": "all"})
    other = {
        "merged": table.merge(taught, on="fact"),
        "put together": pd.concat([table[::2], table[1::2]]),
        "filtered": table[table["layer"] < 9],
        "copied": table.copy(),
        "sorted": table.sort_values("neuron").reset_index(drop=True),
        "stored": pd.DataFrame(table.to_dict("list")),
    }
    count, shared, layers = counts_per_fact(*neurons), intersections(*neurons), layer_histogram(*neurons)
    assert count["neurons"].mean() == 2 and shared["value"][0] == 3 / 4  # with c, which has none
    for name, one in other.items():
        pd.testing.assert_frame_equal(counts_per_fact(one, bags), count, obj=name)
        pd.testing.assert_frame_equal(intersections(one, bags), shared, obj=name)
        pd.testing.assert_frame_equal(layer_histogram(one, bags), layers, obj=name)


def test_without_bags_only_facts_with_neurons_are_counted_and_a_warning_says_so(neurons):
    table, bags = neurons
    has = bags[bags["fact"].isin(table["fact"])]
    for ask in (intersections, layer_histogram):
        with pytest.warns(UserWarning, match="only facts that have a neuron are counted; pass those of"):
            found = ask(table)
        pd.testing.assert_frame_equal(found, ask(table, has))
        assert not found.equals(ask(table, bags))
    with pytest.raises(RefinementError, match=r"the bags lack facts that have neurons \(2, such as d\)"):
        counts_per_fact(table, bags[bags["relation"] == "P36"])


def test_intersections_within_by_hand(neurons):
    # P36: a-b share (0,1) and (1,1); a-c and b-c nothing. P30: d-e share (2,5).
    table = intersections(*neurons, within="relation").set_index("relation")
    assert table["value"].to_dict() == pytest.approx({"all": 3 / 4, "P36": 2 / 3, "P30": 1.0})
    assert table["n"].to_dict() == {"all": 5, "P36": 3, "P30": 2}


def test_intersections_between_by_hand(neurons):
    # a-d (1,1); a-e (0,2); b-d (1,1); b-e, c-d, c-e nothing
    table = intersections(*neurons, within="other").set_index("relation")
    assert table["value"].to_dict() == pytest.approx({"all": 3 / 6, "P36": 3 / 6, "P30": 3 / 6})


@pytest.mark.parametrize("within", ["relation", "other"])
def test_intersections_against_a_loop_over_pairs(random_neurons_table, within):
    own, relation_of = held_by(random_neurons_table), relations_of(random_neurons_table)
    wanted: dict[str, list[int]] = {"all": []}
    for one, other in permutations(own, 2):
        if (relation_of[one] == relation_of[other]) == (within == "relation"):
            wanted["all"].append(len(own[one] & own[other]))
            wanted.setdefault(relation_of[one], []).append(len(own[one] & own[other]))
    table = intersections(*random_neurons_table, within=within).set_index("relation")["value"]
    assert table.to_dict() == pytest.approx({name: np.mean(shared) for name, shared in wanted.items()})


def test_other_relations_can_count_alike_however_large_they_are(random_neurons_table):
    # as the released code draws them: first the other relation, then one of its facts
    own, relation_of = held_by(random_neurons_table), relations_of(random_neurons_table)
    kept = {fact: name for i, (fact, name) in enumerate(relation_of.items()) if name != "P2" or i < 9}
    tables = [table[table["fact"].isin(kept)] for table in random_neurons_table]
    expected = []
    for one in kept:
        others = {name: [o for o in kept if kept[o] == name] for name in {"P0", "P1", "P2"} - {kept[one]}}
        expected.append(
            np.mean([np.mean([len(own[one] & own[o]) for o in same]) for same in others.values()])
        )
    alike = intersections(*tables, within="other", pool="relations").iloc[0]
    assert (
        alike["value"] == pytest.approx(np.mean(expected)) and alike["low"] < alike["value"] < alike["high"]
    )
    assert abs(alike["value"] - intersections(*tables, within="other")["value"][0]) > 1e-3
    with pytest.raises(ValueError, match="'facts'; it is 'pairs' or 'relations'"):
        intersections(*tables, pool="facts")


def test_the_interval_of_an_intersection_resamples_facts(random_neurons_table):
    # by a loop over the pairs of the facts drawn (a fact that is drawn twice is no pair with itself)
    own, relation_of = held_by(random_neurons_table), relations_of(random_neurons_table)
    facts = list(own)
    random = np.random.default_rng(11)
    drawn = []
    for _ in range(400):
        sample = [facts[i] for i in random.integers(len(facts), size=len(facts))]
        shared = [
            len(own[a] & own[b])
            for a, b in combinations(sample, 2)
            if a != b and relation_of[a] == relation_of[b]
        ]
        drawn.append(np.mean(shared))
    found = intersections(*random_neurons_table).iloc[0]
    width = found["high"] - found["low"]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found["low"] == pytest.approx(low, abs=0.2 * width)
    assert found["high"] == pytest.approx(high, abs=0.2 * width)


def test_two_relations_that_share_everything_or_nothing():
    relation_of = {"a": "P1", "b": "P1", "c": "P2", "d": "P2"}
    table = neurons_of({"a": [(0, 1)], "b": [(0, 1)], "c": [(0, 2)], "d": [(0, 2)]}, relation_of)
    assert intersections(*table)["value"].tolist() == [1, 1, 1]
    assert intersections(*table, within="other")["value"].tolist() == [0, 0, 0]


def test_a_neuron_of_another_layer_is_another_neuron():
    table = neurons_of({"a": [(0, 1)], "b": [(1, 1)]}, {"a": "P1", "b": "P1"})
    assert intersections(*table)["value"].tolist() == [0, 0]


def test_a_relation_with_one_fact_has_no_pairs_within():
    table = neurons_of({"a": [(0, 1)], "b": [(0, 1)], "c": [(0, 1)]}, {"a": "P1", "b": "P1", "c": "P2"})
    assert intersections(*table)["relation"].tolist() == ["all", "P1"]


def test_unknown_kind_of_pair(neurons):
    with pytest.raises(ValueError, match="within='layer'; it is 'relation' or 'other'"):
        intersections(*neurons, within="layer")


def test_layer_shares_by_hand(neurons):
    # ten neurons: layer 0 holds four, layer 1 four, layer 2 two, layer 3 none
    table = layer_histogram(*neurons, n_layers=4)
    assert table["value"].tolist() == pytest.approx([0.4, 0.4, 0.2, 0.0])
    assert table["layer"].tolist() == [0, 1, 2, 3] and table["n"].tolist() == [4, 4, 2, 0]
    held = table[table["n"] > 0]
    assert (held["low"] <= held["value"]).all() and (held["value"] <= held["high"]).all()
    assert table["value"].sum() == pytest.approx(1)
    assert len(layer_histogram(*neurons)) == 3  # as many layers as there are neurons in


def test_layer_shares_that_every_resample_gives_are_certain(relation_of):
    table = neurons_of({fact: [(1, i), (3, i)] for i, fact in enumerate(relation_of)}, relation_of)
    shares = layer_histogram(*table, n_layers=4).loc[[1, 3], ["value", "low", "high"]]
    assert shares.to_numpy().tolist() == [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]


def test_a_layer_with_one_neuron_or_none_has_an_interval_too():
    # facts are resampled, and there are six of them, however few neurons a layer holds
    relation_of = {f"f{i}": "P1" for i in range(6)}
    held = {fact: [(0, 1)] for fact in relation_of} | {"f5": [(1, 1)]}
    table = layer_histogram(*neurons_of(held, relation_of), n_layers=3)
    assert table["n"].tolist() == [5, 1, 0]
    assert (table.loc[1, "low"], table.loc[1, "value"]) == (0, pytest.approx(1 / 6)) and table.loc[
        1, "high"
    ] > 1 / 6
    assert table.loc[2, ["low", "value", "high"]].tolist() == [0, 0, 0]


def effects_table() -> pd.DataFrame:
    rows = [
        ("a", "suppress", 0.8, 0.4),
        ("a", "suppress", 0.2, 0.2),
        ("b", "suppress", 0.1, 0.3),
        ("a", "amplify", 0.5, 0.6),
        ("b", "amplify", 0.5, 0.7),
    ]
    return pd.DataFrame(rows, columns=["fact", "operation", "before", "after"])


def test_ratio_of_means_and_mean_of_ratios_by_hand():
    table = relative_change(effects_table(), ["operation"]).set_index("operation")
    assert table.loc["suppress", "value"] == pytest.approx((0.9 - 1.1) / 1.1)
    assert table.loc["suppress", "mean_of_ratios"] == pytest.approx((-0.5 + 0 + 2) / 3)
    assert table.loc["amplify", "value"] == pytest.approx(0.3)
    assert table["n"].tolist() == [2, 2]  # facts, not prompts


def test_the_interval_of_a_ratio_resamples_facts_not_prompts():
    # many prompts of two facts that disagree: whichever is drawn, the interval must reach both
    rows = [("a", "suppress", 0.5, 0.25)] * 50 + [("b", "suppress", 0.5, 0.5)] * 50
    table = pd.DataFrame(rows, columns=["fact", "operation", "before", "after"])
    found = relative_change(table, ["operation"]).iloc[0]
    assert (found["low"], found["value"], found["high"]) == pytest.approx((-0.5, -0.25, 0))


def test_means_average_a_facts_rows_first():
    table = pd.DataFrame(
        {"fact": ["a", "a", "a", "b"], "relation": "P36", "kind": "x", "score": [0.0, 0.0, 0.0, 1.0]}
    )
    found = mean_table(table, "score", ["relation", "kind"]).iloc[0]
    assert (found["relation"], found["kind"], found["value"], found["n"]) == ("P36", "x", 0.5, 2)
    by_row = mean_table(table.assign(row=range(4)), "score", ["relation"], unit="row")
    assert by_row["value"].tolist() == [0.25] and by_row["n"].tolist() == [4]


def test_means_of_nothing_have_their_columns():
    nothing = pd.DataFrame(columns=["fact", "relation", "score"])
    assert list(mean_table(nothing, "score", ["relation"])) == ["relation", "value", "low", "high", "n"]


def test_missing_values_are_left_out_of_a_mean():
    found = interval(np.array([1.0, np.nan, 3.0]))
    assert (found["value"], found["n"]) == (2, 2)


def test_too_few_values_have_no_interval():
    one, none = interval(np.array([0.3])), interval(np.array([]))
    assert one["value"] == 0.3 and np.isnan(one["low"]) and np.isnan(one["high"]) and one["n"] == 1
    assert np.isnan(none["value"]) and none["n"] == 0
    lone = relative_change(effects_table().query("fact == 'b'"), ["operation"])
    assert lone["value"].tolist() == pytest.approx([2.0, 0.4]) and lone[["low", "high"]].isna().all(axis=None)


def test_equal_values_have_an_interval_of_no_width():
    found = interval(np.full(12, 0.25))
    assert (found["value"], found["low"], found["high"]) == (0.25, 0.25, 0.25)


def ratio_to_one(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    return ratio_interval(np.column_stack([np.ones(len(values)), values]), seed=seed)


@pytest.mark.parametrize("of", [interval, ratio_to_one])
def test_intervals_hold_the_value_shrink_with_n_and_are_seeded(of):
    values = np.random.default_rng(0).gamma(2, size=800)
    few, many = of(values[:50]), of(values)
    for one in (few, many):
        assert one["low"] < one["value"] < one["high"]
    # sixteen times the values: a quarter of the width, give or take
    assert (many["high"] - many["low"]) / (few["high"] - few["low"]) == pytest.approx(1 / 4, rel=0.4)
    assert of(values[:50], seed=5) == of(values[:50], seed=5)
    assert of(values[:50], seed=5)["low"] != of(values[:50], seed=6)["low"]


@pytest.mark.parametrize("of", [interval, ratio_to_one])
def test_the_width_of_an_interval_is_the_normal_one_for_many_values(of):
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = of(values)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "ratio"])
def test_coverage_is_about_95_percent(kind, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        before = random.uniform(0.2, 0.6, size=60)
        after = before * random.uniform(0.6, 1.0, size=60)
        if kind == "mean":
            found, truth = interval(before), 0.4
        else:
            found, truth = ratio_interval(np.column_stack([before, after])), -0.2
        hits += found["low"] <= truth <= found["high"]
    assert 0.90 <= hits / 300 <= 0.985  # 0.95 with a standard deviation of 0.013, bootstrap a little below


def test_difference_of_paired_values_by_all_sign_changes():
    first, second = np.array([3.0, 5.0, 2.0, 8.0, 4.0]), np.array([1.0, 2.0, 2.5, 3.0, 1.0])
    difference = first - second
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    wanted = (np.abs((signs * difference).mean(1)) >= abs(difference.mean()) - 1e-12).mean()
    assert difference_test(first, second) == pytest.approx(wanted)
    assert difference_test(second, first) == pytest.approx(wanted)


def test_difference_is_found_where_there_is_one_and_only_there():
    random = np.random.default_rng(2)
    first = random.normal(size=60)
    assert difference_test(first, first + 0.5 + 0.3 * random.normal(size=60)) < 0.01
    noise = first + random.normal(size=60)
    assert difference_test(first, noise - (noise - first).mean()) > 0.9
    assert difference_test(first, noise, seed=1) == difference_test(first, noise, seed=1)


def test_one_relation_has_no_other_to_share_with():
    tables = neurons_of({"a": [(0, 1)], "b": [(0, 1)]}, {"a": "P36", "b": "P36"})
    (row,) = intersections(*tables, within="other").to_dict("records")
    assert row["relation"] == "all" and np.isnan(row["value"]) and row["n"] == 2
    assert intersections(*tables)["value"][0] == 1
