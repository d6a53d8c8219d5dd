"""Neurons as they are: activations at the blank, and where paths start."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..model.hooks import read_at
from ..model.language_model import LanguageModel
from ..model.rows import Row
from .precision import computing_in
from .quadrature import AttributionError
from .targets import Target

BASELINES = ("zero", "replacement", "replacement-each")


def exact_type(model: LanguageModel) -> torch.dtype:
    """What scores and points are computed in: at least float32."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def read_neurons(
    model: LanguageModel, rows: list[Row], precision: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations at the blank (row, layer, neuron) and P(answer) (row,), without gradients."""
    inputs, at, _ = model.batch(rows)
    exact, target = exact_type(model), Target(model, rows)
    with torch.no_grad(), computing_in(model, precision), target.installed(), read_at(model, at) as values:
        logits = model.logits(inputs, at).to(exact)
    p = target.value(logits, torch.arange(len(rows), device=at.device))
    return torch.stack(values, 1).to(exact), p


def path_starts(
    model: LanguageModel, rows: list[Row], layers: list[int], baseline: str
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Where the paths start, and each path's share in the mean.

    Returns:
        (path, row, layer, neuron), ``None`` for zero; (path, row).
    """
    dtype = exact_type(model)
    whole = torch.ones(1, len(rows), dtype=dtype, device=model.device)
    if baseline == "zero":
        return None, whole
    put = model.tokenizer.eos_token_id if model.causal else model.tokenizer.mask_token_id
    if put is None:
        raise AttributionError(
            f"baseline={baseline!r} needs an end-of-text token, which this tokenizer lacks."
        )
    texts = []
    for row in rows:
        replaced = [replace(row, ids=[*row.ids[:t], put, *row.ids[t + 1 :]]) for t in range(len(row.ids))]
        inputs, at, _ = model.batch(replaced)
        with torch.no_grad(), read_at(model, at) as values:
            model.model.base_model(**inputs, **({"use_cache": False} if model.causal else {}))
        texts.append(torch.stack([values[layer] for layer in layers], 1).to(dtype))
    if baseline == "replacement":
        return torch.stack([values.mean(0) for values in texts]).unsqueeze(0), whole
    share = [
        torch.full((len(values),), 1 / len(values), dtype=dtype, device=model.device) for values in texts
    ]
    # A shorter text is filled up with paths from zero, of no share.
    return nn.utils.rnn.pad_sequence(texts), nn.utils.rnn.pad_sequence(share)
