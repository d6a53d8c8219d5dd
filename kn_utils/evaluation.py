"""Evaluation: how probable the right answers are, and what an intervention does to them and to everything else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from .base import StudyError
from .facts import Row
from .interventions import scale
from .models import LanguageModel


class EvaluationError(StudyError):
    """An evaluation that has nothing to measure."""


@torch.no_grad()
def ask(
    model: LanguageModel, rows: list[Row], batch_size: int, neurons: list[np.ndarray] | None = None, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(wanted piece), its rank among the vocabulary (1 = top) and the top piece of every row, in the rows' order."""
    p, rank, top = np.zeros(len(rows)), np.zeros(len(rows), int), np.zeros(len(rows), int)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs, at, wanted = model.batch([rows[i] for i in batch])
        acting = nullcontext() if neurons is None else scale(model, [neurons[i] for i in batch], factor)
        with acting:
            logits = model.logits(inputs, at)
        right = logits.gather(1, wanted[:, None])
        chance = logits.double().log_softmax(-1).gather(1, wanted[:, None]).exp()
        p[batch] = chance[:, 0].cpu().numpy()
        rank[batch] = (1 + (logits > right).sum(1)).cpu().numpy()
        top[batch] = logits.argmax(1).cpu().numpy()
    return p, rank, top


def answer_probability(
    model: LanguageModel, prompts: pd.DataFrame, *, batch_size: int = 128, unknown: str = "refuse"
) -> pd.DataFrame:
    """How probable each prompt's answer is.

    Returns:
        ``prompt, probability, rank, correct, predicted`` in the order of ``prompts``. The probability of an answer of several
        pieces is the product over them, each given those before; ``rank`` (1 = top) is among the vocabulary and missing
        for several pieces; ``correct``: every piece is the model's first choice, so that filling the blanks from left to right
        gives the answer; ``predicted``: the first choices as text.
    """
    rows = model.encode(prompts, unknown)
    p, rank, top = ask(model, rows, batch_size)
    number = np.array([row.prompt for row in rows])
    right = top == np.array([row.target for row in rows])
    starts = np.flatnonzero(np.r_[True, np.diff(number) > 0]) if len(rows) else np.array([], int)
    sizes = np.diff(np.r_[starts, len(rows)])
    table = pd.DataFrame({"prompt": prompts["prompt"].to_numpy()})
    table["probability"] = np.multiply.reduceat(p, starts) if len(rows) else []
    table["rank"] = pd.array(
        [int(rank[s]) if n == 1 else pd.NA for s, n in zip(starts, sizes, strict=True)], dtype="Int64"
    )
    table["correct"] = np.logical_and.reduceat(right, starts) if len(rows) else []
    table["predicted"] = [model.tokenizer.decode(top[s : s + n].tolist()) for s, n in zip(starts, sizes, strict=True)]
    return table


def perplexity(probability: Sequence[float]) -> float:
    """exp of the mean of -ln P(answer)."""
    return float(np.exp(-np.log(np.asarray(probability, dtype=float)).mean()))


def effects(
    model: LanguageModel, prompts: pd.DataFrame, neurons: pd.DataFrame, *, operation: str = "suppress", factor: float | None = None,
    kind: str = "knowledge", source: Sequence[str] | None = None, before: pd.DataFrame | None = None, batch_size: int = 128,
) -> pd.DataFrame:  # fmt: skip
    """Ask every prompt with and without its fact's neurons scaled; many facts share a batch.

    Args:
        operation: ``suppress`` (factor 0) or ``amplify`` (factor 2 unless given).
        kind: what the neurons are (knowledge, activation, random), for the table.
        source: the fact whose neurons act on each prompt; its own when left out (another relation's facts for the control).
        before: :func:`answer_probability` of the prompts, where it is known already.

    Returns:
        effects ``prompt, fact, operation, neurons, before, after`` for the prompts whose source has a neuron, and
        ``right_before, right_after``: whether the right answer is the first choice.
    """
    if operation not in ("suppress", "amplify"):
        raise EvaluationError(f"operation={operation!r}; it is 'suppress' or 'amplify'.")
    factor = {"suppress": 0.0, "amplify": 2.0}[operation] if factor is None else factor
    sets = {fact: group[["layer", "neuron"]].to_numpy(int) for fact, group in neurons.groupby("fact")}
    source = prompts["fact"].to_numpy() if source is None else np.asarray(source)
    has = np.array([fact in sets for fact in source], bool)
    asked = prompts[has].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError("none of these prompts' facts has a neuron; lower the threshold or the share.")
    known = answer_probability(model, asked, batch_size=batch_size) if before is None else before[has]
    rows = model.encode(asked)
    acting = source[has]
    p, _, top = ask(model, rows, batch_size, [sets[acting[row.prompt]] for row in rows], factor)
    number = [row.prompt for row in rows]
    after, right = np.ones(len(asked)), np.ones(len(asked), bool)
    np.multiply.at(after, number, p)
    np.logical_and.at(right, number, top == np.array([row.target for row in rows]))
    return pd.DataFrame(
        {
            "prompt": asked["prompt"], "fact": asked["fact"], "operation": operation, "neurons": kind,
            "before": known["probability"].to_numpy(), "after": after,
            "right_before": known["correct"].to_numpy(), "right_after": right,
        }
    )  # fmt: skip


def other_relation(prompts: pd.DataFrame, neurons: pd.DataFrame, *, seed: int = 0) -> np.ndarray | None:
    """For each prompt a fact of another relation that has neurons, the same for a fact's whole bag; None with one relation."""
    random = np.random.default_rng(seed)
    owners = neurons.drop_duplicates("fact")[["fact", "relation"]]
    source = {}
    for fact, relation in prompts.drop_duplicates("fact")[["fact", "relation"]].itertuples(index=False):
        pool = owners.loc[owners["relation"] != relation, "fact"].to_numpy()
        if not len(pool):
            return None
        source[fact] = pool[random.integers(len(pool))]
    return prompts["fact"].map(source).to_numpy()
