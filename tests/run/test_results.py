"""The default run's named numbers: gathered, compared, shown."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from kn_utils.base import ROOT, StudyError
from kn_utils.run import results
from kn_utils.run.parameters import StudyParameters
from kn_utils.run.plan import GRID, parameter_cell

ORIGIN = {
    "model": "mini",
    "identity": "w",
    "dtype": "float64",
    "dataset": "mini",
    "data": "d",
    "revision": None,
}
ROWS = [
    {
        "measure": "success",
        "neurons": "knowledge",
        "where": "",
        "value": 0.61,
        "low": 0.5,
        "high": 0.7,
        "n": 80,
    },
    {
        "measure": "perplexity ratio",
        "neurons": "",
        "where": "held out",
        "value": 2.2,
        "low": None,
        "high": None,
        "n": 80,
    },
]
WITH = [
    name
    for name in GRID
    if "summarise(" in (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
]


@pytest.fixture
def runs(tmp_path):
    """A run of the default study that left its summaries."""
    for name in WITH:
        language = parameter_cell(ROOT / "notebooks" / f"{name}.ipynb").get("language", "mini")
        place = tmp_path / "mini" / "mini" / language / "tables" / f"summary_{name[:2]}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        note = {
            "title": name,
            "rows": ROWS,
            "origin": ORIGIN,
            "code": "0.1+abc",
            "parameters": {"steps": 4, "out": "/x"},
        }
        place.write_text(json.dumps(note))
    place.with_name("summary_10.json").write_text('{"title": "what no model was asked for", "rows": []}')
    return tmp_path


def test_all_summaries_are_gathered_with_their_origin(runs):
    found = results.gather(runs)
    assert list(found["notebooks"]) == [name[:2] for name in WITH]
    assert found["origin"] == {key: ORIGIN[key] for key in ("model", "identity", "dtype", "dataset", "data")}
    assert all(
        one["rows"] == ROWS and one["parameters"] == {"steps": 4} for one in found["notebooks"].values()
    )


def test_a_notebook_that_did_not_run_is_named(runs):
    (gone,) = runs.rglob("summary_06.json")
    gone.unlink()
    with pytest.raises(StudyError, match=r"summary_06\.json is not there; run notebook 06"):
        results.gather(runs)


def test_a_part_is_stored_beside_what_is_stored_and_never_checked_as_the_whole(runs, monkeypatch, capsys):
    place = runs / "stored.json"
    place.write_text(json.dumps(results.gather(runs)))
    gather = results.gather
    monkeypatch.setattr(results, "gather", lambda _, **options: gather(runs, **options))
    monkeypatch.setattr(results, "STORED", place)
    monkeypatch.setattr(results, "copy_pictures", lambda *_, **__: 0)
    (gone,) = runs.rglob("summary_06.json")
    gone.unlink()
    assert results.main([]) == 0 and "Not run again, kept as stored: 06" in capsys.readouterr().out
    assert json.loads(place.read_text())["notebooks"]["06"]["rows"] == ROWS
    assert results.main(["--check"]) == 1 and "notebook 06" in capsys.readouterr().err
    place.unlink()
    assert results.main([]) == 1 and not place.exists()  # nothing is stored that could fill the gap


def test_nothing_or_a_mixture_is_refused(runs, tmp_path):
    (path,) = runs.rglob("summary_07.json")
    note = json.loads(path.read_text())
    path.write_text(json.dumps({**note, "origin": {**ORIGIN, "identity": "others"}}))
    with pytest.raises(StudyError, match="different weights"):
        results.gather(runs)
    shutil.rmtree(runs / "mini")
    with pytest.raises(StudyError, match="is not there"):
        results.gather(runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("value", 0.62, "06: 'success, knowledge': value 0.62, stored 0.61"),
        ("low", None, "06: 'success, knowledge': low nan, stored 0.5"),
        ("n", 81, "06: 'success, knowledge': n 81, stored 80"),
        ("measure", "other", "06: 'other, knowledge' is only in the run"),
        ("neurons", "", "06: 'success' is only in the run"),
        ("where", "here", "06: 'success, knowledge' is only in the stored results"),
    ],
)
def test_a_changed_number_is_told(key, value, line, runs):
    wanted, (path,) = results.gather(runs), runs.rglob("summary_06.json")
    assert results.differences(results.gather(runs), wanted) == []
    note = json.loads(path.read_text())
    note["rows"][0][key] = value
    path.write_text(json.dumps(note))
    assert line in results.differences(results.gather(runs), wanted)


def test_rounding_is_no_change(runs):
    wanted, (path,) = results.gather(runs), runs.rglob("summary_06.json")
    path.write_text(path.read_text().replace("0.61", "0.6105"))
    assert results.differences(results.gather(runs), wanted) == []


def headlines(*lines: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=["notebook", "measure", "neurons", "where", "label", "unit"])


def test_notebooks_that_did_not_run_again_stay_stored_for_the_same_model_and_facts(runs):
    found = results.gather(runs)
    part = {**found, "code": ["new"], "notebooks": {"03": {"rows": []}}}
    whole = results.with_stored(part, found)
    assert whole["notebooks"] == {**found["notebooks"], "03": {"rows": []}}
    assert list(whole["notebooks"]) == sorted(whole["notebooks"]) and {"new"} < {*whole["code"]}
    other = {**part, "origin": {**found["origin"], "identity": "other weights"}}
    with pytest.raises(StudyError, match="of other weights or facts.*: 02, 04"):  # they would be lost
        results.with_stored(other, found)
    whole = {**found, "origin": other["origin"]}
    assert results.with_stored(whole, found) == whole  # everything ran: nothing is lost
    again = {**found, "code": ["new"]}
    assert results.with_stored(again, found) == again  # nothing is kept, so nothing of the old code


def test_headlines_are_shown_with_interval_and_number(runs):
    chosen = headlines(
        ("06", "success", "knowledge", "", "edits that succeed", "%"),
        ("07", "perplexity ratio", "", "held out", "cost", ""),
    )
    text = results.markdown(results.gather(runs), chosen).splitlines()
    assert text[2:] == [
        "| edits that succeed | 61.0 % | 50.0 to 70.0 | 80 | `06` |",
        "| cost | 2.20 |  | 80 | `07` |",
    ]
    with pytest.raises(StudyError, match="notebook 06 has no number 'success, random'"):
        results.markdown(results.gather(runs), headlines(("06", "success", "random", "", "", "")))


def test_headlines_name_each_number_once():
    chosen = results.headlines()
    assert not chosen.duplicated(["notebook", "measure", "neurons", "where"]).any()
    assert (chosen[["notebook", "measure", "label"]] != "").all().all()


def test_pictures_are_those_of_the_notebooks_own_languages(tmp_path):
    for language, number in (("en", "06"), ("all", "06"), ("all", "02"), ("en", "02")):
        place = tmp_path / "runs" / "mini" / "mini" / language / "figures" / f"{number}_x.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{number} {language}")
        place.with_suffix(".pdf").write_text("pdf")
    (tmp_path / "figures").mkdir()
    assert results.copy_pictures(tmp_path / "runs", target=tmp_path / "figures") == 4
    assert {p.read_text() for p in (tmp_path / "figures").glob("*.png")} == {"06 en", "02 all"}


def test_numbers_of_models_and_of_a_run_are_one_table(runs, tmp_path):
    stored = results.stored_numbers(["mini", "nobody"])
    assert set(stored["model"]) == {"mini"} and list(stored.columns) == list(results.NOTHING.columns)
    assert len(results.stored_numbers(["nobody"])) == 0
    params = StudyParameters(language="all", out=str(tmp_path / "mini" / "mini" / "all"))
    left = results.run_numbers(params)
    assert set(left["notebook"]) == {"02", "11", "13"}  # outside runs/, other languages' folders lie inside
    assert left["value"].tolist() == [0.61, 2.2] * 3 and set(left["model"]) == {"mini"}


def test_a_run_in_the_folder_of_runs_finds_its_other_languages(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("kn_utils.run.parameters.RUNS", tmp_path)
    params = StudyParameters(language="all", out=str(tmp_path / "mini" / "mini" / "all"))
    assert set(results.run_numbers(params)["notebook"]) == {name[:2] for name in WITH}
