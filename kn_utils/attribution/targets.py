"""What is asked of the logits at a blank: P of a piece, over the whole vocabulary or among a few pieces.

A row asks for the part that pieces A have in pieces B,

    P = sum over A of exp(logit) / sum over B of exp(logit),
    d log P / d logits = softmax over A - softmax over B,

with A the wanted piece, or all but the named ones (``ANYTHING_ELSE``), and B the pieces that it competes with
(:attr:`kn_utils.model.rows.Row.among`), or all. ``target="typed"`` asks so for a prompt's answer among its
candidates (:func:`kn_utils.model.typed.typed_rows`). ``target="log-odds"`` takes log P / (1 - P) instead of
P: where P is nearly 1 its gradient vanishes, that of the log-odds does not,

    d log-odds / d logits = softmax over A - softmax over B without A.

``target="log"`` takes log P: of an answer of n pieces, n times a layer's scores then add up to the change of
the logarithm of its whole probability, a product over the pieces; and unlikely pieces count as well.

Where every row of a batch competes with named pieces only, the output head computes the logits of these and
no others: in a vocabulary of 262,144 the head is most of a pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..model.head import gives_logits
from ..model.language_model import LanguageModel, on_device
from ..model.rows import ANYTHING_ELSE, Row
from ..model.typed import candidates_of, has_competitor, typed_rows
from .pieces import deciding_rows
from .quadrature import AttributionError

TARGETS = ("answer", "typed", "log-odds", "log")
#: What scores may be of: P itself, or a function of it.
SCALES = ("probability", "log-odds", "log")


def scale_of(target: str) -> str:
    """The function of P that a target asks for, one of :data:`SCALES`."""
    return target if target in SCALES else "probability"


class Target:
    """What a batch of rows asks for.

    Args:
        scale: what it asks for, one of :data:`SCALES`.

    Attributes:
        pieces: whose logits the head computes inside :meth:`installed`; ``None``: of the whole vocabulary.
    """

    def __init__(self, model: LanguageModel, rows: list[Row], scale: str = "probability") -> None:
        self.rows, self.head, self.scale = rows, model.model.get_output_embeddings(), scale
        self.odds = scale == "log-odds"
        self.plain = scale == "probability" and not any(row.among for row in rows)
        self.pieces: list[int] | None = None
        if gives_logits(model, self.head) and all(row.named for row in rows):
            self.pieces = sorted({piece for row in rows for piece in (*row.among, row.target)})
        self.named = all(row.target != ANYTHING_ELSE for row in rows)
        places = [[0 if row.target == ANYTHING_ELSE else self._place(row.target)] for row in rows]
        self.wanted = model.tensor(places)

    def _place(self, piece: int) -> int:
        """Of a piece among the logits."""
        return piece if self.pieces is None else bisect_left(self.pieces, piece)

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
        """P, or the function of it, of copies (copy, logit); ``rows`` (copy,) says of which rows: (copy,)."""
        if self.plain:
            return logits.softmax(-1).gather(1, self.wanted[rows]).squeeze(1)
        return self._ratio(self._part(logits, rows), self._others(logits, rows))

    def descent(self, logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The value of copies as above, and - d log P / d logits, or that of the log-odds."""
        wanted = self.wanted[rows]
        if self.plain:
            # softmax - one-hot: written down, it spares several passes over the logits
            slope = logits.softmax(-1)
            p = slope.gather(1, wanted)
            slope.scatter_add_(1, wanted, torch.full_like(p, -1.0))
            return p.squeeze(1), slope
        part, others = self._part(logits, rows), self._others(logits, rows)
        value, slope = self._ratio(part, others), others.softmax(-1)
        if self.named:
            return value, slope.scatter_add_(1, wanted, -torch.ones_like(part))
        return value, slope.sub_(part.softmax(-1))

    def probability(self, value: torch.Tensor) -> torch.Tensor:
        """P of what :meth:`value` gives."""
        return value.sigmoid() if self.odds else value.exp() if self.scale == "log" else value

    def outer(self, value: torch.Tensor) -> torch.Tensor:
        """What :meth:`descent`'s slope is multiplied by to give the value's own gradient: (copy,)."""
        return -value if self.scale == "probability" else -torch.ones_like(value)

    def _ratio(self, part: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        value = part.logsumexp(-1) - others.logsumexp(-1)
        return value.exp() if self.scale == "probability" else value

    def _part(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The logits of A: one per copy, or all with those outside A at minus infinity."""
        if self.named:
            return logits.gather(1, self.wanted[rows])
        outside = torch.ones(len(self.rows), logits.shape[1], dtype=torch.bool)
        for number, row in enumerate(self.rows):
            if row.target == ANYTHING_ELSE:
                outside[number] = False
                outside[number, self._named(row)] = True
            else:
                outside[number, self._place(row.target)] = False
        return logits.masked_fill(on_device(outside, logits.device)[rows], -torch.inf)

    def _others(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The logits, those outside B (for the log-odds B without A) at minus infinity."""
        outside = torch.zeros(len(self.rows), logits.shape[1], dtype=torch.bool)
        for number, row in enumerate(self.rows):
            if row.named:
                outside[number] = True
                outside[number, self._named(row)] = False
            if self.odds and row.target == ANYTHING_ELSE:
                outside[number] = True
                outside[number, self._named(row)] = False
            elif self.odds:
                outside[number, self._place(row.target)] = True
        return logits.masked_fill(on_device(outside, logits.device)[rows], -torch.inf)

    def _named(self, row: Row) -> list[int]:
        return [self._place(piece) for piece in row.among if piece != ANYTHING_ELSE]


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


def deciding_rows_of(model: LanguageModel, prompts: pd.DataFrame) -> list[Row]:
    """The rows of the deciding pieces of prompts :func:`with_candidates`."""
    return deciding_rows(model, prompts, list(prompts["candidates"]))


def rows_of(model: LanguageModel, prompts: pd.DataFrame) -> list[Row]:
    """The rows of prompts :func:`with_candidates`."""
    return [row for rows in typed_rows(model, prompts, list(prompts["candidates"])) for row in rows]
