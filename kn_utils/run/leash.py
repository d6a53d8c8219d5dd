"""Ends what a study started when the study is gone, however it ended: ``python -m kn_utils.run.leash``.

The command line starts one for each run, in a session of its own, and holds the other end of a pipe. When
that end closes (the study ended, or was killed and can clean up nothing), all processes of that run are
ended: snakemake, papermill and kernels. They are known by their environment, which children inherit. While
a process is being started its environment reads as empty for a moment, so children are ended with what
started them, and the search is over when nothing is found twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping

import psutil

#: Environment variables of the processes of a run: its folder, so that a later run finds what an earlier one
#: left behind, and its own name, so that a leash ends no later run.
MARK, RUN = "KN_STUDY_RUNS", "KN_STUDY_RUN"


def marked(name: str, value: str) -> list[psutil.Process]:
    """The processes with this mark, but for this one and those that it came from."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and process.environ().get(name) == value:
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found


def with_children(processes: list[psutil.Process]) -> list[psutil.Process]:
    """These and everything that they started, marked or not."""
    found = dict.fromkeys(processes)
    for process in processes:
        try:
            found |= dict.fromkeys(process.children(recursive=True))
        except psutil.Error:
            pass
    return list(found)


def stop(name: str, value: str) -> int:
    """End every process with this mark and what these started, kernels included; how many there were."""
    killed: dict[int, psutil.Process] = {}
    quiet = 0
    for _ in range(20):  # what was being started while others were ended
        fresh = with_children(marked(name, value))
        quiet = 0 if fresh else quiet + 1
        if quiet == 2:
            break
        for process in fresh:
            killed[process.pid] = process
            try:
                process.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(fresh, timeout=10)
        time.sleep(0.2)
    return len(killed)


def attach(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start one for a run of this environment; it acts when this process ends or closes its ``stdin``."""
    command = [sys.executable, "-m", __name__, environment[RUN]]
    own = {name: value for name, value in environment.items() if name not in (MARK, RUN)}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=own,
        start_new_session=True,
    )


def main(run: str) -> int:
    """Wait until the other end closes, then end what is left."""
    sys.stdin.buffer.read()
    stop(RUN, run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
