"""The things that all others do with hooks: read a model's neurons, replace them, and change its value slots.

Each is a context manager: inside it whatever the model is run on is read or changed, and on the way out, also
after an error, every hook is gone. Weights are never touched. They nest. Example::

    inputs, at, wanted = model.batch(rows)             # at: each row's blank, (row,)
    with read_at(model, at) as values:
        model.logits(inputs, at)
    values[3]                                          # layer 3's neurons at the blank, (row, neuron)

    with replace_at(model, {3: lambda neurons: 2 * neurons}, at):
        model.logits(inputs, at)                       # layer 3 doubled
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base import StudyError
from .blocks import by_row
from .language_model import LanguageModel

#: What replaces a layer's neurons at the blanks: (their values (row, neuron)) -> new values of the same
#: shape.
Replace = Callable[[torch.Tensor], torch.Tensor]


class InterventionError(StudyError):
    """Neurons that the model does not have, or an edit that it does not allow."""


@contextmanager
def read_at(model: LanguageModel, at: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Inside, a forward pass leaves every layer's neurons at each row's position ``at`` in the list.

    The list gains one (row, neuron) tensor per layer.
    """
    index, values = torch.arange(len(at), device=at.device), list[torch.Tensor]()

    def read(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        values.append(by_row(args[0], len(at))[index, at])

    with ExitStack() as stack:
        for second in model.seconds:
            stack.callback(second.register_forward_pre_hook(read).remove)
        yield values


@contextmanager
def replace_at(
    model: LanguageModel, layers: Mapping[int, Replace], at: torch.Tensor | None = None
) -> Iterator[None]:
    """Inside, the neurons of these layers are replaced at one position of each row.

    Args:
        model: whose.
        layers: layer -> what makes new values of the old ones.
        at: the position, (row,). ``None``: the blank of whatever the model is run on, see :func:`find_blank`.
    """
    blank = [at]

    def find(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        blank[0] = find_blank(model, ids, kwargs.get("attention_mask"))

    def put(replace: Replace) -> Any:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            place = blank[0]
            if place is None:
                raise InterventionError("the model was entered behind its first module: no blank was found.")
            value, index = args[0].clone(), torch.arange(len(place), device=place.device)
            view = by_row(value, len(place))
            view[index, place] = replace(view[index, place]).to(value.dtype)
            return (value, *args[1:])

        return hook

    with ExitStack() as stack:
        if at is None:
            stack.callback(model.model.register_forward_pre_hook(find, with_kwargs=True).remove)
        for layer, replace in layers.items():
            stack.callback(model.seconds[layer].register_forward_pre_hook(put(replace)).remove)
        yield


def find_blank(model: LanguageModel, ids: torch.Tensor, attended: torch.Tensor | None = None) -> torch.Tensor:
    """Position of each row's blank: the first mask token; for a causal model the last attended token."""
    if model.causal:
        attended = torch.ones_like(ids) if attended is None else attended
        return ids.shape[1] - 1 - attended.flip(1).long().argmax(1)
    masks = ids == model.tokenizer.mask_token_id
    if not masks.any(1).all():
        raise InterventionError("a row of the input has no mask token: there is no blank at which to act.")
    return masks.long().argmax(1)


@contextmanager
def rows_spread(model: LanguageModel, start: int, index: torch.Tensor) -> Iterator[None]:
    """Inside, a forward pass of texts goes on from block ``start`` as rows: copies ``index`` (row,) of them.

    Rows that differ in what acts on them from block ``start`` on only share everything below it.
    """
    size = [0]

    def spread(first: bool) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            if first:
                size[0] = len(args[0] if args else kwargs["hidden_states"])
            hidden, args, kwargs = for_rows(model, args, kwargs, size[0], index)
            return (hidden[index] if first else hidden, *args), kwargs

        return hook

    with ExitStack() as stack:
        for layer in range(start, model.n_layers):
            handle = model.blocks[layer].register_forward_pre_hook(spread(layer == start), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def for_rows(
    model: LanguageModel, args: tuple[Any, ...], kwargs: dict[str, Any], size: int, rows: torch.Tensor
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """What a block is given, for a batch whose rows are copies ``rows`` (row,) of its first ``size`` rows.

    Returns:
        the hidden states as they are; the other arguments, those with a row per row of the batch copied
        alike.
    """
    architecture = model.architecture
    heads = model.model.config.num_attention_heads if architecture.heads_in_rows else 1

    def copied(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(copied(part) for part in value)
        if not isinstance(value, torch.Tensor) or value.ndim < 2:
            return value
        if len(value) == size:
            return value[rows]
        if len(value) == size * heads:
            return value.unflatten(0, (size, heads))[rows].flatten(0, 1)
        return value

    hidden = args[0] if args else kwargs["hidden_states"]
    rest = {name: value for name, value in kwargs.items() if args or name != "hidden_states"}
    shared = architecture.shared
    return (
        hidden,
        tuple(map(copied, args[1:])),
        {name: value if name in shared else copied(value) for name, value in rest.items()},
    )


@dataclass(frozen=True)
class SlotChange:
    """Value slots that change.

    Attributes:
        neurons: whose, (n, 2): layer and neuron.
        added: what is added to them, (n, hidden).
    """

    neurons: np.ndarray
    added: torch.Tensor


@contextmanager
def slots_changed(model: LanguageModel, changes: Sequence[SlotChange | None]) -> Iterator[None]:
    """Inside, each row of a batch runs as if the weights had been edited for it alone (``None``: not edited).

    A slot that moves by d adds a d to the layer's second map wherever its neuron has the activation a, so the
    output of that map is changed instead of the weights, and rows with different edits share a forward pass.
    """
    layers = sorted(
        {int(layer) for change in changes if change is not None for layer in change.neurons[:, 0]}
    )

    def adding(layer: int) -> Any:
        neurons, added = _padded(model, changes, layer)

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            values = by_row(args[0], len(changes))
            active = values.gather(2, neurons[:, None].expand(-1, values.shape[1], -1))
            return output + (active @ added.to(active.dtype)).to(output.dtype).view(output.shape)

        return hook

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(model.seconds[layer].register_forward_hook(adding(layer)).remove)
        yield


def _padded(
    model: LanguageModel, changes: Sequence[SlotChange | None], layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's changed neurons (row, n) and what their slots gain (row, n, hidden), filled up with zeros."""
    places = [[] if c is None else np.flatnonzero(c.neurons[:, 0] == layer).tolist() for c in changes]
    most, hidden = max(map(len, places)), model.value_slots(layer).shape[1]
    neurons = torch.zeros(len(changes), most, dtype=torch.long)
    kind = next(change.added.dtype for change in changes if change is not None)
    added = torch.zeros(len(changes), most, hidden, dtype=kind, device=model.device)
    for row, (change, place) in enumerate(zip(changes, places, strict=True)):
        if change is not None and place:
            neurons[row, : len(place)] = torch.as_tensor(change.neurons[place, 1])
            added[row, : len(place)] = change.added[place]
    return neurons.to(model.device), added


def check_neurons(model: LanguageModel, pairs: np.ndarray) -> None:
    """Refuse (layer, neuron) pairs, (n, 2), that the model does not have."""
    bad = pairs[(pairs < 0).any(1) | (pairs[:, 0] >= model.n_layers) | (pairs[:, 1] >= model.n_neurons)]
    if len(bad):
        raise InterventionError(
            f"neuron (layer {bad[0][0]}, {bad[0][1]}) is not in the model, which has {model.n_layers} layers "
            f"x {model.n_neurons}."
        )
