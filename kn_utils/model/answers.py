"""The one way from pieces to answers: P, rank and first choices of each question, under any intervention.

A *question* is the rows of one prompt, one per piece of its answer (:func:`kn_utils.model.rows.encode`). Its
answer's probability is the product over the pieces, each given those before; its rank (1 = top) is the worst
piece's among the vocabulary; it is *right* if every piece is the model's first choice, so that filling the
blanks from left to right gives the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..base import QUIET
from ..checks import check_model, check_numbers, check_prompts, check_words
from ..data.prompts import from_texts
from .acting import Intervention
from .hooks import InterventionError
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .one_pass import Read, behind_beginnings, in_full, read_texts
from .rows import Row
from .texts import Name, by_beginning, texts_of

PATIENCE = 3  # seconds before a progress bar shows
SHORTER = 4  # so many more texts go together where only what stands behind a beginning is read


def questions_of(model: LanguageModel, prompts: pd.DataFrame, unknown: str = "refuse") -> list[list[Row]]:
    """Each prompt's rows, one per piece of its answer; ``unknown`` as in :func:`answer_probability`."""
    questions: list[list[Row]] = [[] for _ in range(len(prompts))]
    for row in model.encode(prompts, unknown):
        questions[row.prompt].append(row)
    return questions


def answers(
    model: LanguageModel,
    questions: Sequence[list[Row]],
    acting: Sequence[Intervention | None] | None = None,
    *,
    choices: Sequence[list[Row]] | None = None,
    batch_size: int | None = None,
    label: str = "ask",
    progress: bool = True,
) -> pd.DataFrame:
    """Ask many questions, each under an intervention of its own.

    Args:
        model: which to ask.
        questions: :func:`questions_of` the prompts.
        acting: one per question; ``None``: nothing acts (on one of them, on any).
        choices: per question further rows whose wanted piece competes with a few others only
            (:mod:`kn_utils.model.typed`); they are read in the same passes.
        batch_size: texts per pass; ``None`` suits the device. A batch that does not fit into memory is
            halved.
        label, progress: of the bar, which shows after some seconds.

    Returns:
        a row per question: ``p``, ``rank`` (the worst piece's), ``first`` (a tuple: the first choice for each
        piece, given the pieces before it), ``right``; with ``choices`` also ``shares``: per further row the
        probabilities of the pieces in its ``among``, which add up to 1.

    Raises:
        InterventionError: not one intervention, or not one list of choices, per question.
    """
    check_numbers(batch_size=batch_size)
    for name, given in (("interventions", acting), ("lists of choices", choices)):
        if given is not None and len(given) != len(questions):
            raise InterventionError(f"{len(given)} {name} for {len(questions)} questions; each needs one.")
    texts = texts_of(model, questions, acting, choices)
    shared, whole = by_beginning(model, texts)
    size = batch_size or rows_at_once(model)
    plain = {(q, i): Read(np.nan, 0, 0) for q, rows in enumerate(questions) for i in range(len(rows))}
    shares: dict[Name, np.ndarray] = {}
    hidden = not progress or QUIET
    with tqdm(total=len(texts), desc=label, unit="text", delay=PATIENCE, disable=hidden) as bar:
        for enter, group, at_once in ((behind_beginnings, shared, SHORTER * size), (in_full, whole, size)):
            for batch, read in in_parts(partial(read_texts, model, enter), group, at_once):
                plain |= read[0]
                shares |= read[1]
                bar.update(len(batch))
    joined = [_joined(rows, [plain[q, i] for i in range(len(rows))]) for q, rows in enumerate(questions)]
    table = pd.DataFrame(joined, columns=["p", "rank", "first", "right"])
    if choices is not None:
        table["shares"] = [[shares[q, i] for i in range(len(rows))] for q, rows in enumerate(choices)]
    return table.astype({"p": float, "rank": int, "right": bool})


def _joined(rows: list[Row], pieces: list[Read]) -> tuple[float, int, tuple[int, ...], bool]:
    """An answer from its pieces: P, the worst rank, the first choices, whether they are the answer."""
    first = tuple(int(piece.top) for piece in pieces)
    p = float(np.prod([piece.p for piece in pieces]))
    return p, max(int(piece.rank) for piece in pieces), first, first == tuple(row.target for row in rows)


def answer_probability(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    batch_size: int | None = None,
    unknown: str = "refuse",
    progress: bool = True,
) -> pd.DataFrame:
    """How probable each prompt's answer is.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`, or any table of ``text`` (its blank written ``[Y]``) and
            ``answer``.
        batch_size: texts per pass; ``None`` suits the device.
        unknown: ``"allow"`` to ask for the unknown token where the tokenizer cannot write an answer.

    Returns:
        ``prompt, probability, rank, correct, predicted`` in the order of ``prompts``. The probability of an
        answer of several pieces is the product over them, each given those before; ``rank`` (1 = top) is
        among the vocabulary and missing for several pieces; ``correct``: every piece is the model's first
        choice, so that filling the blanks from left to right gives the answer; ``predicted``: the first
        choices as text.

    Raises:
        DataError: an answer that the tokenizer cannot write.

    Example:
        >>> from kn_utils import answer_probability, load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(2)
        >>> answer_probability(load_model("mini"), prompts).columns.tolist()
        ['prompt', 'probability', 'rank', 'correct', 'predicted']
    """
    check_model(model)
    prompts = from_texts(prompts)
    check_prompts(prompts)
    check_words(("refuse", "allow"), unknown=unknown)
    questions = questions_of(model, prompts, unknown)
    table = answers(model, questions, batch_size=batch_size, progress=progress)
    return as_answered(model, prompts, table)


def as_answered(model: LanguageModel, prompts: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of :func:`answer_probability`, of a table of :func:`answers`."""
    ranks = [
        r if len(pieces) == 1 else pd.NA for r, pieces in zip(table["rank"], table["first"], strict=True)
    ]
    columns = {
        "prompt": prompts["prompt"].to_numpy(),
        "probability": table["p"],
        "rank": pd.array(ranks, "Int64"),
        "correct": table["right"],
        "predicted": [model.tokenizer.decode(list(pieces)) for pieces in table["first"]],
    }
    # The types also where there is no prompt.
    return pd.DataFrame(columns).astype({"prompt": "str", "correct": bool, "predicted": "str"})
