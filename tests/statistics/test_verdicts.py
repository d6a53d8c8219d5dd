"""Rules that judge claims: each by hand, against a plain oracle, and with a stored number changed."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest

from kn_utils.statistics.verdicts import (
    FEWEST,
    HOLDS,
    IN_PART,
    NO_INTERVAL,
    NOT,
    NOT_RUN,
    NOT_SHOWN,
    OPEN,
    TOO_FEW,
    Rule,
    RuleError,
    combine,
    judge,
    judged_claims,
    judged_parts,
)


def number(low, high, n=40, value=None):
    middle = (low + high) / 2 if value is None and low is not None else value
    return {"value": middle, "low": low, "high": high, "n": n}


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ("below 0", -0.3, -0.1, HOLDS),
        ("below 0", 0.1, 0.3, NOT),
        ("below 0", -0.3, 0.1, NOT_SHOWN),
        ("below 0", -0.3, 0.0, NOT_SHOWN),  # the limit itself is on no side
        ("below 0", 0.0, 0.0, NOT_SHOWN),
        ("above 0.25", 0.3, 0.5, HOLDS),
        ("above 0.25", 0.0, 0.1, NOT),
        ("above 0.25", 0.2, 0.5, NOT_SHOWN),
        ("above -0.05", -0.01, 0.02, HOLDS),
        ("above -0.05", -0.4, -0.1, NOT),
    ],
)
def test_a_limit_by_hand(rule, low, high, verdict):
    assert judge(number(low, high), Rule.read(rule)) == verdict


@pytest.mark.parametrize(
    ("rule", "own", "other", "verdict"),
    [
        ("below another", (-0.3, -0.2), (-0.1, 0.1), HOLDS),
        ("below another", (0.2, 0.3), (-0.1, 0.1), NOT),
        ("below another", (-0.3, 0.0), (-0.1, 0.1), NOT_SHOWN),
        ("above another", (0.2, 0.3), (-0.1, 0.1), HOLDS),
        ("above another", (0.2, 0.3), (0.3, 0.4), NOT_SHOWN),  # they touch
        ("above another", (0.2, 0.3), (0.4, 0.5), NOT),
    ],
)
def test_another_number_by_hand(rule, own, other, verdict):
    assert judge(number(*own), Rule.read(rule), number(*other)) == verdict


def test_what_is_missing_decides_nothing():
    above, another = Rule.read("above 0"), Rule.read("above another")
    assert judge(number(0.1, 0.3, n=FEWEST), above) == HOLDS
    assert judge(number(0.1, 0.3, n=FEWEST - 1), above) == TOO_FEW
    assert judge(number(0.1, 0.3), another, number(-0.1, 0.0, n=FEWEST - 1)) == TOO_FEW
    for gone in (None, math.nan):
        assert judge(number(gone, gone, value=0.3), above) == NO_INTERVAL
        assert judge(number(0.1, 0.3), another, number(gone, gone, value=0.05)) == HOLDS
        assert judge(number(0.1, 0.3), another, number(gone, gone, value=0.2)) == NOT_SHOWN
        assert judge(number(0.1, 0.3), another, number(gone, gone, value=gone)) == NO_INTERVAL
    with pytest.raises(RuleError, match="needs the other number"):
        judge(number(0.1, 0.3), another)


@pytest.mark.parametrize("text", ["", "below", "below zero", "within 0", "above nan", "above  inf", "0"])
def test_a_rule_that_nobody_can_read_is_refused(text):
    with pytest.raises(RuleError, match="should be below or above"):
        Rule.read(text)


def test_rules_mirror_each_other():
    """Property: turn every sign round and below becomes above; claim and contrary never hold together."""
    ends = [-0.3, -0.05, 0.0, 0.05, 0.3]
    for low, high, limit in itertools.product(ends, ends, ends):
        if low <= high:
            below = judge(number(low, high), Rule("below", limit))
            assert below == judge(number(-high, -low), Rule("above", -limit))
            above = judge(number(low, high), Rule("above", limit))
            assert (below == HOLDS) == (above == NOT) and (below == NOT_SHOWN) == (above == NOT_SHOWN)


def test_parts_make_a_claim_as_said():
    """Oracle: the sentences of the definition, over every mixture of up to three parts."""
    kinds = [HOLDS, NOT, NOT_SHOWN, TOO_FEW, NO_INTERVAL, NOT_RUN]
    for size in (1, 2, 3):
        for parts in itertools.product(kinds, repeat=size):
            some, all_ = any(p == HOLDS for p in parts), all(p == HOLDS for p in parts)
            if all_:
                wanted = HOLDS
            elif some:
                wanted = IN_PART
            elif any(p == NOT for p in parts):
                wanted = NOT
            elif all(p == NOT_RUN for p in parts):
                wanted = NOT_RUN
            else:
                wanted = OPEN
            assert combine(parts) == wanted, parts
    assert combine([]) == OPEN


def parts_and_numbers():
    name = {"notebook": "06", "measure": "m", "neurons": "own", "where": ""}
    other = {"other_measure": "m", "other_neurons": "random", "other_where": ""}
    none = dict.fromkeys(other, "")
    parts = pd.DataFrame(
        [
            {"id": "a", "part": "one", "rule": "below 0", **name, **none},
            {"id": "a", "part": "two", "rule": "below another", **name, **other},
        ]
    )
    rows = [
        {"model": "mini", **name, "value": -0.2, "low": -0.3, "high": -0.1, "n": 50},
        {"model": "mini", **name, "neurons": "random", "value": 0.0, "low": -0.01, "high": 0.01, "n": 50},
        {"model": "other", **name, "value": -0.2, "low": -0.3, "high": -0.1, "n": 50},
    ]
    return parts, pd.DataFrame(rows)


def test_a_verdict_follows_a_changed_number():
    parts, numbers = parts_and_numbers()
    models = ["mini", "other", "none"]
    judged = judged_parts(parts, numbers, models)
    found = judged_claims(judged, ["a", "b"]).set_index(["id", "model"])["verdict"]
    assert found["a"].tolist() == [HOLDS, IN_PART, NOT_RUN]  # the other's second part has no other number
    assert found["b"].tolist() == [OPEN] * 3
    numbers.loc[0, ["value", "low", "high"]] = [0.2, 0.1, 0.3]
    judged = judged_parts(parts, numbers, models)
    changed = judged_claims(judged, ["a"]).set_index("model")
    assert changed["verdict"].tolist() == [NOT, IN_PART, NOT_RUN]
    assert changed.loc["mini", "why"] == "2 does not hold (of 2)"
    numbers.loc[0, ["low", "high"]] = [-0.1, 0.3]
    assert judged_claims(judged_parts(parts, numbers, models), ["a"])["verdict"][0] == OPEN


def test_parts_keep_their_numbers():
    judged = judged_parts(*parts_and_numbers(), ["mini", "none"])
    assert judged["verdict"].tolist() == [HOLDS, NOT_RUN, HOLDS, NOT_RUN]
    assert judged["other_high"].tolist()[2] == 0.01 and judged[["value", "n"]].loc[[1, 3]].isna().all(
        axis=None
    )
