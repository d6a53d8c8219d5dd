"""The attribution kernel: integrated gradients of every layer's neurons at the blank, in one pass through the
model.

For layer l the whole vector of neurons at the blank moves from a baseline b to its value w (equation 6 of Dai
et al. 2022):

    score_i = (w_i - b_i) * sum_k c_k dP(answer)/dw_i  at  b + a_k (w - b)

with nodes a_k and weights c_k of a quadrature rule. The scores of a layer sum to P(w) - P(b) up to the rule's
error; that difference is reported as the *gap*.

All layers in one pass. Up to and inside block l every point of l's path is the same computation, except for
the output of block l at the blank. So the batch grows on its way up: behind block l the base rows are copied
once per node, and the copies' hidden state at the blank is moved along by the value slots, x + (a_k - 1)(w -
b) V. At the top one backward pass gives the gradients of every layer's points. A left-to-right model never
lets the tokens in front of the blank see it: there a copy is the blank's token alone, and reads the prefix's
keys and values, which are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from ..model.language_model import LanguageModel, by_row
from ..model.rows import Row
from .precision import computing_in
from .quadrature import AttributionError, quadrature

BASELINES = ("zero", "replacement", "replacement-each")
MULTIPLIERS = ("difference", "activation")


@dataclass(frozen=True)
class PassResult:
    """Of a batch of rows: scores (row, layer, neuron), P(answer) (row,), completeness gap (row, layer) or
    ``None``."""

    scores: torch.Tensor
    probability: torch.Tensor
    gap: torch.Tensor | None


def integrate(
    model: LanguageModel,
    rows: list[Row],
    *,
    rule: str = "gauss-legendre",
    steps: int = 4,
    baseline: str = "zero",
    multiplier: str = "difference",
    layers: Sequence[int] | None = None,
    gap: bool = False,
    precision: str | None = None,
) -> PassResult:
    """Integrated gradients of a batch of rows, all layers in one pass (see the module's text).

    Args:
        rows: from ``model.encode``; one row is one piece of one answer.
        baseline: where the path starts: ``zero``; ``replacement``, the mean over the row's tokens of the
            neurons' values with that token replaced by the mask (left-to-right models: the end-of-text
            token), as AMIG's code does; ``replacement-each``, one path per replaced token and the mean of
            their scores, as AMIG's text says.
        multiplier: ``difference`` (w - b); ``activation`` (w alone, AMIG's equation 4, which is not
            complete).
        layers: only these layers (their scores are stacked in this order); ``None`` takes all.
        gap: also compute sum((w - b) gradient) - (P(w) - P(b)), at the cost of one more pass without
            gradients.
        precision: of the matrix products, see :mod:`kn_utils.precision`.
    """
    chosen = list(range(model.n_layers)) if layers is None else list(layers)
    wrong = [layer for layer in chosen if not 0 <= layer < model.n_layers]
    if wrong or not chosen:
        raise AttributionError(f"layers={chosen}; the model has layers 0 to {model.n_layers - 1}.")
    for name, value, known in (("baseline", baseline, BASELINES), ("multiplier", multiplier, MULTIPLIERS)):
        if value not in known:
            raise AttributionError(f"unknown {name} {value!r}; known: {', '.join(known)}.")
    order = sorted(set(chosen))
    exact = torch.float64 if model.dtype == torch.float64 else torch.float32
    a, c = (torch.as_tensor(x, dtype=exact, device=model.device) for x in quadrature(rule, steps))
    wanted = torch.tensor([[row.target] for row in rows], device=model.device)
    with computing_in(model, precision):
        starts, share = _starts(model, rows, order, baseline, exact)
        run = _last_tokens(model, rows) if model.causal else _whole_texts(model, rows)
        walk = _Walk(a, starts, order)
        p, gradients = _gradients(run, walk, wanted)
        if gap:
            first = _probabilities(run, _Walk(torch.zeros_like(a[:1]), starts, order), wanted)
    size, paths = len(rows), len(share)
    scores, moved = [], []
    for layer in order:
        # No matrix product: the caller's TF32 or autocast would round it.
        mean = (gradients[layer].view(paths, len(a), size, -1) * c[:, None, None]).sum(1) * share[:, :, None]
        moved.append((mean * walk.moves(layer)).sum(0))
        scores.append(moved[-1] if multiplier == "difference" else mean.sum(0) * walk.values[layer])
    gaps = None
    if gap:  # P at the paths' starts: (layer, path, row) behind the base rows
        start = (first[size:].view(len(order), paths, size) * share).sum(1)
        gaps = torch.stack(moved).sum(-1) - (first[:size] - start)
    place = [order.index(layer) for layer in chosen]
    result = PassResult(
        torch.stack(scores, 1)[:, place], p[:size], None if gaps is None else gaps.T[:, place]
    )
    if not torch.isfinite(result.scores).all():
        raise AttributionError(
            "scores are not finite; check the weights and activations for NaN and infinite values."
        )
    return result


#: Runs the model while a walk's hooks are in place; the logits at the blanks of the grown batch, (row,
#: token).
Run = Callable[["_Walk"], torch.Tensor]


def _gradients(run: Run, walk: _Walk, wanted: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """P(answer) of the base rows, and every layer's gradients of P with respect to its points, (path * node *
    row, neuron)."""
    size = len(wanted)
    with torch.enable_grad():
        logits = run(walk)
    wanted = wanted.repeat(len(logits) // size, 1)
    with (
        torch.no_grad()
    ):  # d log P / d logits = one-hot - softmax: written down, it spares several passes over them
        slope = logits.detach().to(walk.nodes.dtype).softmax(-1)
        p = slope.gather(1, wanted)
        slope.scatter_add_(1, wanted, torch.full_like(p, -1.0))
        slope[:size] = 0
    found = torch.autograd.grad(logits, [walk.leaves[layer] for layer in walk.layers], slope.to(logits.dtype))
    points = p[size:].view(len(walk.layers), -1, 1)
    gradients = {layer: -points[i] * found[i].to(p.dtype) for i, layer in enumerate(walk.layers)}
    return p[:size, 0], gradients


def _probabilities(run: Run, walk: _Walk, wanted: torch.Tensor) -> torch.Tensor:
    """P(answer) of every row of the grown batch."""
    with torch.no_grad():
        p = run(walk).to(walk.nodes.dtype).softmax(-1)
        return p.gather(1, wanted.repeat(len(p) // len(wanted), 1)).squeeze(1)


def _whole_texts(model: LanguageModel, rows: list[Row]) -> Run:
    """A masked model: every copy is a whole text, since all its tokens see the blank."""
    inputs, at, _ = model.batch(rows)
    if len({len(row.ids) for row in rows}) == 1:
        del inputs["attention_mask"]

    def run(walk: _Walk) -> torch.Tensor:
        with walk.installed(model, at):
            return model.model(**inputs).logits[:, 0]

    return run


def _last_tokens(model: LanguageModel, rows: list[Row]) -> Run:
    """A left-to-right model: the prefixes once, without gradients; then the last tokens, which grow into
    copies."""
    inputs, at, _ = model.batch(rows)
    ids, longest = inputs["input_ids"], inputs["input_ids"].shape[1]
    last = {"input_ids": ids.gather(1, at.unsqueeze(1)), "use_cache": True}
    cache = PrefixCache(config=model.model.config)
    if longest > 1:
        with torch.no_grad():  # no token sees the padding behind it
            model.model.base_model(input_ids=ids[:, :-1], use_cache=True, past_key_values=cache)
    if len({len(row.ids) for row in rows}) > 1:
        window = getattr(model.model.config, "sliding_window", None) or longest
        if longest > window:
            raise AttributionError(
                f"texts longer than the model's window of {window} tokens need batches of equal length."
            )
        cache.end_together(longest - 1 - at)
        last["attention_mask"] = (
            torch.arange(longest, device=at.device) >= (longest - 1 - at).unsqueeze(1)
        ).long()
        if model.takes_positions:
            last["position_ids"] = at.unsqueeze(1)
    cache.frozen = True

    def run(walk: _Walk) -> torch.Tensor:
        with walk.installed(model, torch.zeros_like(at)):
            return model.model(**last, past_key_values=cache).logits[:, 0]

    return run


class PrefixCache(DynamicCache):
    """Keys and values of the prefixes; once frozen, it lends them to as many copies of the batch as ask."""

    frozen = False

    def end_together(self, short: torch.Tensor) -> None:
        """Move each text's keys and values to the right by its padding, (row,): distances to the last token
        then hold."""
        for layer in self.layers:
            place = torch.arange(layer.keys.shape[2], device=short.device)
            index = (place - short.unsqueeze(1)).clamp(min=0)[:, None, :, None].expand_as(layer.keys)
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        if not self.frozen:
            return super().update(keys, values, layer_idx, *args, **kwargs)
        kept = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        if kept is None or getattr(kept, "keys", None) is None:  # texts of one token
            return keys, values
        both = ((kept.keys, keys), (kept.values, values))
        return tuple(torch.cat([old.repeat(len(new) // len(old), 1, 1, 1), new], -2) for old, new in both)


class _Walk:
    """Hooks that grow the batch. Rows are ordered base, then per layer, path and node (row = group * size +
    prompt)."""

    def __init__(self, nodes: torch.Tensor, starts: torch.Tensor | None, layers: list[int]) -> None:
        self.nodes, self.starts, self.layers = nodes, starts, layers
        self.values: dict[int, torch.Tensor] = {}  # neurons at the blank, (row, neuron)
        self.leaves: dict[
            int, torch.Tensor
        ] = {}  # way from the value to a point of the path, (path * node * row, neuron)

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
                "such a block would "
                "mix both. Leave it first."
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
                    second, norm = model.seconds[layer], model.norms[layer]
                    stack.callback(second.register_forward_pre_hook(self._read(layer, groups, at)).remove)
                    if norm is not None:
                        stack.callback(norm.register_forward_pre_hook(self._sum(at)).remove)
                    grow = self._grow(layer, model.value_slots(layer), norm, at, copies)
                    stack.callback(block.register_forward_hook(grow).remove)
                    groups += copies
            yield

    def _widen(self, model: LanguageModel, groups: int) -> Any:
        # BLOOM folds its heads into the rows of its position bias, row by row.
        config = model.model.config
        rows = {self.size, self.size * (config.num_attention_heads if config.model_type == "bloom" else 1)}

        def per_row(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(per_row(one) for one in value)
            if isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) in rows:
                return value.repeat(groups, *[1] * (value.ndim - 1))
            return value

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            kwargs = dict(kwargs)
            hidden = args[0] if args else kwargs.pop("hidden_states")
            return (hidden, *map(per_row, args[1:])), {name: per_row(value) for name, value in kwargs.items()}

        return hook

    def _narrow(self, at: torch.Tensor) -> Any:
        rows = torch.arange(len(at), device=at.device)

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return tuple(value[rows, at].unsqueeze(1) for value in args)

        return hook

    def _read(self, layer: int, groups: int, at: torch.Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            neurons = by_row(args[0], groups * self.size)
            self.values[layer] = neurons[self.index, at].detach().to(self.nodes.dtype)

        return hook

    def _sum(self, at: torch.Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            hidden = args[0] if args[0].ndim == 3 else args[0].view(-1, 1, args[0].shape[-1])
            self.sum = hidden[self.index, at].detach()

        return hook

    def _grow(
        self, layer: int, slots: torch.Tensor, norm: nn.Module | None, at: torch.Tensor, copies: int
    ) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            base = hidden[: self.size].detach()
            way = (self.nodes - 1)[None, :, None, None] * self.moves(layer).unsqueeze(1)
            leaf = way.flatten(0, 2).requires_grad_()
            before = base[self.index, at] if norm is None else self.sum
            blank = before.repeat(copies, 1) + leaf.to(slots.dtype) @ slots
            blank = blank if norm is None else norm.forward(blank)  # not through its hooks
            new = base.repeat(copies, 1, 1)
            new[torch.arange(len(new), device=new.device), at.repeat(copies)] = blank.to(new.dtype)
            self.leaves[layer] = leaf
            hidden = torch.cat([hidden, new])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook


def read_neurons(
    model: LanguageModel, rows: list[Row], precision: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations at the blank (row, layer, neuron) and P(answer) (row,), without gradients."""
    inputs, at, wanted = model.batch(rows)
    exact = torch.float64 if model.dtype == torch.float64 else torch.float32
    with torch.no_grad(), computing_in(model, precision), _reading(model, at) as values:
        p = model.logits(inputs, at).to(exact).softmax(-1)
    return torch.stack(values, 1).to(exact), p[torch.arange(len(rows), device=at.device), wanted]


@contextmanager
def _reading(model: LanguageModel, at: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Inside, a forward pass leaves every layer's neurons at the blank in the list, each (row, neuron)."""
    index, values = torch.arange(len(at), device=at.device), []
    with ExitStack() as stack:
        for second in model.seconds:
            read = second.register_forward_pre_hook(
                lambda _, args: values.append(by_row(args[0], len(at))[index, at])
            )
            stack.callback(read.remove)
        yield values


def _starts(
    model: LanguageModel, rows: list[Row], layers: list[int], baseline: str, dtype: torch.dtype
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Where the paths start, (path, row, layer, neuron), ``None`` for zero; and each path's share in the
    mean, (path, row)."""
    whole = torch.ones(1, len(rows), dtype=dtype, device=model.device)
    if baseline == "zero":
        return None, whole
    put = model.tokenizer.eos_token_id if model.causal else model.tokenizer.mask_token_id
    if put is None:
        raise AttributionError(
            f"baseline={baseline!r} needs an end-of-text token, which this tokenizer lacks."
        )
    found = []
    for row in rows:
        replaced = [replace(row, ids=[*row.ids[:t], put, *row.ids[t + 1 :]]) for t in range(len(row.ids))]
        inputs, at, _ = model.batch(replaced)
        with torch.no_grad(), _reading(model, at) as values:
            model.model.base_model(**inputs, **({"use_cache": False} if model.causal else {}))
        found.append(torch.stack([values[layer] for layer in layers], 1).to(dtype))
    if baseline == "replacement":
        return torch.stack([values.mean(0) for values in found]).unsqueeze(0), whole
    share = [
        torch.full((len(values),), 1 / len(values), dtype=dtype, device=model.device) for values in found
    ]
    # A shorter text is filled up with paths from zero, of no share.
    return nn.utils.rnn.pad_sequence(found), nn.utils.rnn.pad_sequence(share)
