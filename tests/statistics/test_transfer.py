"""Effects of other languages' neurons: summary rows by a plain loop, areas, and edits at one cost."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kn_utils.statistics import edits_across, transfer
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
        logit=transfer.logit_change(table["before"], table["after"]),
        typed_logit=transfer.logit_change(table["typed_before"], table["typed_after"]),
    )


def logit(p: float) -> float:
    return np.log(p / (1 - p))


def test_the_logit_by_hand_and_at_the_edges():
    assert transfer.logit_change([0.5, 0.2], [0.5, 0.8]) == pytest.approx([0, logit(0.8) - logit(0.2)])
    assert np.isfinite(transfer.logit_change([1.0, 0.0], [0.0, 1.0])).all()


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
    found = edits_across.outcomes(table).set_index(["source", "force", "measure", "fact"])["value"]
    assert found["dear", 2.0, "cost", "f0"] == pytest.approx(0.8)
    assert found["cheap", 1.0, "gain beyond another fact", "f1"] == pytest.approx(0.75)
    matched = edits_across.at_one_cost(table, 1.25)
    means = edits_across.cost_matched(matched).set_index(["measure", "source"])
    wanted = np.log(1.25) / 0.4  # the force at which the dear one costs the budget; the cheap one never does
    gain = "gain of ln P(new answer)"
    assert means.loc[(gain, "dear"), "value"] == pytest.approx(wanted)
    assert means.loc[(gain, "dear"), "cost"] == pytest.approx(np.log(1.25))
    assert (
        means.loc[(gain, "cheap"), "value"] == pytest.approx(2) and means.loc[(gain, "cheap"), "reached"] == 0
    )
    difference = edits_across.matched_difference(matched, "cheap", "dear").set_index("measure")
    assert difference.loc[gain, "value"] == pytest.approx(2 - wanted) and difference.loc[gain, "n"] == 4
