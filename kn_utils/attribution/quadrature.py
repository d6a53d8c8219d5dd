"""Quadrature rules: where along a path the gradient is taken, and what each place counts."""

from __future__ import annotations

import numpy as np

from ..base import StudyError

RULES = ("right", "left", "midpoint", "gauss-legendre")


class AttributionError(StudyError):
    """Scores that cannot be computed as asked, or that are not finite."""


def quadrature(rule: str = "gauss-legendre", steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Nodes a_k in [0, 1] and weights c_k (sum 1) of a rule.

    ``right``: a_k = k/m, k = 1..m, the papers' equation. ``left``: k = 0..m-1, what the released code
    computes.
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
