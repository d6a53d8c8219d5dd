"""Places that cannot be written: one line each, and what stands there is left as it is."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kn_utils import ParameterError, Study, StudyError, StudyParameters, attribute
from kn_utils.attribution.streaming import Parts
from kn_utils.plots.theme import save
from kn_utils.store.files import save_json
from kn_utils.store.locks import alone
from kn_utils.store.tables import save_table

PLAIN = pd.DataFrame({"text": ["The capital of France is [Y]."], "answer": ["Paris"]})


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with things that are no files, and a file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to device").symlink_to("/dev/null")
    (tmp_path / "to folder").symlink_to(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "z.parquet.parts").write_text("mine")
    return tmp_path


def refused(call, *given, **options) -> str:
    with pytest.raises(StudyError) as caught:
        call(*given, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pipe", "to device", "to folder", "folder", "/dev/null", ""])
def test_what_is_no_regular_file_is_refused_before_anything_is_computed(bert, place, name, monkeypatch):
    monkeypatch.setattr(bert, "encode", None)  # nothing is asked
    kinds = {entry.name: stat.S_IFMT(entry.lstat().st_mode) for entry in place.iterdir()}
    out = place / name if name else ""
    assert "no regular file" in refused(attribute, bert, PLAIN, out=out, progress=False)
    for write in (lambda path: save_table(PLAIN, path), lambda path: save_json({}, path)):
        assert "no regular file" in refused(write, out or ".")
    assert {entry.name: stat.S_IFMT(entry.lstat().st_mode) for entry in place.iterdir()} == kinds
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("name", ["file/y.parquet", "z.parquet", "x" * 300, "a\0b"])
def test_a_place_that_cannot_be_is_one_line(bert, place, name):
    assert refused(attribute, bert, PLAIN, out=place / name, progress=False)
    assert (place / "file").read_text() == (place / "z.parquet.parts").read_text() == "mine"


def test_a_link_to_a_file_is_replaced_and_the_file_left(bert, place):
    (place / "link").symlink_to(place / "file")
    attribute(bert, PLAIN, out=place / "link", progress=False)
    assert (place / "file").read_text() == "mine" and not (place / "link").is_symlink()


@pytest.mark.slow
def test_a_study_and_its_parameters_say_so_too(place):
    for out in (place / "file", "/dev/null"):
        with pytest.raises(ParameterError, match="^parameter out=.*no folder"):
            StudyParameters.check(out=str(out))
    below = StudyParameters.check(relation="P36", facts_per_relation=1, out=str(place / "file" / "x"))
    assert "cannot write to" in refused(Study(below).probabilities)


def test_a_lock_and_a_figure_say_so_too(place):
    def enter() -> None:
        with alone(place / "file" / "lock", "waiting"):
            pass

    assert "cannot write to" in refused(enter)
    figure = plt.figure()
    assert "cannot write" in refused(save, figure, place / "file", "one")
    plt.close(figure)


def test_a_folder_that_vanishes_is_one_line(bert, place, monkeypatch):
    close = Parts.close

    def vanish(self: Parts, window: int) -> None:
        shutil.rmtree(place / "gone")
        close(self, window)

    monkeypatch.setattr(Parts, "close", vanish)
    said = refused(attribute, bert, PLAIN, out=place / "gone" / "scores.parquet", progress=False)
    assert "scores.parquet" in said
    monkeypatch.undo()
    out = attribute(bert, PLAIN, out=place / "gone" / "scores.parquet", progress=False)
    assert out.is_file()


def test_home_is_the_users(bert, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert attribute(bert, PLAIN, out="~/scores.parquet", progress=False) == place / "scores.parquet"
