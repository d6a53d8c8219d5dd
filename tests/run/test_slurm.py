"""Notebooks as jobs of a real Slurm of one node, which the test starts: as root, where Debian's packages are.

What goes wrong on a cluster: a job that is killed, a node that goes away, a study that is interrupted.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_command import Place, started, write_notebook

from kn_utils.base import ROOT

PATH = f"{os.environ['PATH']}:/usr/sbin"
CONF = Path("/etc/slurm/slurm.conf")
LACKS = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    LACKS.append("snakemake-executor-plugin-slurm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKS), reason=f"no Slurm here: {', '.join(LACKS)}"),
    pytest.mark.skipif(
        os.geteuid() != 0 or CONF.exists(), reason="a Slurm of one's own needs root, and no other"
    ),
]


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": PATH}).stdout


@pytest.fixture
def cluster():
    """A Slurm of one node while the test runs."""
    script = ROOT / "profiles" / "slurm" / "one_node.sh"
    with subprocess.Popen([str(script), "sleep", "600"], start_new_session=True) as process:
        try:
            wait(lambda: slurm("sinfo", "-h", "-o", "%T").strip() == "idle", process)
            yield
        finally:
            for one in slurm("pgrep", "-s", str(process.pid), "sleep").split():
                os.kill(int(one), signal.SIGTERM)  # its command ends; it ends the daemons
            process.wait(timeout=60)
    assert not CONF.exists()


def wait(there, process, seconds: int = 120) -> None:
    for _ in range(5 * seconds):
        if there():
            return
        assert process.poll() is None, "it ended before"
        time.sleep(0.2)
    raise AssertionError("it did not come")


def study(place: Place, *options: str) -> subprocess.Popen:
    profile = str(ROOT / "profiles" / "slurm" / "one_node")
    command = place.command("--profile", profile, "--notebooks", "04", "--language", "en", *options)
    environment = os.environ | {"PATH": PATH}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)


def running(name: str) -> list[str]:
    """The jobs of a notebook that are running."""
    table = slurm("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines()
    return [line.split()[0] for line in table if name in line]


@pytest.fixture
def slow_place(tmp_path: Path) -> tuple[Place, Path]:
    """Stand-ins of which 03 waits for a file."""
    place, flag = Place(tmp_path), tmp_path / "go"
    wait = f'import pathlib, time\nwhile not pathlib.Path("{flag}").exists():\n    time.sleep(0.1)\n'
    write_notebook(place.notebooks, "03_attribution", wait)
    return place, flag


@pytest.mark.parametrize("what", ["job killed", "node lost"])
def test_what_was_lost_is_tried_again(cluster, slow_place, what):
    place, flag = slow_place
    process = study(place)
    wait(lambda: running("03_attribution"), process)
    first = running("03_attribution")
    if what == "job killed":
        slurm("scancel", *first)
    else:
        node = slurm("sinfo", "-h", "-o", "%n").strip()
        slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        wait(lambda: not running("03_attribution"), process)
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    wait(lambda: running("03_attribution") not in ([], first), process)
    second = running("03_attribution")
    flag.touch()
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert first != second and len(place.made()) == 3
    assert [line.split()[0] for line in started(told)][-1] == "04_refinement"


def test_an_interrupted_study_calls_its_jobs_back_and_goes_on(cluster, slow_place):
    place, flag = slow_place
    process = study(place)
    wait(lambda: running("03_attribution"), process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted" in told
    assert slurm("squeue", "-h").strip() == ""
    flag.touch()
    again = study(place)
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert [line.split()[0] for line in started(told)] == ["03_attribution", "04_refinement"]
