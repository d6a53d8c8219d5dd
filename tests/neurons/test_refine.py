"""Refinement against cases worked out by hand, edges and ties included."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_utils.neurons.choose import as_pairs, pairs_by_fact, random_neurons, relation_neurons
from kn_utils.neurons.refine import RefinementError, above_threshold, refine


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
    found = refine(scores(rows), bag("f", 4))
    assert sorted(found["neuron"]) == [1, 2]
    (report,) = found.attrs["refinement"]
    assert report["settled"] and report["share"] == 0.5
    assert [share for share, _ in report["tried"]] == [0.7, 0.65, 0.6, 0.55, 0.5]


def test_share_moves_up_when_there_are_too_many():
    # five prompts hold neurons 0..5; the sixth of six prompts misses neurons 3, 4 and 5: 5/6 = 0.83
    rows = [(f"f/{i}", 0, n, 1.0) for i in range(5) for n in range(6)] + [
        ("f/5", 0, n, 1.0) for n in range(3)
    ]
    found = refine(scores(rows), bag("f", 6))
    assert sorted(found["neuron"]) == [0, 1, 2]
    assert found.attrs["refinement"][0]["share"] == 0.85


def test_oscillation_is_reported_and_the_nearest_share_is_taken():
    # all seven neurons in exactly 3 of 5 prompts: at 0.60 seven, at 0.65 none
    rows = [(f"f/{i}", 0, n, 1.0) for i in range(3) for n in range(7)]
    found = refine(scores(rows), bag("f", 5))
    (report,) = found.attrs["refinement"]
    assert not report["settled"]
    assert report["tried"] == [(0.7, 0.0), (0.65, 0.0), (0.6, 7.0)]
    assert report["share"] == 0.7 and found.empty  # 0 is as far from [2, 5] as 7: the stricter share wins


def test_each_relation_settles_alone_and_facts_without_neurons_count():
    prompts = pd.concat([bag("a", 2, "P36"), bag("b", 2, "P36"), bag("c", 2, "P30")])
    rows = [(f"a/{i}", 0, n, 1.0) for i in range(2) for n in range(4)] + [
        (f"c/{i}", 1, n, 1.0) for i in range(2) for n in range(3)
    ]
    found = refine(scores(rows), prompts)
    report = {one["relation"]: one for one in found.attrs["refinement"]}
    assert report["P36"]["mean"] == 2.0 and report["P36"]["facts"] == 2  # four neurons over two facts
    assert report["P30"]["mean"] == 3.0
    assert found.attrs["facts"] == {"a": "P36", "b": "P36", "c": "P30"}


def test_released_settings_floor_and_rounds():
    rows = [(f"f/{i}", 0, 1, 1.0) for i in range(2)]
    assert refine(scores(rows), bag("f", 2), floor=3, target=None).empty
    (report,) = refine(scores(rows), bag("f", 2), rounds=6).attrs["refinement"]
    assert len(report["tried"]) == 7 and report["share"] == pytest.approx(0.4) and not report["settled"]


def test_a_bag_over_languages_is_called_all():
    prompts = pd.concat([bag("f", 2), bag("f", 2, language="ja").assign(prompt=["f/2", "f/3"])])
    rows = [(f"f/{i}", 0, n, 1.0) for i in range(4) for n in (0, 1)]
    assert set(refine(scores(rows), prompts)["language"]) == {"all"}


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
