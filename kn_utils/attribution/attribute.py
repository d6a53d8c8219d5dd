"""Attribution: how much an answer's probability leans on each feed-forward neuron, for tables of prompts.

The integral itself is :mod:`kn_utils.kernel`; batches, memory and long runs are :mod:`kn_utils.streaming`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..base import QUIET
from ..model.language_model import LanguageModel
from ..model.rows import Row
from ..store.code import code_version
from ..store.origin import fingerprint
from .batching import Batch, Room, batches, memory_budget
from .kernel import PassResult, integrate
from .quadrature import AttributionError, quadrature
from .reading import read_neurons
from .streaming import Collected, Job, Parts, score_batch, side_by_side

METHODS = ("integrated-gradients", "activation", "gradient-x-activation")


@dataclass(frozen=True)
class Settings:
    """What scores depend on besides model and prompts: the arguments of :func:`attribute`."""

    method: str = "integrated-gradients"
    rule: str = "gauss-legendre"
    steps: int = 4
    baseline: str = "zero"
    multiplier: str = "difference"
    layers: tuple[int, ...] | None = None
    precision: str | None = None
    batch_size: int | None = None
    unknown: str = "refuse"
    keep: float = 0.1
    gap: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise AttributionError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}.")
        quadrature(self.rule, self.steps)  # refuses what it does not know

    def chosen(self, model: LanguageModel) -> list[int]:
        return list(range(model.n_layers)) if self.layers is None else list(self.layers)

    def score(self, model: LanguageModel, rows: list[Row], layers: list[int]) -> PassResult:
        if self.method == "activation":
            values, p = read_neurons(model, rows, self.precision)
            return PassResult(values[:, layers], p, None)
        rule, steps, gap = self.rule, self.steps, self.gap
        if self.method == "gradient-x-activation":  # the gradient at w: the right rule of one step
            rule, steps, gap = "right", 1, False
        return integrate(
            model,
            rows,
            rule=rule,
            steps=steps,
            baseline=self.baseline,
            multiplier=self.multiplier,
            layers=layers,
            gap=gap,
            precision=self.precision,
        )

    def batches(
        self, model: LanguageModel, prompts: pd.DataFrame, budget: int | None = None
    ) -> Iterator[Batch]:
        """The table's batches: of ``batch_size`` rows, else of ``budget`` tokens in the widest layer."""
        if self.batch_size is not None:
            return batches(model, prompts, lambda length: 1, self.batch_size, self.unknown)
        points = {"activation": 0, "gradient-x-activation": 1}.get(self.method, self.steps)
        copies = points * len(self.chosen(model))

        def tokens(length: int) -> int:
            many = 1 + copies * (length if self.baseline == "replacement-each" else 1)
            return many + length if model.causal else many * length

        return batches(model, prompts, tokens, budget or memory_budget(model, self.precision), self.unknown)


def attribution_map(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    method: str = "integrated-gradients",
    rule: str = "gauss-legendre",
    steps: int = 4,
    baseline: str = "zero",
    multiplier: str = "difference",
    layers: Sequence[int] | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    unknown: str = "refuse",
) -> torch.Tensor:
    """Scores of every neuron for a few prompts: float32, shape (prompt, layer, neuron), on the CPU.

    An answer of n pieces gives the mean of its n maps. For a whole data set use :func:`attribute`.
    """
    chosen = None if layers is None else tuple(layers)
    settings = Settings(
        method, rule, steps, baseline, multiplier, chosen, precision, batch_size, unknown, gap=False
    )
    return torch.stack(_maps(model, prompts, settings)).float()


def _maps(model: LanguageModel, prompts: pd.DataFrame, settings: Settings) -> list[torch.Tensor]:
    _refuse_nothing(prompts)
    room = Room(partial(settings.score, model), settings.chosen(model))
    maps: dict[int, torch.Tensor] = {}
    for batch in settings.batches(model, prompts):
        maps |= dict(zip(batch.prompts, score_batch(room, batch).scores.cpu(), strict=True))
    return [maps[number] for number in range(len(prompts))]


def _refuse_nothing(prompts: pd.DataFrame) -> None:
    if prompts.empty:
        raise AttributionError(
            "no prompts: the table is empty. Is there a fact of this relation with a label in this language?"
        )


def attribute(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    method: str = "integrated-gradients",
    rule: str = "gauss-legendre",
    steps: int = 4,
    baseline: str = "zero",
    multiplier: str = "difference",
    layers: Sequence[int] | None = None,
    keep: float = 0.1,
    gap: bool = True,
    precision: str | None = None,
    batch_size: int | None = None,
    unknown: str = "refuse",
    progress: bool = True,
    out: str | Path | None = None,
    origin: dict[str, Any] | None = None,
    devices: Sequence[str] | None = None,
) -> pd.DataFrame | Path:
    """Scores of a table of prompts, those of at least ``keep`` times the prompt's maximum.

    Args:
        method: ``integrated-gradients``; ``activation`` (score = activation, the papers' baseline);
            ``gradient-x-activation``.
        rule, steps: the quadrature rule; the papers' is ``rule="right", steps=20``.
        baseline, multiplier: where the path starts and what multiplies the gradient, see
            :func:`kn_utils.kernel.integrate`.
        keep: kept fraction of the prompt's maximum, in (0, 1].
        gap: also report the completeness gap, at the cost of a pass without gradients (a fifth of the time
            more).
        precision: of matrix products: ``"bfloat16"``, ``"tf32"`` (CUDA), ``"float32"``; ``None``: the
            weights' own.
        batch_size: rows (pieces of answers) per pass; ``None`` suits device and memory. It changes speed, not
            scores. A pass that runs out of memory is made again in halves.
        unknown: ``"allow"`` to attribute to the unknown token where an answer cannot be written.
        out: a parquet file to stream to. Finished batches are on disk before the next begins; the same call
            after an interruption goes on where it stopped and ends with the same file.
        origin: stored in ``out``'s metadata.
        devices: split the prompts between one process per device, such as ``["cuda:0", "cuda:1"]``.

    Returns:
        scores ``prompt, layer, neuron, score`` in the order of ``prompts``, then layer and neuron.
        ``scores.attrs["prompts"]``
        holds, per prompt: ``probability`` of the answer, ``maximum`` score, largest ``gap`` over layers (NaN:
        not asked).
        With ``out``, the path: ``artifacts.load_table`` reads it, and the table per prompt from
            ``<out>.prompts.parquet``.

    Raises:
        AttributionError: no prompts, an unknown rule or method, scores that are not finite, one text too
        large for memory.
        DataError: an answer that the tokenizer cannot write.
    """
    chosen = None if layers is None else tuple(layers)
    settings = Settings(
        method, rule, steps, baseline, multiplier, chosen, precision, batch_size, unknown, keep, gap
    )
    _refuse_nothing(prompts)
    device = model.device if devices is None else torch.device(devices[0])
    budget = memory_budget(model, precision, device)
    sink: Collected | Parts = Collected()
    if out is not None:
        note = {
            "prompts": fingerprint(prompts),
            "settings": asdict(settings),
            "weights": model.checksum(),
            "tokenizer": fingerprint(pd.DataFrame(sorted(model.tokenizer.get_vocab().items()))),
            "device": device.type,
            "code": code_version(attribute),
            "budget": budget,
        }
        sink = Parts(Path(out), note)
        budget = sink.budget
    elif devices is not None:
        raise AttributionError("several devices leave their scores in a file: give its name as out.")
    job = Job(model, prompts, settings, budget, sink)
    with tqdm(total=len(prompts), unit="prompt", desc=method, disable=not progress or QUIET) as bar:
        try:
            for done, fresh in job.run() if devices is None else side_by_side(job, devices):
                if fresh:
                    bar.update(done)
                elif not bar.disable:  # an earlier run's prompts say nothing about this one's speed
                    bar.initial, bar.n, bar.last_print_n = (
                        bar.initial + done,
                        bar.n + done,
                        bar.last_print_n + done,
                    )
        except KeyboardInterrupt:
            if isinstance(sink, Parts):
                print(
                    f"stopped; what is finished lies in {sink.folder}: the same call goes on from there",
                    file=sys.stderr,
                )
            raise
    return sink.assemble(prompts, origin or {})


def convergence(
    model: LanguageModel,
    prompts: pd.DataFrame,
    rules: Sequence[tuple[str, int]],
    *,
    reference: int = 32,
    threshold: float = 0.2,
    baseline: str = "zero",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Error of rules against a fine Gauss-Legendre rule, per rule and prompt.

    Returns:
        ``rule, steps, prompt, error`` (largest difference of a score over the prompt's largest score) and
        ``jaccard`` (of the neurons at or above ``threshold`` of the maximum, with the fine rule's).
    """
    path = {"baseline": baseline, "batch_size": batch_size}
    fine = attribution_map(model, prompts, steps=reference, **path)
    tables = []
    for rule, steps in rules:
        coarse = attribution_map(model, prompts, rule=rule, steps=steps, **path)
        table = {
            "rule": rule,
            "steps": steps,
            "prompt": prompts["prompt"],
            **agreement(coarse, fine, threshold),
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def agreement(maps: torch.Tensor, truth: torch.Tensor, threshold: float = 0.2) -> dict[str, torch.Tensor]:
    """How far two score maps (prompt, layer, neuron) agree, per prompt.

    ``error``: the largest difference over the truth's largest score; ``jaccard``: of the sets of neurons at
    or above ``threshold`` times each map's maximum.
    """
    kept, wanted = (scores >= threshold * scores.amax((1, 2), keepdim=True) for scores in (maps, truth))
    return {
        "error": (maps - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2)),
        "jaccard": (kept & wanted).sum((1, 2)) / (kept | wanted).sum((1, 2)),
    }


def completeness(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    rule: str = "gauss-legendre",
    steps: int = 4,
    baseline: str = "zero",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """What a layer's scores should add up to and by how much they miss it, per prompt and layer.

    Returns:
        ``prompt, layer, change`` (P(w) - P(b), in probability) and ``gap`` (sum of the scores minus that).
    """
    _refuse_nothing(prompts)
    settings = Settings(rule=rule, steps=steps, baseline=baseline, batch_size=batch_size)
    room, tables = Room(partial(settings.score, model), settings.chosen(model)), []
    for batch in settings.batches(model, prompts):
        part = score_batch(room, batch)
        for number, scores, gap in zip(batch.prompts, part.scores.cpu(), part.gap.cpu(), strict=True):
            change = scores.sum(1) - gap
            tables.append(
                pd.DataFrame({"number": number, "layer": range(len(gap)), "change": change, "gap": gap})
            )
    table = pd.concat(tables).sort_values(["number", "layer"], ignore_index=True)
    table.insert(0, "prompt", prompts["prompt"].to_numpy()[table.pop("number").to_numpy()])
    return table
