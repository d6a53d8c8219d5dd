"""Work ahead of a loop and behind it: the same items, files and errors, whatever runs beside what."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
import torch

from kn_utils.attribution import overlap, streaming
from kn_utils.attribution.attribute import attribute, score_tables
from kn_utils.attribution.batching import Batch
from kn_utils.attribution.keeping import as_tables, kept
from kn_utils.attribution.overlap import Behind, Stream, ahead
from kn_utils.attribution.quadrature import AttributionError
from kn_utils.base import StudyError


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_items_come_in_their_order_and_are_made_as_far_ahead_as_said(depth):
    made = []

    def items():
        for number in range(6):
            made.append(number)
            yield number

    seen, most = [], 0
    for item in ahead(items(), depth):
        threading.Event().wait(0.02)  # the thread has time to go too far
        most = max(most, len(made) - len(seen) - 1)
        seen.append(item)
    assert seen == [0, 1, 2, 3, 4, 5] and most == depth


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_ahead_is_raised_where_its_item_would_have_come(depth):
    def items():
        yield from (1, 2)
        raise StudyError("the third")

    seen = []
    with pytest.raises(StudyError, match="the third"):
        for item in ahead(items(), depth):
            seen.append(item)
    assert seen == [1, 2]


def test_a_loop_that_stops_early_leaves_no_thread():
    before = threading.active_count()
    for item in ahead(iter(range(100))):
        if item == 3:
            break
    assert threading.active_count() == before


def test_after_a_call_that_failed_no_other_is_made():
    done, hold = [], threading.Event()

    def fail():
        hold.wait()
        raise StudyError("disk full")

    with pytest.raises(StudyError, match="disk full"), Behind() as behind:
        behind.do(fail)
        behind.do(done.append, "what rests on it")
        hold.set()
    assert done == []


def test_an_error_of_the_loop_is_not_hidden_by_one_behind_it():
    def fail():
        raise StudyError("behind")

    with pytest.raises(KeyboardInterrupt), Behind() as behind:
        behind.do(fail)
        raise KeyboardInterrupt


def test_what_is_behind_is_done_when_the_block_ends():
    done = []
    with Behind() as behind:
        for number in range(9):
            behind.do(done.append, number)
    assert done == list(range(9))


@pytest.mark.slow
@pytest.mark.parametrize("windows", [1024, 3])
def test_threads_change_no_score_and_no_file(bert, prompts, tmp_path, monkeypatch, windows):
    monkeypatch.setattr("kn_utils.attribution.batching.WINDOW", windows)
    monkeypatch.setattr(streaming, "WINDOW", windows)
    files, threads = {}, set()
    add = streaming.Parts.add

    def watched(self, *given):
        threads.add(threading.current_thread() is threading.main_thread())
        add(self, *given)

    monkeypatch.setattr(streaming.Parts, "add", watched)
    for depth in (0, 2):
        monkeypatch.setattr(streaming, "depth_on", lambda device, depth=depth: depth)
        threads.clear()
        out = attribute(bert, prompts, batch_size=2, progress=False, out=tmp_path / f"{depth}.parquet")
        assert threads == {depth == 0}
        files[depth] = out.read_bytes(), streaming.prompts_file(out).read_bytes()
    assert files[0] == files[2]


@pytest.mark.slow
def test_a_batch_that_cannot_be_written_is_missing_and_made_again(bert, prompts, tmp_path, monkeypatch):
    """Were the window closed over the gap, its prompts would be lost without a word."""
    whole = attribute(bert, prompts, batch_size=2, progress=False, out=tmp_path / "whole.parquet")
    monkeypatch.setattr("kn_utils.attribution.batching.WINDOW", 3)
    monkeypatch.setattr(streaming, "WINDOW", 3)
    monkeypatch.setattr(streaming, "depth_on", lambda device: 2)
    out, add, calls = tmp_path / "scores.parquet", streaming.Parts.add, []

    def fails_once(self, *given):
        calls.append(1)
        if len(calls) == 2:
            raise StudyError("disk full")
        add(self, *given)

    monkeypatch.setattr(streaming.Parts, "add", fails_once)
    with pytest.raises(StudyError, match="disk full"):
        attribute(bert, prompts, batch_size=2, progress=False, out=out)
    attribute(bert, prompts, batch_size=2, progress=False, out=out)
    ours, theirs = (pd.read_parquet(place) for place in (out, whole))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)


def test_scores_that_are_not_finite_are_refused_behind_the_loop(bert, prompts, monkeypatch):
    monkeypatch.setattr(streaming, "depth_on", lambda device: 2)
    score = streaming.score_batch

    def broken(room, batch, **more):
        part = score(room, batch, **more)
        part.scores[0, 0, 0] = torch.nan
        return part

    monkeypatch.setattr(streaming, "score_batch", broken)
    with pytest.raises(AttributionError, match="not finite"):
        score_tables(bert, prompts, progress=False)


class FakeCuda:
    """What torch.cuda is asked for, and in which order and thread."""

    def __init__(self):
        self.told, self.device = [], torch.device("cpu")

    def note(self, what):
        self.told.append((what, threading.current_thread().name.split("_")[0]))

    def record(self, stream):
        self.note(f"event on {stream}")

    def wait_event(self, event):
        self.note("stream waits")


def test_the_devices_own_stream_waits_for_what_was_queued_and_no_more(monkeypatch):
    fake = FakeCuda()

    class Within:
        def __enter__(self):
            fake.note("stream on")

        def __exit__(self, *_):
            fake.note("stream off")

    class Read:
        def record_stream(self, stream):
            fake.note("memory held")

    monkeypatch.setattr(torch.cuda, "Event", lambda: fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the main stream")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: Within())
    stream = Stream(torch.device("cpu"))
    stream.cuda = fake
    with Behind() as behind:
        later = stream.after_now(lambda *given: fake.note(f"read {len(given)}"), Read(), None)
        fake.note("next batch queued")
        behind.do(later)
    main, thread = threading.main_thread().name, "behind"
    assert fake.told == [
        ("event on the main stream", main),
        ("next batch queued", main),
        ("stream on", thread),
        ("stream waits", thread),
        ("memory held", thread),
        ("read 2", thread),
        ("stream off", thread),
    ]


def test_what_is_kept_equals_a_plain_loop():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 2, 5, generator=draw)
    scores[1] = -scores[1].abs()  # nothing is kept of it
    gap, error = torch.randn(3, 2, generator=draw), torch.rand(3, 2, generator=draw)
    batch = Batch(0, 0, [7, 9, 4], [[], [], []])
    found = kept(scores, torch.tensor([0.1, 0.2, 0.3]), gap, error, None, keep=0.3)
    table, notes = as_tables(batch, found, [3, 8], steps=4)
    plain = []
    for number, own in zip((7, 9, 4), scores.double().numpy(), strict=True):
        for layer, neuron in np.ndindex(2, 5):
            value = own[layer, neuron]
            if value > 0 and value >= 0.3 * own.max():
                plain.append((number, (3, 8)[layer], neuron, np.float32(value)))
    assert list(table.itertuples(index=False, name=None)) == plain
    assert notes["maximum"].tolist() == scores.double().amax((1, 2)).tolist()
    largest = scores.double().abs().amax((1, 2)).numpy()
    assert notes["error"].to_numpy() == pytest.approx(error.amax(1).double().numpy() / largest)
    assert notes["gap"].to_numpy() == pytest.approx(gap.abs().amax(1).double().numpy())
    assert notes["points"].tolist() == [4, 4, 4] and notes["points"].dtype == np.int32
    assert overlap.depth_on(torch.device("cpu")) == 0 and overlap.depth_on(torch.device("cuda")) > 0
