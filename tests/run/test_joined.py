"""The named numbers of all runs as one table."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from kn_utils.published import recomputed
from kn_utils.run.joined import COLUMNS, NUMBERS, joined, main
from kn_utils.store.files import ArtifactError


def leave(runs: Path, model: str, language: str, relation: str, notebook: str, values: list[float]) -> Path:
    """What a notebook's run leaves."""
    folder = runs / model / "mini" / language / relation / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"measure": f"m{i}", "neurons": "", "where": "", "value": value, "low": None, "high": None, "n": 3}
        for i, value in enumerate(values)
    ]
    asked = {"model": model, "dataset": "mini", "language": language, "relation": relation, "seed": 0}
    path = folder / f"summary_{notebook}.json"
    path.write_text(json.dumps({"title": "T", "rows": rows, "parameters": asked, "code": "c", "origin": {}}))
    return path


def test_every_run_is_in_it_under_its_own_name(tmp_path):
    leave(tmp_path, "mini", "en", "P36", "06", [0.5, 0.25])
    leave(tmp_path, "mini", "ja", "P36", "06", [0.125])
    leave(tmp_path, "gemma3", "en", "P17", "02", [1.0])
    assert main([str(tmp_path / NUMBERS)]) == 0
    table = pd.read_csv(tmp_path / NUMBERS, dtype={"notebook": str}, keep_default_na=False, na_values=[""])
    assert table.columns.tolist() == COLUMNS
    told = table[["model", "language", "relation", "notebook", "measure", "value", "folder"]]
    assert told.values.tolist() == [
        ["gemma3", "en", "P17", "02", "m0", 1.0, "gemma3/mini/en/P17"],
        ["mini", "en", "P36", "06", "m0", 0.5, "mini/mini/en/P36"],
        ["mini", "en", "P36", "06", "m1", 0.25, "mini/mini/en/P36"],
        ["mini", "ja", "P36", "06", "m0", 0.125, "mini/mini/ja/P36"],
    ]


def test_released_numbers_stand_under_the_model_that_they_are_of(tmp_path):
    """What 10_published_results leaves: no run of a model made it."""
    leave(tmp_path, "mini", "all", "", "02", [0.5])
    rows = pd.DataFrame({"measure": ["m"], "where": ["w"], "value": [0.5], "low": [0.4], "high": [1], "n": 3})
    recomputed.load().save_summary(tmp_path / "mini/mini/all/tables/summary_10.json", "title", rows)
    table = joined(tmp_path).set_index("notebook")
    assert table.loc["10", ["model", "where", "value"]].tolist() == [
        "bert-base-multilingual-uncased, as released",
        "w",
        0.5,
    ]
    assert table.loc["02", "model"] == "mini"


def test_a_folder_without_runs_gives_an_empty_table(tmp_path):
    assert joined(tmp_path).empty and joined(tmp_path).columns.tolist() == COLUMNS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"parameters": {}}', '{"rows": []}'])
def test_what_cannot_be_read_is_named(tmp_path, content):
    path = leave(tmp_path, "mini", "en", "P36", "06", [0.5])
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"summary_06\.json cannot be read .* run its notebook"):
        joined(tmp_path)
