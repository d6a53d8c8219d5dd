"""Scores of many prompts: written as they come, taken up again where a run broke off.

By one process or several.

Prompts are taken in *windows* of consecutive prompts, and sorted by length inside a window; so memory does
not depend on how many there are. The scores of a finished batch are a parquet file beside the result (its
*parts*) before the next batch begins. The result is put together from the parts, in the order of the prompts:
which batches were computed by an earlier run, or by another process, leaves no trace in it.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch.multiprocessing

from ..base import StudyError
from ..model.language_model import LanguageModel
from ..model.rows import Row
from ..store.files import ArtifactError, save_json, written
from ..store.tables import load_table, save_table
from .batching import WINDOW, Batch
from .keeping import Kept, as_tables, kept
from .kernel import PassResult, finite
from .overlap import Behind, Stream, ahead, depth_on
from .pieces import PIECE
from .quadrature import AttributionError
from .settings import ScoreSettings


class ScoreTables(NamedTuple):
    """Scores, and what there is to say about each prompt.

    Attributes:
        scores: ``prompt, layer, neuron, score``.
        prompts: ``prompt, probability`` of the answer, ``maximum`` score, largest ``gap`` over layers (NaN:
            not asked), ``sums`` of each layer's scores (a list, in the order of the layers asked for).
    """

    scores: pd.DataFrame
    prompts: pd.DataFrame


class Collected:
    """Scores of finished batches in memory."""

    def __init__(self) -> None:
        self.scores: list[pd.DataFrame] = []
        self.notes: list[pd.DataFrame] = []

    def has(self, batch: Batch) -> bool:
        """Whether it is scored already."""
        return False

    def close(self, window: int) -> None:
        """Nothing to join."""

    def add(self, batch: Batch, scores: pd.DataFrame, notes: pd.DataFrame) -> None:
        """Keep a finished batch."""
        self.scores.append(scores)
        self.notes.append(notes)

    def assemble(self, prompts: pd.DataFrame, origin: dict[str, Any]) -> ScoreTables:
        """Both tables in the order of the prompts."""
        return ScoreTables(*(_in_order(tables, prompts) for tables in (self.scores, self.notes)))


class Parts:
    """Scores of finished batches on disk, in ``<result>.parts`` with what they were computed from.

    A folder left by a run with other prompts, parameters, weights or code is not used, and emptied.
    """

    def __init__(self, out: Path, note: dict[str, Any]) -> None:
        self.out, self.folder = out, out.with_name(out.name + ".parts")
        note, plan = json.loads(json.dumps(note)), self.folder / "plan.json"
        stored = _read_json(plan)
        changed = [name for name in note if name != "budget" and (stored or {}).get(name) != note[name]]
        if changed:
            if stored is not None:
                print(f"{self.folder.name}: {', '.join(changed)} changed, starting anew", file=sys.stderr)
            _remove(self.folder)  # before the new plan is there: no old part may be taken for one of its own
            save_json(note, plan)
        #: Batches are cut as in the run that is taken up: another cut would round differently.
        self.budget: int = note["budget"] if changed or stored is None else stored["budget"]

    def has(self, batch: Batch) -> bool:
        """Whether its scores are on disk."""
        return any(self._file("", name).is_file() for name in (batch.name, f"{batch.window:06d}"))

    def add(self, batch: Batch, scores: pd.DataFrame, notes: pd.DataFrame) -> None:
        """Write a finished batch."""
        save_table(notes, self._file("notes-", batch.name))
        save_table(scores, self._file("", batch.name))  # last: it says that both are there

    def close(self, window: int) -> None:
        """A finished window's parts become one; a long run would leave too many files."""
        names = sorted(path.stem for path in self.folder.glob(f"{window:06d}-*.parquet"))
        done = self._file("", f"{window:06d}").is_file()  # by a run that was stopped while it deleted
        for kind in ("notes-", "") if names and not done else ():
            tables = [load_table(self._file(kind, name))[0] for name in names]
            save_table(pd.concat(tables, ignore_index=True), self._file(kind, f"{window:06d}"))
        for kind in ("", "notes-"):
            for name in names:
                self._file(kind, name).unlink()

    def assemble(self, prompts: pd.DataFrame, origin: dict[str, Any]) -> Path:
        """Two files in the order of the prompts, scores and per prompt; the folder is removed."""
        windows = range(-(-len(prompts) // WINDOW))
        for window in windows:
            self.close(window)
        note = json.dumps({"origin": origin}, ensure_ascii=False, sort_keys=True).encode()
        for target, kind, columns in ((prompts_file(self.out), "notes-", NOTES), (self.out, "", SCORES)):
            heads = {"prompt": pa.string()} | ({PIECE: pa.int16()} if PIECE in prompts else {})
            schema = pa.schema([*heads.items(), *columns.items()], {b"kn_utils": note})
            made = self.folder / target.name  # half a file of a killed run goes with the folder
            with written(made) as place, pq.ParquetWriter(place, schema) as file:
                for window in windows:
                    part = load_table(self._file(kind, f"{window:06d}"))[0]
                    file.write_table(
                        pa.Table.from_pandas(_in_order([part], prompts), schema, preserve_index=False)
                    )
            with _told(f"write {target}"):
                os.replace(made, target)
        _remove(self.folder)
        return self.out

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}{name}.parquet"


#: Columns of a scores table and of its table per prompt, behind ``prompt``.
SCORES = {"layer": pa.int16(), "neuron": pa.int32(), "score": pa.float32()}
NOTES = {
    "probability": pa.float64(),
    "maximum": pa.float64(),
    "gap": pa.float64(),
    "error": pa.float64(),
    "points": pa.int32(),
    "sums": pa.list_(pa.float64()),
}


def _in_order(tables: list[pd.DataFrame], prompts: pd.DataFrame) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    keys = [name for name in ("number", "layer", "neuron") if name in table]
    table = table.sort_values(keys, ignore_index=True)
    number = table.pop("number").to_numpy()
    table.insert(0, "prompt", prompts["prompt"].to_numpy()[number])
    if PIECE in prompts:
        table.insert(1, PIECE, prompts[PIECE].to_numpy()[number].astype("int16"))
    return table


def prompts_file(out: Path) -> Path:
    """Where the table per prompt of ``scores.parquet`` lies: ``scores.prompts.parquet``."""
    return out.with_name(f"{out.stem}.prompts{out.suffix}")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or not whole
        return None


def _remove(folder: Path) -> None:
    with _told(f"remove {folder}"), suppress(FileNotFoundError, NotADirectoryError):
        (folder / "plan.json").unlink(
            missing_ok=True
        )  # first: what a killed process leaves of the rest is not used
        shutil.rmtree(folder)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot {what}: {error.strerror or error}. Choose another folder (out)."
        ) from error


@dataclass(frozen=True)
class ScoringJob:
    """A table of prompts to score into a sink, or one process's share of it: every n-th batch."""

    model: LanguageModel
    prompts: pd.DataFrame
    settings: ScoreSettings
    budget: int
    sink: Collected | Parts
    number: int = 0
    of: int = 1

    def run(self) -> Iterator[tuple[int, bool]]:
        """Score batch by batch; yields how many prompts are done, and whether just now or earlier.

        On an accelerator the next batch is encoded and the last ones are written meanwhile.
        """
        room, stream = self.settings.scorer(self.model), Stream(self.model.device)
        window, depth = 0, depth_on(self.model.device)
        with Behind(depth) as behind:
            for batch in ahead(self._own(), depth):
                if batch.window != window and self.of == 1:
                    behind.do(self.sink.close, window)
                    window = batch.window
                fresh = not self.sink.has(batch)
                if fresh:
                    part = score_batch(room, batch, check=False)  # what is kept is looked at
                    tensors = (part.scores, part.probability, part.gap, part.error, part.points)
                    find = partial(kept, keep=self.settings.keep)
                    behind.do(self._write, batch, stream.after_now(find, *tensors))
                yield len(batch.prompts), fresh

    def _own(self) -> Iterator[Batch]:
        """The batches of this process."""
        every = self.settings.batches(self.model, self.prompts, self.budget)
        return islice(every, self.number, None, self.of)

    def _write(self, batch: Batch, found: Callable[[], Kept]) -> None:
        layers = self.settings.chosen(self.model)
        self.sink.add(batch, *as_tables(batch, found(), layers, self.settings.points))


def score_batch(room: Callable[[list[Row]], PassResult], batch: Batch, *, check: bool = True) -> PassResult:
    """Of each prompt, from its answer's pieces: mean scores, gap and error, product of P, most points.

    Args:
        check: whether scores are looked at here, for which the host waits for an accelerator.

    Raises:
        AttributionError: scores that are not finite.
    """
    part = room([row for rows in batch.rows for row in rows])
    sizes = [len(rows) for rows in batch.rows]

    def mean(values: Any) -> Any:
        return None if values is None else torch.stack([piece.mean(0) for piece in values.split(sizes)])

    points = part.points
    if points is not None:
        points = torch.stack([piece.amax(0) for piece in points.split(sizes)])
    probability = torch.stack([piece.prod() for piece in part.probability.split(sizes)])
    made = PassResult(mean(part.scores), probability, mean(part.gap), mean(part.error), points)
    return finite(made) if check else made


def side_by_side(job: ScoringJob, devices: Sequence[str]) -> Iterator[tuple[int, bool]]:
    """One process per device; each scores every n-th batch and leaves it in the parts."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    model = job.model
    if model.device.type != "cpu":  # every process takes its own copy to its device
        whole = copy.deepcopy(model.model).cpu()
        model = LanguageModel(whole, model.tokenizer, name=model.name, revision=model.revision)
    threads = max(1, torch.get_num_threads() // len(devices))
    workers = [
        context.Process(
            target=_work,
            args=(replace(job, model=model, number=i, of=len(devices)), device, threads, queue),
            daemon=True,
        )
        for i, device in enumerate(devices)
    ]
    try:
        for worker in workers:
            worker.start()
        running = len(workers)
        while running:
            # Asked before the queue is: what a dead process sent is in there by then.
            dead = [worker.exitcode for worker in workers if worker.exitcode not in (None, 0)]
            try:
                message = queue.get(timeout=1)
            except Empty:
                if dead:
                    raise AttributionError(
                        f"a process ended with exit code {dead[0]}; finished batches are kept, the same call "
                        f"goes on from there."
                    ) from None
                continue
            if isinstance(message, Exception):
                raise message
            if message is None:
                running -= 1
            else:
                yield message
    finally:
        for worker in workers:
            if worker.is_alive():  # one that was never started is not
                worker.terminate()
                worker.join()


def _work(job: ScoringJob, device: str, threads: int, queue: Any) -> None:
    try:
        torch.set_num_threads(threads)
        job.model.model.to(device)
        for done in job.run():
            parent = parent_process()
            if (
                parent is not None and not parent.is_alive()
            ):  # killed: it can neither stop us nor use what we make
                return
            queue.put(done)
        queue.put(None)
    except Exception as error:  # shown by the parent process
        queue.put(_sendable(error))
        sys.exit(1)


def _sendable(error: Exception) -> Exception:
    """Ours are made of one line; another library's might not survive the way between processes."""
    return error if isinstance(error, StudyError) else RuntimeError(f"{type(error).__name__}: {error}")
