"""The papers' numbers beside ours and beside those of their released files."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from kn_utils.published import recomputed
from kn_utils.published.printed import printed
from kn_utils.published.side_by_side import (
    TABLE_2,
    by_relation,
    coverage_beside,
    table_2_beside,
    table_2_printed,
)
from kn_utils.published.tokenizer import datasets, stored_report


def test_table_2_is_as_printed():
    said = table_2_printed()
    assert len(said) == 6 and set(said["measure"]) == set(TABLE_2) and set(said["status"]) == {"printed"}
    both = said.merge(printed("Cai"), left_on=["dataset", "measure"], right_on=["dataset", "quantity"])
    assert len(both) == 6 and (both["value_x"] == both["value_y"]).all()


def test_ours_stand_before_the_papers():
    ours = pd.DataFrame(
        {"bag": "en", "measure": [*TABLE_2, "something else"], "value": [3.0, 2.0, 1.0, 0.0], "n": 9}
    )
    rows = table_2_beside(ours, "mini", "facts")
    assert list(rows["value"][:3]) == [3, 2, 1] and set(rows["status"][:3]) == {"ours"}
    assert set(rows.loc[:2, "model"]) == {"mini"} and "something else" not in set(rows["measure"])
    pd.testing.assert_frame_equal(rows.iloc[3:].reset_index(drop=True), table_2_printed())


def test_relations_of_the_released_neurons():
    tables = recomputed.load()
    rows = by_relation(tables["table_2"])
    assert rows.loc[("PARAREL_en", "P101"), "facts"] == 696
    long = tables["table_2"].set_index(["dataset", "relation", "measure"])["value"]
    for place, row in rows.iterrows():
        assert row[TABLE_2].tolist() == [long[(*place, measure)] for measure in TABLE_2]
        assert row["part shared"] == pytest.approx(row[TABLE_2[1]] / row[TABLE_2[0]])


def test_coverage_has_what_the_paper_counts_beside_it():
    table = coverage_beside(recomputed.load()["coverage"])
    assert table.loc[["relations", "of relations"], "PARAREL_en"].tolist() == [4, 34]
    assert table.loc[["facts", "of facts"], "T-REx_multilingual"].tolist() == [654, 25896]


def test_tables_and_numbers_are_stored_with_their_origin(tmp_path):
    tables = recomputed.load()
    tables.save(tmp_path, "target")
    assert len(pd.read_parquet(tmp_path / "released_target.parquet")) == len(tables["target"])
    rows = pd.DataFrame(
        {"measure": ["m"], "where": ["w"], "value": [0.5], "low": [None], "high": [1.0], "n": 3}
    )
    content = json.loads(tables.save_summary(tmp_path / "summary.json", "title", rows).read_text())
    assert content["rows"] == [
        {"measure": "m", "neurons": "", "where": "w", "value": 0.5, "low": None, "high": 1.0, "n": 3}
    ]
    assert content["origin"] == json.loads(json.dumps(dict(tables.origin)))


def test_the_data_sets_of_the_tokenizer_are_listed():
    _, origin = stored_report()
    rows = datasets(origin).set_index("dataset")
    assert list(rows.index) == list(origin["datasets"])
    for name, made in origin["datasets"].items():
        assert rows.loc[name, ["facts", "prompts"]].tolist() == [made["counts"]["facts"], made["prompts"]]
