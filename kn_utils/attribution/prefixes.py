"""How rows enter the walk: whole texts, or the blank's token alone behind a prefix computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..model.language_model import LanguageModel
from ..model.prefixes import read_prefixes, window
from ..model.rows import Row
from .quadrature import AttributionError
from .walk import Walk

#: Runs the model while a walk's hooks are in place; logits at the blanks of the grown batch, (row, token).
Run = Callable[[Walk], torch.Tensor]


def entered(model: LanguageModel, rows: list[Row]) -> Run:
    """What runs these rows, as often as there are walks."""
    return _last_tokens(model, rows) if model.causal else _whole_texts(model, rows)


def _whole_texts(model: LanguageModel, rows: list[Row]) -> Run:
    """A masked model: every copy is a whole text, since all its tokens see the blank."""
    inputs, at, _ = model.batch(rows)

    def run(walk: Walk) -> torch.Tensor:
        with walk.installed(model, at):
            return model.model(**inputs).logits[:, 0]

    return run


def _last_tokens(model: LanguageModel, rows: list[Row]) -> Run:
    """A left-to-right model: the prefixes once; then the last tokens, which grow into copies."""
    longest, reach = max(len(row.ids) for row in rows), window(model)
    if reach and longest > reach and len({len(row.ids) for row in rows}) > 1:
        raise AttributionError(
            f"texts longer than the model's window of {reach} tokens need batches of equal length."
        )
    every = torch.arange(len(rows), device=model.device)
    last = model.tensor([row.ids[-1:] for row in rows])
    inputs = read_prefixes(model, [row.ids[:-1] for row in rows], every, last)
    at = torch.zeros_like(every)

    def run(walk: Walk) -> torch.Tensor:
        inputs["past_key_values"].lent_to = walk
        with walk.installed(model, at):
            return model.model(**inputs).logits[:, 0]

    return run
