"""Published data sets, one file each, all returning the tables of :mod:`kn_utils.facts`."""

from __future__ import annotations

from collections.abc import Callable

from ..facts import DataError, Facts
from . import mini

#: Data set name -> function that reads it. A new data set is a file beside this one and a row here.
DATASETS: dict[str, Callable[[], Facts]] = {"mini": mini.read}


def load_facts(
    dataset: str = "mini", *, languages: list[str] | None = None, relations: list[str] | None = None
) -> Facts:
    """A data set's ``entities, facts, templates``, or the chosen languages and relations of it.

    Raises:
        DataError: unknown data set, language or relation (the message lists the known ones); a broken table.
    """
    if dataset not in DATASETS:
        raise DataError(f"unknown dataset {dataset!r}; known: {', '.join(DATASETS)}.")
    return DATASETS[dataset]().select(languages, relations)
