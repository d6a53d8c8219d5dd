"""Refinement against cases worked out by hand, edges and ties included."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_utils.neurons.choose import (
    as_pairs,
    pairs_by_fact,
    random_neurons,
    relation_neurons,
    strongest,
    uncommon,
)
from kn_utils.neurons.refine import (
    RefinementError,
    above_threshold,
    facts_of,
    refine,
    refine_bags,
    refinement_report,
)
from kn_utils.neurons.shares import layer_sums, shares_of_layers, signs_of_sums


def bag(fact: str, n: int, relation: str = "P36", language: str = "en") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt": [f"{fact}/{i}" for i in range(n)],
            "fact": fact,
            "relation": relation,
            "language": language,
        }
    )


def scores(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["prompt", "layer", "neuron", "score"])


def test_threshold_holds_its_edge():
    table = scores(
        [("p", 0, 0, 1.0), ("p", 0, 1, 0.2), ("p", 0, 2, 0.1999), ("q", 0, 1, 0.01), ("q", 0, 3, 0.002)]
    )
    assert [(r.prompt, r.neuron) for r in above_threshold(table, 0.2).itertuples()] == [
        ("p", 0),
        ("p", 1),
        ("q", 1),
        ("q", 3),
    ]


def test_a_threshold_below_what_was_kept_is_refused():
    table = scores([("p", 0, 0, 1.0)])
    table.attrs["keep"] = 0.3
    with pytest.raises(RefinementError, match="smaller keep"):
        above_threshold(table, 0.2)
    table.attrs = {}  # as a merge leaves it: then it is said with the call
    said = "threshold 0.2 is below the stored scores' keep=0.3"
    with pytest.raises(RefinementError, match=said):
        above_threshold(table, 0.2, keep=0.3)
    for ask in (refine, refine_bags):
        with pytest.raises(RefinementError, match=said):
            ask(table, bag("f", 1).assign(prompt="p"), keep=0.3)
    assert len(above_threshold(table, 0.3, keep=0.3)) == 1


def test_share_holds_its_edge_and_counts_prompts_without_scores():
    # ten prompts; neuron 1 in seven of them (0.7 exactly), neuron 2 in six
    rows = [(f"f/{i}", 0, 1, 1.0) for i in range(7)] + [(f"f/{i}", 0, 2, 0.9) for i in range(6)]
    found = refine(scores(rows), bag("f", 10), share=0.7, target=None)
    assert found[["layer", "neuron", "share"]].to_numpy().tolist() == [[0, 1, 0.7]]
    assert found["language"].tolist() == ["en"]


def test_share_moves_down_until_two_neurons_per_fact():
    # four prompts: neuron 1 in all, neuron 2 in half of them. 0.70 -> one neuron, too few; so does 0.65 ...
    # 0.55; 0.50 -> two.
    rows = [(f"f/{i}", 0, 1, 1.0) for i in range(4)] + [(f"f/{i}", 0, 2, 1.0) for i in range(2)]
    found = refine_bags(scores(rows), bag("f", 4))
    assert sorted(found.neurons["neuron"]) == [1, 2]
    assert found.bags.to_numpy().tolist() == [["f", "P36", "en", 4, 0.5, True]]
    assert found.passes["pass"].tolist() == [1, 2, 3, 4, 5]
    assert found.passes["share"].tolist() == [0.7, 0.65, 0.6, 0.55, 0.5]
    assert found.passes["mean"].tolist() == [1, 1, 1, 1, 2]
    assert found.passes["taken"].tolist() == [False] * 4 + [True]


def test_share_moves_up_when_there_are_too_many():
    # five prompts hold neurons 0..5; the sixth of six prompts misses neurons 3, 4 and 5: 5/6 = 0.83
    rows = [(f"f/{i}", 0, n, 1.0) for i in range(5) for n in range(6)] + [
        ("f/5", 0, n, 1.0) for n in range(3)
    ]
    found = refine_bags(scores(rows), bag("f", 6))
    assert sorted(found.neurons["neuron"]) == [0, 1, 2]
    assert found.bags["share"].tolist() == [0.85]


def test_oscillation_is_reported_and_the_nearest_share_is_taken():
    # all seven neurons in exactly 3 of 5 prompts: at 0.60 seven, at 0.65 none
    rows = [(f"f/{i}", 0, n, 1.0) for i in range(3) for n in range(7)]
    found = refine_bags(scores(rows), bag("f", 5))
    assert found.bags["settled"].tolist() == [False]
    assert found.passes[["share", "mean"]].to_numpy().tolist() == [[0.7, 0.0], [0.65, 0.0], [0.6, 7.0]]
    # 0 is as far from [2, 5] as 7: the stricter share wins
    assert found.passes["taken"].tolist() == [True, False, False]
    assert found.bags["share"].tolist() == [0.7] and found.neurons.empty


def test_each_relation_settles_alone_and_facts_without_neurons_count():
    prompts = pd.concat([bag("a", 2, "P36"), bag("b", 2, "P36"), bag("c", 2, "P30")])
    rows = [(f"a/{i}", 0, n, 1.0) for i in range(2) for n in range(4)] + [
        (f"c/{i}", 1, n, 1.0) for i in range(2) for n in range(3)
    ]
    found = refine_bags(scores(rows), prompts)
    report = refinement_report(found).set_index("relation")
    assert report.loc["P36", ["mean", "facts"]].tolist() == [2.0, 2]  # four neurons over two facts
    assert report["mean"].to_dict() == {"P36": 2.0, "P30": 3.0}
    assert report[["rounds", "settled"]].to_numpy().tolist() == [[0, True], [0, True]]
    assert found.bags["fact"].tolist() == ["a", "b", "c"]
    assert found.bags["relation"].tolist() == ["P36", "P36", "P30"]
    assert found.bags["prompts"].tolist() == [2, 2, 2]


def test_bags_keep_the_order_of_the_prompts_where_relations_are_mixed():
    prompts = pd.concat([bag("a", 3, "P36"), bag("c", 1, "P30"), bag("b", 2, "P36")])
    rows = [(f"b/{i}", 0, n, 1.0) for i in range(2) for n in (0, 1)]
    found = refine_bags(scores(rows), prompts, share=0.6, target=None)
    assert list(found.bags) == ["fact", "relation", "language", "prompts", "share", "settled"]
    assert found.bags[["fact", "prompts"]].to_numpy().tolist() == [["a", 3], ["c", 1], ["b", 2]]
    pd.testing.assert_frame_equal(found.neurons, refine(scores(rows), prompts, share=0.6, target=None))
    assert set(found.neurons["fact"]) == {"b"}


def test_released_settings_floor_and_rounds():
    rows = [(f"f/{i}", 0, 1, 1.0) for i in range(2)]
    assert refine(scores(rows), bag("f", 2), floor=3, target=None).empty
    found = refine_bags(scores(rows), bag("f", 2), rounds=6)
    assert len(found.passes) == 7 and found.passes["taken"].tolist() == [False] * 6 + [True]
    assert found.bags["share"].item() == pytest.approx(0.4) and not found.bags["settled"].item()
    assert refinement_report(found)["rounds"].tolist() == [6]


def test_a_bag_over_languages_is_called_all():
    prompts = pd.concat([bag("f", 2), bag("f", 2, language="ja").assign(prompt=["f/2", "f/3"])])
    rows = [(f"f/{i}", 0, n, 1.0) for i in range(4) for n in (0, 1)]
    found = refine_bags(scores(rows), prompts)
    assert set(found.neurons["language"]) == set(found.bags["language"]) == {"all"}


def test_an_empty_bag_and_foreign_scores_are_refused():
    with pytest.raises(RefinementError, match="empty bag"):
        refine(scores([]), bag("f", 0))
    with pytest.raises(RefinementError, match="no prompt"):
        refine(scores([("other", 0, 0, 1.0)]), bag("f", 2))


def test_random_neurons_match_in_number_and_layers():
    neurons = pd.DataFrame(
        {"fact": ["a"] * 3 + ["b"], "relation": "P36", "layer": [0, 0, 2, 1], "neuron": [5, 6, 7, 8]}
    )
    drawn = random_neurons(neurons, (3, 50), seed=1)
    assert drawn.groupby("fact").size().to_dict() == {"a": 3, "b": 1}
    assert not drawn.duplicated(["fact", "layer", "neuron"]).any()
    same = random_neurons(neurons, (3, 50), same_layers=True, seed=1)
    assert same.groupby("fact")["layer"].apply(sorted).to_dict() == {"a": [0, 0, 2], "b": [1]}
    assert random_neurons(neurons, (3, 50), seed=1).equals(drawn)
    full = random_neurons(neurons.head(3).assign(layer=0), (1, 3), seed=0)
    assert sorted(full["neuron"]) == [0, 1, 2]


def test_relation_neurons_count_facts():
    table = pd.DataFrame({"fact": list("abcab"), "relation": "P36", "layer": 0, "neuron": [1, 1, 1, 2, 3]})
    top = relation_neurons(table, k=2)
    assert top[["neuron", "facts"]].to_numpy().tolist() == [[1, 3], [2, 1]]


def test_any_table_or_list_is_pairs():
    assert as_pairs([(1, 2), (0, 5), (1, 2)]).tolist() == [[0, 5], [1, 2]]
    assert as_pairs(pd.DataFrame({"layer": [1], "neuron": [2], "share": [0.5]})).tolist() == [[1, 2]]
    table = pd.DataFrame({"fact": ["b", "a", "b"], "layer": [1, 0, 2], "neuron": [7, 8, 9]})
    assert {fact: pairs.tolist() for fact, pairs in pairs_by_fact(table).items()} == {
        "a": [[0, 8]],
        "b": [[1, 7], [2, 9]],
    }
    assert pairs_by_fact(table.iloc[:0]) == {}


# Bags: what is common, and of whom


@pytest.fixture
def twenty() -> pd.DataFrame:
    """Twenty facts of one relation that were asked about."""
    return pd.DataFrame({"fact": [f"f{i}" for i in range(20)], "relation": "P36"})


def test_what_is_common_is_counted_over_all_bags_whatever_was_done_to_the_neurons(twenty):
    # neuron 1 in two facts of twenty, which is not more than 10 %; neuron 2 in three; neuron 3 in one
    held = [("f0", 1), ("f1", 1), ("f0", 2), ("f1", 2), ("f2", 2), ("f5", 3)]
    neurons = pd.DataFrame(held, columns=["fact", "neuron"]).assign(relation="P36", layer=0)
    merged = neurons.merge(pd.DataFrame({"fact": ["f0", "f1", "f2", "f5"], "taught": "all"}), on="fact")
    halves = pd.concat([neurons[::2], neurons[1::2]])  # the index twice in disorder
    for table in (neurons, merged, halves, neurons[neurons["layer"] == 0], neurons.copy()):
        assert sorted(uncommon(table, twenty)["neuron"]) == [1, 1, 3]
    assert sorted(uncommon(neurons, twenty, 0.15)["neuron"]) == [1, 1, 2, 2, 2, 3]
    # counted over the facts with neurons alone, 10 % of four facts are none: another answer
    assert uncommon(neurons, twenty[twenty["fact"].isin(neurons["fact"])])["neuron"].tolist() == [3]


def test_the_strongest_are_not_the_common_ones_of_tables_whose_index_repeats(twenty):
    neurons = pd.DataFrame({"fact": ["f0", "f1", "f2", "f0"], "relation": "P36", "layer": 0})
    neurons["neuron"] = [2, 2, 2, 1]
    neurons.index = [0, 1, 2, 2]  # as after a concat: the uncommon last row has the name of a common one
    prompts = pd.DataFrame({"prompt": ["p"], "fact": "f2", "relation": "P36"})
    rows = scores([("p", 0, 2, 3.0), ("p", 0, 1, 2.0), ("p", 0, 0, 1.0)])
    assert strongest(rows, prompts, neurons, twenty, 2)["neuron"].tolist() == [0, 1]
    assert strongest(rows, prompts, neurons, twenty, 2, 1.0)["neuron"].tolist() == [1, 2]


def test_neurons_and_bags_that_do_not_belong_together_are_refused(twenty):
    neurons = pd.DataFrame({"fact": ["f0", "g"], "relation": "P36", "layer": 0, "neuron": 1})
    for ask in (uncommon, facts_of):
        with pytest.raises(RefinementError, match=r"the bags lack facts that have neurons \(1, such as g\)"):
            ask(neurons, twenty)
        with pytest.raises(RefinementError, match="the fact f0 is there twice among the bags"):
            ask(neurons.head(1), pd.concat([twenty, twenty]))
    with pytest.warns(UserWarning, match="only facts that have a neuron are counted"):
        assert facts_of(neurons, None).to_dict() == {"f0": "P36", "g": "P36"}


def test_without_neurons_to_leave_out_the_strongest_are_those_of_the_highest_mean_score():
    rows = [("p", 0, 1, 0.4), ("q", 0, 1, 0.2), ("q", 0, 2, 0.5), ("q", 1, 3, 0.1)]
    scores = pd.DataFrame(rows, columns=["prompt", "layer", "neuron", "score"])
    prompts = pd.DataFrame({"prompt": ["p", "q"], "fact": "a", "relation": "P1"})
    best = strongest(scores, prompts, None, None, 2)
    assert best[["layer", "neuron"]].to_numpy().tolist() == [[0, 1], [0, 2]]
    assert best["score"].tolist() == pytest.approx([0.3, 0.25])


def test_shares_of_layers_are_equation_5():
    """Layer 1 is weak: its neuron has a tenth of the largest score, and nearly all of its layer."""
    rows = [("a", 0, 1, 1.0), ("a", 0, 2, 0.9), ("a", 1, 7, 0.1)]
    scores = pd.DataFrame(rows, columns=["prompt", "layer", "neuron", "score"])
    sums = layer_sums(pd.DataFrame({"prompt": ["a"], "sums": [[2.0, 0.125]]}))
    assert sums["sum"].tolist() == [2.0, 0.125]
    assert shares_of_layers(scores, sums).tolist() == pytest.approx([0.5, 0.45, 0.8])
    assert above_threshold(scores, 0.5)["neuron"].tolist() == [1, 2]
    assert above_threshold(scores, 0.6, sums=sums)["neuron"].tolist() == [1, 7]
    assert above_threshold(scores, 0.7, sums=sums)["neuron"].tolist() == [7]
    prompts = pd.DataFrame({"prompt": ["a"], "fact": "f", "relation": "P36", "language": "en"})
    assert refine(scores, prompts, threshold=0.7, target=None, sums=sums)["neuron"].tolist() == [7]


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        ([2.0, 1e-9], "of 2 layers' sums 1 are nearer to 0 than 1e-06 and 0 negative"),
        ([2.0, -0.5], r"0 are nearer to 0 than 1e-06 and 1 negative.*such as -0.5 in layer 1 of a"),
        ([2.0, float("nan")], "equation 5 cannot be used"),
        ([2.0], "prompt a, layer 1: its sum is not there"),
    ],
)
def test_a_sum_that_cannot_be_divided_by_is_refused_in_one_line(sums, message):
    scores = pd.DataFrame({"prompt": "a", "layer": [0, 1], "neuron": [1, 7], "score": [1.0, 0.1]})
    table = layer_sums(pd.DataFrame({"prompt": ["a"], "sums": [sums]}))
    with pytest.raises(RefinementError, match=message) as refusal:
        above_threshold(scores, 0.2, sums=table)
    assert "\n" not in str(refusal.value)


def test_scores_that_were_not_kept_and_might_be_selected_are_asked_for():
    scores = pd.DataFrame({"prompt": "a", "layer": [0], "neuron": [1], "score": [1.0]})
    sums = layer_sums(pd.DataFrame({"prompt": ["a"], "sums": [[2.0, 0.1]]}))
    # one of 0.09 in layer 1 would be 0.9 of its layer, more than the 0.5 of the largest score
    with pytest.raises(RefinementError, match=r"keep=0.1 of the largest were not kept.*keep below 0.01\."):
        above_threshold(scores, 0.2, keep=0.1, sums=sums)
    assert len(above_threshold(scores, 0.2, keep=0.009, sums=sums)) == 1


def test_signs_of_sums_are_counted():
    notes = pd.DataFrame({"prompt": ["a", "b"], "sums": [[0.5, 0.2], [0.5, -0.2]]})
    told = signs_of_sums(layer_sums(notes)).set_index("layer")
    assert told.loc[0].tolist() == [1, 0, 0] and told.loc[1].tolist() == [0.5, 0, 0.5]
    assert told.loc["all"].tolist() == [0.5, 0, 0.5]
