"""Going on with a text until an answer ends: how a left-to-right model is decoded.

An answer ends at the end of text, at a line break or at a mark that ends a sentence, which are no part of it,
or after so many pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from .decoding_masked import Frame, Way
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .slots import Text, banned_pieces, best_pieces, top_pieces

#: Marks that end a sentence.
MARKS = ".!?。！？．"
LEAST = -1e300  # below it there is no such piece


@dataclass(frozen=True)
class Continuation:
    """An answer as it grows.

    Attributes:
        pieces: its ids.
        logp: their log-probabilities.
        end: what ended it (``text``, ``line``, ``sentence``, ``limit``); empty while it grows.
        ending: the log-probability of the piece that ended it, which is none of its own.
        text: what is written.
    """

    pieces: tuple[int, ...] = ()
    logp: tuple[float, ...] = ()
    end: str = ""
    ending: float = 0.0
    text: str = ""

    @property
    def total(self) -> float:
        """The log-probability of all pieces, the one that ended it included."""
        return sum(self.logp) + self.ending

    def score(self, by: str) -> float:
        """The sum (``"sum"``) or the mean per piece (any other name), the end counted as a piece."""
        number = len(self.logp) + (self.end not in ("", "limit"))
        return self.total if by == "sum" else self.total / max(number, 1)


@dataclass
class Written:
    """The best continuation of every frame, and how many passes it took."""

    best: list[Continuation]
    rounds: list[int] = field(default_factory=list)


def go_on(
    model: LanguageModel,
    frames: Sequence[Frame],
    way: Way,
    most: int,
    *,
    by: str = "mean",
    batch_size: int | None = None,
) -> Written:
    """Go on with every frame's text.

    Texts of equal length go together and what was read of them is kept, so that a step reads one piece more.
    Where something acts on the model every step reads the whole text again: neurons are scaled at each
    piece's own blank alone.

    Args:
        model: a left-to-right model.
        frames: their ids are what stands before the answer.
        way: of it ``beam`` and ``ban``.
        most: pieces of an answer, at most.
        by: what the best of a beam is chosen by, ``"mean"`` or ``"sum"``.
        batch_size: texts per pass.
    """
    banned = banned_pieces(model) if way.ban else None
    beams: dict[int, list[Continuation]] = {number: [Continuation()] for number in range(len(frames))}
    rounds = [0] * len(frames)
    acted = model.hooked or any(frame.acting is not None for frame in frames)
    lengths = {len(frame.ids) for frame in frames}
    groups = [[n for n in beams if len(frames[n].ids) == length] for length in sorted(lengths)]
    for group in [list(beams)] if acted else groups:
        for part, found in in_parts(
            lambda some: _grow(model, frames, some, way, most, banned, None if acted else _Reader(model)),
            group,
            len(group) if acted else max(1, (batch_size or rows_at_once(model)) // way.beam),
        ):
            for number in part:
                beams[number], rounds[number] = found[number]
    best = [max(beams[number], key=lambda one: one.score(by)) for number in range(len(frames))]
    return Written(best, rounds)


def _grow(
    model: LanguageModel,
    frames: Sequence[Frame],
    numbers: Sequence[int],
    way: Way,
    most: int,
    banned: torch.Tensor | None,
    reader: _Reader | None,
) -> dict[int, tuple[list[Continuation], int]]:
    """The beams of some frames, and how many passes each took."""
    beams = {number: [Continuation()] for number in numbers}
    rounds = dict.fromkeys(numbers, 0)
    growing = [(number, beams[number][0]) for number in numbers]
    for _ in range(most):
        if not growing:
            break
        texts = []
        for number, one in growing:
            ids = frames[number].ids + list(one.pieces)
            texts.append(Text(ids, (len(ids) - 1,), (), frames[number].acting))
        if reader is None:
            logp, piece = best_pieces(model, texts, way.beam, banned=banned)
        else:
            logp, piece = reader.best(texts, way.beam, banned)
        found: dict[int, list[tuple[int, Continuation]]] = {number: [] for number, _ in growing}
        for row, (number, one) in enumerate(growing):
            pairs = zip(piece[row].tolist(), logp[row].tolist(), strict=True)
            found[number] += [(row, longer(model, one, *pair, most)) for pair in pairs if pair[1] > LEAST]
        parents, growing = [], []
        for number, more in found.items():
            rounds[number] += 1
            every = [(-1, one) for one in beams[number] if one.end] + more
            kept = sorted(every, key=lambda pair: (-pair[1].total, pair[1].pieces))[: way.beam]
            beams[number] = [one for _, one in kept]
            growing += [(number, one) for _, one in kept if not one.end]
            parents += [row for row, one in kept if not one.end]
        if reader is not None:
            reader.keep(parents)
    return {number: (beams[number], rounds[number]) for number in numbers}


class _Reader:
    """Reads texts of equal length piece by piece, keeping what the model made of them."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.cache, self.read = model, DynamicCache(config=model.model.config), 0

    @torch.no_grad()
    def best(
        self, texts: Sequence[Text], k: int, banned: torch.Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`kn_utils.model.slots.best_pieces` of each text's last place."""
        device = self.model.device
        ids = torch.tensor([text.ids[self.read :] for text in texts], device=device)
        self.read += ids.shape[1]
        last = torch.full((len(texts),), ids.shape[1] - 1, device=device)
        attended = torch.ones(len(texts), self.read, dtype=torch.long, device=device)
        with self.model.head_at(last):
            told = self.model.model(
                input_ids=ids, attention_mask=attended, past_key_values=self.cache, use_cache=True
            )
        return top_pieces(told.logits[:, 0], k, banned)

    def keep(self, rows: Sequence[int]) -> None:
        """The rows whose texts go on, in their new order; a row may go on as several."""
        if rows:
            order: Any = torch.tensor(rows, device=self.model.device)
            self.cache.reorder_cache(order)


def longer(model: LanguageModel, one: Continuation, piece: int, logp: float, most: int) -> Continuation:
    """A continuation with one more piece, or ended by it."""
    tokenizer = model.tokenizer
    if piece == tokenizer.eos_token_id:
        return Continuation(one.pieces, one.logp, "text", logp, one.text)
    pieces, all_logp = (*one.pieces, piece), (*one.logp, logp)
    text = tokenizer.decode(list(pieces))
    places = {text.find(mark): end for mark, end in (("\n", "line"), *((m, "sentence") for m in MARKS))}
    places.pop(-1, None)
    if not places:
        return Continuation(pieces, all_logp, "limit" if len(pieces) == most else "", 0.0, text)
    at = min(places)
    if text[:at].strip() == one.text.strip():  # the piece is the end itself
        return Continuation(one.pieces, one.logp, places[at], logp, one.text)
    return Continuation(pieces, all_logp, places[at], 0.0, text[:at])
