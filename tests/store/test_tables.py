"""Stored tables: they come back as they were, know their origin, and are never half-written."""

from __future__ import annotations

import errno
import json

import pandas as pd
import pytest

from kn_utils import refine
from kn_utils.store import tables as artifacts
from kn_utils.store.files import ArtifactError, save_json
from kn_utils.store.origin import fingerprint, full_origin
from kn_utils.store.tables import load_current, load_table, save_table


@pytest.fixture
def table() -> pd.DataFrame:
    made = pd.DataFrame(
        {
            "prompt": ["P36:Q142:Q90/P36-zh-1", "法国"],
            "layer": pd.array([0, 11], "int16"),
            "score": pd.array([0.1, 1 / 3], "float32"),
            "probability": [0.1, 1e-300],
            "rank": pd.array([1, pd.NA], "Int64"),
            "correct": [True, False],
        }
    )
    made.attrs = {"keep": 0.1, "facts": {"P36:Q142:Q90": "P36"}, "tried": [[0.7, 1.5]], "nothing": None}
    return made


def leftovers(folder) -> list[str]:
    return [file.name for file in folder.iterdir() if ".part" in file.name]


def test_a_table_comes_back_with_its_types_attrs_and_origin(table, tmp_path):
    origin = {"model": "mini", "revision": None, "steps": 4, "text": "日本"}
    path = save_table(table, tmp_path / "new" / "folder" / "t.parquet", origin)
    loaded, stored = load_table(path)
    pd.testing.assert_frame_equal(loaded, table, check_exact=True)
    assert loaded.attrs == {} and stored == origin  # data in attributes would be lost by the next merge
    assert leftovers(path.parent) == []


def test_an_empty_table_keeps_its_columns_and_types(table, tmp_path):
    loaded, origin = load_table(save_table(table.iloc[:0], tmp_path / "t.parquet"))
    assert loaded.empty and loaded.dtypes.equals(table.dtypes) and origin == {}


def test_saving_leaves_the_table_alone(table, tmp_path):
    attrs = dict(table.attrs)
    save_table(table, tmp_path / "t.parquet", {"a": 1})
    assert table.attrs == attrs


def test_a_parquet_file_of_someone_else_is_a_table_without_origin(table, tmp_path):
    table.attrs = {}
    table.to_parquet(tmp_path / "t.parquet")
    loaded, origin = load_table(tmp_path / "t.parquet")
    assert len(loaded) == 2 and origin == {}


def test_a_missing_and_a_broken_file_say_so(tmp_path):
    with pytest.raises(ArtifactError, match=r"t\.parquet is not there; run the notebook that makes it"):
        load_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(ArtifactError, match=r"t\.parquet cannot be read .*delete it and run again"):
        load_table(tmp_path / "t.parquet")


class Maker:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, start, *, step=1):
        self.calls += 1
        table = pd.DataFrame({"x": [start, start + step]})
        table.attrs["call"] = self.calls
        return table


def cached(path, make, *args, origin, made_by=save_table, **options):
    """A table as the study keeps it: the stored one if its origin is this, else made and stored."""
    origin = full_origin(origin, made_by)
    table = load_current(path, origin)
    if table is not None:
        return table
    save_table(make(*args, **options), path, origin)
    return load_table(path)[0]


def test_cached_computes_once(tmp_path, capsys):
    make, path, origin = Maker(), tmp_path / "t.parquet", {"model": "mini", "layers": (0, 1)}
    first = cached(path, make, 1, step=2, origin=origin)
    second = cached(path, make, 1, step=2, origin=origin)
    assert make.calls == 1 and first["x"].tolist() == [1, 3]
    pd.testing.assert_frame_equal(first, second)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": "mbert"}, "model changed"),
        ({"steps": 8}, "steps changed"),
        ({"model": "mbert", "steps": 8}, "model, steps changed"),
    ],
)
def test_cached_computes_again_when_the_origin_changes_and_says_why(changed, why, tmp_path, capsys):
    make, path, origin = Maker(), tmp_path / "t.parquet", {"model": "mini", "steps": 4}
    cached(path, make, 1, origin=origin)
    again = cached(path, make, 5, origin={**origin, **changed})
    assert make.calls == 2 and again["x"].tolist() == [5, 6]
    assert capsys.readouterr().err == f"t.parquet: {why}, computing it again\n"
    assert load_table(path)[1]["model"] == {**origin, **changed}["model"]
    cached(path, make, 5, origin={**origin, **changed})
    assert make.calls == 2


def test_cached_computes_again_when_a_key_goes(tmp_path, capsys):
    make, path = Maker(), tmp_path / "t.parquet"
    cached(path, make, 1, origin={"model": "mini", "revision": "abc"})
    cached(path, make, 1, origin={"model": "mini"})
    assert make.calls == 2 and "computing it again" in capsys.readouterr().err


def test_cached_computes_again_when_the_code_changes(tmp_path, capsys):
    make, path = Maker(), tmp_path / "t.parquet"
    cached(path, make, 1, origin={}, made_by=save_table)
    cached(path, make, 1, origin={}, made_by=load_table)  # code of the store is not followed
    assert make.calls == 1
    cached(path, make, 1, origin={}, made_by=refine)
    assert make.calls == 2
    assert capsys.readouterr().err == "t.parquet: code changed, computing it again\n"
    cached(path, make, 1, origin={}, made_by=refine)
    assert make.calls == 2


def test_a_broken_file_is_computed_again(tmp_path, capsys):
    make, path = Maker(), tmp_path / "t.parquet"
    cached(path, make, 1, origin={})
    path.write_bytes(path.read_bytes()[:-20])
    assert cached(path, make, 1, origin={})["x"].tolist() == [1, 2]
    assert make.calls == 2
    assert capsys.readouterr().err == "t.parquet: cannot be read, computing it again\n"


def test_a_file_whose_note_is_broken_is_computed_again(tmp_path):
    make, path = Maker(), tmp_path / "t.parquet"
    stored = artifacts.pa.table({"x": [7]}).replace_schema_metadata({b"kn_utils": b"{half a no"})
    artifacts.pq.write_table(stored, path)
    assert cached(path, make, 1, origin={})["x"].tolist() == [1, 2]


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_half_way(error):
    def write(_, place):
        place.write_bytes(b"PAR1 and then")
        raise error

    return write


def test_a_full_disk_leaves_the_old_table_and_no_rubbish(table, tmp_path, monkeypatch):
    path = save_table(table, tmp_path / "t.parquet", {"old": True})
    monkeypatch.setattr(artifacts.pq, "write_table", fail_half_way(FULL))
    with pytest.raises(ArtifactError) as caught:
        save_table(table.iloc[:1], path, {"old": False})
    wanted = f"cannot write {path}: No space left on device. Free space or choose another folder (out)."
    assert str(caught.value) == wanted
    assert load_table(path)[1] == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_an_interrupted_write_leaves_the_old_table_and_no_rubbish(table, tmp_path, monkeypatch):
    path = save_table(table, tmp_path / "t.parquet", {"old": True})
    monkeypatch.setattr(artifacts.pq, "write_table", fail_half_way(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_table(table.iloc[:1], path, {"old": False})
    assert load_table(path)[1] == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_a_first_write_that_fails_leaves_nothing(table, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts.pq, "write_table", fail_half_way(FULL))
    with pytest.raises(ArtifactError, match="No space left"):
        cached(tmp_path / "t.parquet", Maker(), 1, origin={})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(table, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"cannot write .*t\.parquet"):
        save_table(table, tmp_path / "file" / "t.parquet")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = save_json({"b": "日本", "a": [1, None]}, tmp_path / "new" / "s.json")
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": "日本", "a": [1, None]}
    assert "日本" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        save_json({"a": object()}, path)
    assert json.loads(path.read_text(encoding="utf-8"))["a"] == [1, None]
    assert leftovers(path.parent) == []


def test_a_fingerprint_follows_the_content(table, tmp_path):
    assert fingerprint(table) == fingerprint(table.copy())
    assert fingerprint(table) != fingerprint(table.assign(layer=1))
    for name, content in (("one", b"1"), ("two", b"1"), ("three", b"2")):
        (tmp_path / name).write_bytes(content)
    one, two, three = (fingerprint(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three
