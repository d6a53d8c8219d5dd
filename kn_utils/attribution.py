r"""Attribution: how much an answer's probability leans on each feed-forward neuron.

For layer l the whole vector of neurons at the blank moves from a baseline b to its value w (equation 6 of Dai et al. 2022):

    score_i = (w_i - b_i) * sum_k c_k dP(answer)/dw_i  at  b + a_k (w - b)

with nodes a_k and weights c_k of a quadrature rule. The scores of a layer sum to P(w) - P(b) up to the rule's error; that
difference is reported as the *gap*.

One pass serves all layers. Below layer l every point of l's path is the same computation, so the batch grows on its way
up: in front of block l the base rows are copied once per node, and inside it the copies' neurons at the blank are replaced
by leaves on the path. At the top one backward pass gives the gradients of every layer's leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .config import QUIET, StudyError
from .facts import Row
from .models import LanguageModel, by_row

RULES = ("right", "left", "midpoint", "gauss-legendre")
METHODS = ("integrated-gradients", "activation", "gradient-x-activation")


class AttributionError(StudyError):
    """Scores that cannot be computed as asked, or that are not finite."""


def quadrature(rule: str = "gauss-legendre", steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Nodes a_k in [0, 1] and weights c_k (sum 1) of a rule.

    ``right``: a_k = k/m, k = 1..m, the papers' equation. ``left``: k = 0..m-1, what the released code computes.
    ``midpoint``: (k - 1/2)/m. ``gauss-legendre``: exact for polynomials of degree 2m - 1.
    """
    if steps < 1:
        raise AttributionError(f"steps={steps}; a rule needs at least one step.")
    even = np.full(steps, 1 / steps)
    if rule == "right":
        return np.arange(1, steps + 1) / steps, even
    if rule == "left":
        return np.arange(steps) / steps, even
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, even
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    raise AttributionError(f"unknown rule {rule!r}; known: {', '.join(RULES)}.")


@dataclass(frozen=True)
class PassResult:
    """Of a batch of rows: scores (row, layer, neuron), P(answer) (row,), completeness gap (row, layer) or ``None``."""

    scores: torch.Tensor
    probability: torch.Tensor
    gap: torch.Tensor | None


def integrate(
    model: LanguageModel, rows: list[Row], *, rule: str = "gauss-legendre", steps: int = 4, baseline: str = "zero",
    layers: Sequence[int] | None = None, gap: bool = False,
) -> PassResult:  # fmt: skip
    """Integrated gradients of a batch of rows, all layers in one pass (see the module's text).

    Args:
        rows: from ``model.encode``; one row is one piece of one answer.
        layers: only these layers (their scores are stacked in this order); ``None`` takes all.
        gap: also compute sum(scores) - (P(w) - P(b)), at the cost of one more point per layer.
    """
    if baseline != "zero":
        raise AttributionError(f"unknown baseline {baseline!r}; known: zero.")
    chosen = list(range(model.n_layers)) if layers is None else list(layers)
    wrong = [layer for layer in chosen if not 0 <= layer < model.n_layers]
    if wrong or not chosen:
        raise AttributionError(f"layers={chosen}; the model has layers 0 to {model.n_layers - 1}.")
    nodes, weights = quadrature(rule, steps)
    if gap:  # the path's start, with no weight in the sum
        nodes, weights = np.append(nodes, 0.0), np.append(weights, 0.0)
    inputs, at, wanted = model.batch(rows)
    walk = _Walk(model, at, torch.as_tensor(nodes, dtype=model.dtype, device=model.device), sorted(set(chosen)))
    with torch.enable_grad(), walk.installed():
        logits = model.model(**inputs, **({"use_cache": False} if model.causal else {})).logits[:, 0]
        copies = len(logits) // len(rows)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        p = logits.log_softmax(-1).gather(1, wanted.repeat(copies).unsqueeze(1)).squeeze(1).exp()
        order = sorted(set(chosen))
        gradients = torch.autograd.grad(p[len(rows) :].sum(), [walk.leaves[layer] for layer in order])
    p = p.detach()
    points = p[len(rows) :].view(len(order), len(nodes), len(rows))
    c = torch.as_tensor(weights, dtype=p.dtype, device=p.device)
    scores, gaps = {}, {}
    for i, (layer, gradient) in enumerate(zip(order, gradients, strict=True)):
        summed = torch.einsum("k,kbn->bn", c, gradient.to(p.dtype).view(len(nodes), len(rows), -1))
        scores[layer] = walk.values[layer].to(p.dtype) * summed
        gaps[layer] = scores[layer].sum(1) - (p[: len(rows)] - points[i, -1])
    result = PassResult(
        torch.stack([scores[layer] for layer in chosen], 1),
        p[: len(rows)],
        torch.stack([gaps[layer] for layer in chosen], 1) if gap else None,
    )
    if not torch.isfinite(result.scores).all():
        raise AttributionError("scores are not finite; check the weights and activations for NaN and infinite values.")
    return result


class _Walk:
    """The hooks of one pass: rows are ordered base, then per layer and node (row = group * batch + prompt).

    Copies are made in front of a block; where the architecture names the module that ends its attention part, behind that
    (a copy differs only from its feed-forward part on), and the last block's feed-forward part sees only the blank.
    """

    def __init__(self, model: LanguageModel, at: torch.Tensor, nodes: torch.Tensor, layers: list[int]) -> None:
        self.model, self.at, self.nodes, self.layers = model, at, nodes, layers
        self.size = len(at)
        self.leaves: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        groups, at, last = 1, self.at, self.model.n_layers - 1
        late = bool(self.model.attended)
        with ExitStack() as stack:
            for layer, block in enumerate(self.model.blocks):
                spawn = layer in self.layers
                before, groups = groups, groups + len(self.nodes) * spawn
                widen = self._widen(before if late else groups, spawn and not late)
                stack.callback(block.register_forward_pre_hook(widen, with_kwargs=True).remove)
                if late:
                    narrow = self.at.repeat(groups) if layer == last else None
                    at = torch.zeros_like(at) if layer == last else at
                    hook = self._copy(spawn, narrow)
                    stack.callback(self.model.attended[layer].register_forward_hook(hook).remove)
                if spawn:
                    leave = self._leave(layer, groups * self.size, at)
                    stack.callback(self.model.seconds[layer].register_forward_pre_hook(leave).remove)
            stack.enter_context(self.model.head_at(at.repeat(groups)))
            yield

    def _spawn(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden, hidden[: self.size].detach().repeat(len(self.nodes), 1, 1)])

    def _widen(self, groups: int, spawn: bool) -> Any:
        # BLOOM folds its heads into the rows of its position bias, row by row.
        config = self.model.model.config
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
            hidden = self._spawn(hidden) if spawn else hidden
            return (hidden, *map(per_row, args[1:])), {name: per_row(value) for name, value in kwargs.items()}

        return hook

    def _copy(self, spawn: bool, narrow: torch.Tensor | None) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = self._spawn(hidden) if spawn else hidden
            if narrow is not None:
                hidden = hidden[torch.arange(len(hidden), device=hidden.device), narrow].unsqueeze(1)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    def _leave(self, layer: int, rows: int, at: torch.Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            neurons = by_row(args[0], rows)
            value = neurons[torch.arange(self.size, device=neurons.device), at].detach()
            count = len(self.nodes)
            leaf = (self.nodes[:, None, None] * value).flatten(0, 1).requires_grad_()
            new = torch.arange(rows - count * self.size, rows, device=neurons.device)
            self.values[layer], self.leaves[layer] = value, leaf
            return (neurons.index_put((new, at.repeat(count)), leaf).view_as(args[0]), *args[1:])

        return hook


def read_neurons(model: LanguageModel, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations at the blank (row, layer, neuron) and P(answer) (row,), without gradients."""
    inputs, at, wanted = model.batch(rows)
    index = torch.arange(len(rows), device=at.device)
    values: list[torch.Tensor] = []
    with torch.no_grad(), ExitStack() as stack:
        for second in model.seconds:
            handle = second.register_forward_pre_hook(
                lambda _, args: values.append(by_row(args[0], len(rows))[index, at])
            )
            stack.callback(handle.remove)
        p = model.logits(inputs, at).softmax(-1)
    return torch.stack(values, 1), p[index, wanted]


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
