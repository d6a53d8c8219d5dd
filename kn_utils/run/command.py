"""The whole study as one command: ``python -m kn_utils.run.command`` (what ``run_all.sh`` calls).

:mod:`kn_utils.run.plan` says which notebooks there are to run; here options are checked, snakemake is started
on them, progress shown, results told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from ..base import ROOT, RUNS, StudyError
from ..data.sources import DATASETS
from ..data.sources.own import is_place
from .joined import NUMBERS
from .plan import NotebookRun, Refused
from .runner import Runner, check_profile, duration, say, shown, stamp
from .studies import DEFAULTS, Studies, plans


def read_options(argv: list[str]) -> tuple[Studies, argparse.Namespace]:
    """The studies that the options ask for, and the options."""
    parser = argparse.ArgumentParser(prog="run_all.sh", description="Run the notebooks that are out of date.")
    add = parser.add_argument
    add("--model", action="append", default=[], metavar="NAME", help="a name, folder, or Hugging Face id")
    add("--models", help="several names with commas between them; default: " + ",".join(DEFAULTS))
    add("--revision", help="commit of a Hugging Face model")
    add("--dataset", default="mini", help="mini (bundled), or a published data set")
    add("--language", action="append", metavar="L", help="may be repeated; default: the model's own")
    add(
        "--relation", action="append", metavar="P", help="such as P36; may be repeated; default: all together"
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, cuda:all, mps")
    add("--jobs", type=int, metavar="N", help="notebooks side by side; default: half the cores, at least 2")
    add("--facts", metavar="N|all", help="facts per relation; default: the model's, or the notebooks' own")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other parameter of the notebooks, such as steps=20",
    )
    add("--notebooks", nargs="+", default=[], metavar="NN", help="only these (03 04) and what they need")
    add("--runs", default=str(RUNS), metavar="FOLDER", help="where results go; default: runs/")
    add("--profile", metavar="NAME", help="slurm, one of profiles/, or a folder: where notebooks run")
    add("--notebooks-folder", default=str(ROOT / "notebooks"), help=argparse.SUPPRESS)
    add("--dry-run", action="store_true", help="only say what would run")
    asked = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = asked.device.startswith("cuda") or (asked.device == "auto" and shutil.which("nvidia-smi"))
    if asked.jobs is not None and asked.jobs < 1:
        parser.error("argument --jobs: at least 1")
    if asked.profile:
        asked.profile = profile_folder(asked.profile)
    elif asked.jobs is None:  # several models on one accelerator would fight for its memory
        asked.jobs = 1 if on_gpu else max(min(2, cores), cores // 2)
    models = list(dict.fromkeys([*asked.model, *listed([asked.models or ""], [])]))
    if asked.dataset.partition(":")[0] not in DATASETS and is_place(asked.dataset):  # notebooks run elsewhere
        asked.dataset = str(Path(asked.dataset).expanduser().absolute())
    asked_for = {name: getattr(asked, name) for name in ("revision", "dataset", "device", "facts")}
    settings = dict(option.partition("=")[::2] for option in asked.set)
    for name, value in settings.items():
        if not value:
            parser.error(f"argument --set: {name!r} should be NAME=VALUE")
        if name in (*asked_for, "model", "language", "relation", "facts_per_relation", "out"):
            parser.error(f"argument --set: {name} has an option of its own")
    made = plans(
        models,
        **asked_for,
        languages=listed(asked.language, []) or None,
        relations=listed(asked.relation, ["all"]),
        settings=settings,
        select=asked.notebooks or None,
        notebooks=str(Path(asked.notebooks_folder).absolute()),
        runs=str(Path(asked.runs).absolute()),
        threads=1 if asked.profile else max(1, cores // asked.jobs),  # a profile sets its own
    )
    return Studies(made), asked


def listed(given: list[str] | None, usual: list[str]) -> list[str]:
    """The names of an option that may be repeated, and may hold several between commas."""
    names = [name.strip() for option in given or [] for name in option.split(",")]
    return [name for name in dict.fromkeys(names) if name] or usual


def profile_folder(name: str) -> Path:
    """The folder of a Snakemake profile: a name in ``profiles/``, or a path.

    Raises:
        Refused: there is none.
    """
    for place in (ROOT / "profiles" / name, Path(name).expanduser()):
        if (place / "config.yaml").is_file():
            return place.absolute()
    known = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
    raise Refused(f"no profile {name!r}; known: {', '.join(known)}, or a folder with a config.yaml.")


def execute(plan: Studies, asked: argparse.Namespace) -> int:
    """Run what is out of date and tell what came of it; the exit status."""
    begun = time.monotonic()
    runner = Runner(plan, asked.jobs, asked.profile)
    ended: dict[NotebookRun, str] = {}
    try:
        todo = runner.stale()
        say(f"{plan.title}: {len(todo)} of {len(plan.jobs)} notebooks to run.")
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
    told = stamp(runner.runs / NUMBERS) > runner.begun
    if ended and not failed and not skipped and not told:
        say(f"FAILED {NUMBERS}: {runner.last_line(runner.runs / 'logs' / 'numbers.log')}")
        return 1
    if skipped:
        say("Skipped, because of that: " + "; ".join(" ".join(job.label.split()) for job in skipped))
        say(f"More in {shown(runner.log)}")
    return 1 if failed or skipped else 0


def main(argv: list[str] | None = None) -> int:
    """Run the study as the options say; the exit status."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        plan, asked = read_options(sys.argv[1:] if argv is None else argv)
        plan = plan.resolved()
        plan.check()
        if asked.profile:
            check_profile(asked.profile)
        return execute(plan, asked)
    except StudyError as error:
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
