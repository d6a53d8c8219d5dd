"""Claims judged by named numbers: the rules are data, and no verdict is written by hand.

A claim has parts; a part is one named number (:mod:`kn_utils.run.numbers`) and a rule, ``below 0`` or ``above
another``. What counts is the whole 95 % interval: on the claim's side the part *holds*, on the other side it
*does not hold*, else it is *not shown*. Two numbers differ where their intervals are apart. That is strict
whatever they have to do with each other: the standard error of a difference is at most the sum of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError

HOLDS, IN_PART, NOT, OPEN, NOT_RUN = (
    "holds",
    "holds in part",
    "does not hold",
    "cannot be decided",
    "not run here",
)
#: In the order of a figure's legend.
VERDICTS = (HOLDS, IN_PART, NOT, OPEN, NOT_RUN)
#: What a part may be besides.
NOT_SHOWN, TOO_FEW, NO_INTERVAL = "not shown", "too few facts", "no interval"
#: An interval over fewer facts says too little about other facts to decide anything.
FEWEST = 10
KEYS = ["notebook", "measure", "neurons", "where"]
VALUES = ["value", "low", "high", "n"]


class RuleError(StudyError):
    """A rule that nobody can read."""


@dataclass(frozen=True)
class Rule:
    """Which side of what a number is claimed to lie on.

    Attributes:
        side: ``below`` or ``above``.
        limit: a number; ``None``: another named number.
    """

    side: str
    limit: float | None

    @classmethod
    def read(cls, text: str) -> Rule:
        """``below 0``, ``above 0.05``, ``above another``.

        Raises:
            RuleError: anything else.

        Example:
            >>> Rule.read("above 0.05")
            Rule(side='above', limit=0.05)
        """
        side, _, rest = text.partition(" ")
        try:
            limit = None if rest == "another" else float(rest)
        except ValueError:
            limit = np.nan
        if side not in ("below", "above") or limit is not None and not np.isfinite(limit):
            raise RuleError(f"rule {text!r}: should be below or above, and a number or another.")
        return cls(side, limit)


def judge(number: dict[str, Any], rule: Rule, other: dict[str, Any] | None = None) -> str:
    """Whether one part of a claim holds.

    Args:
        number: ``value, low, high, n`` of the named number.
        rule: which side it is claimed to lie on.
        other: the same of the other number, for rules with ``another``; without an interval of its own (the
            mean of permutations, say) it counts as its value.

    Returns:
        ``holds``, ``does not hold``, ``not shown`` (the limit lies inside the interval, or the intervals
        overlap), ``too few facts`` (below :data:`FEWEST`), ``no interval``.

    Raises:
        RuleError: a rule with ``another``, and no other number.

    Example:
        >>> judge({"value": -0.16, "low": -0.18, "high": -0.14, "n": 120}, Rule.read("below 0"))
        'holds'
    """
    if rule.limit is None and other is None:
        raise RuleError("a rule with another needs the other number.")
    given = [number] if rule.limit is not None or other is None else [number, other]
    if any(_missing(one["value"]) for one in given) or any(_missing(number[end]) for end in ("low", "high")):
        return NO_INTERVAL
    if any(one["n"] < FEWEST for one in given):
        return TOO_FEW
    if rule.limit is not None or other is None:
        ends = (rule.limit, rule.limit)
    elif _missing(other["low"]) or _missing(other["high"]):
        ends = (other["value"], other["value"])
    else:
        ends = (other["low"], other["high"])
    is_below, is_above = number["high"] < ends[0], number["low"] > ends[1]
    claimed, contrary = (is_below, is_above) if rule.side == "below" else (is_above, is_below)
    return HOLDS if claimed else NOT if contrary else NOT_SHOWN


def combine(parts: Sequence[str]) -> str:
    """The verdict on a claim, from those on its parts.

    ``not run here``: no part was; ``holds``: all do; ``holds in part``: some do, and others do not, are not
    shown, or were not run; ``does not hold``: none does, and one is contradicted; ``cannot be decided``: the
    rest, and a claim without parts.

    Example:
        >>> combine(["holds", "not shown"])
        'holds in part'
    """
    if not parts:
        return OPEN
    if all(part == NOT_RUN for part in parts):
        return NOT_RUN
    if all(part == HOLDS for part in parts):
        return HOLDS
    return IN_PART if HOLDS in parts else NOT if NOT in parts else OPEN


def judged_parts(parts: pd.DataFrame, numbers: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Every part for every model.

    Args:
        parts: ``id, part, rule``, a number's name (``notebook, measure, neurons, where``) and that of the
            other (``other_measure, other_neurons, other_where``; of the same notebook).
        numbers: ``model``, the name, ``value, low, high, n``.
        models: whose verdicts are wanted, whether they have numbers or not.

    Returns:
        ``parts`` once per model, with ``model, value, low, high, n``, the ``other`` number's (``other_value,
        other_low, other_high``), and ``verdict``.
    """
    found = {
        (row["model"], *(row[key] for key in KEYS)): {name: row[name] for name in VALUES}
        for row in numbers.to_dict("records")
    }
    rows = []
    for part in parts.to_dict("records"):
        rule = Rule.read(part["rule"])
        for model in models:
            name = (model, *(part[key] for key in KEYS))
            own = found.get(name)
            named = (part[f"other_{key}"] for key in KEYS[1:])
            other = found.get((model, part["notebook"], *named)) if rule.limit is None else None
            whole = own is not None and (other is not None or rule.limit is not None)
            verdict = judge(own, rule, other) if own is not None and whole else NOT_RUN
            beside = {f"other_{key}": (other or {}).get(key, np.nan) for key in VALUES[:3]}
            rows.append(
                part
                | {"model": model}
                | (own or dict.fromkeys(VALUES, np.nan))
                | beside
                | {"verdict": verdict}
            )
    table = pd.DataFrame(rows)
    ends = [*VALUES, *(f"other_{key}" for key in VALUES[:3])]
    return table.astype(dict.fromkeys(ends, float))


def judged_claims(judged: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Every claim for every model.

    Args:
        judged: of :func:`judged_parts`.
        ids: all claims, those without parts too; in this order.

    Returns:
        ``id, model, verdict, why``; why: how many parts are what.
    """
    rows = []
    models = list(dict.fromkeys(judged["model"]))
    for one in ids:
        for model in models:
            own = judged[(judged["id"] == one) & (judged["model"] == model)]["verdict"].tolist()
            why = ", ".join(f"{own.count(name)} {name}" for name in dict.fromkeys(own))
            why = f"{why} (of {len(own)})" if own else "no stored number decides it"
            rows.append({"id": one, "model": model, "verdict": combine(own), "why": why})
    return pd.DataFrame(rows)


def _missing(value: float | None) -> bool:
    return value is None or bool(np.isnan(value))
