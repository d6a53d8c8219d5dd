"""The whole study as one command: ``python -m kn_utils.study`` (what ``run_all.sh`` calls).

``GRID`` says which notebook runs for which languages and what it needs. The Snakefile asks :class:`Plan` for
the resulting jobs and runs each through papermill; here options are checked, progress shown, results told.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from itertools import product
from pathlib import Path

import pandas as pd
import psutil

from kn_utils.base import ROOT, RUNS
from kn_utils.config import StudyParameters, run_folder
from kn_utils.sources import load_facts

#: A row is a notebook; the languages it runs for ("once" = language all, "each" = every language asked for,
#: "one" = each but all); and the notebooks it needs, of the same language or, "name:all", of all languages.
GRID: dict[str, tuple[str, tuple[str, ...]]] = {
    "00_setup_check": ("once", ()),
    "01_data_build": ("once", ()),
    "02_model_recall": ("once", ("01_data_build",)),
    "03_attribution": ("each", ("01_data_build",)),
    "04_refinement": ("each", ("03_attribution",)),
    "05_statistics": ("one", ("04_refinement", "04_refinement:all")),
    "06_suppress_amplify": ("each", ("04_refinement",)),
    "07_update_facts": ("each", ("04_refinement",)),
    "10_published_results": ("once", ()),
}
#: Marks the processes of a run, so that what a killed run left behind can be found again.
MARK = "KN_STUDY_RUNS"


class Refused(Exception):
    """Something the user can mend; shown as one line."""


@dataclass(frozen=True)
class Job:
    """One notebook for one language and relation. Paths are relative to the folder of runs."""

    notebook: str
    language: str
    relation: str
    folder: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.notebook}.ipynb"

    @property
    def label(self) -> str:
        relation = f" {self.relation}" * (self.relation != "all")
        return f"{self.notebook:<20} {self.language:<4}{relation}"


@dataclass(frozen=True)
class Plan:
    """What is asked for. Written to a JSON file for the Snakefile, which builds the same object again."""

    model: str = "mini"
    revision: str | None = None
    dataset: str = "mini"
    languages: list[str] = field(default_factory=lambda: ["en", "all"])
    relations: list[str] = field(default_factory=lambda: ["all"])
    device: str = "auto"
    facts: str | None = None
    select: list[str] = field(default_factory=list)
    notebooks: str = str(ROOT / "notebooks")
    runs: str = str(RUNS.absolute())
    threads: int = 1

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """What was asked for and what that needs, by output path, in the order of the grid."""
        wanted = [n for n in GRID if not self.select or n.split("_")[0] in self.select or n in self.select]
        found: dict[str, Job] = {}
        for name, relation, language in product(wanted, self.relations, self.languages):
            when = GRID[name][0]
            if not (when == "one" and language == "all"):
                self._add(name, "all" if when == "once" else language, relation, found)
        return dict(sorted(found.items(), key=lambda item: item[1].notebook))

    def needs(self, job: Job) -> Iterator[Job]:
        for need in GRID[job.notebook][1]:
            name, _, language = need.partition(":")
            once = GRID[name][0] == "once"
            yield self._job(name, "all" if once else language or job.language, job.relation)

    def _job(self, notebook: str, language: str, relation: str) -> Job:
        folder = run_folder(self.model, self.dataset, language, relation).relative_to(RUNS)
        return Job(notebook, language, relation, folder.as_posix())

    def _add(self, notebook: str, language: str, relation: str, found: dict[str, Job]) -> None:
        job = self._job(notebook, language, relation)
        if job.path not in found:
            found[job.path] = job
            for need in self.needs(job):
                self._add(need.notebook, need.language, need.relation, found)

    def source(self, job: Job) -> Path:
        return Path(self.notebooks) / f"{job.notebook}.ipynb"

    def parameters(self, job: Job) -> dict[str, str]:
        """The notebook's parameters that decide its results (where they are written does not)."""
        names = {name: getattr(self, name) for name in ("model", "revision", "dataset", "device")}
        names |= {"language": job.language, "relation": job.relation, "facts_per_relation": self.facts}
        return {name: str(value) for name, value in names.items() if value is not None}

    def options(self, job: Job) -> str:
        """The same for papermill's command line. Strings go raw: a revision of digits is no number."""
        raw = self.parameters(job) | {"out": str(Path(self.runs) / job.folder)}
        facts = raw.pop("facts_per_relation", None)
        words = [word for name, value in raw.items() for word in ("-r", name, value)]
        words += ["-p", "facts_per_relation", "None" if facts == "all" else facts] if facts else []
        return shlex.join(words)

    def key(self, job: Job) -> str:
        """Changes when code cells, parameters, ``kn_utils``, the locked versions or the data change.

        Contents count, not times: a new clone, a touched file or other outputs in a notebook rerun nothing.
        """
        cells = json.loads(self.source(job).read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        folders = sorted(ROOT / "data" / name for name in {self.dataset, self.model, "published"})
        inputs = [fingerprint(folder) for folder in (ROOT / "kn_utils", *folders)]
        inputs.append(digest((ROOT / "requirements.lock").read_bytes()))
        return digest(json.dumps([code, self.parameters(job), inputs]).encode())

    def check(self) -> None:
        """Refuse what cannot work before anything starts."""
        for job in (self._job("", *both) for both in product(self.languages, self.relations)):
            values: dict = self.parameters(job)
            if self.facts in (None, "all"):
                values["facts_per_relation"] = None
            StudyParameters.check(**values)
        for name in self.select:
            if name not in GRID and name not in {n.split("_")[0] for n in GRID}:
                raise Refused(f"unknown notebook {name!r}; known: {', '.join(GRID)}.")
        named = {"languages": set(self.languages) - {"all"}, "relations": set(self.relations) - {"all"}}
        load_facts(self.dataset, **{name: sorted(values) or None for name, values in named.items()})
        if not self.jobs:
            asked = " ".join(self.select)
            raise Refused(f"{asked} runs per language; name one besides all, such as --language en.")
        for job in self.jobs.values():
            if not self.source(job).is_file():
                raise Refused(f"{self.source(job)} is missing.")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def fingerprint(folder: Path) -> str:
    """The contents of a folder's files, but for notes and this file, which no notebook uses."""
    left_out = {"checkpoints", "__pycache__", ".ipynb_checkpoints"}
    lines = []
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and path.suffix != ".md" and not left_out & set(path.parts)
        if plain and path != Path(__file__):
            with path.open("rb") as file:
                lines.append(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return digest("\n".join(lines).encode())


def read_options(argv: list[str]) -> tuple[Plan, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="run_all.sh", description="Run the notebooks that are out of date.")
    add = parser.add_argument
    add("--model", default="mini", help="mini (bundled), a local folder, or a Hugging Face id")
    add("--revision", help="commit of a Hugging Face model")
    add("--dataset", default="mini", help="mini (bundled), or a published data set")
    add("--language", action="append", metavar="L", help="may be repeated; default: en and all")
    add("--relation", action="append", metavar="P", help="such as P36; may be repeated; default: all together")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--jobs", type=int, metavar="N", help="notebooks side by side; default: half the cores, at least 2")
    add("--facts", metavar="N|all", help="facts per relation; default: the notebooks' own")
    add("--notebooks", nargs="+", default=[], metavar="NN", help="only these (03 04) and what they need")
    add("--runs", default=str(RUNS), metavar="FOLDER", help="where results go; default: runs/")
    add("--notebooks-folder", default=str(ROOT / "notebooks"), help=argparse.SUPPRESS)
    add("--dry-run", action="store_true", help="only say what would run")
    asked = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = asked.device.startswith("cuda") or (asked.device == "auto" and shutil.which("nvidia-smi"))
    if asked.jobs is None:  # several models on one accelerator would fight for its memory
        asked.jobs = 1 if on_gpu else max(min(2, cores), cores // 2)
    if asked.jobs < 1:
        parser.error("argument --jobs: at least 1")
    if asked.model != "mini" and Path(asked.model).is_dir():  # notebooks run elsewhere
        asked.model = str(Path(asked.model).absolute())
    asked_for = {name: getattr(asked, name) for name in ("model", "revision", "dataset", "device", "facts")}
    study = Plan(
        **asked_for,
        languages=list(dict.fromkeys(asked.language or ["en", "all"])),
        relations=list(dict.fromkeys(asked.relation or ["all"])),
        select=asked.notebooks,
        notebooks=str(Path(asked.notebooks_folder).absolute()),
        runs=str(Path(asked.runs).absolute()),
        threads=max(1, cores // asked.jobs),
    )
    return study, asked


class Runner:
    """Starts snakemake for a study, tells what happens, and leaves nothing running behind."""

    def __init__(self, study: Plan, jobs: int) -> None:
        self.study, self.jobs, self.runs = study, jobs, Path(study.runs)
        (self.runs / "logs").mkdir(parents=True, exist_ok=True)
        self.lock = (self.runs / ".lock").open("a")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"another run is at work in {self.runs}; wait, or choose another --runs.") from None
        if self.stop():
            say("Stopped what an interrupted run had left running.")
        self.log = self.runs / "logs" / f"study-{time.strftime('%Y%m%d-%H%M%S')}.log"
        self.settings = self.runs / ".study.json"
        self.settings.write_text(json.dumps(asdict(study)), encoding="utf-8")

    def snakemake(self, *more: str) -> list[str]:
        # Our own lock is freed by the system even when we are killed, so snakemake's is not needed.
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.runs), "--configfile", str(self.settings)]
        command += ["--cores", str(self.jobs * self.study.threads)]
        command += ["--nolock", "--rerun-incomplete", "--keep-going", "--scheduler", "greedy", "--nocolor"]
        return [*command, "--rerun-triggers", "mtime", "params", "input", *more]

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
        return os.environ | quiet | {MARK: str(self.runs), "KN_RUNS": str(self.runs), "PYTHONPATH": path}

    def stale(self) -> list[Job]:
        """The jobs snakemake would run."""
        command = self.snakemake("--dry-run")
        dry = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        if dry.returncode:
            self.log.write_text(dry.stdout + dry.stderr, encoding="utf-8")
            raise RuntimeError(f"snakemake could not plan the run; see {shown(self.log)}.")
        lines = [line.strip() for line in (dry.stdout + dry.stderr).splitlines()]
        outputs = {line.removeprefix("output: ") for line in lines if line.startswith("output: ")}
        return [job for path, job in self.study.jobs.items() if path in outputs]

    def place(self, job: Job, kind: str = "") -> Path:
        return self.runs / job.folder / f"{job.notebook}{kind}.ipynb"

    def run(self, todo: list[Job]) -> dict[Job, str]:
        """Run them, a line when one starts and when it ends; how each ended: done, failed or skipped."""
        before = {job: stamp(self.place(job)) for job in todo}
        for job, kind in product(todo, (".running", ".failed")):
            self.place(job, kind).unlink(missing_ok=True)
        started: dict[Job, float] = {}
        ended: dict[Job, str] = {}
        with self.log.open("w", encoding="utf-8") as log:
            both = {"stdout": log, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(self.snakemake(), **both, env=self.environment, start_new_session=True)
            while True:
                over = process.poll() is not None
                for job in (job for job in todo if job not in ended):
                    running = self.place(job, ".running").exists()
                    failed = self.place(job, ".failed").exists()
                    done = not running and stamp(self.place(job)) not in (0, before[job])
                    if (running or failed or done) and job not in started:
                        started[job] = time.monotonic()
                        say(f"[{len(started):>2}/{len(todo)}] {job.label}  started")
                    if failed or done:
                        ended[job] = "failed" if failed else "done"
                        took = duration(time.monotonic() - started[job])
                        say(f"        {job.label}  {ended[job]} in {took}, {len(todo) - len(ended)} left")
                if over:
                    break
                time.sleep(0.2)
        # A job that was running when snakemake ended has no notebook that says why: its log does.
        return {job: ended.get(job, "failed" if job in started else "skipped") for job in todo}

    def stop(self) -> int:
        """End every process of this folder's run, kernels included; how many there were."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == str(self.runs):
                    process.kill()
                    found.append(process)
            except psutil.Error:
                pass
        psutil.wait_procs(found, timeout=10)
        return len(found)

    def error(self, job: Job) -> str:
        """Why a notebook failed, in one line."""
        partial = self.place(job, ".failed")
        if stamp(partial) and partial.stat().st_size:  # empty when not even the kernel started
            for cell in json.loads(partial.read_text(encoding="utf-8"))["cells"]:
                for output in cell.get("outputs", []):
                    if output["output_type"] == "error":
                        return f"{output['ename']}: {output['evalue']}".splitlines()[0]
        log = self.runs / job.folder / "logs" / f"{job.notebook}.log"
        told = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
        return told.splitlines()[-1] if told else f"no log; see {shown(self.log)}"

    def summary(self) -> None:
        """The numbers the notebooks wrote, where things lie, what to open."""
        folders = list(dict.fromkeys(job.folder for job in self.study.jobs.values()))
        for folder in (self.runs / folder for folder in folders):
            for file in sorted([*folder.glob("summary*.json"), *folder.glob("tables/summary*.json")]):
                table = json.loads(file.read_text(encoding="utf-8"))
                frame = pd.DataFrame(table["rows"], dtype=object).fillna("").set_index("name").rename_axis(None)
                rows = frame.to_string(float_format="{:.4g}".format)
                say(f"\n{table['title']}  [{folder.relative_to(self.runs)}]\n{rows}")
        figures = sum(len(list((self.runs / folder).glob("figures/*.png"))) for folder in folders)
        say(f"\nExecuted notebooks, tables and {figures} figures lie in")
        for folder in folders:
            say(f"  {shown(self.runs / folder)}/")
        say("Open next: jupyter lab notebooks/   (try another relation or language in 03_attribution)")


def say(line: str) -> None:
    print(line, flush=True)


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def execute(study: Plan, asked: argparse.Namespace) -> int:
    begun = time.monotonic()
    runner = Runner(study, asked.jobs)
    ended: dict[Job, str] = {}
    try:
        todo = runner.stale()
        what = f"{len(todo)} of {len(study.jobs)} notebooks to run"
        say(f"Model {study.model}, data set {study.dataset}: {what}.")
        if asked.dry_run:
            for job in todo:
                say(f"  {job.label.rstrip()}")
            return 0
        if not todo:
            say("Nothing to do: everything is up to date.")
        else:
            ended = runner.run(todo)
    except BaseException:  # also Ctrl-C: no kernel may go on behind our back
        runner.stop()
        raise
    failed = [job for job, how in ended.items() if how == "failed"]
    skipped = [job for job, how in ended.items() if how == "skipped"]
    runner.summary()
    say(f"Total time: {duration(time.monotonic() - begun)}.")
    for job in failed:
        partial = runner.place(job, ".failed")
        where = f"  ({shown(partial)})" * partial.exists()
        say(f"FAILED {' '.join(job.label.split())}: {runner.error(job)}{where}")
    if skipped:
        say("Skipped, because of that: " + "; ".join(" ".join(job.label.split()) for job in skipped))
        say(f"More in {shown(runner.log)}")
    return 1 if failed or skipped else 0


def main(argv: list[str] | None = None) -> int:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        study, asked = read_options(sys.argv[1:] if argv is None else argv)
        try:
            study.check()
        except ValueError as error:
            raise Refused(str(error)) from None
        return execute(study, asked)
    except Refused as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        say("\nInterrupted. Finished notebooks are kept; the same command goes on from here.")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
