"""Do sets of neurons stand in for one another? A search that asks what sets are worth, whoever knows it.

``f(S)`` is a fact's log-odds with the neurons of S silenced, S among its located neurons N. What N carries is
``f(nothing) - f(N)``. A subset is *sufficient* if with it alone, the rest of N silenced, at most ``slack`` of
that is lost. Neurons are left out one by one, that of the least loss first, until none can be spared: a
*minimal* sufficient set. It is put aside, and what is left of N is searched again as long as it suffices
alone. The **order of degeneracy** is the number of disjoint sufficient sets that are found so: 1: none but
itself carries the fact; 2: it is carried twice. The search goes the shortest way, so the order is a lower
bound.

If losses add up and each is one, the second set would have to carry 1 - ``slack`` where at most ``slack`` is
left: the order is 1. Neurons that work against the answer can make it larger, so beside every order stands
that of the *additive null*, the same search in ``f(nothing) - sum of the single losses``.

**Redundant sets** are disjoint A and B, each of which can go (a loss of at most ``slack``), but not both
(``2 slack + margin`` at least).

The search does not ask for values itself: it yields sets and is sent what they are worth, so that the
searches of many facts share a pass (:mod:`kn_utils.experiments.degenerate`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ..base import StudyError

#: Neurons of N, by their number, that are silenced.
Silenced = frozenset[int]
#: A search: yields sets, is sent as many values.
Search = Generator[list[Silenced], Sequence[float], "Searched"]
#: What may be lost without harm, and what two losses must exceed together, as shares of what N carries.
SLACK, MARGIN = 0.25, 0.25


class DegenerateError(StudyError):
    """A search that cannot be made as asked."""


@dataclass(frozen=True)
class Searched:
    """What a search has found.

    Attributes:
        full, none: log-odds with nothing silenced, with all of N.
        losses: of each neuron alone, (n,).
        found: disjoint sufficient sets, in the order in which they were found; none where N carries nothing.
        left: the share of what N carries that its neurons outside the first set carry alone.
        redundant: A and B; empty where there are none.
        harmful: of all tries to leave a neuron out, the share after which the answer was more probable.
    """

    full: float
    none: float
    losses: np.ndarray
    found: tuple[Silenced, ...]
    left: float
    redundant: tuple[Silenced, Silenced]
    harmful: float

    @property
    def order(self) -> int:
        """The number of disjoint sufficient sets."""
        return len(self.found)


def search(n: int, slack: float = SLACK, margin: float = MARGIN) -> Search:
    """Search n neurons for disjoint minimal sufficient sets, and for two that are redundant.

    Args:
        n: how many there are.
        slack, margin: shares of what they carry.

    Yields:
        sets to be silenced; their values are to be sent.

    Returns:
        :class:`Searched`.

    Raises:
        DegenerateError: no neuron; shares that would call an additive fact degenerate.
    """
    if n < 1:
        raise DegenerateError("there is no neuron to search among.")
    if not (0 <= slack < 0.5 and 0 <= margin and 2 * slack + margin <= 1):
        raise DegenerateError(
            f"slack={slack}, margin={margin}: slack is below 0.5, and 2 slack + margin at most 1."
        )
    every: Silenced = frozenset(range(n))
    full, none, *alone = yield [frozenset(), every, *(frozenset([i]) for i in range(n))]
    losses, carried = full - np.array(alone, dtype=float), full - none
    if not carried > 0:
        return Searched(full, none, losses, (), np.nan, (frozenset(), frozenset()), np.nan)
    floor, found, rest, worth = full - slack * carried, [], every, full
    left = np.nan
    worse: list[bool] = []
    while rest and worth >= floor:
        kept, tried = yield from _minimal(every, rest, worth, floor)
        found.append(kept)
        worse += tried
        rest = rest - kept
        worth = none
        if rest:
            (worth,) = yield [every - rest]
        if len(found) == 1:
            left = (worth - none) / carried
    redundant = yield from _redundant(losses, full, carried, slack, margin)
    share = sum(worse) / max(len(worse), 1)
    return Searched(full, none, losses, tuple(found), float(left), redundant, share)


def _minimal(
    every: Silenced, kept: Silenced, worth: float, floor: float
) -> Generator[list[Silenced], Sequence[float], tuple[Silenced, list[bool]]]:
    """A minimal sufficient subset of ``kept``; and of each try without a neuron whether it was better."""
    worse: list[bool] = []
    while len(kept) > 1:
        members = sorted(kept)
        values = yield [every - (kept - {i}) for i in members]
        worse += [value > worth for value in values]
        best = int(np.argmax(values))
        if values[best] < floor:
            break
        kept, worth = kept - {members[best]}, values[best]
    return kept, worse


def _redundant(
    losses: np.ndarray, full: float, carried: float, slack: float, margin: float
) -> Generator[list[Silenced], Sequence[float], tuple[Silenced, Silenced]]:
    """Two disjoint sets that can each go, but not both; weak neurons are put together first."""
    pair: list[Silenced] = []
    free = [int(i) for i in np.argsort(losses, kind="stable")]
    for _ in range(2):
        if not free:
            return frozenset(), frozenset()
        starts = [frozenset(free[:size]) for size in range(1, len(free) + 1)]
        values = yield starts
        lost = (full - np.array(values)) / carried
        size = int(np.argmax(np.append(lost > slack, True)))  # up to the first that is missed
        pair.append(frozenset(free[:size]))
        free = free[size:]
    one, other = pair
    if not one or not other:
        return frozenset(), frozenset()
    (both,) = yield [one | other]
    enough = (full - both) / carried >= 2 * slack + margin
    return (one, other) if enough else (frozenset(), frozenset())


def searched(value: Callable[[Silenced], float], n: int, **shares: float) -> Searched:
    """:func:`search` in a function of the silenced set.

    Example:
        >>> either = lambda silenced: float(not {0, 1} <= silenced)  # lost only if both are gone
        >>> searched(either, 2).order
        2
    """
    steps = search(n, **shares)
    asked = next(steps)
    while True:
        try:
            asked = steps.send([float(value(silenced)) for silenced in asked])
        except StopIteration as end:
            return end.value


def additive(found: Searched, **shares: float) -> Searched:
    """The same search where the neurons' single losses merely add up: the null of an order."""
    losses = found.losses
    return searched(lambda silenced: found.full - float(losses[list(silenced)].sum()), len(losses), **shares)


#: Planted structures of four neurons, by name: log-odds by what is silenced, and the order to be found.
PLANTED: dict[str, tuple[Callable[[Silenced], float], int]] = {
    "a sum of four": (lambda gone: float(4 - len(gone)), 1),
    "both of two needed": (lambda gone: 4.0 * (not {0, 1} & gone), 1),
    "either of two": (lambda gone: 4.0 * (not {0, 1} <= gone), 2),
    "either of two pairs": (lambda gone: 4.0 * (not {0, 1} & gone or not {2, 3} & gone), 2),
    "any one of four": (lambda gone: 4.0 * (len(gone) < 4), 4),
}
