"""Going on with a text until an answer ends: how a left-to-right model is decoded.

An answer ends at the end of text, at a line break or at a mark that ends a sentence, which are no part of it,
or after so many pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .decoding_masked import Frame, Way
from .language_model import LanguageModel
from .slots import Text, banned_pieces, best_pieces

#: Marks that end a sentence.
MARKS = ".!?。！？．"


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

    Args:
        model: a left-to-right model.
        frames: their ids are what stands before the answer.
        way: of it ``beam`` and ``ban``.
        most: pieces of an answer, at most.
        by: what the best of a beam is chosen by, ``"mean"`` or ``"sum"``.
        batch_size: texts per pass.
    """
    banned = banned_pieces(model) if way.ban else None
    beams = [[Continuation()] for _ in frames]
    rounds = [0] * len(frames)
    for _ in range(most):
        growing = [(number, one) for number, beam in enumerate(beams) for one in beam if not one.end]
        if not growing:
            break
        texts = []
        for number, one in growing:
            ids = frames[number].ids + list(one.pieces)
            texts.append(Text(ids, (len(ids) - 1,), (), frames[number].acting))
        logp, piece = best_pieces(model, texts, way.beam, banned=banned, batch_size=batch_size)
        found: dict[int, list[Continuation]] = {number: [] for number, _ in growing}
        for (number, one), values, ids in zip(growing, logp.tolist(), piece.tolist(), strict=True):
            found[number] += [
                longer(model, one, *pair, most) for pair in zip(ids, values, strict=True) if pair[1] > -1e300
            ]
        for number, more in found.items():
            rounds[number] += 1
            every = [one for one in beams[number] if one.end] + more
            beams[number] = sorted(every, key=lambda one: (-one.total, one.pieces))[: way.beam]
    best = [max(beam, key=lambda one: one.score(by)) for beam in beams]
    return Written(best, rounds)


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
