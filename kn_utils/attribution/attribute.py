"""Attribution: how much an answer's probability leans on each feed-forward neuron, for tables of prompts.

The integral itself is :mod:`kn_utils.attribution.kernel`, its error
:mod:`kn_utils.attribution.error_control`; batches, memory and long runs are
:mod:`kn_utils.attribution.streaming`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..base import QUIET
from ..checks import check_names
from ..model.language_model import LanguageModel
from ..store.code import code_version
from ..store.files import regular
from ..store.origin import fingerprint
from ..store.tables import load_table
from .batching import memory_budget
from .error_control import LEVELS
from .precision import slower_than_float32
from .quadrature import AttributionError
from .settings import ScoreSettings, layers_asked
from .streaming import Collected, Parts, ScoreTables, ScoringJob, prompts_file, score_batch, side_by_side


def attribution_map(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    method: str = "integrated-gradients",
    rule: str = "auto",
    steps: int | None = None,
    tolerance: float | None = None,
    baseline: str = "zero",
    multiplier: str = "difference",
    norm: str = "free",
    layers: Sequence[int] | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    unknown: str = "refuse",
    target: str = "answer",
    pieces: str = "mean",
    answer: str = "gold",
    candidates: Sequence[Sequence[str]] | None = None,
) -> torch.Tensor:
    """Scores of every neuron for a few prompts: float32, shape (prompt, layer, neuron), on the CPU.

    An answer of n pieces gives the mean of its n maps, or with ``pieces="each"`` these, one by one. For a
    whole data set, and for what the arguments mean, see :func:`attribute`.

    Example:
        >>> from kn_utils import attribution_map, load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(2)
        >>> attribution_map(load_model("mini"), prompts).shape
        torch.Size([2, 6, 768])
    """
    settings = ScoreSettings(
        method,
        rule,
        steps,
        tolerance,
        baseline,
        multiplier,
        norm,
        layers_asked(layers),
        precision,
        batch_size,
        unknown,
        target=target,
        pieces=pieces,
        answer=answer,
    )
    asked, room = settings.asked(model, prompts, candidates), settings.scorer(model)
    maps: dict[int, torch.Tensor] = {}
    for batch in settings.batches(model, asked):
        maps |= dict(zip(batch.prompts, score_batch(room, batch).scores.cpu(), strict=True))
    return torch.stack([maps[number] for number in range(len(asked))]).float()


def attribute(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    method: str = "integrated-gradients",
    rule: str = "auto",
    steps: int | None = None,
    tolerance: float | None = None,
    baseline: str = "zero",
    multiplier: str = "difference",
    norm: str = "free",
    layers: Sequence[int] | None = None,
    keep: float = 0.1,
    gap: bool = False,
    precision: str | None = None,
    batch_size: int | None = None,
    unknown: str = "refuse",
    target: str = "answer",
    pieces: str = "mean",
    answer: str = "gold",
    candidates: Sequence[Sequence[str]] | None = None,
    progress: bool = True,
    out: str | Path | None = None,
    origin: dict[str, Any] | None = None,
    devices: Sequence[str] | None = None,
) -> pd.DataFrame | Path:
    """Scores of a table of prompts, those of at least ``keep`` times the prompt's maximum.

    Args:
        model: whose neurons.
        prompts: :func:`kn_utils.make_prompts`, or any table of ``text`` (its blank written ``[Y]``) and
            ``answer``; there a prompt's name is its text with the answer.
        method: ``integrated-gradients``; ``activation`` (score = activation, the papers' baseline).
        rule: ``auto``: as many points as ``tolerance`` asks for, or where a model normalises a feed-forward
            output before it is added, the gradient (there the path has no integral), or where products are
            rounded (``precision``, weights in bfloat16), which would pass for an integral's error, four
            Gauss-Legendre points; ``gradient``: gradient x activation, for every model; ``right``, ``left``,
            ``midpoint``, ``gauss-legendre``, ``clenshaw-curtis``: a fixed rule. The papers' is
            ``rule="right", steps=20``.
        steps: points of a fixed rule, 4 where nothing is said; with ``auto``, of a fixed Gauss-Legendre rule.
        tolerance: largest error that a score may have, as a share of its prompt's largest score (``auto``;
            0.01 where nothing is said).
        baseline, multiplier, norm: where the path starts, what multiplies the gradient, whether a norm of the
            feed-forward output is held, see :func:`kn_utils.attribution.kernel.integrate`. With
            ``relation-mean`` it starts at the mean activation at the blanks of these prompts' other facts of
            the relation (columns ``fact, relation``), so scores depend on which prompts are there.
        keep: kept fraction of the prompt's maximum, in (0, 1].
        gap: also report the completeness gap, at the cost of a pass without gradients (a fifth of the time
            more).
        precision: of matrix products: ``"bfloat16"``, ``"tf32"`` (CUDA), ``"float32"``; ``None``: the
            weights' own.
        batch_size: rows (pieces of answers) per pass; ``None`` suits device and memory. It changes speed, not
            scores. A pass that runs out of memory is made again in halves.
        unknown: ``"allow"`` to attribute to the unknown token where an answer cannot be written.
        target: what the scores are of: ``answer``, P of the answer; ``typed``, P of the answer among its
            candidates, a product over the places where these part
            (:func:`kn_utils.model.typed.typed_answers`), whose maps are averaged as pieces' are; ``log-odds``
            of P, whose gradient does not vanish where P is nearly 1; ``log``, ln P, whose pieces' sums are
            that of the whole answer.
        pieces: of an answer of several: ``mean`` over all; ``first``; ``deciding``, those at which the
            candidates part; ``each`` for itself, in a column ``piece`` from 0
            (:mod:`kn_utils.attribution.pieces`). P is that of the pieces that count.
        answer: ``gold``, that of the prompts; ``decoded``, what the model itself says.
        candidates: of each prompt, its answer among them (``typed``, ``deciding``);
            ``None``: :func:`kn_utils.model.typed.candidates_of` the prompts.
        out: a parquet file to stream to. Finished batches are on disk before the next begins (on an
            accelerator before the next but two); the same call after an interruption goes on where it
            stopped and ends with the same file.
        origin: stored in ``out``'s metadata.
        devices: split the prompts between one process per device, such as ``["cuda:0", "cuda:1"]``.

    Returns:
        scores ``prompt, layer, neuron, score`` in the order of ``prompts``, then layer and neuron
        (:func:`score_tables` also gives a table per prompt). Where some error stays above the tolerance, a
        line says how often. With ``out``, the path: ``load_table`` reads it, and the table per prompt from
        ``<out>.prompts.parquet``.

    Raises:
        AttributionError: no prompts, an unknown rule or method, scores that are not finite, one text too
        large for memory.
        DataError: an answer that the tokenizer cannot write.

    Example:
        >>> from kn_utils import attribute, load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(2)
        >>> scores = attribute(load_model("mini"), prompts, keep=0.5, progress=False)
        >>> scores.columns.tolist(), scores["prompt"].nunique()
        (['prompt', 'layer', 'neuron', 'score'], 2)
    """
    settings = ScoreSettings(
        method,
        rule,
        steps,
        tolerance,
        baseline,
        multiplier,
        norm,
        layers_asked(layers),
        precision,
        batch_size,
        unknown,
        keep,
        gap,
        target,
        pieces,
        answer,
    )
    asked = settings.asked(model, prompts, candidates)
    made = _scored(model, asked, settings, progress, out, origin, devices)
    return made.scores if isinstance(made, ScoreTables) else made


def score_tables(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    candidates: Sequence[Sequence[str]] | None = None,
    progress: bool = True,
    **settings: Any,
) -> ScoreTables:
    """The scores of :func:`attribute`, and a table per prompt.

    That one holds ``prompt, probability`` (what the scores are of), ``maximum`` score, the largest over
    layers of ``gap`` (NaN: not asked), of the estimated ``error`` over the maximum (NaN: a fixed rule) and of
    ``points`` taken, and ``sums``, each layer's over all its scores, kept or not.

    Args:
        candidates, settings: as :func:`attribute` takes them (:class:`ScoreSettings`).
    """
    chosen = ScoreSettings(**settings)
    made = _scored(model, chosen.asked(model, prompts, candidates), chosen, progress)
    assert isinstance(made, ScoreTables)  # no file was asked for
    return made


def _scored(
    model: LanguageModel,
    prompts: pd.DataFrame,
    settings: ScoreSettings,
    progress: bool,
    out: str | Path | None = None,
    origin: dict[str, Any] | None = None,
    devices: Sequence[str] | None = None,
) -> ScoreTables | Path:
    check_names(devices=devices)
    settings = settings.resolved(model)
    device = model.device if devices is None else torch.device(devices[0])
    _say_what_is_slow(device, settings.precision)
    budget = memory_budget(model, settings.precision, device)
    sink: Collected | Parts = Collected()
    if out is not None:
        sink = Parts(regular(Path(out).expanduser()), _note(model, prompts, settings, device, budget))
        budget = sink.budget
    elif devices is not None:
        raise AttributionError("several devices leave their scores in a file: give its name as out.")
    job = ScoringJob(model, prompts, settings, budget, sink)
    with tqdm(total=len(prompts), unit="prompt", desc=settings.method, disable=not progress or QUIET) as bar:
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
    made = sink.assemble(prompts, origin or {})
    if settings.tolerance is not None:
        _say_what_did_not_converge(made, settings.tolerance)
    if isinstance(made, ScoreTables):  # a guard, no more: it refuses thresholds below what is there
        made.scores.attrs["keep"] = settings.keep
    return made


def _note(
    model: LanguageModel, prompts: pd.DataFrame, settings: ScoreSettings, device: torch.device, budget: int
) -> dict[str, Any]:
    """What scores on disk were computed from: a run that differs in any of it does not go on with them."""
    return {
        "prompts": fingerprint(prompts),
        "settings": asdict(settings),
        "weights": model.checksum(),
        "reading": model.reading(),
        "device": device.type,
        "code": code_version(attribute),
        "budget": budget,
    }


def _say_what_is_slow(device: torch.device, precision: str | None) -> None:
    if slower_than_float32(device, precision):
        told = "this processor has no instructions for it, so it takes longer than float32 and is less exact"
        print(f"precision={precision!r}: {told}", file=sys.stderr)


def _say_what_did_not_converge(made: ScoreTables | Path, tolerance: float) -> None:
    notes = load_table(prompts_file(made))[0] if isinstance(made, Path) else made.prompts
    error = np.asarray(notes["error"])
    over = error[error > tolerance]
    if len(over):
        print(
            f"{len(over)} of {len(error)} prompts: a score's error stays above {tolerance:g} of the largest "
            f"with {LEVELS[-1]} points (up to {over.max():.2g}); see the column error",
            file=sys.stderr,
        )
