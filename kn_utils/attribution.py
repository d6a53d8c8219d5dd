"""Attribution: how much an answer's probability leans on each feed-forward neuron, for tables of prompts.

The integral itself is :mod:`kn_utils.kernel`; here are its uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .base import QUIET
from .facts import Row
from .kernel import AttributionError, PassResult, integrate, read_neurons
from .models import LanguageModel

METHODS = ("integrated-gradients", "activation", "gradient-x-activation")


def _score_rows(model: LanguageModel, rows: list[Row], method: str, gap: bool, **options: Any) -> PassResult:
    if method == "integrated-gradients":
        return integrate(model, rows, gap=gap, **options)
    if method == "gradient-x-activation":  # the gradient at w: the right rule of one step
        return integrate(model, rows, **{**options, "rule": "right", "steps": 1})
    if method == "activation":
        values, p = read_neurons(model, rows)
        chosen = options.get("layers")
        return PassResult(values if chosen is None else values[:, list(chosen)], p, None)
    raise AttributionError(f"unknown method {method!r}; known: {', '.join(METHODS)}.")


def _score_prompts(
    model: LanguageModel, prompts: pd.DataFrame, batch_size: int | None, method: str, gap: bool, unknown: str, **options: Any
) -> Iterator[tuple[list[int], PassResult]]:
    """Batches of prompts of similar length: their row numbers in ``prompts`` and the mean over their answers' pieces.

    The probability of an answer of several pieces is the product of its pieces' probabilities.
    """
    if prompts.empty:
        raise AttributionError(
            "no prompts: the table is empty. Is there a fact of this relation with a label in this language?"
        )
    rows_of: dict[int, list[Row]] = {}
    for row in model.encode(prompts, unknown):
        rows_of.setdefault(row.prompt, []).append(row)
    # A processor's caches like few rows, an accelerator many.
    batch_size = batch_size or (4 if model.device.type == "cpu" else 64)
    order = sorted(rows_of, key=lambda number: (len(rows_of[number][-1].ids), number))
    batch: list[int] = []
    for i, number in enumerate(order):
        batch.append(number)
        following = rows_of[order[i + 1]] if i + 1 < len(order) else None
        if following is None or sum(len(rows_of[n]) for n in batch) + len(following) > batch_size:
            rows = [row for n in batch for row in rows_of[n]]
            part = _score_rows(model, rows, method, gap, **options)
            sizes = [len(rows_of[n]) for n in batch]
            yield (
                batch,
                PassResult(
                    torch.stack([piece.mean(0) for piece in part.scores.split(sizes)]),
                    torch.stack([piece.prod() for piece in part.probability.split(sizes)]),
                    None if part.gap is None else torch.stack([piece.mean(0) for piece in part.gap.split(sizes)]),
                ),
            )
            batch = []


def attribution_map(
    model: LanguageModel, prompts: pd.DataFrame, *, method: str = "integrated-gradients", rule: str = "gauss-legendre",
    steps: int = 4, baseline: str = "zero", layers: Sequence[int] | None = None, batch_size: int | None = None,
    unknown: str = "refuse",
) -> torch.Tensor:  # fmt: skip
    """Scores of every neuron for a few prompts: float32, shape (prompt, layer, neuron), on the CPU.

    An answer of n pieces gives the mean of its n maps. For a whole data set use :func:`attribute`.
    """
    maps: list[torch.Tensor | None] = [None] * len(prompts)
    options = {"rule": rule, "steps": steps, "baseline": baseline, "layers": layers}
    for batch, part in _score_prompts(model, prompts, batch_size, method, False, unknown, **options):
        for number, scores in zip(batch, part.scores.float().cpu(), strict=True):
            maps[number] = scores
    return torch.stack(maps)


def attribute(
    model: LanguageModel, prompts: pd.DataFrame, *, method: str = "integrated-gradients", rule: str = "gauss-legendre",
    steps: int = 4, baseline: str = "zero", layers: Sequence[int] | None = None, keep: float = 0.1, batch_size: int | None = None,
    unknown: str = "refuse", progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Scores of a table of prompts, those of at least ``keep`` times the prompt's maximum.

    Args:
        method: ``integrated-gradients``; ``activation`` (score = activation, the papers' baseline); ``gradient-x-activation``.
        rule, steps: the quadrature rule; the papers' is ``rule="right", steps=20``.
        keep: kept fraction of the prompt's maximum, in (0, 1].
        batch_size: rows (pieces of answers) per pass; it changes speed and memory, not scores. ``None`` suits the device.
        unknown: ``"allow"`` to attribute to the unknown token where an answer cannot be written.

    Returns:
        scores ``prompt, layer, neuron, score`` in the order of ``prompts``, then layer and neuron. ``scores.attrs["prompts"]``
        holds, per prompt: ``probability`` of the answer, ``maximum`` score, largest completeness ``gap`` over layers.

    Raises:
        AttributionError: no prompts, an unknown rule or method, scores that are not finite.
        DataError: an answer that the tokenizer cannot write.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    summary = np.full((len(prompts), 3), np.nan)
    chosen = np.arange(model.n_layers) if layers is None else np.asarray(layers)
    options = {"rule": rule, "steps": steps, "baseline": baseline, "layers": layers}
    with tqdm(total=len(prompts), unit="prompt", desc=method, disable=not progress or QUIET) as bar:
        for batch, part in _score_prompts(model, prompts, batch_size, method, True, unknown, **options):
            # float64 here keeps "at least keep x maximum" the same decision in every batch
            scores = part.scores.double().cpu().numpy()
            top = scores.max((1, 2))
            row, layer, neuron = np.nonzero((scores >= keep * top[:, None, None]) & (scores > 0))
            parts.append((np.asarray(batch)[row], chosen[layer], neuron, scores[row, layer, neuron]))
            gap = np.full(len(batch), np.nan) if part.gap is None else part.gap.abs().amax(1).double().cpu().numpy()
            summary[batch] = np.stack([part.probability.double().cpu().numpy(), top, gap], 1)
            bar.update(len(batch))
    number, layer, neuron, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((neuron, layer, number))
    scores = pd.DataFrame(
        {
            "prompt": prompts["prompt"].to_numpy()[number[order]],
            "layer": layer[order].astype("int16"), "neuron": neuron[order].astype("int32"),
            "score": score[order].astype("float32"),
        }
    )  # fmt: skip
    columns = zip(("probability", "maximum", "gap"), summary.T.tolist(), strict=True)
    scores.attrs["prompts"] = {"prompt": prompts["prompt"].tolist(), **dict(columns)}
    return scores


def convergence(
    model: LanguageModel, prompts: pd.DataFrame, rules: Sequence[tuple[str, int]], *, reference: int = 32,
    threshold: float = 0.2, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Error of rules against a fine Gauss-Legendre rule, per rule and prompt.

    Returns:
        ``rule, steps, prompt, error`` (largest difference of a score over the prompt's largest score) and ``jaccard`` (of the
        neurons at or above ``threshold`` of the maximum, with the fine rule's).
    """
    fine = attribution_map(model, prompts, steps=reference, batch_size=batch_size)
    kept = fine >= threshold * fine.amax((1, 2), keepdim=True)
    tables = []
    for rule, steps in rules:
        coarse = attribution_map(model, prompts, rule=rule, steps=steps, batch_size=batch_size)
        held = coarse >= threshold * coarse.amax((1, 2), keepdim=True)
        error = (coarse - fine).abs().amax((1, 2)) / fine.abs().amax((1, 2))
        jaccard = (held & kept).sum((1, 2)) / (held | kept).sum((1, 2))
        table = {"rule": rule, "steps": steps, "prompt": prompts["prompt"], "error": error, "jaccard": jaccard}
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)
