"""The published procedure written plainly, to compare with: layer by layer a pass of copies of the text."""

from __future__ import annotations

from typing import Any

import torch

from ..model.language_model import LanguageModel
from ..model.rows import Row
from .quadrature import quadrature


def published(
    model: LanguageModel, row: Row, rule: str, steps: int, *, head: str = "all", padded: int = 0
) -> torch.Tensor:
    """Scores (layer, neuron) of one row by the published procedure.

    Args:
        head: ``all``: the output head reads every token (EleutherAI's package); ``blank``: the blank alone
            (Dai et al.'s code).
        padded: pad the text to so many tokens, as Dai et al.'s code does (128).
    """
    nodes, weights = (
        torch.as_tensor(x, dtype=model.dtype, device=model.device) for x in quadrature(rule, steps)
    )
    more = max(0, padded - len(row.ids))
    ids = torch.tensor([row.ids + [0] * more], device=model.device)
    mask = (torch.arange(len(row.ids) + more, device=model.device) < len(row.ids)).long()[None]
    keep = {"use_cache": False} if model.causal else {}

    def probability(count: int) -> torch.Tensor:
        inputs = {"input_ids": ids.repeat(count, 1), "attention_mask": mask.repeat(count, 1)}
        if head == "blank":
            logits = model.logits(inputs, torch.full((count,), row.position, device=model.device))
        else:
            logits = model.model(**inputs, **keep).logits[:, row.position]
        return logits.softmax(-1)[:, row.target]

    scores = []
    for second in model.seconds:
        value: list[torch.Tensor] = []
        handle = second.register_forward_pre_hook(
            lambda _, args, value=value: value.append(_view(args[0], 1)[0, row.position].clone())
        )
        with torch.no_grad():
            probability(1)
        handle.remove()
        leaf = (nodes[:, None] * value[0]).requires_grad_()

        def put(
            _: Any, args: tuple[torch.Tensor, ...], leaf: torch.Tensor = leaf
        ) -> tuple[torch.Tensor, ...]:
            neurons = _view(args[0], steps).clone()
            neurons[:, row.position] = leaf
            return (neurons.view_as(args[0]), *args[1:])

        handle = second.register_forward_pre_hook(put)
        with torch.enable_grad():
            p = probability(steps)
        handle.remove()
        (gradient,) = torch.autograd.grad(p.sum(), leaf)
        scores.append(value[0] * (weights[:, None] * gradient).sum(0))
    return torch.stack(scores)


def _view(neurons: torch.Tensor, rows: int) -> torch.Tensor:
    return neurons.view(rows, -1, neurons.shape[-1])
