"""Runs the notebooks of some studies by snakemake, tells what happens, and leaves nothing running behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import psutil
import yaml
from filelock import FileLock, Timeout

from ..base import ROOT
from .front import main_rows
from .joined import NUMBERS
from .leash import MARK, RUN, attach, stop
from .numbers import as_text
from .plan import NotebookRun, Refused
from .studies import Studies

LITTLE = 2**18  # bytes: a disk with less is full
#: Executors that are Snakemake's own.
BUILT_IN = ("local", "dryrun", "touch")
CALLING_BACK = 60  # seconds that a cluster has to end its jobs


def check_profile(folder: Path) -> None:
    """Refuse a profile whose executor's package is not here."""
    executor = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")).get("executor", "local")
    package = f"snakemake-executor-plugin-{executor}"
    if executor not in BUILT_IN and find_spec(package.replace("-", "_")) is None:
        raise Refused(f"profile {folder.name} needs a package that is not here: pip install {package}.")


class Runner:
    """Starts snakemake for some studies, tells what happens, and leaves nothing running behind.

    Args:
        plan: what is to run.
        jobs: so many notebooks side by side; ``None``: what the profile says.
        profile: folder of a Snakemake profile, for other places than this machine.

    Raises:
        Refused: another run is at work in the same folder.
    """

    def __init__(self, plan: Studies, jobs: int | None, profile: Path | None = None) -> None:
        self.plan, self.jobs, self.profile = plan, jobs, profile
        self.runs, self.begun = Path(plan.runs), time.time_ns()
        self.lock = FileLock(self.runs / ".lock")  # freed by the system even when its holder is killed
        try:
            (self.runs / "logs").mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except Timeout:
            raise Refused(f"another run is at work in {self.runs}; wait, or choose another --runs.") from None
        except OSError as error:
            raise Refused(
                f"cannot write to {self.runs}: {error.strerror or error}; free space or name another --runs."
            ) from None
        if self.stop():
            say("Stopped what an interrupted run had left running.")
        self.tidy()
        self.log = self.runs / "logs" / f"study-{time.strftime('%Y%m%d-%H%M%S')}.log"
        self.settings = self.runs / ".study.json"
        self.settings.write_text(json.dumps(plan.config()), encoding="utf-8")

    def snakemake(self, *more: str) -> list[str]:
        """The command that runs the plan."""
        # Our own lock is freed by the system even when we are killed, so snakemake's is not needed.
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.runs), "--configfile", str(self.settings)]
        if self.profile:
            command += ["--profile", str(self.profile)]
            command += [] if self.jobs is None else ["--jobs", str(self.jobs)]
        else:
            command += ["--cores", str((self.jobs or 1) * self.plan.threads)]
        command += ["--prioritize", *self.plan.first] if self.plan.first else []
        command += ["--nolock", "--rerun-incomplete", "--keep-going", "--scheduler", "greedy", "--nocolor"]
        return [*command, "--rerun-triggers", "mtime", "params", "input", *more]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of snakemake and the kernels."""
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
        marks = {MARK: str(self.runs), RUN: f"{os.getpid()}-{self.begun}"}
        return os.environ | quiet | marks | {"KN_RUNS": str(self.runs), "PYTHONPATH": path}

    def stale(self) -> list[NotebookRun]:
        """The notebooks that snakemake would run, by its table of outputs."""
        command = self.snakemake("--summary")
        told = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        if told.returncode:
            self.log.write_text(told.stdout + told.stderr, encoding="utf-8")
            raise RuntimeError(f"snakemake could not plan the run; see {shown(self.log)}.")
        table = csv.DictReader(told.stdout.splitlines(), delimiter="\t")
        outputs = {row["output_file"] for row in table if row["plan"] == "update pending"}
        return [job for path, job in self.plan.jobs.items() if path in outputs]

    def place(self, job: NotebookRun, kind: str = "") -> Path:
        """Where the executed notebook lies; ``.running`` and ``.failed`` are other kinds of it."""
        return self.runs / job.folder / f"{job.notebook}{kind}.ipynb"

    def run(self, todo: list[NotebookRun]) -> dict[NotebookRun, str]:
        """Run them, a line when one starts and when it ends.

        Returns:
            how each ended: ``done``, ``failed`` or ``skipped``.
        """
        before = {job: stamp(self.place(job)) for job in todo}
        for job, kind in product(todo, (".running", ".failed")):
            self.place(job, kind).unlink(missing_ok=True)
        started: dict[NotebookRun, float] = {}
        ended: dict[NotebookRun, str] = {}
        with attach(self.environment), self._snakemake_runs() as process:
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
        # One that was running when snakemake ended has no notebook that says why: its log does.
        return {job: ended.get(job, "failed" if job in started else "skipped") for job in todo}

    @contextmanager
    def _snakemake_runs(self) -> Iterator[subprocess.Popen[bytes]]:
        """Snakemake at work on the plan; what a profile sent elsewhere is called back if need be."""
        with self.log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                self.snakemake(),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
            try:
                yield process
            except BaseException:
                if self.profile:  # snakemake alone knows what runs elsewhere
                    process.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(CALLING_BACK)
                raise

    def stop(self) -> int:
        """End every process of this folder's run, kernels included; how many there were."""
        return stop(MARK, str(self.runs))

    def tidy(self) -> None:
        """Remove half-written files of killed runs; what a living process writes is left alone."""
        for left in self.runs.rglob("*.running.ipynb"):  # no other run is at work here
            left.unlink(missing_ok=True)
        for left in self.runs.rglob(".*.part"):
            number = left.name.split(".")[-2]
            if number.isdigit() and not psutil.pid_exists(int(number)):
                left.unlink(missing_ok=True)

    def error(self, job: NotebookRun) -> str:
        """Why a notebook failed, in one line."""
        if shutil.disk_usage(self.runs).free < LITTLE:  # then the log is cut short as well
            return f"no space left on the disk of {shown(self.runs)}; free some, and call again"
        partial = self.place(job, ".failed")
        # Empty when not even the kernel started, cut short when the disk was full.
        with suppress(OSError, json.JSONDecodeError):
            for cell in json.loads(partial.read_text(encoding="utf-8"))["cells"]:
                for output in cell.get("outputs", []):
                    if output["output_type"] == "error":
                        return f"{output['ename']}: {output['evalue']}".splitlines()[0]
        return self.last_line(self.runs / job.folder / "logs" / f"{job.notebook}.log")

    def last_line(self, log: Path) -> str:
        """What a log says in the end."""
        told = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
        return told.splitlines()[-1] if told else f"no log; see {shown(self.log)}"

    def summary(self) -> None:
        """The main ones of the numbers that the notebooks wrote, where things lie, what to open."""
        folders = list(dict.fromkeys(job.folder for job in self.plan.jobs.values()))
        for folder in folders:
            place = self.runs / folder
            for file in sorted([*place.glob("summary*.json"), *place.glob("tables/summary*.json")]):
                table = json.loads(file.read_text(encoding="utf-8"))
                language = table.get("parameters", {}).get("language", "en")
                rows = main_rows(file.stem.removeprefix("summary_"), table["rows"], language)
                more = len(table["rows"]) - len(rows)
                rest = f"\n({more} more in {shown(file)})" if more else ""
                say(f"\n{table['title']}  [{folder}]\n{as_text(rows)}{rest}")
        figures = sum(len(list((self.runs / folder).glob("figures/*.png"))) for folder in folders)
        if (self.runs / NUMBERS).is_file():
            say(f"\nAll runs' numbers as one table: {shown(self.runs / NUMBERS)}")
        say(f"\nExecuted notebooks, tables and {figures} figures lie in")
        for folder in folders:
            say(f"  {shown(self.runs / folder)}/")
        where = shown(ROOT / "notebooks")
        say(f"Open next: jupyter lab {where}/   (try another relation or language in 03_attribution)")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def stamp(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


def shown(path: Path) -> Path:
    """A path as seen from the current folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def duration(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
