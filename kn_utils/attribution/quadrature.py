"""Quadrature rules: where along a path the gradient is taken, and what each place counts."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.polynomial import chebyshev

from ..base import StudyError

RULES = ("right", "left", "midpoint", "gauss-legendre", "clenshaw-curtis", "gradient")


class AttributionError(StudyError):
    """Scores that cannot be computed as asked, or that are not finite."""


def quadrature(rule: str = "gauss-legendre", steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Nodes a_k in [0, 1] and weights c_k (sum 1) of a rule.

    ``right``: a_k = k/m, k = 1..m, the papers' equation. ``left``: k = 0..m-1, what the released code
    computes. ``midpoint``: (k - 1/2)/m. ``gauss-legendre``: exact for polynomials of degree 2m - 1.
    ``clenshaw-curtis``: a_k = (1 - cos(pi k / (m - 1))) / 2, both ends among them, exact for degree m - 1; of
    2n - 1 points every second one makes the rule of n. ``gradient``: no integral, the gradient at the
    activation itself (a = 1) whatever ``steps`` is.
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
    if rule == "clenshaw-curtis":
        return _clenshaw_curtis(steps)
    if rule == "gradient":
        return np.ones(1), np.ones(1)
    raise AttributionError(f"unknown rule {rule!r}; known: {', '.join(RULES)}.")


def _clenshaw_curtis(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev's extreme points, and the integral of the cosine series through them.

    Clenshaw and Curtis (1960).
    """
    if points < 2:
        raise AttributionError(f"steps={points}; clenshaw-curtis needs both ends of the path, so at least 2.")
    n = points - 1
    angle = np.pi * np.arange(points) / n
    even = np.arange(0, n + 1, 2)
    # The integral of cos(j t) over x = cos t in [-1, 1] is 2 / (1 - j^2) for even j, else nothing.
    terms = np.where((even == 0) | (even == n), 1.0, 2.0) / (1.0 - even**2.0)
    weights = np.cos(np.outer(angle, even)) @ terms / n
    weights[[0, -1]] /= 2
    return (1 - np.cos(angle)) / 2, weights


@cache
def running_integral(points: int) -> np.ndarray:
    """From values at Clenshaw-Curtis points to the integral from 0 to each of the points, (point, point)."""
    x = 2 * quadrature("clenshaw-curtis", points)[0] - 1
    coefficients = np.linalg.inv(chebyshev.chebvander(x, points - 1))
    return chebyshev.chebval(x, chebyshev.chebint(coefficients, lbnd=-1) / 2).T
