"""The attribution kernel: integrated gradients of every layer's neurons at the blank, in one pass.

For layer l the whole vector of neurons at the blank moves from a baseline b to its value w (equation 6 of Dai
et al. 2022):

    score_i = (w_i - b_i) * sum_k c_k dP(answer)/dw_i  at  b + a_k (w - b)

with nodes a_k and weights c_k of a quadrature rule. The scores of a layer sum to P(w) - P(b) up to the rule's
error; that difference is reported as the *gap*.

All layers in one pass. Up to and inside block l every point of l's path is the same computation, except for
the output of block l at the blank. So the batch grows on its way up: behind block l the base rows are copied
once per node, and the copies' hidden state at the blank is moved along by the value slots
(:class:`kn_utils.model.blocks.BlockEnd`). At the top one backward pass gives the gradients of every layer's
points. A left-to-right model never lets the tokens in front of the blank see it: there a copy is the blank's
token alone, and reads the prefix's keys and values, which are computed once.

Where a feed-forward output is normalised before it is added, scaling all neurons of a layer changes nothing:
there P is flat along the path, the gradient at a w is that at w divided by a, and a rule gives
sum_k c_k / a_k times gradient x activation, whatever the fact. ``norm="held"`` holds that norm's scale at its
value at the path's end: the path then goes over what the layer adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..model.language_model import LanguageModel
from ..model.rows import Row
from .precision import computing_in
from .prefixes import Run, entered
from .quadrature import AttributionError, quadrature
from .reading import BASELINES, exact_type, path_starts
from .targets import Target
from .walk import Ends, Plan, Walk, everywhere

MULTIPLIERS = ("difference", "activation")
NORMS = ("free", "held")


@dataclass(frozen=True)
class PassResult:
    """Of a batch of rows: scores (row, layer, neuron), P(answer) (row,), and what was asked of their errors.

    The completeness gap (row, layer) or ``None``; where errors are controlled, the estimated error of a score
    and the points taken (row, layer).
    """

    scores: torch.Tensor
    probability: torch.Tensor
    gap: Any  # a tensor, or None where it was not asked for; so are the next two
    error: Any = None
    points: Any = None

    @staticmethod
    def joined(parts: list[PassResult], dim: int) -> PassResult:
        """One result from those of several groups of rows (``dim`` 0) or of layers (1)."""

        def together(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values, dim)

        probability = parts[0].probability if dim else together("probability")
        return PassResult(
            together("scores"), probability, together("gap"), together("error"), together("points")
        )


@dataclass(frozen=True)
class Paths:
    """What one pass found along the paths of some layers, at the copies of its plan.

    What P is here and below is the log-odds or the logarithm where these are asked for.

    Attributes:
        probability: P(answer) of the rows as they are, (row,), itself in any case.
        end: P of the rows as they are, (row,).
        rows: per layer, the row of each copy, (copy,).
        p: per layer, P at the copies' points, (path, copy).
        gradients: per layer, of P by the neurons at these points, (path, copy, neuron).
        values, moves: per layer, w (row, neuron) and w - b (path, row, neuron).
        share: of each path in its row's mean, (path, row).
        change: P(w) - P(b), (layer, row), where it was asked for.
    """

    probability: torch.Tensor
    end: torch.Tensor
    rows: dict[int, torch.Tensor]
    p: dict[int, torch.Tensor]
    gradients: dict[int, torch.Tensor]
    values: dict[int, torch.Tensor]
    moves: dict[int, torch.Tensor]
    share: torch.Tensor
    change: torch.Tensor | None

    def contributions(self, layer: int, multiplier: str = "difference") -> torch.Tensor:
        """(w - b) dP/dw, or w dP/dw, at the copies, the mean over a row's paths: (copy, neuron)."""
        # No matrix product: the caller's TF32 or autocast would round it.
        rows = self.rows[layer]
        gradients = self.gradients[layer] * self.share[:, rows, None]
        if multiplier == "difference":
            return (gradients * self.moves[layer][:, rows]).sum(0)
        return gradients.sum(0) * self.values[layer][rows]

    def mean_p(self, layer: int) -> torch.Tensor:
        """P at the copies, the mean over a row's paths: (copy,)."""
        return (self.p[layer] * self.share[:, self.rows[layer]]).sum(0)


def integrate(
    model: LanguageModel,
    rows: list[Row],
    *,
    rule: str = "gauss-legendre",
    steps: int = 4,
    baseline: str = "zero",
    multiplier: str = "difference",
    norm: str = "free",
    scale: str = "probability",
    layers: Sequence[int] | None = None,
    gap: bool = False,
    precision: str | None = None,
    check: bool = True,
) -> PassResult:
    """Integrated gradients of a batch of rows, all layers in one pass (see the module's text).

    Args:
        rows: from ``model.encode``, one per piece of an answer; or from
            :func:`kn_utils.model.typed.typed_rows`, whose pieces compete with a few others.
        rule, steps: see :func:`kn_utils.attribution.quadrature.quadrature`.
        baseline: where the path starts: ``zero``; ``replacement``, the mean over the row's tokens of the
            neurons' values with that token replaced by the mask (left-to-right models: the end-of-text
            token), as AMIG's code does; ``replacement-each``, one path per replaced token and the mean of
            their scores, as AMIG's text says; ``replacement-content``, the mean over tokens that are neither
            special nor at the blank; ``relation-mean``, the row's own ``start``.
        multiplier: ``difference`` (w - b); ``activation`` (w alone, AMIG's equation 4, which is not
            complete).
        norm: ``free``; ``held`` (models that normalise a feed-forward output before it is added): that norm
            keeps its scale along the path.
        scale: of P, or the function of it that is asked for: ``log-odds``, ``log``.
        layers: only these layers (their scores are stacked in this order); ``None`` takes all.
        gap: also compute sum((w - b) gradient) - (P(w) - P(b)), at the cost of one more pass without
            gradients.
        precision: of the matrix products, see :mod:`kn_utils.attribution.precision`.
        check: whether scores are looked at here, for which the host waits for an accelerator.

    Raises:
        AttributionError: an unknown option, a layer that the model does not have, scores that are not finite.
    """
    chosen = chosen_layers(model, layers)
    check_options(model, baseline, multiplier, norm)
    order = sorted(set(chosen))
    exact = exact_type(model)
    nodes, weights = (model.tensor(x, exact) for x in quadrature(rule, steps))
    plan = everywhere(nodes, len(rows), order)
    path: dict[str, Any] = {"baseline": baseline, "precision": precision, "scale": scale}
    if not gap and without_copies(rule, norm):
        paths = at_ends(model, rows, order, **path)
    else:
        paths = travel(model, rows, plan, held=norm == "held", change=gap, **path)

    def integral(contributions: torch.Tensor) -> torch.Tensor:
        return (contributions.view(len(nodes), len(rows), -1) * weights[:, None, None]).sum(0)

    scores = [integral(paths.contributions(layer, multiplier)) for layer in order]
    gaps, place = None, [order.index(layer) for layer in chosen]
    if gap:
        sums = torch.stack([integral(paths.contributions(layer)).sum(-1) for layer in order])
        assert paths.change is not None  # it was asked for
        gaps = (sums - paths.change).T[:, place]
    made = PassResult(torch.stack(scores, 1)[:, place], paths.probability, gaps)
    return finite(made) if check else made


def chosen_layers(model: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    """The layers asked for, all of them for ``None``; an error names the model's."""
    chosen = list(range(model.n_layers)) if layers is None else list(layers)
    if not chosen or any(not 0 <= layer < model.n_layers for layer in chosen):
        raise AttributionError(f"layers={chosen}; the model has layers 0 to {model.n_layers - 1}.")
    return chosen


def check_options(model: LanguageModel, baseline: str, multiplier: str, norm: str) -> None:
    """Refuse options that are unknown, or that this model does not have."""
    options = (
        ("baseline", baseline, BASELINES),
        ("multiplier", multiplier, MULTIPLIERS),
        ("norm", norm, NORMS),
    )
    for name, value, known in options:
        if value not in known:
            raise AttributionError(f"unknown {name} {value!r}; known: {', '.join(known)}.")
    if norm == "held" and not model.norms_output:
        raise AttributionError(
            "norm='held' is for models that normalise a feed-forward output before it is added; this one, "
            f"{model.model.config.model_type}, does not: use norm='free'."
        )


def finite(result: PassResult) -> PassResult:
    """The same, or an error where a score is not a number."""
    if not torch.isfinite(result.scores).all():
        raise AttributionError(
            "scores are not finite; check the weights and activations for NaN and infinite values."
        )
    return result


def travel(
    model: LanguageModel,
    rows: list[Row],
    plan: Plan,
    *,
    baseline: str = "zero",
    held: bool = False,
    scale: str = "probability",
    change: bool = False,
    precision: str | None = None,
) -> Paths:
    """P and its gradients at the points of a plan, in one pass.

    Args:
        plan: which rows at which places of which layers' paths, see :class:`kn_utils.attribution.walk.Walk`.
        change: also find P(w) - P(b) of all rows in the plan's layers, by a pass without gradients.
    """
    size, layers, target = len(rows), sorted(plan), Target(model, rows, scale)
    with computing_in(model, precision), target.installed():
        starts, share = path_starts(model, rows, layers, baseline)
        run = entered(model, rows)
        walk = Walk(plan, starts, held)
        p, gradients = _gradients(run, walk, target)
        moved = None
        if change:  # P at the paths' starts: (layer, path, row) behind the base rows
            ends = everywhere(torch.zeros(1, dtype=walk.dtype, device=model.device), size, layers)
            first = values_at(run, Walk(ends, starts, held), target)
            moved = first[:size] - (first[size:].view(len(layers), len(share), size) * share).sum(1)
    return Paths(
        target.probability(p[0]),
        p[0],
        {layer: plan[layer][0] for layer in layers},
        {layer: one.view(len(share), -1) for layer, one in zip(layers, p[1:], strict=True)},
        {layer: found.unflatten(0, (len(share), -1)) for layer, found in gradients.items()},
        walk.values,
        {layer: walk.moves(layer) for layer in layers},
        share,
        moved,
    )


def without_copies(rule: str, norm: str) -> bool:
    """Whether a rule asks for the ends of paths only, which :func:`at_ends` finds in a pass of the rows.

    With a held norm the gradient there is another one than the model's.
    """
    return rule == "gradient" and norm == "free"


def at_ends(
    model: LanguageModel,
    rows: list[Row],
    layers: list[int],
    *,
    baseline: str = "zero",
    scale: str = "probability",
    precision: str | None = None,
) -> Paths:
    """P and its gradients at the ends of all layers' paths, where the rows are as they are.

    One pass of the rows there and back, without a copy: :func:`travel` at the node 1 gives the same.
    """
    size, target = len(rows), Target(model, rows, scale)
    with computing_in(model, precision), target.installed():
        starts, share = path_starts(model, rows, layers, baseline)
        one = torch.ones(1, dtype=exact_type(model), device=model.device)
        walk = Ends(layers, size, starts, one)
        with torch.enable_grad():
            logits = entered(model, rows)(walk)
        with torch.no_grad():
            p, slope = target.descent(logits.detach().to(walk.dtype), walk.rows)
        found = torch.autograd.grad(logits, [walk.leaves[layer] for layer in layers], slope.to(logits.dtype))
    outer = target.outer(p)
    paths = len(share)
    gradients = [(outer[:, None] * each.to(p.dtype)).expand(paths, -1, -1) for each in found]
    return Paths(
        target.probability(p),
        p,
        dict.fromkeys(layers, walk.base),
        dict.fromkeys(layers, p.expand(paths, -1)),
        dict(zip(layers, gradients, strict=True)),
        walk.values,
        {layer: walk.moves(layer) for layer in layers},
        share,
        None,
    )


def _gradients(
    run: Run, walk: Walk, target: Target
) -> tuple[tuple[torch.Tensor, ...], dict[int, torch.Tensor]]:
    """P and its gradients, by one pass there and back.

    Returns:
        P of the base rows (row,) and of each layer's copies (path * copy,); every layer's gradients of P with
        respect to its points, (path * copy, neuron).
    """
    size = len(target.rows)
    with torch.enable_grad():
        logits = run(walk)
    with torch.no_grad():
        every, slope = target.descent(logits.detach().to(walk.dtype), walk.rows)
        slope[:size] = 0
    leaves = [walk.leaves[layer] for layer in walk.layers]
    found = torch.autograd.grad(logits, leaves, slope.to(logits.dtype))
    p = every.split([size, *map(len, leaves)])
    gradients = {
        layer: target.outer(points)[:, None] * one.to(points.dtype)
        for layer, points, one in zip(walk.layers, p[1:], found, strict=True)
    }
    return p, gradients


def values_at(run: Run, walk: Walk, target: Target) -> torch.Tensor:
    """P, or the function of it, of every row of the grown batch, without gradients."""
    with torch.no_grad():
        return target.value(run(walk).to(walk.dtype), walk.rows)
