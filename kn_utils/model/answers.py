"""The one way from rows to answers: P, rank and first choices, prompt by prompt."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from .interventions import scale
from .language_model import LanguageModel
from .rows import Row


def rows_at_once(model: LanguageModel) -> int:
    """How many rows go through the model together unless told otherwise: on a processor few, which its caches
    hold."""
    return 32 if model.device.type == "cpu" else 256


@torch.no_grad()
def ask(
    model: LanguageModel,
    rows: list[Row],
    batch_size: int | None = None,
    neurons: list[np.ndarray] | None = None,
    factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(wanted piece), its rank among the vocabulary (1 = top) and the top piece of every row, in the rows'
    order."""
    batch_size = batch_size or rows_at_once(model)
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
    model: LanguageModel, prompts: pd.DataFrame, *, batch_size: int | None = None, unknown: str = "refuse"
) -> pd.DataFrame:
    """How probable each prompt's answer is.

    Returns:
        ``prompt, probability, rank, correct, predicted`` in the order of ``prompts``. The probability of an
        answer of several pieces is the product over them, each given those before; ``rank`` (1 = top) is
        among the vocabulary and missing for several pieces; ``correct``: every piece is the model's first
        choice, so that filling the blanks from left to right gives the answer; ``predicted``: the first
        choices as text.
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
    table["predicted"] = [
        model.tokenizer.decode(top[s : s + n].tolist()) for s, n in zip(starts, sizes, strict=True)
    ]
    return table.astype(
        {"prompt": "str", "correct": bool, "predicted": "str"}
    )  # also where there is no prompt
