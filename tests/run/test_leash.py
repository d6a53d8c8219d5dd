"""What a run started is ended with it, also what had no mark, or none yet, when it was looked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from kn_utils.run import leash

NAME = "KN_TEST_OF_THE_LEASH"
SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]
#: starts one more without any environment, writes its number, and waits
STARTS = f"""
import subprocess, sys, time
child = subprocess.Popen({SLEEP!r}, env={{}})
print(child.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def value(tmp_path):
    return str(tmp_path)


def start(value: str, command: list[str]) -> subprocess.Popen:
    own = os.environ | {NAME: value}
    process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and psutil.Process(process.pid).environ().get(NAME) != value:
        time.sleep(0.01)
    return process


def test_marked_and_what_it_started_are_ended_and_others_not(value):
    other = start(value + "-of-another", SLEEP)
    process = start(value, [sys.executable, "-c", STARTS])
    child = psutil.Process(int(process.stdout.readline()))
    assert child.environ().get(NAME) is None
    assert leash.stop(NAME, value) == 2
    assert not psutil.pid_exists(process.pid)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert other.poll() is None
    other.kill()
    other.wait()


def test_one_that_shows_its_mark_late_is_ended(value, monkeypatch):
    """Between its start and its program a process has no environment: one look finds nothing."""
    process = start(value, SLEEP)
    look, seen = leash.marked, []

    def late(name: str, value: str) -> list[psutil.Process]:
        seen.append(name)
        return [] if len(seen) == 1 else look(name, value)

    monkeypatch.setattr(leash, "marked", late)
    assert leash.stop(NAME, value) == 1
    assert not psutil.pid_exists(process.pid)


def test_nothing_to_end_is_none(value):
    assert leash.stop(NAME, value) == 0
