"""Disks that are really full or cannot be written: one line, and the next try with more room ends well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import make_model

from kn_utils import attribute
from kn_utils.base import ROOT, StudyError


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 400 kB, whose size :func:`grow` changes; only who may mount has it."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


@pytest.mark.slow
def test_scores_go_on_where_the_disk_was_full(disk, prompts, tmp_path):
    bert = make_model("bert")
    asked = pd.concat([prompts.assign(prompt=prompts["prompt"] + f" {n}") for n in range(20)])
    given = {"keep": 1e-9, "progress": False, "batch_size": 8}
    (disk / "filled").write_bytes(b"x" * 300_000)
    with pytest.raises(StudyError, match="cannot write .*No space left.*Free space or choose") as caught:
        attribute(bert, asked, out=disk / "scores.parquet", **given)
    assert "\n" not in str(caught.value) and not (disk / "scores.parquet").exists()
    grow(disk)
    found = pd.read_parquet(attribute(bert, asked, out=disk / "scores.parquet", **given))
    wanted = pd.read_parquet(attribute(bert, asked, out=tmp_path / "scores.parquet", **given))
    pd.testing.assert_frame_equal(found, wanted)
    assert {path.name for path in disk.iterdir()} == {"filled", "scores.parquet", "scores.prompts.parquet"}


@pytest.mark.slow
def test_a_study_on_a_full_disk_fails_in_one_line_and_ends_well_with_room(disk):
    what = ["--model", "mini", "--language", "en", "--relation", "P36", "--facts", "2", "--jobs", "1"]
    command = [sys.executable, "-m", "kn_utils.run.command", *what, "--notebooks", "02"]
    command += ["--runs", str(disk / "runs")]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    told = first.stdout + first.stderr
    assert first.returncode != 0 and "no space left on the disk" in told and "Traceback" not in told, told
    grow(disk)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stdout + again.stderr
    assert list(disk.rglob("*.failed.ipynb")) == [] and list(disk.rglob("02_model_recall.ipynb"))


@pytest.mark.slow
def test_a_checkout_that_cannot_be_written_runs_from_an_environment_of_the_users(tmp_path):
    checkout, there = tmp_path / "checkout", tmp_path / "there"
    for name in ("kn_utils", "notebooks", "data"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_all.sh", "Snakefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, checkout)
    there.mkdir()
    for options in (["--bind", checkout, there], ["-o", "remount,ro,bind", there]):
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("needs the right to mount a folder")
    bare = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    active = bare | {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    active["KN_MODELS"] = "0"
    command = [there / "run_all.sh", "--model", "mini", "--language", "en", "--notebooks", "01"]

    def run(environment, *more):
        told = subprocess.run(
            [*command, "--relation", "P36", *more],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return told.returncode, (told.stdout + told.stderr).splitlines()

    try:
        code, lines = run(bare | {"CONDA_PREFIX": ""})
        assert code and lines[-1].startswith("run_all.sh: could not make .venv; where nothing can be written")
        code, lines = run(active)
        assert code and "cannot write to" in lines[-1] and "--runs" in lines[-1]
        code, lines = run(active, "--runs", "runs")
        assert code == 0 and list((tmp_path / "runs").rglob("01_data_build.ipynb")), lines
    finally:
        subprocess.run(["umount", "-l", there], check=True)
