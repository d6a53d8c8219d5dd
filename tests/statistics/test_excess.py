"""What own neurons do beyond others': by hand, and paired fact by fact."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.statistics.controls import PLAIN, TYPED, changes_by_set, excess, mark_spelling


def effects(*rows: tuple) -> pd.DataFrame:
    """Typed P is half of P; right before, and after where P > 0.1."""
    table = pd.DataFrame(rows, columns=["neurons", "fact", "prompt", "before", "after"])
    typed = {f"typed_{when}": table[when] / 2 for when in ("before", "after")}
    right = {"right_before": True, "right_after": table["after"] > 0.1}
    return table.assign(**typed, **right, typed_right_before=False, typed_right_after=True, language="en")


TABLE = effects(
    ("own", "a", "a1", 0.4, 0.1),
    ("own", "a", "a2", 0.2, 0.1),
    ("own", "b", "b1", 0.4, 0.3),
    ("another answer", "a", "a1", 0.4, 0.3),
    ("another answer", "b", "b1", 0.4, 0.4),
    ("random", "b", "b1", 0.4, 0.4),
)


def test_changes_are_ratios_of_means_and_choices_are_of_right_ones():
    found = changes_by_set(TABLE, ["neurons"]).set_index(["measure", "neurons"])
    assert found.loc[(PLAIN, "own"), "value"] == pytest.approx(0.5 / 1.0 - 1)
    assert found.loc[(TYPED, "own"), "value"] == pytest.approx(0.5 / 1.0 - 1)
    assert found.loc[(PLAIN, "own"), "n"] == 2
    assert found.loc[("first choice kept", "own"), "value"] == pytest.approx((0 + 1) / 2)
    # no typed first choice was right before: nothing to keep
    assert "first choice among them kept" not in found.index.get_level_values("measure")


def test_the_excess_is_over_prompts_that_both_acted_on():
    found = excess(TABLE, ["language"]).set_index("measure")
    assert found.loc[PLAIN, "value"] == pytest.approx(((0.1 + 0.3) - (0.3 + 0.4)) / (0.4 + 0.4))
    assert found.loc[PLAIN, "n"] == 2 and list(found.index) == [PLAIN, TYPED]
    assert excess(TABLE, ["language"], over="generic").empty


def test_the_interval_of_the_excess_draws_facts_with_both_of_their_sets():
    random = np.random.default_rng(0)
    rows = []
    for i in range(40):  # sets that differ much from fact to fact, and by 0.1 from each other
        after = random.uniform(0.2, 0.8)
        rows += [
            ("own", f"f{i}", f"p{i}", 1.0, after),
            ("another answer", f"f{i}", f"p{i}", 1.0, after + 0.1),
        ]
    row = excess(effects(*rows), ["language"]).iloc[0]
    assert row["value"] == pytest.approx(-0.1)
    assert row["high"] - row["low"] < 1e-9  # resampled apart they would differ by tenths
    apart = changes_by_set(effects(*rows), ["neurons"]).iloc[0]
    assert apart["high"] - apart["low"] > 0.05


def test_spelling_alike_with_shared_characters_or_differently():
    answers = [
        ("a", "en", "Oslo"),
        ("a", "nl", "oslo"),
        ("b", "zh", "東京"),
        ("b", "ja", "東京都"),
        ("c", "zh", "巴黎"),
        ("c", "ja", "パリ"),
        ("d", "en", "Rome"),
        ("d", "nl", "Rom"),
    ]
    prompts = pd.DataFrame(answers, columns=["fact", "language", "answer"])
    pairs = [("a", "en", "nl"), ("b", "zh", "ja"), ("c", "ja", "zh"), ("d", "en", "nl"), ("d", "ko", "nl")]
    table = pd.DataFrame(pairs, columns=["fact", "found", "language"])
    found = mark_spelling(table, prompts)
    assert found["spelled"].tolist() == ["alike", "shared characters", "differently", "differently"]
    assert list(found["fact"]) == ["a", "b", "c", "d"]  # d has no Korean answer
