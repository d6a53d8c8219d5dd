"""Long runs: wherever one breaks off, the same call ends with the same files and computes no batch twice."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model

from kn_utils.attribution import attribute as attribution
from kn_utils.attribution import batching, streaming
from kn_utils.attribution import settings as settings_room
from kn_utils.attribution.attribute import attribute, score_tables
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.quadrature import AttributionError
from kn_utils.attribution.streaming import prompts_file
from kn_utils.store import tables as artifacts
from kn_utils.store.files import ArtifactError
from kn_utils.store.tables import load_table

#: A batch per prompt. The toy tokenizer's vocabulary differs a little from run to run, and larger batches
#: with it.
SETTINGS = {"batch_size": 1, "steps": 2, "progress": False, "origin": {"model": "random bert"}}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Windows of four prompts: the nine of the toy facts fill two and begin a third."""
    for module in (batching, streaming):
        monkeypatch.setattr(module, "WINDOW", 4)


def in_disorder(prompts: pd.DataFrame) -> pd.DataFrame:
    """Prompts in an order that is not that of their names, with an index that says nothing; 1 to 6 pieces."""
    return prompts.assign(answer=["B", *prompts["answer"][1:]]).sample(frac=1, random_state=1)


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    return in_disorder(prompts)


@pytest.fixture(scope="module")
def unbroken(prompts, tmp_path_factory) -> Path:
    """The files of a run that nothing broke off."""
    place = tmp_path_factory.mktemp("whole") / "scores.parquet"
    with pytest.MonkeyPatch.context() as here:
        for module in (batching, streaming):
            here.setattr(module, "WINDOW", 4)
        return attribute(make_model("bert"), in_disorder(prompts), out=place, **SETTINGS)


class Passes:
    """Stands for the kernel: counts rows, and breaks off before a pass if asked to."""

    def __init__(
        self, monkeypatch, stop_before: int = sys.maxsize, error: type[BaseException] = KeyboardInterrupt
    ):
        self.rows, self.passes, self.stop_before, self.error = 0, 0, stop_before, error
        monkeypatch.setattr(settings_room, "integrate", self)

    def __call__(self, model, rows, **options):
        if self.passes == self.stop_before:
            raise self.error
        self.passes, self.rows = self.passes + 1, self.rows + len(rows)
        return integrate(model, rows, **options)


def parts_of(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def same_files(out: Path, other: Path) -> None:
    """Both files of a result equal another's byte by byte, and nothing else is left."""
    for ours, theirs in ((out, other), (prompts_file(out), prompts_file(other))):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name
    assert sorted(path.name for path in out.parent.iterdir()) == ["scores.parquet", "scores.prompts.parquet"]


def break_off(model, asked, out, monkeypatch, passes=3, **changes) -> None:
    with monkeypatch.context() as here, pytest.raises(KeyboardInterrupt):
        Passes(here, passes)
        attribute(model, asked, out=out, **{**SETTINGS, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 6, None])
@pytest.mark.parametrize("method", ["integrated-gradients", "activation"])
def test_the_streamed_table_is_the_one_in_memory(bert, asked, tmp_path, batch_size, method):
    options = {**SETTINGS, "batch_size": batch_size, "method": method, "keep": 0.05}
    options["gap"] = method != "activation"
    sizes = pd.Series([row.prompt for row in bert.encode(asked)]).value_counts()
    assert sizes.max() > 1 and sizes.min() == 1, "answers of one and of several pieces are wanted here"
    out = attribute(bert, asked, out=str(tmp_path / "new" / "scores.parquet"), **options)
    assert out == tmp_path / "new" / "scores.parquet"
    held, notes = score_tables(bert, asked, **{k: v for k, v in options.items() if k != "origin"})
    streamed, origin = load_table(out)
    assert origin == SETTINGS["origin"]
    pd.testing.assert_frame_equal(streamed, held, check_exact=True)
    assert dict(streamed.dtypes.astype(str)) == {
        "prompt": "str",
        "layer": "int16",
        "neuron": "int32",
        "score": "float32",
    }
    assert streamed["prompt"].drop_duplicates().tolist() == asked["prompt"].tolist()
    assert streamed.groupby("prompt", sort=False)[["layer", "neuron"]].apply(_rising).all()
    stored, origin = load_table(prompts_file(out))
    pd.testing.assert_frame_equal(stored, notes, check_exact=True)
    assert stored["prompt"].tolist() == asked["prompt"].tolist() and origin == SETTINGS["origin"]
    assert stored["gap"].isna().all() == (method == "activation")
    assert not parts_of(out).exists()


def _rising(table: pd.DataFrame) -> bool:
    return (np.diff(table["layer"].to_numpy() * 1000 + table["neuron"].to_numpy()) > 0).all()


@pytest.mark.slow
def test_windows_leave_no_trace_but_in_the_file_s_groups(bert, asked, unbroken, monkeypatch, tmp_path):
    for module in (batching, streaming):
        monkeypatch.setattr(module, "WINDOW", 100)
    one = attribute(bert, asked, out=tmp_path / "scores.parquet", **SETTINGS)
    for file in (one, unbroken), (prompts_file(one), prompts_file(unbroken)):
        pd.testing.assert_frame_equal(
            *(load_table(path)[0] for path in file), rtol=1e-6
        )  # other batches round otherwise


def test_a_window_without_a_score_is_no_obstacle(bert, asked, tmp_path):
    """A prompt of a certain answer has no gradient: its window then holds no rows."""
    with torch.no_grad():
        bert.model.cls.predictions.decoder.weight.zero_()
        bert.model.cls.predictions.bias.zero_()
    out = attribute(bert, asked, out=tmp_path / "scores.parquet", **SETTINGS)
    scores, notes = load_table(out)[0], load_table(prompts_file(out))[0]
    assert scores.empty and scores["neuron"].dtype == "int32"
    assert notes["prompt"].tolist() == asked["prompt"].tolist() and (notes["maximum"] == 0).all()


FILE_OPERATIONS = ("replace", "unlink", "rmdir")


def in_a_fork(work) -> int:
    """Run ``work()`` in a copy of this process; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def counting(monkeypatch, before) -> None:
    """Call ``before(operation, target's name)`` ahead of every change of a name in the file system."""
    for name in FILE_OPERATIONS:
        own = getattr(os, name)

        def operation(*args, _name=name, _own=own, **kwargs):
            if not Path(args[-1]).name.startswith("."):  # a half file that is already gone
                before(_name, Path(args[-1]).name)
            return _own(*args, **kwargs)

        monkeypatch.setattr(os, name, operation)


@pytest.mark.slow
@linux
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_before_any_file_operation_the_same_call_ends_with_the_same_files(
    bert, asked, tmp_path, monkeypatch
):
    """SIGKILL ahead of each replacement and deletion of one run.

    That is between a part's two files, in the middle of putting a window's parts into one, between the two
    results, in the middle of clearing up.
    """
    asked, operations = asked.iloc[:5], []
    with monkeypatch.context() as here:
        counting(here, lambda *operation: operations.append(operation))
        unbroken = attribute(bert, asked, out=tmp_path / "whole" / "scores.parquet", **SETTINGS)
    ready = operations.index(("replace", "scores.parquet"))
    assert len(operations) > 20 and operations[-1] == ("rmdir", "scores.parquet.parts")
    for moment in range(len(operations)):
        out = tmp_path / f"at {moment}" / "scores.parquet"
        left = moment

        def die(*_):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def run(out=out, die=die):
            counting(monkeypatch, die)  # in the fork only
            attribute(bert, asked, out=out, **SETTINGS)

        assert in_a_fork(run) == -signal.SIGKILL
        assert out.exists() == (moment > ready + 1), operations[moment]
        attribute(bert, asked, out=out, **SETTINGS)
        same_files(out, unbroken)
        shutil.rmtree(out.parent)


MINI_RUN = """
import sys
import torch
torch.set_num_threads(1)
from kn_utils import attribute, load_facts, load_model, make_prompts
prompts = make_prompts(load_facts(), "en").iloc[:24]
attribute(load_model("mini", device="cpu"), prompts, out=sys.argv[1], batch_size=2, steps=2, progress=False)
"""


@pytest.mark.slow
@linux
def test_a_run_killed_from_outside_is_taken_up_again(tmp_path, monkeypatch):
    from kn_utils import load_facts, load_model, make_prompts

    monkeypatch.undo()  # the other process has windows of the usual size
    torch.set_num_threads(1)
    out = tmp_path / "broken" / "scores.parquet"
    process = subprocess.Popen([sys.executable, "-c", MINI_RUN, str(out)])
    try:
        while process.poll() is None and len(_finished(out)) < 3:
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not out.exists()
    done = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in _finished(out)}
    assert len(done) >= 3
    model, prompts = load_model("mini", device="cpu"), make_prompts(load_facts(), "en").iloc[:24]
    options = {"batch_size": 2, "steps": 2, "progress": False}
    whole = attribute(model, prompts, out=tmp_path / "whole" / "scores.parquet", **options)
    touched = _watched(monkeypatch)
    count = Passes(monkeypatch)
    attribute(model, prompts, out=out, **options)
    same_files(out, whole)
    assert not set(done) & touched
    finished = sum(len(load) for load in _rows_by_batch(model, prompts, 2)[: len(done)])
    assert count.rows == len(model.encode(prompts)) - finished


def _finished(out: Path) -> list[Path]:
    return sorted(parts_of(out).glob("[0-9]*.parquet"))


def _watched(monkeypatch) -> set[Path]:
    """Grows by every table that is saved."""
    seen, save = set(), streaming.save_table

    def saving(table, path, *args):
        seen.add(path)
        return save(table, path, *args)

    monkeypatch.setattr(streaming, "save_table", saving)
    return seen


def _rows_by_batch(model, prompts, size) -> list[list]:
    found = settings_room.ScoreSettings(batch_size=size).batches(model, prompts)
    return [[row for rows in batch.rows for row in rows] for batch in found]


@pytest.mark.slow
def test_an_interruption_says_where_the_parts_are_and_nothing_is_computed_twice(
    bert, asked, unbroken, tmp_path, monkeypatch, capsys
):
    sizes = [len(rows) for rows in _rows_by_batch(bert, asked, 1)]
    assert len(sizes) == len(asked) == 9
    for stop in (0, 1, 3, len(sizes) - 1):
        out = tmp_path / str(stop) / "scores.parquet"
        break_off(bert, asked, out, monkeypatch, stop)
        assert capsys.readouterr().err == (
            f"stopped; what is finished lies in {parts_of(out)}: the same call goes on from there\n"
        )
        assert not out.exists() and not prompts_file(out).exists()
        with monkeypatch.context() as here:
            count = Passes(here)
            attribute(bert, asked, out=out, **SETTINGS)
        assert (count.passes, count.rows) == (len(sizes) - stop, sum(sizes[stop:]))
        same_files(out, unbroken)
        assert capsys.readouterr().err == ""


def test_an_interrupted_run_in_memory_promises_nothing(bert, asked, monkeypatch, capsys):
    Passes(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        attribute(bert, asked, **SETTINGS)
    assert capsys.readouterr().err == ""


def test_a_finished_result_is_computed_anew_not_added_to(bert, asked, unbroken, tmp_path):
    out = shutil.copy(unbroken, tmp_path / "scores.parquet")
    attribute(bert, asked, out=out, **SETTINGS)
    same_files(out, unbroken)


def _edit_a_weight(model, asked, monkeypatch):
    model.model.bert.encoder.layer[1].output.dense.weight[3, 5] += 1e-9


def _other_code(model, asked, monkeypatch):
    monkeypatch.setattr(attribution, "code_version", lambda room: "9.9+another")


def _other_prompt(model, asked, monkeypatch):
    asked.loc[asked.index[0], "answer"] = "Berlin"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (_edit_a_weight, {}, "weights"),
        (_other_code, {}, "code"),
        (_other_prompt, {}, "prompts"),
        (None, {"steps": 3}, "settings"),
        (None, {"keep": 0.2}, "settings"),
        (None, {"layers": [0, 2]}, "settings"),
        (_edit_a_weight, {"rule": "left"}, "settings, weights"),
    ],
)
def test_stale_parts_are_not_used(spoil, options, said, bert, asked, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.parquet"
    break_off(bert, asked, out, monkeypatch)
    capsys.readouterr()
    if spoil:
        spoil(bert, asked, monkeypatch)
    count = Passes(monkeypatch)
    attribute(bert, asked, out=out, **{**SETTINGS, **options})
    assert capsys.readouterr().err == f"scores.parquet.parts: {said} changed, starting anew\n"
    assert count.rows == len(bert.encode(asked))
    whole = attribute(bert, asked, out=tmp_path / "whole" / "scores.parquet", **{**SETTINGS, **options})
    assert out.read_bytes() == whole.read_bytes()
    assert prompts_file(out).read_bytes() == prompts_file(whole).read_bytes()


@pytest.mark.slow
def test_parts_survive_a_change_that_changes_no_score(bert, asked, unbroken, tmp_path, monkeypatch, capsys):
    """Where the result's origin differs, or a copy of the model is used, the parts still hold."""
    out = tmp_path / "scores.parquet"
    break_off(bert, asked, out, monkeypatch, origin={"another": "origin"})
    capsys.readouterr()
    count = Passes(monkeypatch)
    attribute(copy.deepcopy(bert), asked.reset_index(drop=True), out=out, **SETTINGS)
    assert capsys.readouterr().err == "" and count.passes == len(_rows_by_batch(bert, asked, 1)) - 3
    same_files(out, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["", "{half", None])
def test_parts_without_a_plan_are_not_used(bert, asked, unbroken, tmp_path, monkeypatch, plan):
    out = tmp_path / "scores.parquet"
    break_off(bert, asked, out, monkeypatch)
    file = parts_of(out) / "plan.json"
    file.unlink() if plan is None else file.write_text(plan)
    count = Passes(monkeypatch)
    attribute(bert, asked, out=out, **SETTINGS)
    assert count.rows == len(bert.encode(asked))
    same_files(out, unbroken)


def test_stale_parts_that_cannot_be_removed_stop_the_run(bert, asked, tmp_path, monkeypatch):
    out = tmp_path / "scores.parquet"
    break_off(bert, asked, out, monkeypatch)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(ArtifactError, match=r"scores\.parquet\.parts.*Operation not permitted"):
        attribute(bert, asked, out=out, **{**SETTINGS, "steps": 3})


@pytest.mark.slow
def test_batches_are_cut_as_in_the_run_that_is_taken_up(bert, asked, tmp_path, monkeypatch):
    """Free memory differs from day to day; other batches would round differently."""
    options = {**SETTINGS, "batch_size": None}
    out, whole = tmp_path / "scores.parquet", tmp_path / "whole" / "scores.parquet"
    for module in (batching, streaming):
        monkeypatch.setattr(module, "WINDOW", 1024)
    monkeypatch.setattr(attribution, "memory_budget", lambda *_: 300)
    attribute(bert, asked, out=whole, **options)
    break_off(bert, asked, out, monkeypatch, 1, **options)
    monkeypatch.setattr(attribution, "memory_budget", lambda *_: 2000)
    count = Passes(monkeypatch)
    attribute(bert, asked, out=out, **options)
    assert out.read_bytes() == whole.read_bytes()
    assert prompts_file(out).read_bytes() == prompts_file(whole).read_bytes()
    cut = list(settings_room.ScoreSettings(steps=2).batches(bert, asked, 300))
    assert (
        count.passes
        == len(cut) - 1
        > len(list(settings_room.ScoreSettings(steps=2).batches(bert, asked, 2000)))
    )


@pytest.mark.slow
@pytest.mark.parametrize("write", ["write_table", "ParquetWriter"])
def test_a_full_disk_is_one_clear_error_and_keeps_the_parts(
    bert, asked, unbroken, tmp_path, monkeypatch, write
):
    out, saved = tmp_path / "scores.parquet", []
    with monkeypatch.context() as here:
        own = getattr(artifacts.pq, write)

        def fail(*args, **kwargs):
            if write == "ParquetWriter" or len(saved) == 7:
                raise OSError(errno.ENOSPC, "No space left on device")
            saved.append(1)
            return own(*args, **kwargs)

        here.setattr(artifacts.pq, write, fail)
        with pytest.raises(
            ArtifactError, match=r"cannot write .*scores.*No space left on device\. Free space or"
        ):
            attribute(bert, asked, out=out, **SETTINGS)
    assert not out.exists() and len(_finished(out)) == 3
    assert not [path for path in parts_of(out).iterdir() if path.name.startswith(".")]
    count = Passes(monkeypatch)
    attribute(bert, asked, out=out, **SETTINGS)
    assert count.passes == (0 if write == "ParquetWriter" else len(_rows_by_batch(bert, asked, 1)) - 3)
    same_files(out, unbroken)


def test_a_file_where_the_folder_should_be(bert, asked, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    count = Passes(monkeypatch)
    with pytest.raises(ArtifactError, match=r"cannot write .*file.*choose another folder \(out\)"):
        attribute(bert, asked, out=tmp_path / "file" / "scores.parquet", **SETTINGS)
    assert count.passes == 0


@linux
def test_a_folder_that_may_not_be_written_to(bert, asked, unbroken, monkeypatch):
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to others, whom root becomes here
    folder.chmod(0o555)
    count = Passes(monkeypatch)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(
            ArtifactError, match=r"cannot write .*Permission denied.*choose another folder \(out\)"
        ):
            attribute(bert, asked, out=folder / "scores.parquet", **SETTINGS)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert count.passes == 0, "said after an hour of work"


def test_weights_that_are_nan_stop_the_run_and_keep_the_parts(bert, asked, unbroken, tmp_path, monkeypatch):
    """Not a number from the third pass on, as when a device fails."""
    out, weight = tmp_path / "scores.parquet", bert.model.bert.encoder.layer[1].output.dense.weight
    with monkeypatch.context() as here, pytest.raises(AttributionError, match="scores are not finite"):
        passes = 0

        def failing(model, rows, **options):
            nonlocal passes
            passes += 1
            kept = weight[0, 0].clone()
            weight[0, 0] = float("nan") if passes > 3 else kept
            try:
                return integrate(model, rows, **options)
            finally:
                weight[0, 0] = kept

        here.setattr(settings_room, "integrate", failing)
        attribute(bert, asked, out=out, **SETTINGS)
    assert not out.exists() and len(_finished(out)) == 3
    attribute(bert, asked, out=out, **SETTINGS)
    same_files(out, unbroken)
    weight[0, 0] = float("nan")
    with pytest.raises(AttributionError, match="scores are not finite"):
        attribute(bert, asked, out=tmp_path / "nan" / "scores.parquet", **SETTINGS)
    assert [path.name for path in (tmp_path / "nan").iterdir()] == ["scores.parquet.parts"]


class Bar(attribution.tqdm):
    """A progress bar with a clock that is set by hand."""

    now = 0.0
    last: Bar

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "disable": False, "file": open(os.devnull, "w")})  # noqa: SIM115
        self._time, self.start_t, self.last_print_t = lambda: Bar.now, Bar.now, Bar.now
        Bar.last = self


def test_prompts_of_an_earlier_run_count_as_done_but_not_for_the_speed(bert, asked, tmp_path, monkeypatch):
    out = tmp_path / "scores.parquet"
    break_off(bert, asked, out, monkeypatch, 3)
    earlier = sum(len(load_table(path)[0]) for path in parts_of(out).glob("notes-*.parquet"))
    assert 0 < earlier < len(asked)
    monkeypatch.setattr(attribution, "tqdm", Bar)
    per_prompt = 2.0

    def slowly(model, rows, **options):
        Bar.now += per_prompt * len({row.prompt for row in rows})
        return integrate(model, rows, **options)

    monkeypatch.setattr(settings_room, "integrate", slowly)
    attribute(bert, asked, out=out, **{**SETTINGS, "progress": True})
    bar = Bar.last
    assert (bar.initial, bar.n, bar.total) == (earlier, len(asked), len(asked))
    assert bar.format_dict["elapsed"] == pytest.approx(per_prompt * (len(asked) - earlier))
    assert (bar.n - bar.initial) / bar.format_dict["elapsed"] == pytest.approx(1 / per_prompt)
