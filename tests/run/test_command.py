"""The grid of notebooks: order, freshness, failures, interruptions, on tiny stand-ins for the notebooks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from snakemake.cli import get_argument_parser

from kn_utils.base import ROOT
from kn_utils.run.command import main, read_options
from kn_utils.run.leash import MARK
from kn_utils.run.plan import GRID, Plan
from kn_utils.run.runner import Runner

PARAMETERS = """\
model: str = "mini"
revision: str | None = None
dataset: str = "mini"
language: str = "en"
relation: str = "all"
device: str = "auto"
out: str | None = None
facts_per_relation: int | None = 20
"""
BODY = """\
import json, pathlib
folder = pathlib.Path(out)
name = {"measure": language, "neurons": "", "where": ""}
rows = [name | {"value": 0.25, "low": 0.125, "high": 0.5, "n": facts_per_relation}]
_ = (folder / "summary_NAME.json").write_text(json.dumps({"title": "Table of NAME", "rows": rows}))
"""


def write_notebook(folder: Path, name: str, more: str = "") -> None:
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS),
        nbformat.v4.new_code_cell(more + BODY.replace("NAME", name)),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{name}.ipynb"
    )


class Place:
    """A folder of stand-in notebooks and one of runs."""

    def __init__(self, folder: Path) -> None:
        self.notebooks, self.runs = folder / "notebooks", folder / "runs"
        self.notebooks.mkdir()
        for name in GRID:
            write_notebook(self.notebooks, name)

    def command(self, *options: str) -> list[str]:
        where = ["--notebooks-folder", str(self.notebooks), "--runs", str(self.runs), "--device", "cpu"]
        where += [] if "--model" in options else ["--model", "mini"]
        return [sys.executable, "-m", "kn_utils.run.command", *where, *options]

    def study(self, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(*options), capture_output=True, text=True, cwd=ROOT, timeout=300)

    def start(self, *options: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(*options), cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def made(self) -> list[str]:
        return sorted(p.relative_to(self.runs).as_posix() for p in self.runs.rglob("*.ipynb"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def started(text: str) -> list[str]:
    return re.findall(r"^\[ *\d+/\d+\] mini +(\S+ +\S+) +started", text, flags=re.M)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def wait_until(there: Callable[[], bool]) -> None:
    for _ in range(600):
        if there():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come")


def marked(runs: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(runs):
                found.append(process)
        except psutil.Error:
            pass
    return found


def test_grid_needs_only_what_it_has():
    names = list(GRID)
    for name, (when, needs) in GRID.items():
        assert when in ("once", "each", "one")
        for need in needs:
            assert names.index(need.removesuffix("?").partition(":")[0]) < names.index(name)


def test_every_notebook_of_the_grid_exists():
    assert [name for name in GRID if not (ROOT / "notebooks" / f"{name}.ipynb").is_file()] == []


def test_default_grid_runs_each_notebook_for_its_languages():
    jobs = [(job.notebook[:2], job.language) for job in Plan().jobs.values()]
    assert len(jobs) == len(set(jobs)) == 19
    once = ("00", "01", "02", "10", "11", "13", "14")
    assert {language for number, language in jobs if number in once} == {"all"}
    assert sorted(language for number, language in jobs if number == "03") == ["all", "en"]
    assert [language for number, language in jobs if number in ("05", "08", "09", "12")] == ["en"] * 4


@pytest.mark.slow
def test_a_setting_goes_to_the_notebooks_that_have_it_and_changes_their_key():
    plain, set_ = Plan(languages=["en"]), Plan(languages=["en"], settings={"steps": "20", "l2": "4"})
    assert plain.jobs.keys().isdisjoint(set_.jobs)  # they share no folder either
    for job, with_it in zip(plain.jobs.values(), set_.jobs.values(), strict=True):
        has = set_.known(job)
        assert ("-p steps 20" in set_.options(job)) == ("steps" in has)
        assert ("-p l2 4" in set_.options(job)) == ("l2" in has)
        if job.notebook[:2] in ("00", "03", "07"):  # a digest of all code that each needs takes its time
            assert (plain.key(job) != set_.key(with_it)) == bool({"steps", "l2"} & has)
    has = {job.notebook[:2] for job in plain.jobs.values() if "l2" in set_.known(job)}
    assert has == {"07", "13"}


def test_the_mixed_bags_are_given_less_unless_asked_otherwise():
    path = "mini/mini/all/07_update_facts.ipynb"
    plain, asked = Plan(), Plan(facts="all")
    assert "-p facts_per_relation 16" in plain.options(plain.jobs[path])
    assert "facts_per_relation" not in plain.options(plain.jobs["mini/mini/en/07_update_facts.ipynb"])
    assert "-p facts_per_relation None" in asked.options(asked.jobs[path])
    path, asked = "mini/mini/all/03_attribution.ipynb", Plan(settings={"checked_prompts": "9"})
    assert "-p checked_prompts 6" in plain.options(plain.jobs[path])
    assert "checked_prompts" not in plain.options(plain.jobs[path.replace("/all/", "/en/")])
    (job,) = (job for job in asked.jobs.values() if (job.notebook[:2], job.language) == ("03", "all"))
    assert re.findall(r"checked_prompts \S+", asked.options(job)) == ["checked_prompts 9"]


def test_what_is_asked_for_brings_what_it_needs():
    study = Plan(languages=["ja"], select=["05"], relations=["P36"])
    assert sorted(study.jobs) == [
        "mini/mini/all/P36/01_data_build.ipynb",
        "mini/mini/all/P36/03_attribution.ipynb",
        "mini/mini/all/P36/04_refinement.ipynb",
        "mini/mini/ja/P36/03_attribution.ipynb",
        "mini/mini/ja/P36/04_refinement.ipynb",
        "mini/mini/ja/P36/05_statistics.ipynb",
    ]


def test_a_notebook_that_comes_first_only_if_it_runs_is_not_brought():
    with_it, without = Plan(languages=["ja", "all"]), Plan(languages=["ja"], select=["06"])
    path = "mini/mini/ja/06_suppress_amplify.ipynb"
    assert "05_statistics" in [need.notebook for need in with_it.needs(with_it.jobs[path])]
    assert [need.notebook for need in without.needs(without.jobs[path])] == ["04_refinement"]
    assert "mini/mini/ja/05_statistics.ipynb" not in without.jobs
    path = "mini/mini/all/06_suppress_amplify.ipynb"  # for all there is no 05
    assert [need.notebook for need in with_it.needs(with_it.jobs[path])] == ["04_refinement"]


def test_the_claims_come_last_bring_nothing_and_follow_the_stored_numbers(place, monkeypatch):
    path, whole = "mini/mini/all/14_claims.ipynb", Plan()
    before = {need.path for need in whole.needs(whole.jobs[path])}
    once = {job.path for job in whole.jobs.values() if GRID[job.notebook][0] == "once"}
    assert before == {name for name in whole.jobs if "/en/" in name} | once - {path}
    assert list(Plan(select=["14"]).jobs) == [path]
    study = Plan(notebooks=str(place.notebooks), runs=str(place.runs))
    job = study.jobs[path]
    key = study.key(job)
    monkeypatch.setattr("kn_utils.run.plan.READS", {"14_claims": "LICENSE"})
    assert study.key(job) != key


def test_the_longest_notebook_is_wanted_first_where_it_runs():
    assert Plan().first == ["mini/mini/en/07_update_facts.ipynb"]
    assert Plan(languages=["all"]).first == [] == Plan(select=["04"]).first
    assert Plan(select=["06", "04"]).first == ["mini/mini/en/06_suppress_amplify.ipynb"]
    assert len(Plan(languages=["en", "ja"], relations=["P36", "P19"]).first) == 4


def test_key_follows_code_and_parameters_but_not_outputs_or_times(place):
    study = Plan(notebooks=str(place.notebooks), runs=str(place.runs))
    job = study.jobs["mini/mini/en/03_attribution.ipynb"]
    path, key = study.source(job), study.key(job)
    notebook = nbformat.read(path, 4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="other")]
    notebook.cells[1].execution_count = 7
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("prose"))
    nbformat.write(notebook, path)
    os.utime(path, (1, 1))
    assert study.key(job) == key
    assert Plan(notebooks=str(place.notebooks), runs="/elsewhere").key(job) == key
    assert Plan(notebooks=str(place.notebooks), facts="3").key(job) != key
    notebook.cells[2].source += "\n1 + 1"
    nbformat.write(notebook, path)
    assert study.key(job) != key


@pytest.mark.slow
def test_the_command_ends_as_main_does(place):
    done = place.study("--relation", "P999")
    assert done.returncode == 2
    assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1 and "P999" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--relation", "P999"], ["P999", "P36"]),
        (["--relation", "36"], ["relation", "36"]),
        (["--relation", "capital"], ["unknown relation", "capital"]),
        (["--language", "xx"], ["xx", "ja"]),
        (["--dataset", "nothing"], ["nothing", "mini"]),
        (["--device", "abacus"], ["device", "abacus"]),
        (["--facts", "none"], ["facts_per_relation", "none"]),
        (["--facts", "0"], ["facts_per_relation", "0"]),
        (["--set", "steps=0"], ["steps", "0"]),
        (["--set", "stepps=4"], ["stepps", "steps"]),
        (["--set", "seed=1"], ["no notebook", "seed"]),  # the stand-ins have none
        (["--notebooks", "99"], ["99", "03_attribution"]),
        (["--profile", "slurmy"], ["slurmy", "slurm", "config.yaml"]),
        (["--notebooks", "05", "--language", "all"], ["05", "language"]),
    ],
)
def test_bad_option_is_refused_in_one_line_before_anything_starts(place, options, named, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    assert main(place.command(*options)[3:]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.strip().splitlines()) == 1
    assert all(word in told.err for word in named), told.err
    assert not place.runs.exists()


@pytest.mark.slow
def test_runs_in_order_once_and_again_after_a_change(place):
    three = ["--notebooks", "04", "--language", "en"]
    first = place.study(*three)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [line.split() for line in started(first.stdout)] == [
        ["01_data_build", "all"],
        ["03_attribution", "en"],
        ["04_refinement", "en"],
    ]
    assert re.search(r"04_refinement +en +done in \d+ s, 0 left", first.stdout)
    assert (
        "Table of 04_refinement" in first.stdout and "0.125" in first.stdout and "Total time" in first.stdout
    )
    assert place.made() == [
        "mini/mini/all/01_data_build.ipynb",
        "mini/mini/en/03_attribution.ipynb",
        "mini/mini/en/04_refinement.ipynb",
    ]

    for path in place.notebooks.iterdir():
        path.touch()
    second = place.study(*three)
    assert second.returncode == 0 and "Nothing to do" in second.stdout and started(second.stdout) == []

    write_notebook(place.notebooks, "03_attribution", "1 + 1\n")
    edited = place.study(*three)
    assert [line.split()[0] for line in started(edited.stdout)] == ["03_attribution", "04_refinement"]

    summary = place.runs / "mini/mini/all/summary_01_data_build.json"
    dry = place.study(*three, "--facts", "3", "--dry-run")
    assert dry.returncode == 0 and "3 of 3 notebooks to run" in dry.stdout and started(dry.stdout) == []
    assert json.loads(summary.read_text())["rows"][0]["n"] == 20
    changed = place.study("--notebooks", "01", "--language", "en", "--facts", "3")
    assert changed.returncode == 0 and len(started(changed.stdout)) == 1
    assert json.loads(summary.read_text())["rows"][0]["n"] == 3


def test_a_profile_says_how_many_run_and_where(place, tmp_path):
    own = tmp_path / "profile"
    own.mkdir()
    (own / "config.yaml").write_text("cores: 1\n")
    for given, found in ((str(own), own), ("slurm", ROOT / "profiles" / "slurm")):
        plan, asked = read_options([*place.command("--profile", given)[3:], "--device", "cuda:all"])
        assert asked.profile == found and plan.threads == 1 and {one.gpus for one in plan.plans} == {1}
        runner = Runner(plan, asked.jobs, asked.profile)
        words = runner.snakemake()
        runner.lock.release()
        assert words[words.index("--profile") + 1] == str(found)
        assert "--cores" not in words and "--jobs" not in words
    plan, asked = read_options(place.command("--profile", str(own), "--jobs", "3")[3:])
    assert Runner(plan, asked.jobs, asked.profile).snakemake()[-1] and {one.gpus for one in plan.plans} == {0}
    assert asked.jobs == 3


def test_a_profile_whose_executor_is_not_here_is_one_line(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    own = tmp_path / "moon"
    own.mkdir()
    (own / "config.yaml").write_text("executor: moon-base\njobs: 2\n")
    assert main(place.command("--profile", str(own), "--notebooks", "01")[3:]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines() == [
        "run_all.sh: profile moon needs a package that is not here: pip install "
        "snakemake-executor-plugin-moon-base."
    ]


def test_every_bundled_profile_says_what_runs(place):
    names = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
    assert names == ["kubernetes", "multi_gpu", "slurm"]
    known = {action.dest for action in get_argument_parser()._actions} | {"slurm"}
    for path in sorted((ROOT / "profiles").rglob("config.yaml")):
        for option in yaml.safe_load(path.read_text(encoding="utf-8")):
            name = option.replace("-", "_")
            assert name in known or name.startswith(("slurm_", "container_")), f"{path}: {option}"


@pytest.mark.slow
def test_a_study_runs_through_a_profile_and_its_numbers_are_one_table(place, tmp_path):
    own = tmp_path / "profile"
    own.mkdir()
    (own / "config.yaml").write_text("cores: 2\nset-threads:\n  notebook: 2\n")
    done = place.study("--notebooks", "01", "--profile", str(own))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(started(done.stdout)) == 1 and "numbers.csv" in done.stdout
    log = next((place.runs / "logs").glob("study-*.log")).read_text(encoding="utf-8")
    assert "OMP_NUM_THREADS=2" in log or "threads: 2" in log
    (place.runs / "tables").mkdir()
    (place.runs / "tables" / "summary_06.json").write_text("{")
    broken = place.study("--notebooks", "01", "--facts", "3")
    assert broken.returncode == 1
    assert "FAILED numbers.csv: " in broken.stdout and "summary_06.json cannot be read" in broken.stdout


@pytest.mark.slow
def test_failure_stops_its_dependants_only_and_is_named(place):
    write_notebook(
        place.notebooks, "03_attribution", 'if language == "en":\n    raise ValueError("no such neuron")\n'
    )
    done = place.study("--notebooks", "04")
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1 and "03_attribution en: ValueError: no such neuron" in failed[0]
    assert "Skipped, because of that: mini 04_refinement en" in done.stdout
    assert place.made() == [
        "mini/mini/all/01_data_build.ipynb",
        "mini/mini/all/03_attribution.ipynb",
        "mini/mini/all/04_refinement.ipynb",
        "mini/mini/en/03_attribution.failed.ipynb",
    ]

    write_notebook(place.notebooks, "03_attribution")
    mended = place.study("--notebooks", "03", "--language", "en")
    assert mended.returncode == 0, mended.stdout
    assert not [path for path in place.made() if "failed" in path]


@pytest.mark.slow
def test_killed_run_is_finished_by_the_next(place):
    flag = place.runs.parent / "go"
    wait = f'import pathlib, time\nwhile not pathlib.Path("{flag}").exists():\n    time.sleep(0.1)\n'
    write_notebook(place.notebooks, "03_attribution", wait)
    three = ["--notebooks", "04", "--language", "en"]
    process = place.start(*three)
    wait_for(place.runs / "mini/mini/en/03_attribution.running.ipynb", process)
    refused = place.study(*three)
    assert refused.returncode == 2 and "another run is at work" in refused.stderr
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: marked(place.runs) == [])  # nothing outlives the study
    again = place.start(*three)
    flag.touch()  # not before: the run left behind would have gone on
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert [line.split()[0] for line in started(told)] == ["03_attribution", "04_refinement"]
    assert len(place.made()) == 3


@pytest.mark.slow
def test_interrupt_ends_in_one_line_and_leaves_nothing_running(place):
    write_notebook(place.notebooks, "01_data_build", "import time\ntime.sleep(600)\n")
    process = place.start("--notebooks", "01")
    wait_for(place.runs / "mini/mini/all/01_data_build.running.ipynb", process)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip().splitlines()[-1].startswith("Interrupted.")
    assert marked(place.runs) == []
