"""The output head where it is read: all pieces at some places, a few named ones at others.

In a vocabulary of 262,144 pieces the head is most of what a short text costs; where an answer competes with
named pieces only, no others' logits are computed.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .language_model import LanguageModel

AT_ONCE = 32  # places whose whole vocabulary is held once more at a time

#: Where a batch is read: row and position of each place, both (place,).
Places = tuple[torch.Tensor, torch.Tensor]


def gives_logits(model: LanguageModel, head: Any) -> bool:
    """Whether this module maps hidden states to all logits and does nothing else.

    DeBERTa of the second kind names another map, and multiplies by the word embeddings itself.
    """
    return type(head) is nn.Linear and head.out_features == len(model.embeddings)


def log_sums(logits: torch.Tensor) -> torch.Tensor:
    """The logarithm of the sum of exp(logit), (place,) in double precision, of (place, token) logits.

    Without a copy of the logits in double precision, which would cost as much as a quarter of the head.
    """
    parts = []
    for here in logits.split(AT_ONCE):
        top = here.max(1, keepdim=True).values
        parts.append((here - top).exp_().sum(1).double().log() + top[:, 0].double())
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float64)


def logits_at(
    model: LanguageModel, inputs: dict[str, Any], whole: Places, named: Places, pieces: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at two kinds of places of one pass.

    Args:
        model: which to run.
        inputs: what it is given.
        whole: where all pieces are asked for.
        named: where ``pieces`` are.
        pieces: ids.

    Returns:
        (whole place, token) and (named place, piece).
    """
    if not gives_logits(model, model.head):
        rows, positions = (torch.cat(both) for both in zip(whole, named, strict=True))
        every = model.logits(inputs, positions, rows)
        return every[: len(whole[0])], every[len(whole[0]) :][:, pieces]
    kept: list[torch.Tensor] = []

    def narrow(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept.append(args[0][named])
        return (args[0][whole].unsqueeze(1), *args[1:])

    def beside(head: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[pieces]
        few = functional.linear(kept.pop(), head.weight[pieces], bias)
        # What follows in some models (a cap, a factor) acts on each logit alone, wherever it stands.
        return torch.cat([output.flatten(), few.flatten()])[None, None]

    with ExitStack() as stack:
        stack.callback(model.head.register_forward_pre_hook(narrow).remove)
        stack.callback(model.head.register_forward_hook(beside).remove)
        flat = model.model(**inputs).logits.flatten()
    sizes = [len(whole[0]) * model.head.out_features, len(named[0]) * len(pieces)]
    every, few = flat.split(sizes)
    return every.view(-1, model.head.out_features), few.view(len(named[0]), len(pieces))
