"""The walk up the model: hooks that let a batch grow by copies whose neurons lie on their layer's path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..model.blocks import BlockEnd, by_row, hidden_of, with_hidden
from ..model.language_model import LanguageModel
from .quadrature import AttributionError


class Walk:
    """Hooks that grow the batch. Rows are ordered base, then per layer, path and node (row = group * size +
    prompt).

    Args:
        nodes: where on the path the points lie, (node,), or (node, row) where every row has its own.
        starts: where the paths start, (path, row, layer, neuron); ``None``: at zero.
        layers: whose paths are walked, rising.
        held: the norm of a feed-forward output keeps the scale that it has at the path's end.

    Attributes:
        values: of a layer's neurons at the blank, (row, neuron), once the walk is done.
        leaves: of a layer, the way from the value to each point, (path * node * row, neuron).
    """

    def __init__(
        self, nodes: torch.Tensor, starts: torch.Tensor | None, layers: list[int], held: bool = False
    ) -> None:
        self.nodes = nodes if nodes.ndim == 2 else nodes.unsqueeze(1)
        self.starts, self.layers, self.held = starts, layers, held
        self.values: dict[int, torch.Tensor] = {}
        self.leaves: dict[int, torch.Tensor] = {}

    def moves(self, layer: int) -> torch.Tensor:
        """w - b, shape (path, row, neuron)."""
        value = self.values[layer].unsqueeze(0)
        return value if self.starts is None else value - self.starts[:, :, self.layers.index(layer)]

    @contextmanager
    def installed(self, model: LanguageModel, at: torch.Tensor) -> Iterator[None]:
        """Inside, a forward pass of ``model`` grows; ``at`` is the blank's position in each base row."""
        self.size, self.index = len(at), torch.arange(len(at), device=at.device)
        copies = len(self.nodes) * (1 if self.starts is None else len(self.starts))
        groups = 1
        if any(second._forward_pre_hooks for second in model.seconds):
            raise AttributionError(
                "neurons are being suppressed or amplified, or read by a hook of yours: attribution inside "
                "such a block would mix both. Leave it first."
            )
        with ExitStack() as stack:
            for layer, block in enumerate(model.blocks):
                last = layer == model.n_layers - 1
                stack.callback(
                    block.register_forward_pre_hook(self._widen(model, groups), with_kwargs=True).remove
                )
                if last and model.architecture.settled:
                    narrow = self._narrow(at.repeat(groups))
                    settled = block.get_submodule(model.architecture.settled)
                    stack.callback(settled.register_forward_pre_hook(narrow).remove)
                    at = torch.zeros_like(at)
                if layer in self.layers:
                    end = model.ends[layer]
                    read = self._read(layer, groups, at)
                    stack.callback(end.second.register_forward_pre_hook(read).remove)
                    if end.norm is not None:
                        receive = self._receive(groups, at)
                        stack.callback(end.norm.register_forward_pre_hook(receive).remove)
                    grow = self._grow(layer, end, at, copies)
                    stack.callback(block.register_forward_hook(grow).remove)
                    groups += copies
            if not model.causal and not model.architecture.settled:
                stack.enter_context(model.head_at(at.repeat(groups)))
            yield

    def _widen(self, model: LanguageModel, groups: int) -> Any:
        """Repeat all that a block is given per row of the batch."""
        row = model.architecture
        heads = model.model.config.num_attention_heads if row.heads_in_rows else 1
        sizes = {self.size, self.size * heads}

        def per_row(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(per_row(one) for one in value)
            if isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) in sizes:
                return value.repeat(groups, *[1] * (value.ndim - 1))
            return value

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            kwargs = dict(kwargs)
            hidden = args[0] if args else kwargs.pop("hidden_states")
            more = {name: value if name in row.shared else per_row(value) for name, value in kwargs.items()}
            return (hidden, *map(per_row, args[1:])), more

        return hook

    def _narrow(self, at: torch.Tensor) -> Any:
        """Drop all but the blank's token."""
        rows = torch.arange(len(at), device=at.device)

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return tuple(value[rows, at].unsqueeze(1) for value in args)

        return hook

    def _read(self, layer: int, groups: int, at: torch.Tensor) -> Any:
        """Keep the base rows' neurons at the blank."""

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            neurons = by_row(args[0], groups * self.size)
            self.values[layer] = neurons[self.index, at].detach().to(self.nodes.dtype)

        return hook

    def _receive(self, groups: int, at: torch.Tensor) -> Any:
        """Keep what the block's last norm receives at the base rows' blanks."""

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self.normed = by_row(args[0], groups * self.size)[self.index, at].detach()

        return hook

    def _grow(self, layer: int, end: BlockEnd, at: torch.Tensor, copies: int) -> Any:
        """Add the copies: base rows whose hidden state at the blank has moved along the path."""

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            base = hidden[: self.size].detach()
            way = (self.nodes - 1).unsqueeze(-1) * self.moves(layer).unsqueeze(1)
            leaf = way.flatten(0, 2).requires_grad_()
            normed = None if end.norm is None else self.normed
            blank = end.moved(base[self.index, at], normed, leaf, self.held)
            new = base.repeat(copies, 1, 1)
            new[torch.arange(len(new), device=new.device), at.repeat(copies)] = blank
            self.leaves[layer] = leaf
            return with_hidden(output, torch.cat([hidden, new]))

        return hook
