"""Pairs judged: additive ones pass the published rule, planted ones interact; every number by a loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.statistics import degenerate as judging


def pair(fact: str, p: float, odds: tuple[float, float, float], kind: str = "own", layers=(0, 0)) -> dict:
    """A pair whose silencing lowers the log-odds of P by these amounts: a, b, both."""
    before = np.log(p / (1 - p))
    told = {"fact": fact, "relation": "P", "language": "en", "kind": kind, "p": p}
    told |= {"a_layer": layers[0], "a_neuron": 1, "b_layer": layers[1], "b_neuron": 2}
    for name, lost in zip(("p_a", "p_b", "p_ab"), odds, strict=True):
        told[name] = 1 / (1 + np.exp(-(before - lost)))
    return told


def random_pairs(seed: int = 0, noise: float = 0.0, kind: str = "own", facts: int = 6) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = []
    for fact in range(facts):
        for _ in range(12):
            a, b = random.uniform(-0.1, 0.6, 2)
            both = a + b + noise * random.normal()
            layers = tuple(random.integers(0, 4, 2))
            rows.append(pair(f"f{fact}", random.uniform(0.2, 0.8), (a, b, both), kind, layers))
    return pd.DataFrame(rows)


def test_losses_and_interactions_are_those_that_were_planted():
    table = pd.DataFrame([pair("f", 0.5, (0.1, 0.2, 0.3)), pair("f", 0.5, (0.0, 0.0, 0.7), layers=(1, 3))])
    found = judging.judged_pairs(table)
    assert found["loss_a"].tolist() == pytest.approx([0.1, 0.0])
    assert found["interaction"].tolist() == pytest.approx([0.0, 0.7], abs=1e-12)
    assert found["drop_added"].tolist() == pytest.approx([found["drop_ab"][0], 0.0], abs=1e-12)
    assert found["distance"].tolist() == ["same layer", "farther"]


def test_two_independent_neurons_of_15_percent_pass_the_published_rule():
    before = 0.5
    lost = np.log(before / (1 - before)) - np.log(0.425 / 0.575)  # P falls by 15 %
    table = judging.judged_pairs(pd.DataFrame([pair("f", before, (lost, lost, 2 * lost))]))
    found = judging.published_rule(table).set_index(["threshold", "measure"])["value"]
    assert found["0.2 / 0.25", "pairs that pass"] == 1
    assert found["0.2 / 0.25", "of these pass by addition"] == 1
    assert found["0.2 / 0.25", "of these interact"] == 0
    # and an OR passes it as well, but not by addition
    table = judging.judged_pairs(pd.DataFrame([pair("f", before, (0.0, 0.0, 3.0))]))
    found = judging.published_rule(table).set_index(["threshold", "measure"])["value"]
    assert (
        found["0.2 / 0.25", "of these pass by addition"] == 0
        and found["0.2 / 0.25", "of these interact"] == 1
    )


def test_a_threshold_ratio_of_two_excludes_sums_of_probability():
    table = judging.judged_pairs(random_pairs(3))
    drop = table["drop_a"] + table["drop_b"]
    low = 0.1
    singles = (table["drop_a"] <= low) & (table["drop_b"] <= low)
    assert not (singles & (drop > 2 * low)).any() and (singles & (drop > 1.25 * low)).any()


@pytest.mark.parametrize("low, high", judging.SCALED)
def test_shares_of_the_rule_by_a_loop(low, high):
    table = judging.judged_pairs(random_pairs(1, 0.05))
    found = judging.published_rule(table, [(low, high)]).set_index("measure")
    passing = added = interact = 0
    facts = set()
    for row in table.itertuples():
        odds = np.log(row.p / (1 - row.p))
        alone = [1 - row.p_a / row.p, 1 - row.p_b / row.p]
        if max(alone) <= low and 1 - row.p_ab / row.p > high:
            passing += 1
            facts.add(row.fact)
            a, b, both = (odds - np.log(p / (1 - p)) for p in (row.p_a, row.p_b, row.p_ab))
            added += 1 - 1 / (1 + np.exp(-(odds - a - b))) / row.p > high
            interact += both - a - b > 0.1 * both
    assert found.loc["pairs that pass", "value"] == pytest.approx(passing / len(table))
    assert found.loc["facts with a pair", "value"] == pytest.approx(len(facts) / 6)
    if passing:
        assert found.loc["of these pass by addition", "value"] == pytest.approx(added / passing)
        assert found.loc["of these interact", "value"] == pytest.approx(interact / passing)
        assert found.loc["of these interact", "n"] == len(facts)
    told = judging.members(table, low, high)
    assert len(told) == 2 * passing and set(told["fact"]) == facts


def test_the_usual_thresholds_are_those_at_which_most_facts_have_a_pair():
    none = judging.judged_pairs(pd.DataFrame([pair(f, 0.5, (0.0, 0.0, 0.0)) for f in "ab"]))
    assert judging.usual_thresholds(none) == judging.PUBLISHED
    one, other = pair("a", 0.5, (0.0, 0.0, 3.0)), pair("b", 0.5, (0.0, 0.0, 0.0))
    some = judging.judged_pairs(pd.DataFrame([one, other]))
    assert judging.usual_thresholds(some) == judging.PUBLISHED
    weak = [pair(f, 0.5, (0.0, 0.0, 0.1)) for f in "bc"]  # P falls by 5 %
    most = judging.judged_pairs(pd.DataFrame([one, *weak]))
    assert judging.usual_thresholds(most) == (0.02, 0.025)


def test_additivity_by_a_loop():
    table = judging.judged_pairs(random_pairs(2, 0.1))
    found = judging.additivity(table).set_index("measure")
    lost, extra = table["loss_ab"].tolist(), table["interaction"].tolist()
    mean = sum(lost) / len(lost)
    r2 = 1 - sum(e * e for e in extra) / sum((one - mean) ** 2 for one in lost)
    positive = [(one, e) for one, e in zip(lost, extra, strict=True) if one > 0]
    assert found.loc["additive R2", "value"] == pytest.approx(r2)
    assert found.loc["interaction over loss", "value"] == pytest.approx(sum(extra) / sum(map(abs, lost)))
    assert found.loc["redundant", "value"] == pytest.approx(np.mean([e >= 0.1 * one for one, e in positive]))
    assert found.loc["complementary", "value"] == pytest.approx(
        np.mean([e <= -0.1 * one for one, e in positive])
    )
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    exact = judging.additivity(judging.judged_pairs(random_pairs(2))).set_index("measure")["value"]
    assert exact["additive R2"] == pytest.approx(1) and exact["redundant"] == 0


def test_matched_pairs_are_the_nearest_by_a_loop():
    own, others = random_pairs(4, 0.02, facts=2), random_pairs(5, 0.2, "other", 3)
    table = judging.judged_pairs(pd.concat([own, others], ignore_index=True))
    found = judging.matched_interactions(table).set_index("measure")["value"]
    told: dict[str, list[tuple[float, float]]] = {}
    close: dict[str, list[float]] = {}
    pool = [r for r in table.itertuples() if r.kind != "own" and r.loss_a + r.loss_b > 0]
    for row in table[table["kind"] == "own"].itertuples():
        mine = row.loss_a + row.loss_b
        if mine > 0:
            best = min(pool, key=lambda r: abs(r.loss_a + r.loss_b - mine))
            theirs = best.loss_a + best.loss_b
            near = abs(theirs - mine) <= 0.2 * mine
            close.setdefault(row.fact, []).append(float(near))
            if near:
                told.setdefault(row.fact, []).append((row.interaction / mine, best.interaction / theirs))
    means = [np.mean(pairs, axis=0) for pairs in told.values()]
    assert found["own"] == pytest.approx(np.mean([m[0] for m in means]))
    assert found["matched"] == pytest.approx(np.mean([m[1] for m in means]))
    assert found["own less matched"] == pytest.approx(found["own"] - found["matched"])
    assert found["matched pairs"] == pytest.approx(np.mean([np.mean(c) for c in close.values()]))


def test_a_planted_interaction_stands_out_of_the_matched_pairs():
    own, others = random_pairs(4), random_pairs(5, kind="other", facts=20)
    own["p_ab"] *= 0.8  # both together take more
    table = judging.judged_pairs(pd.concat([own, others], ignore_index=True))
    found = judging.matched_interactions(table).set_index("measure")
    assert found.loc["own less matched", "low"] > 0 and found.loc["redundant, own", "value"] > 0.9


def test_without_others_nothing_is_matched():
    found = judging.matched_interactions(judging.judged_pairs(random_pairs(4)))
    assert found["measure"].tolist() == ["matched pairs"] and found["value"].tolist() == [0]
    assert judging.matched_interactions(judging.judged_pairs(random_pairs(4, kind="other"))).empty


def test_orders_of_one_fact_by_hand():
    row = {"fact": "f", "relation": "P", "language": "en", "kind": "own", "n": 4, "before": 1.0}
    row |= {"carried": 2.0, "summed": 1.5, "order": 2, "size": 1.0, "left": 0.9, "redundant": True}
    row |= {"harmful": 0.25, "order_additive": 0, "size_additive": 2.0, "left_additive": 0.1}
    weak = row | {"fact": "g", "carried": 0.05}
    told = judging.orders(
        pd.DataFrame([row | {"redundant_additive": False}, weak | {"redundant_additive": False}]), 0.1
    )
    found = told.set_index("measure")["value"].to_dict()
    assert found == {
        "carries something": 0.5,
        "log-odds carried": 2.0,
        "order": 2.0,
        "order, additive": 1.0,
        "order beyond additive": 1.0,
        "order of 2 or more": 1.0,
        "order of 2 or more, additive": 0.0,
        "size of the first set": 0.25,
        "size of the first set, additive": 0.5,
        "left to the others": 0.9,
        "left to the others, additive": 0.1,
        "redundant sets": 1.0,
        "redundant sets, additive": 0.0,
        "carried beyond the sum": 0.25,
        "harmful steps": 0.25,
    }


def test_noise_is_what_sets_carry_that_should_carry_nothing():
    carried = np.linspace(-1, 0.5, 31)
    found = judging.noise_of(pd.DataFrame({"carried": carried}))
    assert found == pytest.approx(np.quantile(np.abs(carried), 0.95))
    assert judging.noise_of(pd.DataFrame({"carried": []})) == 0
