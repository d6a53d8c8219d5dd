"""Edits compared at the same force and at the same cost, and their reach, by hand and by plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.statistics.forces import (
    affordable,
    at_same_cost,
    at_same_force,
    before_edits,
    by_force,
    by_wording,
    cost_matched,
    mixture,
    outcomes,
    reach_abroad,
)


def answers() -> pd.DataFrame:
    """Two facts, one edit: two questions about each, others that lose a factor."""
    rows = [
        # edited, where, before, after, right before, after, typed before, after
        ("a", "wordings held out", 0.1, 0.4, False, True, False, True),
        ("a", "wordings held out", 0.1, 0.1, False, False, False, True),
        ("b", "wordings held out", 0.2, 0.1, True, False, True, False),
        ("a", "same relation", 0.5, 0.25, True, False, True, True),
        ("a", "same relation", 0.5, 0.5, True, True, False, True),
        ("b", "same relation", 0.4, 0.1, True, False, True, False),
        ("a", "other relations", 0.5, 0.5, True, True, True, True),
    ]
    columns = ["edited", "where", "before", "after", "right_before", "right_after"]
    table = pd.DataFrame(rows, columns=[*columns, "typed_right_before", "typed_right_after"])
    return table.assign(neurons="knowledge", edit="signed", force=2.0, moved=2.5)


@pytest.mark.slow
def test_outcomes_by_hand():
    found = outcomes(answers()).set_index(["edited", "measure"])["value"]
    assert found["a", "new answer first"] == 0.5 and found["a", "new answer first, typed"] == 1
    assert found["b", "new answer first"] == 0 and found["b", "new answer first, typed"] == 0
    assert found["a", "log P of the new answer, gain"] == pytest.approx(np.log(4) / 2)
    assert found["b", "log P of the new answer, gain"] == pytest.approx(-np.log(2))
    assert found["a", "cost, same relation"] == pytest.approx(np.log(2) / 2)
    assert found["b", "cost, same relation"] == pytest.approx(np.log(4))
    assert found["a", "first choice kept, same relation"] == 1  # of the one that was right before
    assert found["b", "first choice kept, same relation"] == 0
    assert found["a", "cost, other relations"] == 0 and ("b", "cost, other relations") not in found
    start = before_edits(answers())
    assert start["new answer first", "a"] == 0 and start["new answer first", "b"] == 1
    means = by_force(outcomes(answers())).set_index("measure")
    assert means.loc["new answer first", ["value", "n"]].tolist() == [0.25, 2]
    assert means.loc["cost, other relations", "n"] == 1
    tuned = outcomes(pd.concat([answers(), answers().assign(edit="fine-tuned", force=np.nan)]))
    assert len(tuned) == 2 * len(outcomes(answers()))  # a missing force is no missing row
    assert len(by_force(tuned)) == 2 * len(means)


def table(costs: dict[str, list[list[float]]], gains: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Outcomes at the forces 1, 2, 4 of three facts; costs and success by edit, a list per fact."""
    rows = []
    for edit in costs:
        for i, fact in enumerate("abc"):
            for j, force in enumerate((1.0, 2.0, 4.0)):
                named = {"neurons": "knowledge", "edit": edit, "force": force, "edited": fact}
                rows.append({**named, "measure": "cost, same relation", "value": costs[edit][i][j]})
                rows.append({**named, "measure": "new answer first", "value": gains[edit][i][j]})
    return pd.DataFrame(rows)


COSTS = {
    "as published": [[0.1, 0.5, 2.0], [0.2, 0.3, 1.0], [0.0, 0.7, 3.0]],
    "signed": [[0.5, 1.5, 6.0], [0.4, 1.0, 5.0], [0.6, 2.0, 4.0]],
}
GAINS = {
    "as published": [[0.0, 0.5, 1.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.5]],
    "signed": [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.5, 1.0, 1.0]],
}


def test_the_same_cost_against_a_plain_loop():
    start = pd.Series({("new answer first", fact): 0.25 if fact == "c" else 0.0 for fact in "abc"})
    found = at_same_cost(table(COSTS, GAINS), start, (0.3, 1.2, 50.0), measures=["new answer first"])
    assert len(found) == 2 * 3 * 3
    for row in found.itertuples():
        i = "abc".index(row.edited)
        others = [c for j, c in enumerate(COSTS[row.edit]) if j != i]
        path = [(0.0, 0.0)] + [(f, sum(c[j] for c in others) / 2) for j, f in enumerate((1.0, 2.0, 4.0))]
        values = [start["new answer first", row.edited], *GAINS[row.edit][i]]
        own = [0.0, *COSTS[row.edit][i]]
        force, value, cost, reached = 4.0, values[-1], own[-1], False
        for j in range(1, 4):
            if path[j][1] >= row.budget:
                w = (row.budget - path[j - 1][1]) / (path[j][1] - path[j - 1][1])
                force, value, cost = (
                    (1 - w) * x[j - 1] + w * x[j] for x in ([f for f, _ in path], values, own)
                )
                reached = True
                break
        assert (row.force, row.value, row.cost) == pytest.approx((force, value, cost))
        assert row.reached == reached
    assert found.loc[found["budget"] == 50, "reached"].eq(False).all()


def test_a_fact_does_not_choose_its_own_force():
    cheap = {name: [list(c) for c in lists] for name, lists in COSTS.items()}
    cheap["signed"][0] = [0.0, 0.0, 0.0]
    start = pd.Series({("new answer first", fact): 0.0 for fact in "abc"})
    options = {"budgets": (0.4,), "measures": ["new answer first"]}
    first, second = (at_same_cost(table(c, GAINS), start, **options) for c in (COSTS, cheap))
    own = [f[(f["edit"] == "signed") & (f["edited"] == "a")].iloc[0] for f in (first, second)]
    assert own[0]["force"] == own[1]["force"] and own[0]["value"] == own[1]["value"]
    alone = table(COSTS, GAINS)
    assert at_same_cost(alone[alone["edited"] == "a"], start, **options).empty


def test_a_fact_without_a_wording_held_out_counts_among_the_others_only():
    start = pd.Series({("new answer first", fact): 0.0 for fact in "abc"})
    whole = table(COSTS, GAINS)
    gone = whole[(whole["edited"] != "c") | (whole["measure"] == "cost, same relation")]
    options = {"measures": ["new answer first"]}
    found = at_same_cost(gone, start.drop(("new answer first", "c")), **options)
    full = at_same_cost(whole, start, **options)
    pd.testing.assert_frame_equal(found, full[full["edited"] != "c"].reset_index(drop=True))


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5, 0.8, 2.0])
def test_mixed_forces_cost_the_budget(budget):
    path = np.array([0.0, 0.2, 0.15, 0.9])
    weights, reached = mixture(path, budget)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert reached == (budget <= 0.9)
    assert weights @ path == pytest.approx(min(budget, 0.9))


def test_the_force_that_can_be_afforded_by_hand():
    means = by_force(table(COSTS, GAINS))  # costs 0.1, 0.5, 2.0 and 0.5, 1.5, 5.0
    assert affordable(means) == 2 and affordable(means, 2.5) == 4 and affordable(means, 0.01) == 1
    assert affordable(means, 1.0, "signed") == 1
    alone = means[means["measure"] != "cost, same relation"]
    assert affordable(alone) == 1  # no other fact was asked
    gains = table(COSTS, GAINS).query("measure == 'new answer first'")
    assert at_same_cost(gains, pd.Series(dtype=float)).empty


def test_shares_by_wording_by_hand():
    rows = answers().assign(fact=lambda t: t["edited"])
    rows.loc[1, "where"] = "the edited prompt"
    rows.loc[3:, "fact"] = "c"  # another fact's question
    found = by_wording(rows).set_index(["measure", "where"])
    assert found.loc[("new answer first", "wordings held out"), ["value", "n"]].tolist() == [0.5, 2]
    assert found.loc[("new answer first", "the edited prompt"), ["value", "n"]].tolist() == [0, 1]
    assert found.loc[("new answer first, typed", "the edited prompt"), "value"] == 1
    assert len(found) == 4


def test_differences_are_paired_by_fact():
    found = at_same_force(table(COSTS, GAINS)).set_index(["force", "measure"])
    assert found.loc[(1.0, "new answer first"), "value"] == pytest.approx((1 + 0 + 0) / 3)
    assert found.loc[(2.0, "cost, same relation"), "value"] == pytest.approx((1.0 + 0.7 + 1.3) / 3)
    start = pd.Series({("new answer first", fact): 0.0 for fact in "abc"})
    matched = at_same_cost(table(COSTS, GAINS), start, (0.3,), measures=["new answer first"])
    shown = cost_matched(matched).set_index("edit")
    mine = matched.pivot(index="edited", columns="edit", values="value")
    assert shown.loc["signed - as published", "value"] == pytest.approx(
        (mine["signed"] - mine["as published"]).mean()
    )
    assert shown.loc["signed", "cost"] == pytest.approx(matched.query("edit == 'signed'")["cost"].mean())
    assert shown["n"].tolist() == [3, 3, 3]


def test_reach_beyond_another_fact_by_hand():
    rows = []
    for edited, language, alike, own, another, its in [
        ("a", "nl", True, 8.0, 2.0, 0.5),
        ("a", "ja", False, 1.0, 2.0, 1.0),
        ("b", "nl", False, 4.0, 4.0, 0.25),
    ]:
        factors = {"the fact": own, "another fact": another, "another fact, its answer": its}
        rows += [(edited, language, alike, where, 0.01, 0.01 * factor) for where, factor in factors.items()]
    table = pd.DataFrame(rows, columns=["edited", "language", "alike", "where", "before", "after"])
    table = table.assign(neurons="knowledge", edit="signed", force=1.0)
    found = reach_abroad(table).set_index(["language", "spelled", "measure"])
    nats = found["value"] / np.log(2)
    # by fact: a gains 3 and 0 and in another fact 1 and 1; b gains 2 and 2
    assert nats["all", "either", "the fact"] == pytest.approx((1.5 + 2) / 2)
    assert nats["all", "either", "another fact"] == pytest.approx((1 + 2) / 2)
    assert nats["all", "either", "excess"] == pytest.approx((0.5 + 0) / 2)
    assert nats["all", "either", "cost of another fact"] == pytest.approx((0.5 + 2) / 2)
    assert nats["nl", "either", "excess"] == pytest.approx((2 + 0) / 2)
    assert (
        nats["all", "alike", "excess"] == pytest.approx(2) and found.loc[("all", "alike", "excess"), "n"] == 1
    )
    assert nats["all", "differently", "excess"] == pytest.approx((-1 + 0) / 2)
    assert nats["ja", "differently", "excess"] == pytest.approx(-1)
    assert reach_abroad(table.iloc[:0].drop(columns="after")).empty
    excess = found.loc[("all", "either", "excess")]
    assert (excess["low"], excess["high"], excess["n"]) == pytest.approx((0, 0.5 * np.log(2), 2))
