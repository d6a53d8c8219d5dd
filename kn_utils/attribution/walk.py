"""The walk up the model: hooks that let a batch grow by copies whose neurons lie on their layer's path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..model.blocks import BlockEnd, by_row, hidden_of, with_hidden
from ..model.hooks import for_rows
from ..model.language_model import LanguageModel
from .quadrature import AttributionError

#: Layer -> base row and place on the path of every copy, both (copy,).
Plan = dict[int, tuple[torch.Tensor, torch.Tensor]]


def everywhere(nodes: torch.Tensor, rows: int, layers: list[int]) -> Plan:
    """All rows at all nodes in every layer; copies in the order of nodes, then rows."""
    row = torch.arange(rows, device=nodes.device).repeat(len(nodes))
    return dict.fromkeys(layers, (row, nodes.repeat_interleave(rows)))


class Walk:
    """Hooks that grow the batch: base rows, then per layer the copies that the plan wants, path by path.

    Args:
        plan: which copies of which rows start in which layers.
        starts: where the paths start, (path, row, layer, neuron); ``None``: at zero.
        held: the norm of a feed-forward output keeps the scale that it has at the path's end.

    Attributes:
        rows: the base row of each row of the batch as it has grown so far.
        values: of a layer's neurons at the blank, (row, neuron), once the walk is done.
        leaves: of a layer, the way from the value to each point, (path * copy, neuron).
    """

    def __init__(self, plan: Plan, starts: torch.Tensor | None, held: bool = False) -> None:
        self.plan, self.starts, self.held = plan, starts, held
        self.layers = sorted(plan)
        self.dtype = plan[self.layers[0]][1].dtype
        self.values: dict[int, torch.Tensor] = {}
        self.leaves: dict[int, torch.Tensor] = {}

    def moves(self, layer: int) -> torch.Tensor:
        """w - b, shape (path, row, neuron)."""
        value = self.values[layer].unsqueeze(0)
        return value if self.starts is None else value - self.starts[:, :, self.layers.index(layer)]

    def leaf(self, layer: int) -> torch.Tensor:
        """How far a layer's copies are from the value, (path * copy, neuron)."""
        rows, nodes = self.plan[layer]
        return ((nodes - 1).unsqueeze(-1) * self.moves(layer)[:, rows]).flatten(0, 1)

    @contextmanager
    def installed(self, model: LanguageModel, at: torch.Tensor) -> Iterator[None]:
        """Inside, a forward pass of ``model`` grows; ``at`` is the blank's position in each base row."""
        if model.hooked:
            raise AttributionError(
                "neurons are being suppressed or amplified, or read by a hook of yours: attribution inside "
                "such a block would mix both. Leave it first."
            )
        self.size, self.rows = len(at), torch.arange(len(at), device=at.device)
        self.base, self.at = self.rows, at
        settled = model.architecture.settled
        with ExitStack() as stack:
            for layer, (block, end) in enumerate(zip(model.blocks, model.ends, strict=True)):
                widen = block.register_forward_pre_hook(self._widen(model), with_kwargs=True)
                stack.callback(widen.remove)
                if settled and layer == model.n_layers - 1:
                    narrow = block.get_submodule(settled).register_forward_pre_hook(self._narrow)
                    stack.callback(narrow.remove)
                if layer in self.plan:
                    stack.callback(end.second.register_forward_pre_hook(self._read(layer)).remove)
                    if end.norm is not None:
                        stack.callback(end.norm.register_forward_pre_hook(self._receive).remove)
                    stack.callback(block.register_forward_hook(self._grow(layer, end)).remove)
            if not model.causal and not settled:
                stack.callback(model.head.register_forward_pre_hook(self._narrow).remove)
            yield

    def _widen(self, model: LanguageModel) -> Any:
        """Give each row of the batch what its base row is given."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            if self.rows is self.base:
                return args, kwargs
            hidden, args, kwargs = for_rows(model, args, kwargs, self.size, self.rows)
            return (hidden, *args), kwargs

        return hook

    def _narrow(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Drop all but the blank's token."""
        every = torch.arange(len(self.rows), device=self.rows.device)
        at = self.at[self.rows]
        self.at = torch.zeros_like(self.at)
        return tuple(value[every, at].unsqueeze(1) if torch.is_tensor(value) else value for value in args)

    def _read(self, layer: int) -> Any:
        """Keep the base rows' neurons at the blank."""

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            neurons = by_row(args[0], len(self.rows))
            self.values[layer] = neurons[self.base, self.at].detach().to(self.dtype)

        return hook

    def _receive(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Keep what the block's last norm receives at the base rows' blanks."""
        self.normed = by_row(args[0], len(self.rows))[self.base, self.at].detach()

    def _grow(self, layer: int, end: BlockEnd) -> Any:
        """Add the copies: base rows whose hidden state at the blank has moved along the path."""

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            rows = self.plan[layer][0]
            leaf = self.leaf(layer).requires_grad_()
            rows = rows.repeat(1 if self.starts is None else len(self.starts))
            base, at = hidden[: self.size].detach(), self.at[rows]
            normed = None if end.norm is None else self.normed[rows]
            new = base[rows]
            each = torch.arange(len(rows), device=rows.device)
            new[each, at] = end.moved(new[each, at], normed, leaf, self.held)
            self.leaves[layer] = leaf
            self.rows = torch.cat([self.rows, rows])
            return with_hidden(output, torch.cat([hidden, new]))

        return hook


class Ends(Walk):
    """The walk of which only the paths' ends are wanted: there the rows are as they are, so none is copied.

    Args:
        layers: whose neurons' gradients are wanted.
        size: rows.
        starts: where the paths start, see :class:`Walk`.
        one: the place of the end, (1,), of the type that values and gradients are wanted in.
    """

    def __init__(self, layers: list[int], size: int, starts: torch.Tensor | None, one: torch.Tensor) -> None:
        super().__init__(everywhere(one, size, layers), starts)

    def _read(self, layer: int) -> Any:
        """Keep the neurons at the blank, and let gradients reach them."""

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            neurons = by_row(args[0], len(self.rows))
            value = neurons[self.base, self.at].detach()
            leaf = torch.zeros_like(value, requires_grad=True)
            self.values[layer], self.leaves[layer] = value.to(self.dtype), leaf
            moved = neurons.index_put((self.base, self.at), leaf, accumulate=True)
            return (moved.view(args[0].shape), *args[1:])

        return hook

    def _receive(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Nothing follows from it."""

    def _grow(self, layer: int, end: BlockEnd) -> Any:
        """Add no copies."""
        return lambda *_: None
