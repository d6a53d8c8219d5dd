"""Integrals whose error is known: a cheap rule for all layers, an estimate of its error, and more points only
for the rows and layers where that is too large.

*The first pass* takes four Gauss-Legendre points in every layer. What it leaves behind gives an estimate at
no cost: along a layer's path, at the four nodes a_k, every neuron's contribution (w - b) dP/dw, hence P's
slope dP/da, and P itself, which the forward pass computes anyway; and P at the end. The polynomial p of
degree 8 through the nine numbers P(a_k), P'(a_k), P(1) says how fast the path's Legendre coefficients fall
off, and the contributions' own cubic part says on what scale:

    error ~ max |contribution's degrees 2, 3| * |p' of degrees 6, 7| / |p' of degrees 1 to 3|

A path on which the neurons' contributions fall off slowly while their sum does not is caught by a second
estimate, from the contributions' coefficients alone.

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

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from numpy.polynomial.polynomial import polyder

from ..model.language_model import LanguageModel
from ..model.rows import Row
from .batching import Room
from .kernel import PassResult, Paths, finite, travel
from .quadrature import AttributionError, quadrature

TOLERANCE = 0.01
#: Points of the first pass, and the rules that may follow in a layer.
FIRST, LEVELS = 4, (9, 17, 33, 65, 129, 257)


@dataclass(frozen=True)
class Samples:
    """Along a layer's paths: every neuron's contribution (row, node, neuron), P (row, node) and its slope."""

    contributions: torch.Tensor
    p: torch.Tensor
    slope: torch.Tensor

    @staticmethod
    def joined(parts: list[Samples], dim: int) -> Samples:
        """Those of several groups of rows (``dim`` 0), or at several groups of nodes (1)."""
        names = ("contributions", "p", "slope")
        return Samples(*(torch.cat([getattr(part, name) for part in parts], dim) for name in names))

    def of(self, rows: torch.Tensor) -> Samples:
        return Samples(self.contributions[rows], self.p[rows], self.slope[rows])

    def between(self, new: Samples) -> Samples:
        """These and what was found at the nodes between them, in the nodes' order."""
        both = Samples.joined([self, new], 1)
        old, fresh = self.p.shape[1], new.p.shape[1]
        order = torch.empty(old + fresh, dtype=torch.long, device=self.p.device)
        order[0::2], order[1::2] = torch.arange(old), old + torch.arange(fresh)
        return Samples(both.contributions[:, order], both.p[:, order], both.slope[:, order])


def samples(paths: Paths, layer: int, place: int, multiplier: str) -> Samples:
    """What one pass found along the paths of a layer, the ``place``-th of its layers; the mean over a row's
    paths."""
    contributions = paths.contributions(layer, multiplier)
    moved = contributions if multiplier == "difference" else paths.contributions(layer)
    p = (paths.points[place] * paths.share[:, None]).sum(0)
    return Samples(contributions.transpose(0, 1), p.T, moved.sum(-1).T)


def first_pass(
    model: LanguageModel, rows: list[Row], layers: list[int], *, multiplier: str = "difference", **path: Any
) -> PassResult:
    """Four Gauss-Legendre points in every layer, with the estimate of their error.

    Args:
        path: arguments of :func:`kn_utils.attribution.kernel.travel`.
    """
    order = sorted(set(layers))
    nodes, weights = quadrature("gauss-legendre", FIRST)
    paths = travel(model, rows, torch.as_tensor(nodes), order, **path)
    weights = torch.as_tensor(weights, dtype=paths.points.dtype, device=model.device)
    scores, sums, errors = [], [], []
    for place, layer in enumerate(order):
        found = samples(paths, layer, place, multiplier)
        scores.append((found.contributions * weights[:, None]).sum(1))
        sums.append((found.slope * weights).sum(1))
        errors.append(first_error(found, paths.probability))
    back = [order.index(layer) for layer in layers]
    gap = None if paths.change is None else (torch.stack(sums) - paths.change).T[:, back]
    error = torch.stack(errors, 1)[:, back]
    points = torch.full_like(error, FIRST)
    return finite(PassResult(torch.stack(scores, 1)[:, back], paths.probability, gap, error, points))


def first_error(found: Samples, end: torch.Tensor) -> torch.Tensor:
    """Estimated largest error of a row's scores by four Gauss-Legendre points, (row,); ``end`` is P(w)."""
    dtype, device = found.p.dtype, found.p.device
    contributions_of, slope_of = (torch.as_tensor(x, dtype=dtype, device=device) for x in _transforms())
    scale = torch.stack(
        [(found.contributions * one[:, None]).sum(1).abs().amax(-1) for one in contributions_of]
    )
    known = torch.cat([found.p, found.slope, end[:, None]], 1)
    size = (known[:, None] * slope_of).sum(-1).abs()  # (row, degree)
    tiny = torch.finfo(dtype).tiny
    fall = size[:, 6:].amax(1) / (size[:, 1:4].amax(1) + tiny)
    own = scale[3] / (scale[:3].amax(0) + tiny)
    return torch.maximum(scale[2:].amax(0) * fall.clamp(max=1), scale[3] * own.clamp(max=1) ** 2.5)


@cache
def _transforms() -> tuple[np.ndarray, np.ndarray]:
    """From values at four Gauss-Legendre nodes to their Legendre coefficients, (degree, node); from P and P'
    at the nodes and P(1) to the coefficients of P', degrees 0 to 7, (degree, 9)."""
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
    """Estimated largest error of a row's scores by the Clenshaw-Curtis rule of all its points, (row,)."""
    dtype, device = found.p.dtype, found.p.device
    points = found.p.shape[1]
    scores = []
    for every in (1, 2, 4):
        weights = quadrature("clenshaw-curtis", (points - 1) // every + 1)[1]
        weights = torch.as_tensor(weights, dtype=dtype, device=device)
        scores.append((found.contributions[:, ::every] * weights[:, None]).sum(1))
    last, before = ((scores[i] - scores[i + 1]).abs().amax(-1) for i in (0, 1))
    tiny = torch.finfo(dtype).tiny
    moved = last * (last / (before + tiny)).clamp(max=1)
    running = torch.as_tensor(_running_integral(points), dtype=dtype, device=device)
    apart = ((found.slope[:, None] * running).sum(-1) - (found.p - found.p[:, :1])).abs().amax(1)
    share = found.contributions.abs().amax((1, 2)) / (found.slope.abs().amax(1) + tiny)
    return torch.maximum(moved, apart * share.clamp(max=1))


@cache
def _running_integral(points: int) -> np.ndarray:
    """From values at Clenshaw-Curtis points to the integral from 0 to each of the points, (point, point)."""
    x = 2 * quadrature("clenshaw-curtis", points)[0] - 1
    coefficients = np.linalg.inv(chebyshev.chebvander(x, points - 1))
    return chebyshev.chebval(x, chebyshev.chebint(coefficients, lbnd=-1) / 2).T


class Controlled:
    """Scores rows so that no score's error is above a share of its prompt's largest score, as far as the
    estimates are right and ``LEVELS`` suffice.

    Args:
        first: scores rows at all layers, with estimates (:func:`first_pass`).
        more: (rows, [layer], nodes) -> samples.
        layers: what ``first`` stacks, in its order.
        n_layers: of the model.
    """

    def __init__(
        self,
        first: Room,
        more: Callable[[list[Row], list[int], np.ndarray], Samples],
        layers: list[int],
        n_layers: int,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.first, self.layers, self.n_layers, self.tolerance = first, layers, n_layers, tolerance
        self.more = more

    def __call__(self, rows: list[Row]) -> PassResult:
        part = self.first(rows)
        prompt = [row.prompt for row in rows]
        if self.tolerance is None:
            return part
        while True:
            limit = self.tolerance * _largest(part.scores, prompt)
            over = (part.error / limit.clamp(min=torch.finfo(limit.dtype).tiny)[:, None]).cpu().numpy()
            over[part.points.cpu().numpy() >= LEVELS[-1]] = 0
            if not (over > 1).any():
                return part
            # The worst layer first: its scores may be the largest, which the others are measured by.
            place = int(over.max(0).argmax())
            self._refine(part, rows, place, over[:, place], limit)

    def _refine(
        self, part: PassResult, rows: list[Row], place: int, over: np.ndarray, limit: torch.Tensor
    ) -> None:
        """More points for the rows that are over the limit in one layer; writes into ``part``."""
        held = part.points[:, place].cpu().numpy()
        start = np.array([_start(ratio, had) for ratio, had in zip(over, held, strict=True)])
        budget = len(rows) * FIRST * len(self.layers) * (self.n_layers + 1) // 2
        most = max(
            8, budget // (self.n_layers - self.layers[place])
        )  # copies: as much work as the first pass
        for level in sorted(set(start[over > 1])):
            chosen = np.flatnonzero((over > 1) & (start == level))
            points, found = int(level), None
            while len(chosen):
                nodes = quadrature("clenshaw-curtis", points)[0]
                asked = [rows[i] for i in chosen]
                if found is None:
                    found = self._sample(asked, place, nodes, most)
                else:
                    found = found.between(self._sample(asked, place, nodes[1::2], most))
                at = torch.as_tensor(chosen, device=limit.device)
                self._write(part, place, at, found)
                left = part.error[at, place] > limit[at]
                if points == LEVELS[-1]:
                    break
                keep = left.nonzero()[:, 0]
                chosen, found, points = chosen[keep.cpu().numpy()], found.of(keep), 2 * points - 1

    def _sample(self, rows: list[Row], place: int, nodes: np.ndarray, most: int) -> Samples:
        """In passes of at most so many copies: as many nodes at once as fit, then as many rows."""
        at_once = max(1, min(len(nodes), most))
        height = max(1, most // at_once)
        parts = []
        for i in range(0, len(rows), height):
            some = [
                self.more(rows[i : i + height], [self.layers[place]], nodes[j : j + at_once])
                for j in range(0, len(nodes), at_once)
            ]
            parts.append(Samples.joined(some, 1))
        return Samples.joined(parts, 0)

    def _write(self, part: PassResult, place: int, at: torch.Tensor, found: Samples) -> None:
        points = found.p.shape[1]
        weights = quadrature("clenshaw-curtis", points)[1]
        weights = torch.as_tensor(weights, dtype=found.p.dtype, device=found.p.device)
        part.scores[at, place] = (found.contributions * weights[:, None]).sum(1)
        part.error[at, place] = error_of(found)
        part.points[at, place] = points
        if part.gap is not None:
            part.gap[at, place] = (found.slope * weights).sum(1) - (found.p[:, -1] - found.p[:, 0])
        finite(part)


def _start(over: float, held: float) -> int:
    """With how many points to go on where the estimate is so many times too large."""
    wanted = 0 if over < 4 else 1 if over < 16 else 2
    return next(level for i, level in enumerate(LEVELS) if level > held and (i >= wanted or held > FIRST))


def _largest(scores: torch.Tensor, prompt: list[int]) -> torch.Tensor:
    """Per row the largest score of its prompt, whose scores are the mean over its rows."""
    largest, start = [], 0
    for i in range(1, len(prompt) + 1):
        if i == len(prompt) or prompt[i] != prompt[start]:
            largest.append(scores[start:i].mean(0).abs().amax().expand(i - start))
            start = i
    return torch.cat(largest)


def check_tolerance(tolerance: float | None, rule: str, model: LanguageModel, norm: str) -> None:
    """Refuse a tolerance that is none, or that a rule or a model cannot have."""
    if tolerance is None:
        return
    if not 0 < tolerance < 1:
        raise AttributionError(f"tolerance={tolerance}; it is a share of the largest score, between 0 and 1.")
    if rule != "auto":
        raise AttributionError(f"rule={rule!r} has a fixed number of points; a tolerance needs rule='auto'.")
    if model.norms_output and norm == "free":
        raise AttributionError(
            "this model normalises a feed-forward output before it is added, so the papers' path has no "
            "integral and no tolerance can be met: use rule='gradient', or norm='held'."
        )
