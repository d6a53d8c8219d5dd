"""Judged rules: means over prompts and paired differences, against a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.statistics.judged import judged_rules, readable


@pytest.fixture
def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    lines = []
    for number in range(7):
        target = "log-odds" if number == 6 else "answer"
        for rule in ("gradient", "right, 20"):
            for measure in ("rank", "found"):
                lines.append((f"p{number}", target, rule, measure, draw.uniform()))
    return pd.DataFrame(lines, columns=["prompt", "target", "rule", "measure", "value"])


def test_means_are_those_of_the_prompts_with_an_interval_around_them(table):
    rows = judged_rules(table).set_index(["target", "rule", "measure"])
    for names, row in rows.iterrows():
        own = table[(table[["target", "rule", "measure"]] == list(names)).all(axis=1)]["value"]
        assert row["value"] == pytest.approx(np.mean(own.tolist())) and row["n"] == len(own)
        if names[0] == "answer":
            assert own.min() < row["low"] < row["value"] < row["high"] < own.max() and len(own) == 6
        else:
            assert np.isnan(row["low"]) and len(own) == 1


def test_differences_are_taken_prompt_by_prompt(table):
    rows = judged_rules(table.sample(frac=1, random_state=1), against="gradient")
    assert set(rows["rule"]) == {"right, 20"} and len(rows) == 4
    for row in rows.itertuples():
        apart = []
        for _, own in table[(table["measure"] == row.measure) & (table["target"] == row.target)].groupby(
            "prompt"
        ):
            values = own.set_index("rule")["value"]
            apart.append(values["right, 20"] - values["gradient"])
        assert row.value == pytest.approx(np.mean(apart)) and row.n == len(apart)
    level = table.assign(value=table["value"].where(table["rule"] == "gradient"))
    level["value"] = level.groupby(["prompt", "measure"])["value"].transform("max") + (
        level["rule"] != "gradient"
    )
    rows = judged_rules(level, against="gradient")
    np.testing.assert_allclose(rows["value"], 1)
    np.testing.assert_allclose(rows.loc[rows["n"] > 1, ["low", "high"]], 1)


def test_to_be_read(table):
    rows = judged_rules(table)
    shown = readable(rows, 2)
    assert shown.columns.tolist() == ["prompts", "rank", "found"]
    assert shown.index.tolist()[0] == ("answer", "gradient") and shown["prompts"].tolist() == [6, 6, 1, 1]
    first = rows.iloc[0]
    assert shown.iloc[0]["rank"] == f"{first.value:.2f} ({first.low:.2f} to {first.high:.2f})"
    assert "(" not in shown.loc[("log-odds", "gradient"), "rank"]
