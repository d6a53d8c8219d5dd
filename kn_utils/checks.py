"""What may be given: ranges of numbers, words, tables; one line says what is wrong, before any work.

:data:`RANGES` is the one place of all ranges. The library's functions check by :func:`check_numbers` what
their arguments of these names are given; :class:`kn_utils.StudyParameters` takes the same ranges for its
fields (:func:`bounds`), so a notebook, the command line and a script refuse the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from .base import StudyError


class ParameterError(StudyError):
    """An unknown parameter name, or a value that a parameter or an argument cannot have.

    Example:
        >>> from kn_utils import ParameterError, StudyParameters
        >>> try:
        ...     StudyParameters.check(seed=-1)
        ... except ParameterError as error:
        ...     print(error)
        parameter seed=-1: Input should be greater than or equal to 0.
    """


class DataError(StudyError):
    """A table, a wording or an answer that cannot be used; the message says which and why.

    Example:
        >>> from kn_utils import DataError, load_facts
        >>> try:
        ...     load_facts("mini", languages=["xx"])
        ... except DataError as error:
        ...     print(error)
        unknown language 'xx' in data set 'mini'; known: en, nl, ja, vi, zh, ko.
    """


@dataclass(frozen=True)
class Range:
    """The numbers that something may be.

    Attributes:
        low, high: the ends; ``high`` may be infinite, a number never.
        above, below: whether the low end, the high end itself is left out.
        whole: whether only whole numbers are meant.
        optional: whether ``None`` may be given: it means that nothing is asked for.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    optional: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the value is one of them. ``True`` and texts are no numbers."""
        if value is None:
            return self.optional
        kind = Integral if self.whole else Real
        if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
            return False
        return math.isfinite(value) and self._inside(value)

    def _inside(self, value: Any) -> bool:
        over = value > self.low if self.above else value >= self.low
        return bool(over and (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        noun = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.above else 'of at least'} {self.low:g}"
        if math.isinf(self.high):
            return f"{noun} {low}" + ("" if self.whole else ", and finite")
        return f"{noun} {low} and {'below' if self.below else 'at most'} {self.high:.10g}"


_SHARE = Range(0, 1, above=True)
_COUNT = Range(1, whole=True)
_LIMIT = Range(1, whole=True, optional=True)
_FORCE = Range(0)

#: Argument, parameter or setting -> what it may be.
RANGES = {
    "keep": _SHARE,
    "threshold": _SHARE,
    "share": _SHARE,
    "step": _SHARE,
    "common": Range(0, 1),
    "tolerance": Range(0, 1, above=True, below=True, optional=True),
    "steps": Range(1, 1000, whole=True, optional=True),
    "batch_size": _LIMIT,
    "wordings": _LIMIT,
    "known": _LIMIT,
    "masks": _LIMIT,
    "facts_per_relation": _LIMIT,
    "floor": _LIMIT,
    "rounds": Range(0, whole=True, optional=True),
    "k": _COUNT,
    "checked_prompts": _COUNT,
    "edits_per_relation": _COUNT,
    "erased": _COUNT,
    "located": _COUNT,
    "claims_per_relation": _LIMIT,
    "factor": _FORCE,
    "l1": _FORCE,
    "l2": _FORCE,
    "lr": Range(0, above=True),
    "seed": Range(0, 2**32 - 1, whole=True),  # numpy's and pandas' generators take no larger one
}


def bounds(name: str) -> dict[str, Any]:
    """A range as pydantic's fields take it."""
    own = RANGES[name]
    ends = {"gt" if own.above else "ge": own.low}
    if not math.isinf(own.high):
        ends["lt" if own.below else "le"] = own.high
    return ends if own.whole else {**ends, "allow_inf_nan": False}


def check_numbers(**given: Any) -> None:
    """Refuse what lies outside its range.

    Args:
        given: name in :data:`RANGES` -> value.

    Raises:
        ParameterError: of the first that does; the message says what it may be.
    """
    for name, value in given.items():
        if not RANGES[name].holds(value):
            raise ParameterError(f"{name}={value!r}; it is {RANGES[name]}.")


def check_words(known: Sequence[str], **given: Any) -> None:
    """Refuse a word that is none of those known."""
    for name, value in given.items():
        if not isinstance(value, str) or value not in known:
            listed = ", ".join(repr(word) for word in known[:-1]) + f" or {known[-1]!r}"
            raise ParameterError(f"{name}={value!r}; it is {listed}.")


def check_texts(**given: Any) -> None:
    """Refuse what is no text, or an empty one."""
    for name, value in given.items():
        if not isinstance(value, str) or not value.strip():
            raise ParameterError(f"{name}={value!r}; it is a text, and not an empty one.")


def check_names(**given: Any) -> None:
    """Refuse what is neither ``None`` nor a list of names with something in it."""
    for name, value in given.items():
        if value is None:
            continue
        listed = not isinstance(value, str) and isinstance(value, Iterable)
        if not listed or not list(value) or not all(isinstance(one, str) and one for one in value):
            raise ParameterError(
                f"{name}={value!r}; it is a list of names such as ['one', 'two'], or None for all of them."
            )


def check_target(target: Any) -> None:
    """Refuse a target that is no pair of a lower and a higher number of neurons; ``None`` is none."""
    if target is None:
        return
    pair = list(target) if isinstance(target, Sequence) and not isinstance(target, str) else []
    if len(pair) != 2 or not all(_FORCE.holds(end) for end in pair) or pair[0] > pair[1]:
        raise ParameterError(
            f"target={target!r}; it is the lowest and the highest mean number of neurons, such as (2, 5), or "
            f"None."
        )


def check_model(model: Any) -> None:
    """Refuse what is no language model of ours."""
    if not hasattr(model, "n_neurons"):
        what = f"the text {model!r}" if isinstance(model, str) else f"a {type(model).__name__}"
        raise ParameterError(
            f"model is {what}; load one by load_model(name), or wrap what is in memory by "
            f"LanguageModel(model, tokenizer)."
        )


def check_table(what: str, table: Any, columns: str, *, unique: str = "") -> None:
    """Refuse a table that lacks a column, or holds in one what it cannot hold.

    Args:
        what: what the message calls it.
        table: a table that was given.
        columns: those that are needed, by spaces.
        unique: columns in which no two rows may be alike.

    Raises:
        DataError: the message says what is wrong, and in which row.
    """
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{what} should be a table with columns {columns}; this is a {type(table).__name__}.")
    names = columns.split()
    if lacking := [name for name in names if name not in table.columns]:
        raise DataError(f"{what} lack the column {lacking[0]!r}; needed are: {', '.join(names)}.")
    for name in names:
        if (wrong := _wrong(name, table[name])) is not None and wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            value = table[name].iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            told = f" ({table['prompt'].iloc[row]})" if "prompt" in table.columns and name != "prompt" else ""
            raise DataError(
                f"{what}, row {row}{told}: {name} is {value!r}, and should be {_SAID.get(name, 'a text')}."
            )
    keys = unique.split()
    if keys and (again := table.duplicated(keys)).any():
        row = table.loc[again.to_numpy(), keys].iloc[0]
        raise DataError(f"{what} hold {', '.join(f'{key} {row[key]}' for key in keys)} more than once.")


#: What a column holds, where that is not any text.
_SAID = {
    "answer": "a text that is not empty",
    "text": "a text that is not empty",
    "masked": "'object' or 'subject'",
    "layer": "a whole number from 0",
    "neuron": "a whole number from 0",
    "score": "a finite number",
    "probability": "a number",
}
#: Columns that may hold anything.
_FREE = {"correct", "predicted", "prompts"}


def _wrong(name: str, column: pd.Series) -> np.ndarray | None:
    """Which rows of a column hold what it cannot hold; ``None``: whatever it holds is fine."""
    if name in _FREE:
        return None
    if name in ("layer", "neuron", "score", "probability"):
        number = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
        bad = ~np.isfinite(number)
        return bad if name in ("score", "probability") else bad | (number < 0) | (number % 1 != 0)
    if name == "masked":
        return ~column.isin(["object", "subject"]).to_numpy()
    try:  # each different value once
        place, different = pd.factorize(column, use_na_sentinel=False)
    except TypeError:  # lists and the like
        place, different = np.arange(len(column)), pd.Index(column, dtype=object)
    empty = [not isinstance(value, str) or not value.strip() for value in different]
    return np.array(empty, bool)[place]


#: Columns of a table of prompts that a model is asked.
ASKED = "prompt text answer masked"


def check_prompts(prompts: Any, columns: str = ASKED) -> None:
    """Refuse a table of prompts that cannot be asked: a column missing or unfilled, a prompt twice."""
    check_table("prompts", prompts, columns, unique="prompt")
