"""The papers' printed numbers."""

from __future__ import annotations

import pandas as pd

from ..base import DATA, StudyError

PRINTED = DATA / "published" / "printed.csv"


def printed(paper: str | None = None) -> pd.DataFrame:
    """What the papers say, a row per printed number.

    Args:
        paper: one of them; ``None``: all.

    Returns:
        ``paper, table, model, dataset, relation, quantity, language, value, unit, status, note``; ``status``
        is ``printed`` (read in the paper) or ``recalled`` (from memory, not checked again).

    Raises:
        StudyError: no such paper; the message lists the known.
    """
    missing = {"keep_default_na": False, "na_values": {"value": [""]}}
    rows = pd.read_csv(PRINTED, dtype={"value": float}, encoding="utf-8", **missing)
    if paper is not None and paper not in set(rows["paper"]):
        raise StudyError(f"no printed numbers of {paper!r}; known: {', '.join(rows['paper'].unique())}.")
    return rows if paper is None else rows[rows["paper"] == paper].reset_index(drop=True)
