"""Prompts as rows of token ids, one row per piece of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import pandas as pd

from ..data.facts import OBJECT, SUBJECT, DataError

#: Stands in :attr:`Row.among` for every piece that is not named there: the answer ends before it.
ANYTHING_ELSE = -1


@dataclass(frozen=True)
class Row:
    """One question to the model.

    Attributes:
        prompt: the number of its prompt.
        ids: the token ids.
        position: where its blank is.
        target: the wanted piece.
        among: the pieces that the wanted one competes with (itself included); empty: the whole vocabulary.
        start: where an attribution's paths start, (layer, neuron), if that is the row's own; no part of what
            the row is.
    """

    prompt: int
    ids: list[int]
    position: int
    target: int
    among: tuple[int, ...] = ()
    start: Any = field(default=None, compare=False, repr=False)

    @property
    def named(self) -> bool:
        """Whether all pieces that it competes with are named."""
        return bool(self.among) and ANYTHING_ELSE not in self.among


def answer_pieces(tokenizer: Any, answer: str, before: str = " ", unknown: str = "refuse") -> list[int]:
    """The token ids of an answer as it stands behind the text ``before``, without special tokens.

    Raises:
        DataError: the tokenizer cannot write the answer (it gives nothing, or the unknown token) and
            ``unknown`` is not ``"allow"``.
    """
    lead = " " if before[-1:].isspace() else ""
    known = _PIECES.setdefault(tokenizer, {})
    key = (len(tokenizer), answer, lead, before != "", unknown)
    if key not in known:  # many texts have the same answers
        known[key] = _answer_pieces(tokenizer, answer, lead, before != "", unknown)
    return list(known[key])


#: Tokenizer -> what its answers are written with.
_PIECES: WeakKeyDictionary[Any, dict[tuple[Any, ...], list[int]]] = WeakKeyDictionary()


def _answer_pieces(tokenizer: Any, answer: str, lead: str, behind: bool, unknown: str) -> list[int]:
    """:func:`answer_pieces` of an answer with a space in ``lead`` or not, ``behind`` a text or not."""
    pieces = tokenizer(lead + answer, add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(pieces)
    # SentencePiece writes a space in front of a text, also where there is none.
    if behind and not lead and tokens and tokens[0].startswith("▁"):
        bare = tokenizer.convert_tokens_to_ids(tokens[0][1:]) if tokens[0] != "▁" else None
        if bare is None and len(tokens) > 1:
            pieces = pieces[1:]
        elif bare not in (None, tokenizer.unk_token_id):
            pieces = [bare, *pieces[1:]]
    if not pieces or (tokenizer.unk_token_id in pieces and unknown != "allow"):
        shown = tokenizer.unk_token or "nothing"
        raise DataError(
            f"the tokenizer cannot write the answer {answer!r} (it becomes {shown}); choose a model that "
            f"can, leave the fact out, or pass unknown='allow' to repeat the released runs."
        )
    return pieces


def encode(
    tokenizer: Any,
    prompts: pd.DataFrame,
    *,
    causal: bool = False,
    unknown: str = "refuse",
    max_length: int | None = None,
) -> list[Row]:
    """Prompts as rows of token ids, one per piece of the answer.

    Of an answer of n pieces a masked model sees n blanks; piece j is asked for at the j-th, the pieces before
    it filled in. A causal model sees the text in front of the blank and the pieces before j, and is asked at
    its last token.

    Args:
        tokenizer: of the transformers library.
        prompts: :func:`kn_utils.make_prompts`.
        causal: whether the model reads from left to right only.
        unknown: ``"allow"`` to ask for the unknown token where an answer cannot be written.
        max_length: tokens that the model takes; ``None``: any number.

    Raises:
        DataError: a prompt that cannot be asked; the message says which and why.
    """
    return Writer(tokenizer, causal=causal, unknown=unknown, max_length=max_length).every(prompts)


class Asked(NamedTuple):
    """What is asked of a model, as a row of a prompts' table says it."""

    prompt: str
    text: str
    answer: str
    masked: str


def asked_of(prompts: pd.DataFrame) -> list[Asked]:
    """The rows of a prompts' table."""
    return [Asked(*row) for row in zip(*(prompts[name] for name in Asked._fields), strict=True)]


class Writer:
    """Writes prompts in a tokenizer's pieces, as :func:`encode` says; what several share is written once."""

    def __init__(
        self, tokenizer: Any, *, causal: bool = False, unknown: str = "refuse", max_length: int | None = None
    ) -> None:
        self.tokenizer, self.causal = tokenizer, causal
        self.unknown, self.max_length = unknown, max_length
        self._mask: str = "" if causal else tokenizer.mask_token  # slow to ask
        self._mask_id: int | None = None if causal else tokenizer.mask_token_id
        self._written: dict[str, list[int]] = {}
        self._blanks: dict[str, list[int]] = {}

    def every(self, prompts: pd.DataFrame) -> list[Row]:
        """The rows of a table of prompts."""
        asked = enumerate(asked_of(prompts))
        return [row for number, one in asked for row in self.rows(number, one, self.pieces(one))]

    def pieces(self, asked: Asked) -> list[int]:
        """The answer's."""
        before, _ = self._around(asked)
        if not self.causal:
            return answer_pieces(self.tokenizer, asked.answer, before, self.unknown)
        return _causal_pieces(self.tokenizer, self._prefix(asked, before), before, asked.answer, self.unknown)

    def rows(self, number: int, asked: Asked, pieces: list[int]) -> list[Row]:
        """One per piece of an answer; ``number`` is the prompt's."""
        before, after = self._around(asked)
        if self.causal:
            ids = self._prefix(asked, before)
            rows = [Row(number, ids + pieces[:j], len(ids) + j - 1, piece) for j, piece in enumerate(pieces)]
        else:
            rows = self._masked(number, asked, before + self._mask * len(pieces) + after, pieces)
        if self.max_length is not None and len(rows[-1].ids) > self.max_length:
            raise DataError(
                f"prompt {asked.prompt} has {len(rows[-1].ids)} tokens; the model takes {self.max_length}."
            )
        return rows

    def _around(self, asked: Asked) -> tuple[str, str]:
        """What stands before and behind the blank."""
        blank = OBJECT if asked.masked == "object" else SUBJECT
        if asked.text.count(blank) != 1:
            raise DataError(f"prompt {asked.prompt}: {asked.text!r} should hold its blank {blank} once.")
        before, after = asked.text.split(blank)
        return before, after

    def _prefix(self, asked: Asked, before: str) -> list[int]:
        prefix = before.rstrip()
        if prefix not in self._written:
            self._written[prefix] = _prefix_ids(self.tokenizer, asked.prompt, prefix)
        return self._written[prefix]

    def _masked(self, number: int, asked: Asked, whole: str, pieces: list[int]) -> list[Row]:
        if whole not in self._written:  # many answers to one question share it
            self._written[whole] = self.tokenizer(whole)["input_ids"]
            self._blanks[whole] = [i for i, id in enumerate(self._written[whole]) if id == self._mask_id]
        ids, at, rows = list(self._written[whole]), self._blanks[whole], []
        if len(at) != len(pieces):
            raise DataError(f"prompt {asked.prompt}: {asked.text!r} holds a mask token of its own.")
        for place, piece in zip(at, pieces, strict=True):
            rows.append(Row(number, list(ids), place, piece))
            ids[place] = piece
        return rows


def _prefix_ids(tokenizer: Any, name: str, prefix: str) -> list[int]:
    """The token ids of what a left-to-right model reads before the blank."""
    ids = tokenizer(prefix)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and len(ids) > 1:  # some tokenizers close every text
        ids = ids[:-1]
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    if not ids:
        raise DataError(
            f"prompt {name}: nothing stands before the blank, and a left-to-right model needs something."
        )
    return ids


def _causal_pieces(tokenizer: Any, ids: list[int], before: str, answer: str, unknown: str) -> list[int]:
    """The pieces of an answer for a model that reads what stands ``before`` it, in pieces ``ids``."""
    prefix = before.rstrip()
    space = " " if prefix != before else ""
    whole = tokenizer(prefix + space + answer)["input_ids"]
    pieces = whole[len(ids) :] if whole[: len(ids)] == ids else []
    if pieces and pieces[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id is not None:
        pieces = pieces[:-1]
    if not pieces or tokenizer.unk_token_id in pieces:
        # The tokenizer joined the answer to what stands before it: ask for the answer as it is written alone.
        pieces = answer_pieces(tokenizer, answer, before or " ", unknown)
    return pieces
