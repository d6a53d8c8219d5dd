"""Named numbers: rows with measure, neurons and where; refused when two have one name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.run.numbers import NAME, VALUES, NumbersError, as_text, named_numbers, spelt


def rows(**columns) -> pd.DataFrame:
    return pd.DataFrame({**columns, "value": 0.5, "low": 0.25, "high": np.nan, "n": 8})


def test_what_is_missing_from_a_name_is_empty():
    given = rows(measure=["P", "P", "Q"], neurons=["own", None, np.nan], other=["x", "y", "z"])
    table = named_numbers(given)
    assert list(table) == [*NAME, *VALUES]
    assert table[NAME].to_numpy().tolist() == [["P", "own", ""], ["P", "", ""], ["Q", "", ""]]
    assert table["value"].tolist() == [0.5] * 3 and table["high"].isna().all()
    pd.testing.assert_frame_equal(named_numbers(table), table)


def test_a_name_alone_is_the_measure_whatever_else_the_row_says():
    mixed = rows(
        name=["en, neurons per fact", None],
        measure=["neurons per fact", "P"],
        where=["en", "there"],
        neurons="own",
    )
    assert named_numbers(mixed)[NAME].to_numpy().tolist() == [
        ["en, neurons per fact", "", ""],
        ["P", "own", "there"],
    ]
    assert named_numbers(rows(name=["a", "b"]))["measure"].tolist() == ["a", "b"]


def test_rows_of_one_index_are_kept_apart():
    twice = pd.concat([rows(measure=["P"]), rows(measure=["Q"]), rows(name=["R"])])
    assert named_numbers(twice)["measure"].tolist() == ["P", "Q", "R"]


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (rows(neurons=["own"]), "named numbers lack measure; give measure \\(or name\\) and a value"),
        (rows(measure=["P"]).drop(columns=["low", "n"]), "named numbers lack low, n"),
        (rows(measure=["P", None]), "1 numbers have no measure"),
        (rows(measure="P", where=["a", "b", "a"]), "two numbers are called 'P, a'; tell them apart"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(table, line):
    with pytest.raises(NumbersError, match=line):
        named_numbers(table)


def test_numbers_as_lines_to_read():
    stored = named_numbers(rows(measure=["P", "P"], where=["", "held out"])).astype(object)
    stored = stored.where(stored.notna(), None).to_dict("records")
    lines = as_text(stored).splitlines()
    assert lines[0].split() == ["value", "low", "high", "n"]  # no column of neurons: none is named
    assert lines[1].split() == ["P", "0.5", "0.25", "8"]
    assert lines[2].split() == ["held", "out", "0.5", "0.25", "8"]
    old = [{"name": "recall", "value": 0.123456, "low": None, "high": None, "n": 3}]
    assert as_text(old).splitlines()[1].split() == ["recall", "0.1235", "3"]


def test_a_name_as_one_text():
    assert spelt(("P", "", "here")) == "P, here" and spelt(pd.Series(["P", "own", ""])) == "P, own"
