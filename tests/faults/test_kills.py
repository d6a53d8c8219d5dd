"""Kills: nothing outlives a study, and what a later run finishes equals an unbroken one.

By hand with more kills than the test makes: ``KN_KILLS=20 pytest -m slow tests/faults/test_kills.py``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from kn_utils.base import ROOT
from kn_utils.run.leash import MARK
from kn_utils.run.plan import GRID

WHAT = ("--notebooks", "04", "--language", "en", "--language", "nl")
KILLS = int(os.environ.get("KN_KILLS", "2"))
PARAMETERS = """\
from typing import Optional
model: str = "mini"
revision: Optional[str] = None
dataset: str = "mini"
language: str = "en"
relation: str = "all"
device: str = "auto"
out: Optional[str] = None
facts_per_relation: Optional[int] = 4
"""
#: A table that grows prompt by prompt, as scores do, slowly enough to be killed in between.
BODY = """\
import time
import pandas as pd
from pathlib import Path
from kn_utils import load_facts, make_prompts
from kn_utils.store.growing import GrowingTable
from kn_utils.store.tables import save_table
prompts = make_prompts(load_facts(relations=["P36"]).sample(6), "en", wordings=1)
path = Path(out) / "tables" / "NAME.parquet"
for number in range(1, len(prompts) + 1):
    def compute(held, missing):
        time.sleep(0.3)
        made = missing[["prompt"]].assign(length=missing["text"].str.len())
        save_table(pd.concat([held, made], ignore_index=True), path, {"made": "slowly"})
    GrowingTable(path, {"made": "slowly"}).completed(prompts.head(number), compute)
"""


def stand_ins(folder: Path) -> Path:
    """Small notebooks in place of the study's."""
    folder.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name in GRID:
        cells = [nbformat.v4.new_code_cell(text) for text in (PARAMETERS, BODY.replace("NAME", name))]
        cells[0].metadata["tags"] = ["parameters"]
        made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(made, folder / f"{name}.ipynb")
    return folder


def start(notebooks: Path, runs: Path, what: Sequence[str] = WHAT) -> subprocess.Popen[str]:
    where = ["--notebooks-folder", str(notebooks), "--runs", str(runs), "--device", "cpu", "--jobs", "2"]
    where += ["--model", "mini"]
    return subprocess.Popen(
        [sys.executable, "-m", "kn_utils.run.command", *where, *what],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def alive(runs: Path, only: str = "") -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(runs) and only in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found


def tables(runs: Path) -> dict[str, pd.DataFrame]:
    return {path.relative_to(runs).as_posix(): pd.read_parquet(path) for path in runs.rglob("*.parquet")}


def kill(process: subprocess.Popen[str], runs: Path, chance: random.Random) -> str:
    """Kill the whole group, or one kernel where there is one; what was killed."""
    kernels = alive(runs, "ipykernel")
    if kernels and chance.random() < 0.5:
        chance.choice(kernels).kill()
        process.wait(timeout=300)
        return "kernel"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    until = time.monotonic() + 60
    while (left := alive(runs)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == [], f"outlived the study: {[one.cmdline() for one in left]}"
    return "group"


@pytest.mark.slow
def test_killed_at_random_times_a_study_ends_as_an_unbroken_one(tmp_path):
    notebooks, chance = stand_ins(tmp_path / "notebooks"), random.Random(21)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    told, _ = start(notebooks, whole).communicate(timeout=600)
    wanted = tables(whole)
    assert len(wanted) == 5 and all(len(table) == 6 for table in wanted.values()), told
    killed = []
    for _ in range(KILLS):
        process = start(notebooks, broken)
        try:
            process.wait(timeout=chance.uniform(8, 40))
        except subprocess.TimeoutExpired:
            killed.append(kill(process, broken, chance))
        process.stdout.close()
    process = start(notebooks, broken)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert killed, "the study was done before it could be killed"
    found = tables(broken)
    assert found.keys() == wanted.keys()
    for name, table in wanted.items():
        pd.testing.assert_frame_equal(found[name], table)
    left = [path for kind in ("*.running.ipynb", "*.part") for path in broken.rglob(kind)]
    assert alive(broken) == [] and left == []


@pytest.mark.slow
def test_braces_and_spaces_in_paths_work(tmp_path):
    place = tmp_path / "a {b} c"
    place.mkdir()
    facts = shutil.copytree(ROOT / "data" / "own_example", place / "own {facts}")
    runs, options = place / "runs {x}", ["--dataset", str(facts), "--notebooks", "01", "--language", "en"]
    process = start(stand_ins(place / "notebooks"), runs, options)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    (made,) = (path for path in runs.rglob("01_data_build.ipynb") if "running" not in path.name)
    assert made.parent.parent.name.startswith("own-facts-")


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for runs in (tmp_path / "file", tmp_path / "file" / "runs"):
        process = start(stand_ins(tmp_path / f"notebooks{len(runs.parts)}"), runs)
        told, _ = process.communicate(timeout=300)
        assert process.returncode == 2 and len(told.strip().splitlines()) == 1
        assert f"cannot write to {runs}" in told and "--runs" in told
