"""What is asked of the logits at a blank: P of a piece, over the whole vocabulary or among a few pieces.

A row asks for the part that pieces A have in pieces B,

    P = sum over A of exp(logit) / sum over B of exp(logit),
    d log P / d logits = softmax over A - softmax over B,

with A the wanted piece, or all but the named ones (``ANYTHING_ELSE``), and B the pieces that it competes with
(:attr:`kn_utils.model.rows.Row.among`), or all. ``target="typed"`` asks so for a prompt's answer among its
candidates (:func:`kn_utils.model.typed.typed_rows`). ``target="log-odds"`` takes log P / (1 - P) instead of
P: where P is nearly 1 its gradient vanishes, that of the log-odds does not,

    d log-odds / d logits = softmax over A - softmax over B without A.

Where every row of a batch competes with named pieces only, the output head computes the logits of these and
no others: in a vocabulary of 262,144 the head is most of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..model.language_model import LanguageModel
from ..model.rows import ANYTHING_ELSE, Row
from ..model.typed import candidates_of, has_competitor, typed_rows
from .quadrature import AttributionError

TARGETS = ("answer", "typed", "log-odds")


class Target:
    """What a batch of rows asks for.

    Args:
        odds: the log-odds instead of P.

    Attributes:
        pieces: whose logits the head computes inside :meth:`installed`; ``None``: of the whole vocabulary.
    """

    def __init__(self, model: LanguageModel, rows: list[Row], odds: bool = False) -> None:
        self.rows, self.head, self.odds = rows, model.model.get_output_embeddings(), odds
        self.wanted = torch.tensor([[row.target] for row in rows], device=model.device)
        self.plain = not odds and not any(row.among for row in rows)
        self.pieces: list[int] | None = None
        # DeBERTa of the second kind names another map, and multiplies by the word embeddings itself.
        gives_logits = type(self.head) is nn.Linear and self.head.out_features == len(model.embeddings)
        if gives_logits and all(row.among and ANYTHING_ELSE not in row.among for row in rows):
            self.pieces = sorted({piece for row in rows for piece in (*row.among, row.target)})

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the head computes the logits that are asked for, in the order of ``pieces``."""
        if self.pieces is None:
            yield
            return
        whole: dict[str, Any] = dict(self.head._parameters)
        try:
            for name, values in whole.items():
                if values is not None:
                    self.head._parameters[name] = nn.Parameter(values[self.pieces], requires_grad=False)
            yield
        finally:
            self.head._parameters.update(whole)

    def value(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """P, or the log-odds, of copies (copy, logit); ``rows`` (copy,) says of which rows: (copy,)."""
        if self.plain:
            return logits.softmax(-1).gather(1, self.wanted[rows]).squeeze(1)
        part, others = self._apart(logits, rows)
        value = part.logsumexp(-1) - others.logsumexp(-1)
        return value if self.odds else value.exp()

    def descent(self, logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The value of copies as above, and - d log P / d logits, or that of the log-odds."""
        if self.plain:
            # softmax - one-hot: written down, it spares several passes over the logits
            slope, wanted = logits.softmax(-1), self.wanted[rows]
            p = slope.gather(1, wanted)
            slope.scatter_add_(1, wanted, torch.full_like(p, -1.0))
            return p.squeeze(1), slope
        part, others = self._apart(logits, rows)
        value = part.logsumexp(-1) - others.logsumexp(-1)
        return value if self.odds else value.exp(), others.softmax(-1) - part.softmax(-1)

    def probability(self, value: torch.Tensor) -> torch.Tensor:
        """P of what :meth:`value` gives."""
        return value.sigmoid() if self.odds else value

    def _apart(self, logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of A, and those of B (for the log-odds B without A); all others at minus infinity."""
        left_out = self._left_out(logits.shape[1])
        part, others = (logits.masked_fill(out.to(logits.device)[rows], -torch.inf) for out in left_out)
        return part, others

    def _left_out(self, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which logits are not in A, and which not among the others, (row, logit) each."""
        place = None if self.pieces is None else {piece: i for i, piece in enumerate(self.pieces)}
        outside = torch.ones(2, len(self.rows), width, dtype=torch.bool)
        for number, row in enumerate(self.rows):
            named = [
                piece if place is None else place[piece] for piece in row.among if piece != ANYTHING_ELSE
            ]
            if row.target == ANYTHING_ELSE:
                outside[0, number] = False
                outside[0, number, named] = True
            else:
                outside[0, number, row.target if place is None else place[row.target]] = False
            if row.among and ANYTHING_ELSE not in row.among:
                outside[1, number, named] = False
            else:
                outside[1, number] = False
        if self.odds:
            outside[1] |= ~outside[0]
        return outside[0], outside[1]


def with_candidates(
    model: LanguageModel, prompts: pd.DataFrame, candidates: Sequence[Sequence[str]] | None
) -> pd.DataFrame:
    """The prompts with a column ``candidates``, which travels with them and is part of their fingerprint.

    Raises:
        AttributionError: not one list of candidates per prompt, an answer that is not among its own, or one
            that has no competitor there.
    """
    given = candidates_of(prompts) if candidates is None else candidates
    if len(given) != len(prompts):
        raise AttributionError(
            f"{len(given)} lists of candidates for {len(prompts)} prompts; each needs one."
        )
    absent = [
        name
        for name, answer, names in zip(prompts["prompt"], prompts["answer"], given, strict=True)
        if answer not in names
    ]
    if absent:
        raise AttributionError(
            f"{len(absent)} prompts: the answer is not among its candidates: {few(absent)}."
        )
    alone = prompts.loc[~has_competitor(model, prompts, given).to_numpy(), "prompt"]
    if len(alone):
        raise AttributionError(
            f"{len(alone)} of {len(prompts)} prompts: the answer has no competitor among its candidates, so "
            f"its typed probability is 1 whatever the neurons do; leave them out "
            f"(kn_utils.model.typed.has_competitor says which): {few(list(alone))}."
        )
    return prompts.assign(candidates=[tuple(names) for names in given])


def few(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def rows_of(model: LanguageModel, prompts: pd.DataFrame) -> list[Row]:
    """The rows of prompts :func:`with_candidates`."""
    return [row for rows in typed_rows(model, prompts, list(prompts["candidates"])) for row in rows]
