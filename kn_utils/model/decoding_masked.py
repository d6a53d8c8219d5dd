"""Filling several blanks at once or one by one, and filling them again: the search of X-FACTR's decoding.

A *frame* is a prompt with so many blanks; all frames are searched side by side, and only those that go on go
through the model. Of each frame up to ``beam`` hypotheses are kept, ranked by the sum of their blanks'
log-probabilities: each is the model's own, at the moment when the blank was filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .acting import Intervention
from .language_model import LanguageModel
from .slots import Text, banned_pieces, best_pieces, log_probabilities


@dataclass(frozen=True)
class Way:
    """How blanks are filled; the names are those of :func:`kn_utils.model.decoding.decode`."""

    init: str = "confidence"
    refine: str = "none"
    rounds: int | None = None
    beam: int = 1
    rescore: bool = False
    ban: bool = True
    original: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Frame:
    """A prompt (its number) with blanks: token ids, and where the blanks are."""

    prompt: int
    ids: list[int]
    slots: tuple[int, ...]
    acting: Intervention | None = None


@dataclass
class Hypotheses:
    """Fillings, a row each.

    Attributes:
        frame: of which frame, (row,).
        tokens: the pieces, (row, blank); 0 where a blank is open or the frame has none.
        logp: their log-probabilities, likewise; 0 where there is none.
        open: blanks that are still open.
    """

    frame: np.ndarray
    tokens: np.ndarray
    logp: np.ndarray
    open: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Hypotheses:
        return Hypotheses(self.frame[rows], self.tokens[rows], self.logp[rows], self.open[rows])

    def beside(self, other: Hypotheses) -> Hypotheses:
        """Both, by frame; a frame's own keep their order."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        both = Hypotheses(*(np.concatenate(pair) for pair in pairs))
        return both[np.argsort(both.frame, kind="stable")]

    @property
    def names(self) -> np.ndarray:
        """What tells them apart: frame, open blanks and pieces, a row each."""
        return np.column_stack([self.frame, np.where(self.open, -1, self.tokens)])


@dataclass
class Filled:
    """The best filling of every frame.

    ``tokens, logp`` are (frame, blank); ``rounds`` counts passes, ``settled`` says whether refinement came to
    its end; ``pll`` is the mean log-probability of each blank given all others, missing unless asked for.
    """

    tokens: np.ndarray
    logp: np.ndarray
    rounds: np.ndarray
    settled: np.ndarray
    pll: np.ndarray


class Search:
    """One search through all frames, see :meth:`run`.

    Args:
        model: which fills.
        frames: at least one.
        way: how.
        batch_size: texts per pass.
        done: is told how many frames are finished.
    """

    def __init__(
        self,
        model: LanguageModel,
        frames: Sequence[Frame],
        way: Way,
        *,
        batch_size: int | None = None,
        done: Callable[[int], object] = lambda number: None,
    ) -> None:
        self.model, self.frames, self.way, self.batch_size, self.done = model, frames, way, batch_size, done
        self.n = np.array([len(frame.slots) for frame in frames])
        self.widest = int(self.n.max())
        self.passes, self.settled = np.zeros(len(frames), int), np.ones(len(frames), bool)
        self.banned: torch.Tensor | None = banned_pieces(model) if way.ban else None
        shape = (len(frames), self.widest)
        blanks = np.arange(self.widest) < self.n[:, None]
        self.kept = Hypotheses(np.arange(len(frames)), np.zeros(shape, int), np.zeros(shape), blanks)

    def run(self, pll: bool = False) -> Filled:
        """Fill, refine; ``pll`` asks for that score too."""
        self.fill()
        if self.way.refine != "none":
            self.refine()
        self.done(int((self.n == 1).sum()) if self.way.refine != "none" else len(self.frames))
        first = self.kept[np.unique(self.kept.frame, return_index=True)[1]]
        scores = np.full(len(self.frames), np.nan)
        if pll:
            scores = self.rescored(first).logp.sum(1) / self.n
        return Filled(first.tokens, first.logp, self.passes, self.settled, scores)

    def fill(self) -> None:
        """The initial prediction: until no blank is open."""
        while (going := np.asarray(self.kept.open.any(1))).any():
            old = self.kept[going]
            where = old.open
            if self.way.init == "order":
                where = np.arange(self.widest) == old.open.argmax(1)[:, None]
            logp, piece = self.look(old, old.open, where)
            one = self.way.init == "confidence"
            new = one_each(old, logp, piece) if one else self.all(old, where, logp, piece)
            self.kept = self.kept[~going].beside(self.best(new))

    def refine(self) -> None:
        """Open blanks again and fill them, until nothing changes or the rounds are used up."""
        limit = 2 * self.n if self.way.rounds is None else np.full(len(self.n), self.way.rounds)
        if "shared-rounds" in self.way.original:
            whole = 2 * self.widest if self.way.rounds is None else self.way.rounds
            limit = whole - self.passes
        active = self.n > 1  # one blank alone is asked the same again
        self.settled, calm = ~active, np.zeros(len(self.n), int)
        turn = 0
        while (going := active & (turn < limit)).any():
            ours = going[self.kept.frame]
            old = self.kept[ours]
            where = self.reopened(old, turn)
            logp, piece = self.look(old, where, where)
            new = self.best(self.all(old, where, logp, piece))
            calm = np.where(same(old, new, len(self.n)), calm + 1, 0)
            self.kept = self.kept[~ours].beside(new)
            turn += 1
            ends = {"order": calm >= self.n, "confidence": calm >= 1, "mask-predict": turn >= self.n - 1}
            finished = going & ends[self.way.refine]
            self.settled |= finished
            active &= ~finished
            self.done(int((going & ~(active & (turn < limit))).sum()))

    def reopened(self, old: Hypotheses, turn: int) -> np.ndarray:
        """Which blanks are opened again."""
        place, n = np.arange(self.widest), self.n[old.frame]
        if self.way.refine == "order":
            return place == (turn % n)[:, None]
        sure = np.where(place < n[:, None], old.logp, np.inf)
        rank = sure.argsort(1, kind="stable").argsort(1)  # 0: the least sure
        number = np.ones_like(n) if self.way.refine == "confidence" else n - 1 - turn
        return rank < number[:, None]

    def look(self, old: Hypotheses, masked: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best pieces, (row, blank, beam), where asked for; ``masked`` blanks are open in the text."""
        shape = (*where.shape, self.way.beam)
        logp, piece = np.full(shape, -np.inf), np.zeros(shape, int)
        texts = [self.text(old, row, masked[row], where[row]) for row in range(len(where))]
        logp[where], piece[where] = best_pieces(
            self.model, texts, self.way.beam, banned=self.banned, batch_size=self.batch_size
        )
        self.passes[np.unique(old.frame)] += 1
        return logp, piece

    def text(
        self, old: Hypotheses, row: int, masked: np.ndarray, where: np.ndarray, wanted: bool = False
    ) -> Text:
        """One hypothesis as a text that is read at some of its blanks."""
        frame, mask = self.frames[old.frame[row]], self.model.tokenizer.mask_token_id
        ids = list(frame.ids)
        for slot, piece, hidden in zip(frame.slots, old.tokens[row], masked, strict=False):
            ids[slot] = mask if hidden else int(piece)
        read = np.flatnonzero(where)
        asked = tuple((int(piece),) for piece in old.tokens[row, read]) if wanted else ()
        return Text(ids, tuple(frame.slots[k] for k in read), asked, frame.acting)

    def all(self, old: Hypotheses, where: np.ndarray, logp: np.ndarray, piece: np.ndarray) -> Hypotheses:
        """Hypotheses with all of these blanks filled: the best combinations of pieces of each."""
        choose = ranks if "rank-beam" in self.way.original else combinations
        chosen, there = choose(where, logp)
        rows, slots = np.arange(len(where))[:, None, None], np.arange(self.widest)
        tokens = np.where(where[:, None], piece[rows, slots, chosen], old.tokens[:, None])
        sure = np.where(where[:, None], logp[rows, slots, chosen], old.logp[:, None])
        if "stale" in self.way.original:  # as before where the piece stayed
            stayed = (tokens == old.tokens[:, None]) & ~old.open[:, None]
            sure = np.where(stayed, old.logp[:, None], sure)
        row = np.broadcast_to(np.arange(len(where))[:, None], there.shape)[there]
        still = old.open & ~where
        return Hypotheses(old.frame[row], tokens[there], sure[there], still[row])

    def best(self, new: Hypotheses) -> Hypotheses:
        """The best hypotheses of every frame, none twice, from the best on."""
        kept = ranked(new, self.way.beam)
        return ranked(self.rescored(kept), self.way.beam) if self.way.rescore else kept

    def rescored(self, old: Hypotheses) -> Hypotheses:
        """The same with every filled blank's log-probability given all others."""
        blanks = np.arange(self.widest) < self.n[old.frame][:, None]
        row, slot = np.nonzero(blanks & ~old.open)
        alone = np.arange(self.widest) == slot[:, None]
        texts = [
            self.text(old, one, old.open[one] | this, this, wanted=True)
            for one, this in zip(row.tolist(), alone, strict=True)
        ]
        logp = old.logp.copy()
        logp[row, slot] = log_probabilities(self.model, texts, batch_size=self.batch_size)
        np.add.at(self.passes, np.unique(old.frame), self.n[np.unique(old.frame)])
        return Hypotheses(old.frame, old.tokens, logp, old.open)


def one_each(old: Hypotheses, logp: np.ndarray, piece: np.ndarray) -> Hypotheses:
    """Each hypothesis with one more blank filled: the best pairs of a blank and a piece."""
    rows, slots, beam = logp.shape
    order = np.argsort(-logp.reshape(rows, -1), axis=1, kind="stable")[:, :beam]
    slot, rank = order // beam, order % beam
    row = np.broadcast_to(np.arange(rows)[:, None], order.shape)
    there = np.isfinite(logp[row, slot, rank])
    row, slot, rank = row[there], slot[there], rank[there]
    new, line = old[row], np.arange(len(row))
    new.tokens[line, slot], new.logp[line, slot] = piece[row, slot, rank], logp[row, slot, rank]
    new.open[line, slot] = False
    return new


def combinations(where: np.ndarray, logp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best combinations of pieces for these blanks, from the best on.

    Only the best pieces of each blank can be part of them, so blanks are joined one after another.

    Args:
        where: the blanks, (row, blank).
        logp: of each blank's best pieces, (row, blank, beam).

    Returns:
        which of its pieces each blank takes, (row, combination, blank), and whether there is such a
        combination, (row, combination).
    """
    rows, slots, beam = logp.shape
    score, chosen = np.zeros((rows, 1)), np.zeros((rows, 1, slots), int)
    for slot in range(slots):
        part = np.where(where[:, [slot]], logp[:, slot], np.where(np.arange(beam) == 0, 0.0, -np.inf))
        joined = (score[:, :, None] + part[:, None]).reshape(rows, -1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :beam]
        score = np.take_along_axis(joined, order, 1)
        chosen = np.take_along_axis(chosen, (order // beam)[:, :, None], 1)
        chosen[:, :, slot] = order % beam
    return chosen, np.asarray(np.isfinite(score))


def ranks(where: np.ndarray, logp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`combinations`, of the original: the b-th takes every blank's b-th piece."""
    there = np.asarray(np.isfinite(np.where(where[:, :, None], logp, 0.0)).all(1))
    return np.where(where[:, None], np.arange(logp.shape[2])[:, None], 0), there


def ranked(new: Hypotheses, beam: int) -> Hypotheses:
    """The best ``beam`` of every frame, none twice; of equal ones those of lower ids."""
    names, score = new.names, new.logp.sum(1)
    order = np.lexsort((*names[:, :0:-1].T, -score, names[:, 0]))
    new, names = new[order], names[order]
    first = np.sort(np.unique(names, axis=0, return_index=True)[1])
    new = new[first]
    starts = np.searchsorted(new.frame, new.frame)
    return new[np.arange(len(first)) - starts < beam]


def same(old: Hypotheses, new: Hypotheses, frames: int) -> np.ndarray:
    """Of which frames the two hold the same hypotheses, (frame,)."""
    names = np.concatenate([old.names, new.names])
    distinct, count = np.unique(names, axis=0, return_counts=True)
    both = np.bincount(distinct[count == 2, 0], minlength=frames)
    sizes = [np.bincount(table.frame, minlength=frames) for table in (old, new)]
    return (both == sizes[0]) & (both == sizes[1])
