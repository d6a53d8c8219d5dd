"""Effects of other languages' neurons: summary rows by a plain loop, areas, and edits at one cost."""

from __future__ import annotations

from itertools import permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kn_utils import plots
from kn_utils.statistics import edit_costs, transfer
from kn_utils.statistics.changes import log_odds
from kn_utils.statistics.controls import PLAIN, TYPED


def effects(seed: int = 0) -> pd.DataFrame:
    """Two facts of three prompts; own neurons of ``a`` take more away than those of ``b``."""
    random, rows = np.random.default_rng(seed), []
    for fact, prompts in (("f", ["f1", "f2"]), ("g", ["g1"])):
        for prompt in prompts:
            p = random.uniform(0.2, 0.8)
            for source, force in (("a", 0.5), ("b", 0.9)):
                for kind, extra in (("own", force), ("another answer", 0.95)):
                    after = p * extra * random.uniform(0.9, 1)
                    rows.append((prompt, fact, source, kind, p, after))
    table = pd.DataFrame(rows, columns=["prompt", "fact", "source", "neurons", "before", "after"])
    table = table.assign(typed_before=table["before"], typed_after=table["after"] * 0.9, size=2)
    return table.assign(
        logit=log_odds(table["after"]) - log_odds(table["before"]),
        typed_logit=log_odds(table["typed_after"]) - log_odds(table["typed_before"]),
    )


def logit(p: float) -> float:
    return np.log(p / (1 - p))


def test_the_logit_by_hand_and_at_the_edges():
    assert log_odds([0.5, 0.2, 0.8]) == pytest.approx([0, logit(0.2), logit(0.8)])
    assert np.isfinite(log_odds([1.0, 0.0])).all()


def test_effects_beyond_another_answer_by_a_plain_loop():
    table = effects()
    found = transfer.effects_beyond(table, ["source"]).set_index(["measure", "source"])["value"]
    for source in ("a", "b"):
        per_fact, sums = {}, np.zeros(3)
        for prompt in ("f1", "f2", "g1"):
            own, other = (
                table[
                    (table["prompt"] == prompt) & (table["source"] == source) & (table["neurons"] == kind)
                ].iloc[0]
                for kind in ("own", "another answer")
            )
            difference = (logit(own["after"]) - logit(own["before"])) - (
                logit(other["after"]) - logit(own["before"])
            )
            per_fact.setdefault(own["fact"], []).append(difference)
            sums += own["before"], own["after"], other["after"]
        assert found[transfer.LOGIT, source] == pytest.approx(
            np.mean([np.mean(d) for d in per_fact.values()])
        )
        assert found[PLAIN, source] == pytest.approx((sums[1] - sums[2]) / sums[0])
    assert set(found.index.get_level_values(0)) == {PLAIN, TYPED, transfer.LOGIT, transfer.TYPED_LOGIT}


@pytest.mark.slow
def test_beyond_each_of_several_sets():
    table = effects()
    more = table[table["neurons"] == "another answer"].assign(neurons="generic")
    more["logit"] /= 2
    both = pd.concat([table, more], ignore_index=True)
    found = transfer.beyond_each(both, ["source"], ["another answer", "same answer", "generic"])
    assert list(dict.fromkeys(found["over"])) == ["another answer", "generic"]  # nobody has the same answer
    assert set(found["measure"]) == set(transfer.LOGITS)
    for over, part in found.groupby("over"):
        wanted = transfer.effects_beyond(both, ["source"], over=over)
        wanted = wanted[wanted["measure"].isin(transfer.LOGITS)]
        assert part["value"].tolist() == wanted["value"].tolist()
    values = found[found["measure"] == transfer.LOGIT].set_index(["over", "source"])["value"]
    assert (values["another answer"] != values["generic"]).all()


def test_sources_are_paired_apart_where_they_are_pooled():
    table = effects().assign(side="both")
    pooled = transfer.effects_beyond(table, ["side"]).set_index("measure")["value"]
    each = transfer.effects_beyond(table, ["source"]).set_index(["measure", "source"])["value"]
    assert pooled[transfer.LOGIT] == pytest.approx(each[transfer.LOGIT].mean())
    assert pooled[PLAIN] == pytest.approx(each[PLAIN].mean())


def test_one_source_more_than_another_is_the_difference_of_their_excesses():
    table = effects()
    each = transfer.effects_beyond(table, ["source"]).set_index(["measure", "source"])["value"]
    for over, wanted in (
        ("another answer", each[transfer.LOGIT, "a"] - each[transfer.LOGIT, "b"]),
        (None, None),
    ):
        found = transfer.more_than(table, "a", "b", over=over).set_index("measure")
        assert found.loc[transfer.LOGIT, "value"] < -0.3 and found.loc[transfer.LOGIT, "n"] == 2
        if wanted is not None:
            assert found.loc[transfer.LOGIT, "value"] == pytest.approx(wanted)


def test_an_empty_set_counts_as_no_effect():
    table = effects()
    some = table[~((table["source"] == "a") & (table["fact"] == "g"))]
    filled = transfer.with_empty(some, "a", table[(table["source"] == "b") & (table["neurons"] == "own")])
    assert sorted(filled["prompt"]) == ["f1", "f2", "g1"]
    assert filled.set_index("prompt").loc["g1", ["logit", "size"]].tolist() == [0, 0]
    change = transfer.change_of(filled, ["source"]).set_index("measure")["value"]
    own = table[(table["source"] == "a") & (table["neurons"] == "own")].set_index("prompt")
    sums = own["before"].sum(), own["after"][["f1", "f2"]].sum() + own["before"]["g1"]
    assert change[PLAIN] == pytest.approx(sums[1] / sums[0] - 1)
    assert change[transfer.LOGIT] == pytest.approx((own["logit"][["f1", "f2"]].mean() + 0) / 2)


def test_the_area_by_a_plain_loop_within_relations():
    random = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "relation": random.choice(["P1", "P2"], 40),
            "group": random.choice(["shared", "other"], 40),
            "score": random.integers(0, 4, 40).astype(float),
        }
    )
    wins = pairs = 0.0
    for a in table.itertuples():
        for b in table.itertuples():
            if (a.group, b.group) == ("shared", "other") and a.relation == b.relation:
                pairs += 1
                wins += (a.score > b.score) + 0.5 * (a.score == b.score)
    found = transfer.told_apart(table, "score", "shared", "other")
    assert found["value"] == pytest.approx(wins / pairs) and found["low"] < found["value"] < found["high"]
    planted = table.assign(score=table["group"].eq("shared") + 0.0)
    assert transfer.told_apart(planted, "score", "shared", "other")["value"] == 1
    assert np.isnan(transfer.told_apart(table, "score", "shared", "nobody")["value"])


def test_pairs_that_rank_alike_against_permuted_languages():
    names = ["en", "ja", "nl", "zh"]
    random = np.random.default_rng(2)
    pairs = [(a, b) for a in names for b in names if a < b]
    alike = pd.DataFrame(pairs, columns=["first", "second"]).assign(value=random.random(len(pairs)))
    lookup = {frozenset(pair): value for *pair, value in alike.itertuples(index=False)}
    matrix = pd.DataFrame([(a, b) for a in names for b in names], columns=["source", "target"])
    matrix["value"] = [
        -lookup.get(frozenset(p), 9.0) + 0.01 * random.random() for p in matrix[["source", "target"]].values
    ]
    found = transfer.together_with(matrix, alike)
    off = matrix[matrix["source"] != matrix["target"]]
    there = [lookup[frozenset(p)] for p in off[["source", "target"]].values]
    assert (
        found["value"] == pytest.approx(stats.spearmanr(off["value"], there).statistic) and found["n"] == 12
    )
    values = []
    for order in permutations(names):
        other = dict(zip(names, order, strict=True))
        moved = [lookup[frozenset((other[a], other[b]))] for a, b in off[["source", "target"]].values]
        values.append(abs(stats.spearmanr(off["value"], moved).statistic))
    assert found["p"] == pytest.approx(np.mean(np.array(values) >= abs(found["value"]) - 1e-12))


def edits(costs: dict[str, float]) -> pd.DataFrame:
    """Four facts in one language; each source gains 1 nat and costs so much at force 1, twice at force 2."""
    rows = []
    for i in range(4):
        for source, cost in costs.items():
            for force in (1.0, 2.0):
                for where, gain in (
                    ("the fact", force),
                    ("another fact", 0.25 * force),
                    ("same relation", -cost * force),
                ):
                    rows.append(
                        (f"f{i}", "P36", "en", source, force, where, 0.01, 0.01 * np.exp(gain), force > 1)
                    )
    columns = [
        "fact",
        "relation",
        "language",
        "source",
        "force",
        "where",
        "before",
        "after",
        "typed_right_after",
    ]
    return pd.DataFrame(rows, columns=columns).assign(typed_right_before=False)


def test_edits_are_compared_where_they_cost_the_same():
    table = edits({"dear": 0.4, "cheap": 0.1})
    found = edit_costs.outcomes(table).set_index(["source", "force", "measure", "fact"])["value"]
    assert found["dear", 2.0, "cost", "f0"] == pytest.approx(0.8)
    assert found["cheap", 1.0, "gain beyond another fact", "f1"] == pytest.approx(0.75)
    matched = edit_costs.at_one_cost(table, 1.25)
    means = edit_costs.cost_matched(matched).set_index(["measure", "source"])
    wanted = np.log(1.25) / 0.4  # the force at which the dear one costs the budget; the cheap one never does
    gain = "gain of ln P(new answer)"
    assert means.loc[(gain, "dear"), "value"] == pytest.approx(wanted)
    assert means.loc[(gain, "dear"), "cost"] == pytest.approx(np.log(1.25))
    assert (
        means.loc[(gain, "cheap"), "value"] == pytest.approx(2) and means.loc[(gain, "cheap"), "reached"] == 0
    )
    difference = edit_costs.matched_difference(matched, "cheap", "dear").set_index("measure")
    assert difference.loc[gain, "value"] == pytest.approx(2 - wanted) and difference.loc[gain, "n"] == 4


def test_signs_of_sharing_by_hand():
    strong = pd.DataFrame(
        [
            (language, fact, "P36", 1, neuron, score)
            for fact, own in {
                "s": {"en": [1, 2], "nl": [1, 3]},
                "t": {"en": [4], "nl": [5]},
                "n": {"en": [7]},
            }.items()
            for language, neurons in own.items()
            for neuron, score in zip(neurons, (1.0, 0.5), strict=False)
        ],
        columns=["language", "fact", "relation", "layer", "neuron", "score"],
    )
    rows = [("s", "en", 0.5, True), ("s", "nl", 0.5, True), ("t", "en", 0.25, True), ("t", "nl", 0.04, True)]
    rows += [("n", "en", 0.1, False), ("n", "nl", 0.1, True), ("o", "en", 0.2, True), ("o", "nl", 0.2, False)]
    told = pd.DataFrame(rows, columns=["fact", "language", "probability", "typed_correct"])
    taught = pd.DataFrame(
        {"fact": list("stno"), "relation": "P36", "taught": ["all", "en", "never", "en"]}
    ).assign(group=["all", "one", "never", "one"])
    found = transfer.signs_of_sharing(strong, told, taught).set_index("fact")
    assert found["group"].to_dict() == {
        "s": "shared",
        "t": "transferred",
        "n": "never taught",
        "o": "not transferred",  # right in the language that it was taught in does not count
    }
    assert found["neurons in two languages"].to_dict() == {"s": 1, "t": 0, "n": 0, "o": 0}
    assert found.loc["s", "graded score"] == 1  # neuron 1: (1 + 1) / 2, no spread
    assert found.loc["t", "graded score"] == pytest.approx(0.5 - 0.5)
    assert found.loc["t", "mean ln P"] == pytest.approx(np.log(0.25 * 0.04) / 2)
    table = transfer.told_apart_by(found.reset_index()).set_index(["second", "score"])
    assert table.loc[("transferred", "neurons in two languages"), "value"] == 1
    assert set(table.index.get_level_values(1)) == {"neurons in two languages", "graded score", "mean ln P"}


def test_pictures_show_what_tables_say():
    table = pd.DataFrame(
        {
            "target": ["answer"] * 3 + ["typed"] * 3,
            "at_least": [2, 3, 4] * 2,
            "value": [3.0, 1, 0, 2, 1, 0],
            "other_fact": [2.0, 0.5, 0, 2, 1, 0],
            "chance": 0.01,
        }
    )
    table = table.assign(low=table["value"] * 0.9, high=table["value"] * 1.1)
    figure = plots.held_by_languages(table)
    for axes, target in zip(figure.axes, ("answer", "typed"), strict=True):
        part = table[table["target"] == target]
        for drawn, column in zip(axes.containers, ("value", "other_fact", "chance"), strict=True):
            assert drawn.lines[0].get_xydata().tolist() == part[["at_least", column]].to_numpy(float).tolist()
    plt.close(figure)
    rows = [(t, s, m, v) for t in ("answer", "typed") for s in "ab" for m, v in (("one", -0.1), ("two", 0.2))]
    table = pd.DataFrame(rows, columns=["target", "source", "measure", "value"])
    table = table.assign(low=table["value"] - 0.05, high=table["value"] + 0.05)
    figure = plots.by_source(table, "title", "%", order=["b", "a", "c"], scale=100)
    first = figure.axes[0]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["b", "a", "c"]
    points = [drawn.lines[0].get_xdata()[:2].tolist() for drawn in first.containers]
    assert points == [[-10, -10], [20, 20]] and first.get_ylim()[0] > first.get_ylim()[1]
    plt.close(figure)


@pytest.mark.slow
def test_tables_of_several_groups_are_those_of_each():
    two = [effects(seed).assign(found_for=name) for seed, name in ((0, "answer"), (1, "typed"))]
    both = pd.concat(two, ignore_index=True)
    pairs = {"a": "b", "b": "a"}
    found = transfer.compare_sources(both, pairs, ["found_for"]).set_index(["measure", "first", "found_for"])
    for part in two:
        name = part["found_for"].iloc[0]
        one = transfer.more_than(part, "b", "a").set_index("measure")
        assert found.loc[(transfer.LOGIT, "b", name), "value"] == pytest.approx(
            one.loc[transfer.LOGIT, "value"]
        )
    some = both[~((both["source"] == "a") & (both["fact"] == "g"))]
    whole = transfer.change_with_empty(some, "a", "found_for")
    part = some[some["found_for"] == "typed"]
    filled = transfer.with_empty(part, "a", part[(part["neurons"] == "own") & (part["source"] == "b")])
    wanted = transfer.change_of(filled, ["source"]).set_index("measure")["value"]
    mine = whole[whole["found_for"] == "typed"].set_index("measure")
    assert mine["value"].to_dict() == pytest.approx(wanted.to_dict()) and (mine["empty"] == 1 / 3).all()
    named = transfer.as_named(transfer.effects_beyond(both, ["found_for", "source"]), ", beyond")
    assert list(named) == ["measure", "neurons", "where", "value", "low", "high", "n"]
    assert set(named["where"]) == {"found for answer", "found for typed"} and set(named["neurons"]) == {
        "a",
        "b",
    }


@pytest.mark.slow
def test_edits_of_several_groups_are_those_of_each():
    one, two = edits({"dear": 0.4, "cheap": 0.1}), edits({"dear": 0.8, "cheap": 0.1})
    both = pd.concat([one.assign(found_for="answer"), two.assign(found_for="typed")], ignore_index=True)
    matched = edit_costs.at_one_cost_each(both, "found_for")
    for name, part in (("answer", one), ("typed", two)):
        mine = matched[matched["found_for"] == name].drop(columns="found_for").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, edit_costs.at_one_cost(part).reset_index(drop=True))
    table = edit_costs.matched_differences(matched, "cheap", ["dear"], "found_for")
    for name, part in (("answer", one), ("typed", two)):
        wanted = edit_costs.matched_difference(edit_costs.at_one_cost(part), "cheap", "dear")
        assert table.loc[table["found_for"] == name, "value"].tolist() == wanted["value"].tolist()


def test_a_single_fact_has_no_other_to_choose_its_force_and_pictures_say_so():
    single = edits({"dear": 0.4, "cheap": 0.1})
    single = single[single["fact"] == single["fact"].iloc[0]].assign(found_for="answer")
    matched = edit_costs.at_one_cost_each(single, "found_for")
    assert matched.empty
    table = edit_costs.matched_differences(matched, "cheap", ["dear"], "found_for")
    assert table.empty and list(table) == ["measure", "source", "value", "low", "high", "n", "found_for"]
    means = edit_costs.cost_matched(matched, ("found_for",)).rename(columns={"found_for": "target"})
    figure = plots.by_source(means, "title", "%", order=["cheap", "dear"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing to show: too few facts were asked"]
    plt.close(figure)


def test_the_force_is_chosen_by_other_facts_whatever_language_is_asked():
    table = edits({"dear": 0.4})
    abroad = table.assign(language="nl")
    abroad.loc[abroad["where"] == "same relation", "after"] = 0.01  # costs nothing there
    matched = edit_costs.at_one_cost(pd.concat([table, abroad], ignore_index=True))
    assert matched["force"].to_numpy() == pytest.approx(np.log(1.25) / 0.2)  # the mean of both languages
    assert set(matched["language"]) == {"en", "nl"} and len(matched) == 4 * 2 * 3
