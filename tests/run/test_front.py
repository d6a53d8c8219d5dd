"""README's first table, from stored numbers."""

from __future__ import annotations

from kn_utils.run.front import FRONT, cell, contents, front_table, main_rows
from kn_utils.run.results import headlines


def row(value, low=None, high=None, n=4.0) -> dict:
    return {"measure": "m", "neurons": "own", "where": "en", "value": value, "low": low, "high": high, "n": n}


def table(tmp_path):
    path = tmp_path / "front.tsv"
    head = "notebook\tmeasure\tneurons\twhere\tlabel\tunit\tpublished"
    path.write_text(f"{head}\n06\tm\town\ten\tSilenced\t%\t-29 %\n07\tm\town\ten\tEdited\t\t\n")
    return path


def test_each_model_has_a_column_and_what_it_lacks_stays_empty(tmp_path):
    found = {
        "gemma3": {"notebooks": {"06": {"rows": [row(-0.5, -0.6, -0.4)]}}},
        "mini": {"notebooks": {"06": {"rows": [row(0.25)]}, "07": {"rows": [row(1.5, 1, 2)]}}},
    }
    lines = front_table(found, table(tmp_path)).splitlines()
    assert lines[0] == "| | Gemma 3 270M | `mini`, our toy | printed |"
    assert lines[2] == "| Silenced | -50.0 % [-60.0, -40.0] (4) | 25.0 % (n 4) | -29 % |"
    assert lines[3] == "| Edited |  | 1.50 [1.00, 2.00] (4) |  |"


def test_readmes_rows_are_at_most_twelve_and_some_model_has_each():
    rows = headlines(FRONT)
    assert len(rows) <= 12
    for line in rows.itertuples():
        assert any(cell(content, line) for content in contents().values()), line.label


def test_the_end_of_a_run_shows_what_the_pages_name_in_its_language_or_the_first_few():
    name = {"measure": "P(answer), silenced", "neurons": "own", "where": "ja, found for answer"}
    other = [{"measure": f"m{i}", "neurons": "", "where": ""} for i in range(9)]
    assert main_rows("06", [*other, name], "ja") == [name]
    assert main_rows("06", [*other, name | {"where": "en, found for answer"}], "ja") == [
        name | {"where": "en, found for answer"}
    ]
    assert main_rows("06", other, "ja") == other[:5] and main_rows("13", other[:2]) == other[:2]
    stored = contents()["gemma3"]["notebooks"]["06"]["rows"]
    assert 5 < len(main_rows("06", stored)) < 25 < len(stored)
