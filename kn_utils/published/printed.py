"""The papers' printed numbers, alone and beside ours."""

from __future__ import annotations

import pandas as pd

from ..base import DATA, StudyError

PRINTED = DATA / "published" / "printed.csv"
OUR_NAMES = DATA / "published" / "our_names.csv"
NAME = ["measure", "neurons", "where"]


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


def printed_as_ours(paper: str, measure: str | None = None) -> pd.DataFrame:
    """The numbers of a paper that this study asks for as well, under this study's names for them.

    Args:
        measure: only the numbers of this measure.

    Returns:
        :func:`printed` with ``measure, neurons, where`` (:mod:`kn_utils.run.numbers`).

    Raises:
        StudyError: a paper or a measure of which there is no number.
    """
    names = pd.read_csv(OUR_NAMES, dtype=str, keep_default_na=False, encoding="utf-8")
    rows = printed(paper).merge(names, on=["paper", "quantity"])
    if measure is not None and measure not in set(rows["measure"]):
        known = "; ".join(rows["measure"].unique())
        raise StudyError(f"no printed numbers of {paper} are called {measure!r}; known: {known}.")
    return rows if measure is None else rows[rows["measure"] == measure].reset_index(drop=True)


def beside(numbers: pd.DataFrame, paper: str) -> pd.DataFrame:
    """This study's numbers beside a paper's for the same measure, neurons and place, in the paper's unit.

    Other models, facts and scales: what can be compared is the pattern, not the size.

    Args:
        numbers: ``measure, neurons, where, value, low, high, n``
            (:func:`kn_utils.run.numbers.named_numbers`).

    Returns:
        of those that the paper has: ``measure, neurons, where, unit, paper`` (its number), ``value, low,
        high, n`` (ours), and of the paper's ``model, dataset, relation, status``.
    """
    theirs = printed_as_ours(paper)[[*NAME, "value", "unit", "model", "dataset", "relation", "status"]]
    both = numbers.merge(theirs.rename(columns={"value": "paper"}), on=NAME)
    ours = both[["value", "low", "high"]].mul(both["unit"].map({"%": 100}).fillna(1), axis=0)
    both[["value", "low", "high"]] = ours
    ours_and_theirs = [*NAME, "unit", "paper", "value", "low", "high", "n"]
    return both[[*ours_and_theirs, "model", "dataset", "relation", "status"]]
