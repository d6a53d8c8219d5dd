"""Tables of several refinements, groups and languages: each row against the function or loop for one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.neurons.refine import Refined
from kn_utils.statistics import languages, sharing
from kn_utils.statistics.changes import mean_table
from kn_utils.statistics.counts import counts_of_bags, counts_per_fact, layer_histogram, layer_histograms
from kn_utils.statistics.differences import compare_groups, difference_of_groups
from kn_utils.statistics.tables import as_grid, means_of_columns, with_intervals

SHAPE = (3, 20)
VALUES = ["value", "low", "high", "n"]


def refined(seed: int, facts: int = 12) -> Refined:
    """Facts of two relations with some of few neurons, the last fact with none."""
    random, names = np.random.default_rng(seed), [f"f{i}" for i in range(facts)]
    bags = pd.DataFrame({"fact": names, "relation": [f"P{i % 2}" for i in range(facts)]})
    rows = [
        (fact, place // 20, place % 20)
        for fact in names[:-1]
        for place in random.choice(60, size=random.integers(1, 6), replace=False)
    ]
    neurons = pd.DataFrame(rows, columns=["fact", "layer", "neuron"]).merge(bags, on="fact")
    return Refined(neurons, bags, pd.DataFrame())


@pytest.fixture
def found() -> dict[str, Refined]:
    return {"en": refined(1), "nl": refined(2), "ja": refined(3, 11)}


def test_a_grid_holds_every_number_at_its_place_in_the_order_given():
    numbers = pd.DataFrame(
        [("b", "u", "y", 1.0, 10), ("b", "u", "x", 2.0, 20), ("a", "v", "x", 3.0, 30)],
        columns=["group", "kind", "language", "value", "n"],
    )
    grid = as_grid(numbers, ["group", "kind"], "language")
    assert list(grid) == ["y", "x"] and list(grid.index) == [("b", "u"), ("a", "v")]
    assert grid.columns.name == "language" and grid.index.names == ["group", "kind"]
    assert grid.loc[("b", "u")].tolist() == [1, 2] and grid.loc[("a", "v"), "x"] == 3
    assert np.isnan(grid.loc[("a", "v"), "y"])
    assert list(as_grid(numbers, "group", "language", order=["x", "z"])) == ["x", "z"]
    several = as_grid(numbers, "group", "language", value=["n", "value"], order=["x"])
    assert list(several.columns) == [("x", "n"), ("x", "value")] and several.loc["b"].tolist() == [20, 2]


def test_a_grid_refuses_two_numbers_for_one_place():
    twice = pd.DataFrame({"row": ["a", "a"], "column": ["x", "x"], "value": [1, 2]})
    with pytest.raises(ValueError, match="duplicate"):
        as_grid(twice, "row", "column")


def test_means_of_columns_are_those_of_each():
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"fact": list("aabbcc"), "kind": list("xyxyxy"), "p": random.random(6), "q": range(6)}
    )
    rows = means_of_columns(table, {"q": "rank", "p": "probability"}, ["kind"], seed=3)
    assert list(rows) == ["measure", "kind", *VALUES] and len(rows) == 4
    for column, measure in (("p", "probability"), ("q", "rank")):
        own = rows[rows["measure"] == measure].drop(columns="measure").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, mean_table(table, column, ["kind"], seed=3))


def test_counts_and_layers_of_several_refinements_are_those_of_each(found):
    counts, layers = counts_of_bags(found, name="language"), layer_histograms(found, n_layers=3, seed=2)
    assert list(counts["language"].unique()) == list(layers["bag"].unique()) == list(found)
    for name, one in found.items():
        own = counts[counts["language"] == name].drop(columns="language").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, counts_per_fact(one.neurons, one.bags))
        own = layers[layers["bag"] == name].drop(columns="bag").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, layer_histogram(one.neurons, one.bags, n_layers=3, seed=2))
    assert len(counts) == 12 + 12 + 11 and (counts["neurons"] == 0).sum() == 3


@pytest.mark.slow
def test_differences_and_keys_of_several_refinements_are_those_of_each(found):
    pairs = {(name, "knowledge"): one for name, one in found.items()}
    rows = sharing.differences_of_sharing(pairs, name=["bag", "neurons"], seed=1)
    assert list(rows) == ["bag", "neurons", *VALUES, "p"] and list(rows["bag"]) == list(found)
    for name, one in found.items():
        own = rows.set_index("bag").loc[name].drop("neurons").to_dict()
        assert own == sharing.difference_of_sharing(one.neurons, one.bags, seed=1)
    keys = {by: pd.Series({f"f{i}": i % number for i in range(12)}) for by, number in (("a", 3), ("b", 5))}
    table = sharing.shared_by_keys(found, keys, seed=1)
    for (bag, by), part in table.groupby(["bag", "by"]):
        alone = sharing.shared_by(found[bag].neurons, found[bag].bags, keys[by], seed=1)
        pd.testing.assert_frame_equal(part.drop(columns=["bag", "by"]).reset_index(drop=True), alone)
    assert table.groupby(["bag", "by"]).ngroups == 6


@pytest.mark.slow
def test_table_2_takes_names_of_several_parts(found):
    pairs = {(name, "knowledge"): one for name, one in found.items()}
    table, plain = sharing.table_2(pairs, name=["bag", "neurons"]), sharing.table_2(found)
    assert set(table["neurons"]) == {"knowledge"} and list(table)[:2] == ["bag", "neurons"]
    pd.testing.assert_frame_equal(table.drop(columns="neurons"), plain)
    with pytest.raises(ValueError, match="shorter|longer"):
        sharing.table_2(found, name=["bag", "neurons"])


def test_groups_are_compared_with_the_reference_of_their_relations():
    random = np.random.default_rng(4)
    table = pd.DataFrame({"fact": [f"f{i}" for i in range(24)], "relation": [f"P{i % 3}" for i in range(24)]})
    table["group"] = ["all" if i < 16 else "never" if i < 20 else "this" for i in range(24)]
    table["neurons"] = random.integers(0, 6, 24)
    rows = compare_groups(table, "neurons", "all", seed=5).set_index("group")
    means = table.groupby("group")["neurons"].mean()
    assert rows["value"].to_dict() == pytest.approx(means.to_dict())
    for name in ("never", "this"):
        wanted = difference_of_groups(table, "neurons", name, "all", seed=5)
        assert rows.loc[name, ["more", "more low", "more high", "more n", "p"]].tolist() == list(
            wanted.values()
        )
    assert rows.loc["all", ["more", "p"]].isna().all()
    alone = compare_groups(table.assign(group="all facts"), "neurons", "all")
    assert list(alone["group"]) == ["all facts"] and alone["more"].isna().all()


def test_spelling_is_marked_by_the_answers_of_both_languages(found):
    answers = {"en": "Berlin", "nl": "Berlijn", "ja": "Berlin"}
    rows = [(f"f{i}", language, answers[language]) for i in range(12) for language in answers]
    prompts = pd.DataFrame(rows, columns=["fact", "language", "answer"])
    marked = languages.mark_spelling(languages.shared_per_fact(found), prompts)
    for row in marked.itertuples():
        alike = answers[row.first] == answers[row.second]
        assert row.answer == ("spelled alike" if alike else "spelled differently")
    assert set(marked["answer"]) == {"spelled alike", "spelled differently"}


@pytest.mark.slow
def test_the_same_fact_is_tested_as_the_mean_of_all_pairs_is(found):
    answer = pd.Series({f"f{i}": f"answer {i % 3}" for i in range(12)})
    per_fact = languages.shared_per_fact(found)
    spelled = per_fact["fact"].isin(["f2", "f5"]) & (per_fact["first"] == "en")
    per_fact["answer"] = np.where(spelled, "spelled alike", "spelled differently")
    rows = languages.same_fact_against(found, SHAPE, per_fact, answer, seed=1).set_index("another fact")
    relation = pd.Series({f"f{i}": f"P{i % 2}" for i in range(12)})
    ways = {
        "of the relation": {},
        "of the relation, spelled differently": {"without": per_fact[spelled]},
        "of the relation, same answer": {"groups": relation + answer},
    }
    for name, options in ways.items():
        wanted = languages.shared_between_languages(found, SHAPE, seed=1, **options).iloc[-1]
        assert rows.loc[name].to_dict() == wanted[list(rows)].to_dict()
    assert list(rows["n"]) == [11, 9, 10]
    assert languages.same_fact_against({"en": found["en"]}, SHAPE, per_fact, answer).empty


@pytest.mark.slow
def test_pairs_of_different_languages_and_their_mean_are_kept(found):
    pairs = languages.different_languages(languages.shared_between_languages(found, SHAPE))
    assert list(pairs.index) == [("en", "nl"), ("en", "ja"), ("nl", "ja"), ("all pairs", "all pairs")]
    assert languages.different_languages(languages.shared_between_languages({"en": found["en"]}, SHAPE)).empty


def test_numbers_with_their_intervals_as_text():
    numbers = pd.DataFrame(
        {
            "source": ["a", "a", "b"],
            "aim": ["x", "y", "x"],
            "measure": "m",
            "value": [0.123, -1.0, 2.0],
            "low": [0.1, np.nan, 1.0],
            "high": [0.2, np.nan, 3.0],
            "n": [4, 1, 7],
        }
    )
    grid = with_intervals(numbers, "source", ["aim", "measure"], 1)
    assert grid.loc["a"].tolist() == ["0.1 [0.1, 0.2] (4)", "-1.0 (1)"]
    assert grid.loc["b", "x, m"] == "2.0 [1.0, 3.0] (7)" and pd.isna(grid.loc["b", "y, m"])
