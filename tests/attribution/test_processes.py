"""Several processes write what one writes; one that fails or dies is reported; memory stays bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from kn_utils.attribution.streaming import prompts_file
from kn_utils.store.tables import load_table

pytestmark = pytest.mark.slow

#: Started processes import their parent's script again, so that a fault that stands at its top level happens
#: in them.
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
import pandas as pd
import torch
from kn_utils.attribution import attribute as attribution, batching, settings, streaming
from kn_utils.attribution.kernel import integrate

torch.set_num_threads(1)
passes = 0


class Odd(Exception):  # cannot be made again from its text alone
    def __init__(self, text, more):
        super().__init__(text)


def faulty(model, rows, **options):
    global passes
    passes += 1
    with open(os.environ.get("LOG", os.devnull), "a") as log:
        log.write(str(os.getpid()) + " ")
    fault = os.environ.get("FAULT", "") if passes > 2 and __name__ != "__main__" else ""
    if fault == "slow":
        time.sleep(0.2)
    if fault == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "odd":
        raise Odd("something odd", 1)
    return integrate(model, rows, **options)


settings.integrate = faulty
batching.WINDOW = streaming.WINDOW = 20


def prompts():
    text = ["[X] is the capital" + " of France" * (i % 7) + ", [Y]." for i in range(50)]
    text = [t.replace("[X]", "Berlin" * (1 + i % 3)) for i, t in enumerate(text)]
    answers = [("B", "Paris", "New Delhi")[i % 3] for i in range(50)]
    names = [f"p{{i}}" for i in range(50)]
    return pd.DataFrame(dict(prompt=names, text=text, answer=answers, masked="object"))


if __name__ == "__main__":
    import conftest

    model = conftest.make_model("bert")
{body}
"""

BODY = """
    from pathlib import Path

    from kn_utils.attribution.kernel import AttributionError

    folder, settings = Path(sys.argv[1]), dict(batch_size=4, steps=2, progress=False)

    def run(name, devices, fault=""):
        os.environ["FAULT"], os.environ["LOG"] = fault, str(folder / (name + ".log"))
        try:
            out = folder / name / "scores.parquet"
            attribution.attribute(model, prompts(), out=out, devices=devices, **settings)
            print(name, "| finished |", passes)
        except Exception as error:
            print(name, "|", type(error).__name__, "|", error)

    run("one", None)
    before = passes
    run("two", ["cpu", "cpu"])
    assert passes == before, "the parent computed"
    run("dies", ["cpu", "cpu"], "dies")
    print("parts", "|", len(list((folder / "dies" / "scores.parquet.parts").glob("0*.parquet"))))
    run("dies", None)
    run("odd", ["cpu"], "odd")
    model.model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    run("nan", ["cpu"])
    model.unsendable = lambda: None
    run("unsendable", ["cpu"])
"""

ORPHANS = """
    print(os.getpid(), flush=True)
    attribution.attribute(model, prompts(), out=sys.argv[1], devices=["cpu"], batch_size=1, progress=False)
"""

MEMORY = """
import sys
sys.path.insert(0, {tests!r})
import pandas as pd
import torch
from conftest import make_model
from kn_utils.attribution import attribute as attribution, batching, settings, streaming

torch.set_num_threads(1)
batching.WINDOW = streaming.WINDOW = 100
model = make_model("bert", torch.float32, num_hidden_layers=2, hidden_size=16, intermediate_size=2048)


def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


for many in (400, 2000):
    names = [f"p{{i}}" for i in range(many)]
    table = pd.DataFrame(dict(prompt=names, text="Paris, [Y].", answer="B", masked="object"))
    table["text"] = [f"{{'Berlin ' * (i % 5)}}, [Y]." for i in range(many)]
    attribution.attribute(
        model, table, out=f"{{sys.argv[1]}}/{{many}}.parquet", steps=1, keep=1e-9, batch_size=20,
        progress=False,
    )
    print(many, peak())
"""

TESTS = str(Path(__file__).parents[1])


def script(folder: Path, body: str) -> str:
    file = folder / "script.py"
    file.write_text(SCRIPT.format(tests=TESTS, body=body))
    return str(file)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What every run in the script said, as name -> lines; the runs' folders lie in ``told["folder"]``."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, script(folder, BODY), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines: dict = {"folder": folder, "stderr": done.stderr}
    for name, *rest in (line.split(" | ") for line in done.stdout.splitlines()):
        lines.setdefault(name, []).append(rest)
    return lines


def both_files(folder: Path) -> tuple[bytes, bytes]:
    out = folder / "scores.parquet"
    return out.read_bytes(), prompts_file(out).read_bytes()


def test_two_processes_write_what_one_writes(told):
    assert told["two"][0][0] == "finished"
    assert both_files(told["folder"] / "two") == both_files(told["folder"] / "one")
    notes = load_table(told["folder"] / "two" / "scores.prompts.parquet")[0]
    assert notes["prompt"].tolist() == [f"p{i}" for i in range(50)] and notes["maximum"].nunique() > 10
    assert not (told["folder"] / "two" / "scores.parquet.parts").exists()
    shares = pd.Series((told["folder"] / "two.log").read_text().split()).value_counts()
    assert shares.sum() == int(told["one"][0][1]), "a batch was computed twice"
    assert len(shares) == 2 and shares.max() - shares.min() <= 1


def test_a_process_that_dies_is_reported_and_its_batches_are_kept(told):
    first, second = told["dies"]
    assert first == [
        "AttributionError",
        "a process ended with exit code -9; finished batches are kept, the same call goes on from there.",
    ]
    assert int(told["parts"][0][0]) == 4, "two by each, before both died"
    whole, after = int(told["one"][0][1]), int(second[1])
    assert after == 2 * whole - 4, "the finished batches were computed again"
    assert both_files(told["folder"] / "dies") == both_files(told["folder"] / "one")


def test_an_exception_in_a_process_arrives(told):
    assert told["nan"] == [
        [
            "AttributionError",
            "scores are not finite; check the weights and activations for NaN and infinite values.",
        ]
    ]
    assert told["odd"] == [["RuntimeError", "Odd: something odd"]]


def test_a_process_that_cannot_be_started_says_why(told):
    kind, said = told["unsendable"][0]
    assert "pickle" in said.lower() or "local object" in said or "lambda" in said, (kind, said)


def test_no_process_outlives_a_parent_that_was_killed(tmp_path):
    out = tmp_path / "scores.parquet"
    parent = subprocess.Popen(
        [sys.executable, script(tmp_path, ORPHANS), str(out)],
        env={**os.environ, "FAULT": "slow"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    parts = out.with_name("scores.parquet.parts")
    try:
        _wait(lambda: len(list(parts.glob("0*.parquet"))) >= 3 or parent.poll() is not None)
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        time.sleep(1)
        left = len(list(parts.iterdir()))
        time.sleep(1.5)
        assert len(list(parts.iterdir())) == left < 60, "somebody goes on writing"
    finally:
        try:
            os.killpg(parent.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _wait(ready, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_prompts(tmp_path):
    code = MEMORY.format(tests=TESTS)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peaks = {int(many): float(mib) for many, mib in (line.split() for line in done.stdout.splitlines())}
    scores = load_table(tmp_path / "2000.parquet")[0]
    assert scores["prompt"].nunique() == 2000 and len(scores) > 2_000_000
    held = (
        scores.drop(columns="prompt").memory_usage(index=False).sum() / 2**20 * 5
    )  # with the numbers, while sorting
    growth = peaks[2000] - peaks[400]
    assert growth < 30 < held, f"{growth:.0f} MiB more for 2,000 prompts than for 400"
    assert load_table(tmp_path / "400.parquet")[0].equals(
        scores.iloc[: (scores["prompt"].factorize()[0] < 400).sum()]
    )
    assert pd.api.types.is_float_dtype(scores["score"])
