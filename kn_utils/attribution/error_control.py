"""Integrals whose error is known.

A cheap rule for all layers, an estimate of its error, and more points only for the rows and layers where that
is too large.

*The first pass* takes four Gauss-Legendre points in every layer. What it leaves behind gives an estimate at
no cost: along a layer's path, at the four nodes a_k, every neuron's contribution (w - b) dP/dw, hence P's
slope dP/da, and P itself, which the forward pass computes anyway; and P at the end. The polynomial p of
degree 8 through the nine numbers P(a_k), P'(a_k), P(1) says how fast the path's Legendre coefficients fall
off, and the contributions' own cubic part says on what scale:

    max |contribution's degrees 2, 3| * fall,    fall = |p' of degrees 6, 7| / |p' of degrees 1 to 3|

A path that jumps between two nodes shows it in P alone; so the same with |p' of degrees 6, 7| times the
largest share that a neuron has in the slope. A path on which contributions fall off slowly while their sum
does not shows it in their own coefficients, |degree 3| * (|degree 3| / |degrees 0 to 2|)^2.5. The error is
taken to be the largest of the three, times 1 + 4 fall.

*More points* are Clenshaw-Curtis rules of 9, 17, 33, ... 257 points, each with the last one's points among
its own. Their error is the larger of two estimates that fail in different ways: how far the scores moved
from the last rule to this one, times how much less that was than the move before; and the largest
difference between P and the running integral of its slope at any node, times the largest share that a
neuron has in the slope. The first sees what cancels in the sum over neurons; the second sees a jump between
two nodes, and since it is taken at every node, errors before and behind it cannot cancel as they can in the
completeness gap.

Both are estimates, not bounds; how often they were too low is measured in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.polynomial.polynomial import polyder

from ..model.language_model import LanguageModel, on_device
from ..model.rows import Row
from .kernel import PassResult, Paths, travel
from .quadrature import quadrature, running_integral
from .reading import exact_type
from .walk import everywhere

TOLERANCE = 0.01
#: Points of the first pass, and the rules that may follow in a layer.
FIRST, LEVELS = 4, (9, 17, 33, 65, 129, 257)


@dataclass(frozen=True)
class Samples:
    """Along paths: every neuron's contribution (path, node, neuron), P (path, node) and its slope."""

    contributions: torch.Tensor
    p: torch.Tensor
    slope: torch.Tensor

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Samples:
        """The same change made to all three."""
        return Samples(change(self.contributions), change(self.p), change(self.slope))

    @staticmethod
    def together(parts: Sequence[Samples], join: Callable[..., torch.Tensor], dim: int = 0) -> Samples:
        """Several joined, by ``torch.cat`` or ``torch.stack``."""
        names = ("contributions", "p", "slope")
        return Samples(*(join([getattr(part, name) for part in parts], dim) for name in names))


@dataclass(frozen=True)
class Task:
    """A row to be sampled at some nodes of one layer's path."""

    row: Row
    layer: int
    nodes: tuple[float, ...]

    @property
    def ids(self) -> list[int]:
        """The row's, by whose number batches are cut."""
        return self.row.ids


@dataclass(frozen=True)
class Sampled:
    """Samples per task, (node, ...) each."""

    samples: list[Samples]

    @staticmethod
    def joined(parts: list[Sampled], dim: int) -> Sampled:
        """One result from those of several passes."""
        return Sampled([one for part in parts for one in part.samples])


def sample(
    model: LanguageModel, tasks: list[Task], *, multiplier: str = "difference", **path: Any
) -> Sampled:
    """What lies along the paths that the tasks ask for, by one pass.

    Args:
        path: arguments of :func:`kn_utils.attribution.kernel.travel`.
    """
    rows = list({id(task.row): task.row for task in tasks}.values())
    number = {id(row): i for i, row in enumerate(rows)}
    exact, plan = exact_type(model), {}
    for layer in sorted({task.layer for task in tasks}):
        here = [task for task in tasks if task.layer == layer]
        copies = [number[id(task.row)] for task in here for _ in task.nodes]
        nodes = [node for task in here for node in task.nodes]
        plan[layer] = (model.tensor(copies), model.tensor(nodes, exact))
    paths = travel(model, rows, plan, **path)
    found: dict[int, Iterator[Samples]] = {}
    for layer in plan:
        sizes = [len(task.nodes) for task in tasks if task.layer == layer]
        whole = along(paths, layer, multiplier)
        split = [values.split(sizes) for values in (whole.contributions, whole.p, whole.slope)]
        found[layer] = iter([Samples(*one) for one in zip(*split, strict=True)])
    return Sampled([next(found[task.layer]) for task in tasks])


def along(paths: Paths, layer: int, multiplier: str) -> Samples:
    """What one pass found at the copies of a layer, (copy, ...), the mean over a row's paths."""
    contributions = paths.contributions(layer, multiplier)
    moved = contributions if multiplier == "difference" else paths.contributions(layer)
    return Samples(contributions, paths.mean_p(layer), moved.sum(-1))


def first_pass(
    model: LanguageModel, rows: list[Row], layers: list[int], *, multiplier: str = "difference", **path: Any
) -> PassResult:
    """Four Gauss-Legendre points in every layer, with the estimate of their error.

    Args:
        path: arguments of :func:`kn_utils.attribution.kernel.travel`.
    """
    order, exact = sorted(set(layers)), exact_type(model)
    nodes, weights = (model.tensor(x, exact) for x in quadrature("gauss-legendre", FIRST))
    paths = travel(model, rows, everywhere(nodes, len(rows), order), **path)
    scores, sums, errors = [], [], []
    for layer in order:
        by_node = along(paths, layer, multiplier).map(lambda x: x.unflatten(0, (FIRST, -1)))
        scores.append((by_node.contributions * weights[:, None, None]).sum(0))
        sums.append((by_node.slope * weights[:, None]).sum(0))
        errors.append(first_error(by_node, paths.end))
    back = [order.index(layer) for layer in layers]
    gap = None if paths.change is None else (torch.stack(sums) - paths.change).T[:, back]
    error = torch.stack(errors, 1)[:, back]
    points = torch.full_like(error, FIRST)
    return PassResult(torch.stack(scores, 1)[:, back], paths.probability, gap, error, points)


def first_error(by_node: Samples, end: torch.Tensor) -> torch.Tensor:
    """Estimated largest error of a row's scores by four Gauss-Legendre points, (row,).

    Of samples (node, row, ...) and P(w).
    """
    dtype, device = end.dtype, end.device
    contributions_of, slope_of = (on_device(x, device, dtype) for x in _transforms())
    scale = torch.stack(
        [(by_node.contributions * one[:, None, None]).sum(0).abs().amax(-1) for one in contributions_of]
    )
    known = torch.cat([by_node.p, by_node.slope, end[None]])
    size = (slope_of[:, :, None] * known).sum(1).abs()  # (degree, row)
    tiny = torch.finfo(dtype).tiny
    fall = (size[6:].amax(0) / (size[1:4].amax(0) + tiny)).clamp(max=1)
    own = (scale[3] / (scale[:3].amax(0) + tiny)).clamp(max=1)
    share = by_node.contributions.abs().amax((0, 2)) / (by_node.slope.abs().amax(0) + tiny)
    estimates = (scale[2:].amax(0) * fall, size[6:].amax(0) * fall * share.clamp(max=1), scale[3] * own**2.5)
    return torch.stack(estimates).amax(0) * (1 + 4 * fall)  # less sure the less the path is resolved


@cache
def _transforms() -> tuple[np.ndarray, np.ndarray]:
    """What gives Legendre coefficients of samples at the four nodes.

    Returns:
        from values at the nodes to their coefficients, (degree, node); from P and P' at the nodes and P(1) to
        the coefficients of P', degrees 0 to 7, (degree, 9).
    """
    nodes, weights = quadrature("gauss-legendre", FIRST)
    degree = np.arange(FIRST)
    values = (2 * degree[:, None] + 1) * weights * legendre.legvander(2 * nodes - 1, FIRST - 1).T
    power = np.arange(2 * FIRST + 1)
    p = nodes[:, None] ** power
    slope = power * nodes[:, None] ** np.maximum(power - 1, 0)
    through = np.linalg.inv(np.vstack([p, slope, np.ones(len(power))]))
    x = np.polynomial.Polynomial([0.5, 0.5])  # a = (x + 1) / 2
    derivative = [
        legendre.poly2leg(np.polynomial.Polynomial(polyder(column))(x).coef) for column in through.T
    ]
    return values, np.stack([np.pad(one, (0, 2 * FIRST - len(one))) for one in derivative], 1)


def error_of(found: Samples) -> torch.Tensor:
    """Estimated largest error of a path's scores by the Clenshaw-Curtis rule of all its points, (path,)."""
    dtype, device = found.p.dtype, found.p.device
    points = found.p.shape[1]
    scores = []
    for every in (1, 2, 4):
        rule = quadrature("clenshaw-curtis", (points - 1) // every + 1)[1]
        weights = on_device(rule, device, dtype)
        scores.append((found.contributions[:, ::every] * weights[:, None]).sum(1))
    last, before = ((scores[i] - scores[i + 1]).abs().amax(-1) for i in (0, 1))
    tiny = torch.finfo(dtype).tiny
    moved = last * (last / (before + tiny)).clamp(max=1)
    running = on_device(running_integral(points), device, dtype)
    apart = ((found.slope[:, None] * running).sum(-1) - (found.p - found.p[:, :1])).abs().amax(1)
    share = found.contributions.abs().amax((1, 2)) / (found.slope.abs().amax(1) + tiny)
    return torch.maximum(moved, apart * share.clamp(max=1))


@dataclass
class _Pair:
    """A row and a layer that need more points, and what is known of the path so far."""

    row: int
    place: int
    points: int
    samples: Samples | None = None

    @property
    def missing(self) -> np.ndarray:
        """The nodes that are not sampled yet."""
        nodes = quadrature("clenshaw-curtis", self.points)[0]
        return nodes if self.samples is None else nodes[1::2]

    def add(self, new: Samples) -> None:
        if self.samples is not None:
            old, self.samples = self.samples, None
            both = Samples.together([old, new], torch.cat)
            between = torch.arange(self.points, device=new.p.device)
            order = torch.where(between % 2 == 0, between // 2, len(old.p) + between // 2)
            new = both.map(lambda x: x[order])
        self.samples = new


class Controlled:
    """Scores rows so that no score's error is above a share of its prompt's largest score.

    As far as the estimates are right and ``LEVELS`` suffice.

    Args:
        first: scores rows at all layers, with estimates (:func:`first_pass`).
        more: tasks -> samples (:func:`sample`).
        layers: what ``first`` stacks, in its order.
        n_layers: of the model.
    """

    def __init__(
        self,
        first: Callable[[list[Row]], PassResult],
        more: Callable[[list[Task]], Sampled],
        layers: list[int],
        n_layers: int,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.first, self.more = first, more
        self.layers, self.n_layers, self.tolerance = layers, n_layers, tolerance

    def __call__(self, rows: list[Row]) -> PassResult:
        """Scores of these rows, their estimated errors and points."""
        part = self.first(rows)
        prompt = [row.prompt for row in rows]
        while True:
            limit = self.tolerance * _largest(part.scores, prompt)
            error = part.error / limit.clamp(min=torch.finfo(limit.dtype).tiny)[:, None]
            over: Any = torch.where(part.points < LEVELS[-1], error, 0).cpu().numpy()
            if not (over > 1).any():
                return part
            # More points also change the largest scores, by which the others are measured: then look again.
            held = part.points.cpu().numpy()
            pairs = [_Pair(i, j, _level(over[i, j], held[i, j])) for i, j in np.argwhere(over > 1)]
            self._refine(part, rows, pairs, limit)

    def _refine(self, part: PassResult, rows: list[Row], pairs: list[_Pair], limit: torch.Tensor) -> None:
        """More points for pairs of rows and layers, until each is below its row's limit, into ``part``."""
        while pairs:
            tasks = [Task(rows[pair.row], self.layers[pair.place], tuple(pair.missing)) for pair in pairs]
            for pair, new in zip(pairs, self._sampled(tasks, len(rows)), strict=True):
                pair.add(new)
            left = []
            for points in sorted({pair.points for pair in pairs}):
                same = [pair for pair in pairs if pair.points == points]
                above = self._write(part, same, points, limit)
                left += [pair for pair, one in zip(same, above, strict=True) if one]
            pairs = [pair for pair in left if pair.points < LEVELS[-1]]
            for pair in pairs:
                pair.points = 2 * pair.points - 1

    def _write(self, part: PassResult, pairs: list[_Pair], points: int, limit: torch.Tensor) -> list[bool]:
        """Scores of pairs with equally many points into ``part``; which of them are above their limit."""
        samples = [pair.samples for pair in pairs if pair.samples is not None]  # all of them by now
        found = Samples.together(samples, torch.stack)
        i, j = (on_device(x, limit.device) for x in zip(*((p.row, p.place) for p in pairs), strict=True))
        rule = quadrature("clenshaw-curtis", points)[1]
        weights = on_device(rule, limit.device, limit.dtype)
        part.scores[i, j] = (found.contributions * weights[:, None]).sum(1)
        part.error[i, j] = error_of(found)
        part.points[i, j] = points
        if part.gap is not None:
            part.gap[i, j] = (found.slope * weights).sum(1) - (found.p[:, -1] - found.p[:, 0])
        return (part.error[i, j] > limit[i]).tolist()

    def _sampled(self, tasks: list[Task], rows: int) -> list[Samples]:
        """In passes of at most as much work as the first one of so many rows, as far as tasks can be cut."""
        budget = rows * FIRST * len(self.layers) * (self.n_layers + 1) // 2
        cut: list[tuple[int, Task]] = []
        for number, task in enumerate(tasks):
            most = max(8, budget // (self.n_layers - task.layer))
            for start in range(0, len(task.nodes), most):
                cut.append((number, Task(task.row, task.layer, task.nodes[start : start + most])))
        pieces: list[list[Samples]] = [[] for _ in tasks]
        start, work = 0, 0
        for i, (_, task) in enumerate(cut):
            work += len(task.nodes) * (self.n_layers - task.layer)
            after = cut[i + 1][1] if i + 1 < len(cut) else None
            if after is None or work + len(after.nodes) * (self.n_layers - after.layer) > budget:
                found = self.more([task for _, task in cut[start : i + 1]])
                for (number, _), one in zip(cut[start : i + 1], found.samples, strict=True):
                    pieces[number].append(one)
                start, work = i + 1, 0
        return [Samples.together(one, torch.cat) for one in pieces]


def _level(over: float, held: float) -> int:
    """With how many points to go on where the estimate is so many times too large."""
    start = 0 if held > FIRST or over < 3 else 1 if over < 12 else 2
    return next(level for level in (*LEVELS[start:], LEVELS[-1]) if level > held)


def _largest(scores: torch.Tensor, prompt: list[int]) -> torch.Tensor:
    """Per row the largest score of its prompt, whose scores are the mean over its rows."""
    largest, start = [], 0
    for i in range(1, len(prompt) + 1):
        if i == len(prompt) or prompt[i] != prompt[start]:
            largest.append(scores[start:i].mean(0).abs().amax().expand(i - start))
            start = i
    return torch.cat(largest)
