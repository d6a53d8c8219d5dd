"""Interventions: silence, strengthen, rewrite or erase neurons; every one is a context manager that restores
on exit.

``suppress`` and ``amplify`` act on activations at the blank only, as the papers do. ``update_fact``,
``fine_tune`` and ``erase`` edit value slots (the vectors that neurons multiply) and put the very same numbers
back, also when an exception leaves the block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..base import StudyError
from ..neurons.choose import as_pairs
from .language_model import LanguageModel, by_row
from .rows import Row, answer_pieces

Neurons = pd.DataFrame | Iterable[tuple[int, int]]


class InterventionError(StudyError):
    """Neurons that the model does not have, or an edit that it does not allow."""


@contextmanager
def suppress(model: LanguageModel, neurons: Neurons) -> Iterator[LanguageModel]:
    """Inside, the neurons are 0 at the blank (Dai et al., section 4.2). Nests; weights are not touched."""
    with scale(model, neurons, 0.0):
        yield model


@contextmanager
def amplify(model: LanguageModel, neurons: Neurons, *, factor: float = 2.0) -> Iterator[LanguageModel]:
    """Inside, the neurons are ``factor`` times their value at the blank. Nests; weights are not touched."""
    with scale(model, neurons, factor):
        yield model


@contextmanager
def scale(model: LanguageModel, neurons: Neurons | Sequence[np.ndarray], factor: float) -> Iterator[None]:
    """Multiply neurons at the blank of each row of whatever the model is run on.

    ``neurons`` is one set for all rows, or a list of arrays (n, 2), one per row, for a batch in which every
    row has its own: so the effects of many facts' neurons are measured in one forward pass.

    The blank is read from the input: the first mask token of a row, or for a causal model its last token.
    """
    per_row = isinstance(neurons, list) and all(isinstance(one, np.ndarray) for one in neurons)
    sets = [as_pairs(one) for one in neurons] if per_row else [as_pairs(neurons)]
    for pairs in sets:
        _check(model, pairs)
    row = np.repeat(np.arange(len(sets)), [len(pairs) for pairs in sets])
    pairs = np.concatenate(sets) if sets else np.zeros((0, 2), int)
    blank: list[torch.Tensor] = []

    def find(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        blank[:] = [find_blank(model, ids, kwargs.get("attention_mask"))]
        if per_row and len(sets) != len(ids):
            raise InterventionError(f"{len(sets)} sets of neurons for {len(ids)} rows.")

    def multiply(layer: int) -> Any:
        here = pairs[:, 0] == layer
        rows, columns = (torch.as_tensor(x[here], device=model.device) for x in (row, pairs[:, 1]))

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            at = blank[0]
            value = args[0].clone()
            view = by_row(value, len(at))
            if per_row:
                view[rows, at[rows], columns] *= factor
            else:
                every = torch.arange(len(at), device=at.device)[:, None]
                view[every, at[:, None], columns[None]] *= factor
            return (value, *args[1:])

        return hook

    with ExitStack() as stack:
        stack.callback(model.model.register_forward_pre_hook(find, with_kwargs=True).remove)
        for layer in np.unique(pairs[:, 0]):
            stack.callback(model.seconds[layer].register_forward_pre_hook(multiply(layer)).remove)
        yield


def find_blank(model: LanguageModel, ids: torch.Tensor, attended: torch.Tensor | None = None) -> torch.Tensor:
    """Position of each row's blank: its first mask token; for a causal model the last token that is attended
    to."""
    if model.causal:
        attended = torch.ones_like(ids) if attended is None else attended
        return ids.shape[1] - 1 - attended.flip(1).long().argmax(1)
    masks = ids == model.tokenizer.mask_token_id
    if not masks.any(1).all():
        raise InterventionError("a row of the input has no mask token: there is no blank at which to act.")
    return masks.long().argmax(1)


@contextmanager
def update_fact(
    model: LanguageModel,
    neurons: Neurons,
    *,
    old: str | Sequence[str],
    new: str | Sequence[str],
    l1: float = 1.0,
    l2: float = 8.0,
) -> Iterator[LanguageModel]:
    """Inside, value slots lean from the old answer to the new one (Dai et al., section 5.1; norms as in their
    code):

        v_i <- v_i - l1 |v_i| e(old) / |e(old)| + l2 |v_i| e(new) / |e(new)|

    e is the input word embedding, of an answer of several pieces their mean. Of several answers (one thing's
    names in several languages) it is the mean of their unit vectors.
    """
    with _slots_restored(model, neurons) as slots:
        e_old, e_new = (_direction(model, answer) for answer in (old, new))
        for layer, columns in slots:
            v = model.value_slots(layer)[columns]
            size = v.norm(dim=1, keepdim=True)
            _write(model, layer, columns, v - l1 * size * e_old + l2 * size * e_new)
        yield model


@contextmanager
def fine_tune(
    model: LanguageModel, neurons: Neurons, prompts: pd.DataFrame, *, lr: float = 0.5, steps: int = 25
) -> Iterator[LanguageModel]:
    """Inside, the value slots, and nothing else, have been trained to give these prompts' answers: what can
    be had at best.

    Adam lowers the mean -ln P(piece), v_i + |v_i| d_i / sqrt(hidden) with d = 0 at first, so that a step
    moves a slot by about ``lr`` times its length. It stops once every piece is the first choice, at the
    latest after ``steps`` steps.
    """
    rows = model.encode(prompts)
    with _slots_restored(model, neurons) as slots:
        v = [model.value_slots(layer)[columns] for layer, columns in slots]
        unit = [one.norm(dim=1, keepdim=True) / one.shape[1] ** 0.5 for one in v]
        exact = torch.promote_types(model.dtype, torch.float32)
        d = [torch.zeros_like(one, dtype=exact) for one in v]
        optimizer = torch.optim.Adam(d, lr=lr)
        for _ in range(steps if d else 0):
            _, slopes, right = _loss(model, slots, [u * one for u, one in zip(unit, d, strict=True)], rows)
            if right:
                break
            for one, u, slope in zip(d, unit, slopes, strict=True):
                one.grad = u * slope
            optimizer.step()
        for (layer, columns), old, u, one in zip(slots, v, unit, d, strict=True):
            _write(model, layer, columns, old + u * one)
        yield model


def _loss(
    model: LanguageModel, slots: list[tuple[int, torch.Tensor]], moves: list[torch.Tensor], rows: list[Row]
) -> tuple[float, list[torch.Tensor], bool]:
    """Mean -ln P of the rows' pieces with slots moved, its gradient by the moves, and whether all pieces are
    first choices.

    A moved slot adds a_i move_i to its layer's second map; hooks do that, so no weight needs a gradient.
    """
    moves = [one.detach().requires_grad_() for one in moves]

    def adding(columns: torch.Tensor, move: torch.Tensor) -> Any:
        return lambda _, args, output: output + args[0][..., columns] @ move.to(output.dtype)

    with ExitStack() as stack, torch.enable_grad():
        for (layer, columns), move in zip(slots, moves, strict=True):
            stack.callback(model.seconds[layer].register_forward_hook(adding(columns, move)).remove)
        inputs, at, wanted = model.batch(rows)
        logits = model.logits(inputs, at)
        loss = nn.functional.cross_entropy(logits.to(moves[0].dtype), wanted)
        slopes = torch.autograd.grad(loss, moves)
    return loss.item(), list(slopes), bool((logits.argmax(1) == wanted).all())


@contextmanager
def erase(model: LanguageModel, neurons: Neurons, *, to: str = "zero") -> Iterator[LanguageModel]:
    """Inside, the value slots are zero (``to="zero"``) or the unknown token's embedding (``to="unknown"``)
    (section 5.2)."""
    if to not in ("zero", "unknown"):
        raise InterventionError(f"to={to!r}; it is 'zero' or 'unknown'.")
    if to == "unknown" and model.tokenizer.unk_token_id is None:
        raise InterventionError("the tokenizer has no unknown token; erase with to='zero'.")
    with _slots_restored(model, neurons) as slots:
        for layer, columns in slots:
            new = (
                model.embeddings[model.tokenizer.unk_token_id]
                if to == "unknown"
                else torch.zeros((), device=model.device)
            )
            _write(model, layer, columns, new)
        yield model


def _direction(model: LanguageModel, answer: str | Sequence[str]) -> torch.Tensor:
    """Unit vector of an answer's embedding, or of the mean of several answers' unit vectors."""
    if not isinstance(answer, str):
        e = torch.stack([_direction(model, one) for one in answer]).mean(0)
        return e / e.norm()
    e = model.embeddings[answer_pieces(model.tokenizer, answer)].mean(0)
    if len(e) != model.value_slots(0).shape[1]:
        raise InterventionError(
            "this model's embeddings and value slots differ in size; facts cannot be updated so."
        )
    return e / e.norm()


@contextmanager
def _slots_restored(model: LanguageModel, neurons: Neurons) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """The slots as (layer, neurons) per layer; copies of them are written back on the way out."""
    pairs = as_pairs(neurons)
    _check(model, pairs)
    slots = [
        (int(n), torch.as_tensor(pairs[pairs[:, 0] == n, 1], device=model.device))
        for n in np.unique(pairs[:, 0])
    ]
    saved = [model.value_slots(layer)[columns].clone() for layer, columns in slots]
    try:
        yield slots
    finally:
        for (layer, columns), values in zip(slots, saved, strict=True):
            _write(model, layer, columns, values)


@torch.no_grad()
def _write(model: LanguageModel, layer: int, columns: torch.Tensor, values: torch.Tensor) -> None:
    model.value_slots(layer)[columns] = values.to(model.dtype)


def _check(model: LanguageModel, pairs: np.ndarray) -> None:
    bad = pairs[(pairs < 0).any(1) | (pairs[:, 0] >= model.n_layers) | (pairs[:, 1] >= model.n_neurons)]
    if len(bad):
        raise InterventionError(
            f"neuron (layer {bad[0][0]}, {bad[0][1]}) is not in the model, which has {model.n_layers} layers "
            f"x {model.n_neurons}."
        )
