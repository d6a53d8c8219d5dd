"""Which pieces of an answer count: all, the first, those that decide it, or each for itself.

An answer of n pieces is asked for by n rows, each with the pieces before it filled in. Its later pieces are
often certain once the first stand there ("Nether" + "##lands"), and their neurons write a name to its end. So
beside the mean over all pieces there are

    first       the first piece alone
    deciding    the pieces at which other answers of the relation would go on otherwise: where, behind what
                is written, the tree of the candidates' pieces branches (:mod:`kn_utils.model.typed`)
    each        a map for every piece, in a column ``piece`` (from 0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..model.decoding import decode
from ..model.language_model import LanguageModel
from ..model.rows import ANYTHING_ELSE, Row
from ..model.typed import typed_rows
from .quadrature import AttributionError

PIECES = ("mean", "first", "deciding", "each")
#: The column that says which piece's scores they are.
PIECE = "piece"

Encode = Callable[[pd.DataFrame], list[Row]]


def each_piece(encode: Encode, prompts: pd.DataFrame) -> pd.DataFrame:
    """Every prompt once for each piece of its answer, numbered from 0 in the column ``piece``."""
    number = np.bincount([row.prompt for row in encode(prompts)], minlength=len(prompts))
    return (
        prompts.loc[prompts.index.repeat(number)]
        .assign(**{PIECE: np.concatenate([np.arange(n) for n in number])})
        .reset_index(drop=True)
    )


def of_pieces(encode: Encode, pieces: str) -> Encode:
    """The same way from prompts to rows, of which only those of the pieces asked for are left."""

    def chosen(prompts: pd.DataFrame) -> list[Row]:
        wanted = prompts[PIECE].to_numpy() if pieces == "each" else np.zeros(len(prompts), int)
        seen, kept = np.zeros(len(prompts), int), []
        for row in encode(prompts):
            if seen[row.prompt] == wanted[row.prompt]:
                kept.append(row)
            seen[row.prompt] += 1
        return kept

    return encode if pieces == "mean" else chosen


def deciding_rows(
    model: LanguageModel, prompts: pd.DataFrame, candidates: Sequence[Sequence[str]]
) -> list[Row]:
    """The rows of the pieces at which candidates part, each asked over the whole vocabulary.

    An answer's end where another name goes on is no piece, and is left out.

    Raises:
        AttributionError: an answer none of whose pieces decides it.
    """
    rows = []
    for name, own in zip(prompts["prompt"], typed_rows(model, prompts, candidates), strict=True):
        some = [replace(row, among=()) for row in own if row.target != ANYTHING_ELSE]
        if not some:
            raise AttributionError(
                f"{name}: no piece of the answer decides it among its candidates; leave it out, or take "
                f"pieces='mean'."
            )
        rows += some
    return rows


def with_decoded_answers(model: LanguageModel, prompts: pd.DataFrame, masks: int = 5) -> pd.DataFrame:
    """The prompts, their answers replaced by what the model says (:func:`kn_utils.decode` by default).

    Args:
        model: which is asked.
        prompts: those to ask.
        masks: pieces of an answer at most.

    Raises:
        AttributionError: an answer that is empty, or that the tokenizer would write in other pieces than the
            model did, so that scores would be of another one.
    """
    told = decode(model, prompts, masks=masks, progress=False)
    told = told[told["chosen"]].set_index("prompt").loc[prompts["prompt"]]
    made = prompts.assign(answer=told["text"].to_numpy(dtype=object))
    wrong = []
    for number, ids in enumerate(told["ids"]):
        one = made.iloc[[number]]
        same = bool(one["answer"].iloc[0].strip()) and [row.target for row in model.encode(one)] == list(ids)
        wrong += [] if same else [one["prompt"].iloc[0]]
    if wrong:
        raise AttributionError(
            f"answer='decoded': of {len(wrong)} of {len(prompts)} prompts what the model says is empty or is "
            f"written in other pieces than it said; leave them out: {', '.join(wrong[:5])}."
        )
    return made
