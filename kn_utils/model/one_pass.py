"""One pass: what a model says at every place where some texts are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch

from .acting import acting_on, lowest_layer
from .head import AT_ONCE, Places, log_sums, logits_at
from .hooks import rows_spread
from .language_model import LanguageModel
from .prefixes import read_prefixes
from .rows import ANYTHING_ELSE, Row
from .texts import AskedText, Name, in_which, places_of

#: What the model is given, and how many tokens of each text are left out there.
Entered = tuple[dict[str, Any], list[int]]
#: How texts enter the model; what has to last for the pass is put on the stack.
Enter = Callable[[LanguageModel, Sequence[AskedText], ExitStack], Entered]
#: A place where a text is read, (text, position) -> its line among those of its kind.
Lines = Mapping[tuple[int, int], int]


class Read(NamedTuple):
    """What the model says at one place: P of the wanted piece, its rank, the first choice."""

    p: float
    rank: int
    top: int


def in_full(model: LanguageModel, texts: Sequence[AskedText], stack: ExitStack) -> Entered:
    """Whole texts; below the lowest layer that anything acts on equal ones are run once.

    Inside ``suppress`` and ``amplify``, which find each row's blank themselves, none is shared.
    """
    ids = [tuple(text.ids) for text in texts]
    distinct, own = (ids, list(range(len(ids)))) if model.hooked else in_which(ids)
    inputs: dict[str, Any] = dict(model.batch([Row(0, list(ids), 0, 0) for ids in distinct])[0])
    if model.causal:
        inputs["use_cache"] = False
    if len(distinct) < len(texts):
        start = min(lowest_layer(model, text.acting) for text in texts)
        index = torch.tensor(own, device=model.device)
        stack.enter_context(rows_spread(model, min(start, model.n_layers - 1), index))
    return inputs, [0] * len(texts)


def behind_beginnings(model: LanguageModel, texts: Sequence[AskedText], _: ExitStack) -> Entered:
    """What stands behind the texts' beginnings, which are read once."""
    distinct, own = in_which([text.prefix for text in texts])
    index = torch.tensor(own, device=model.device)
    tails = [text.ids[text.start :] for text in texts]
    longest = max(map(len, tails))
    padded = torch.tensor([tail + [0] * (longest - len(tail)) for tail in tails], device=model.device)
    return read_prefixes(model, distinct, index, padded), [text.start for text in texts]


@torch.no_grad()
def read_texts(
    model: LanguageModel, enter: Enter, texts: Sequence[AskedText]
) -> tuple[dict[Name, Read], dict[Name, np.ndarray]]:
    """What the model says at every place where these texts are read.

    Returns:
        by their rows' names: of plain ones what it says over the vocabulary, of those that compete with a few
        pieces how these share the probability.
    """
    places = places_of(texts)
    whole = [place for place in places if places[place]]
    few = [place for place in places if not places[place]]
    competing = {piece for text in texts for _, row in text.choices for piece in row.among}
    pieces = sorted(competing - {ANYTHING_ELSE}) if few else []
    with ExitStack() as stack:
        inputs, skipped = enter(model, texts, stack)
        blanks = [text.blank - n for text, n in zip(texts, skipped, strict=True)]
        at = torch.tensor(blanks, device=model.device)
        stack.enter_context(acting_on(model, at, [text.acting for text in texts]))
        where = [_tensors(model, [(i, at - skipped[i]) for i, at in some]) for some in (whole, few)]
        logits = logits_at(model, inputs, where[0], where[1], pieces)
    total = log_sums(logits[0])
    line = {place: n for n, place in enumerate(whole)}
    shares = _shares(_among(texts, line), logits[0], range(logits[0].shape[1]), total)
    line_few = {place: n for n, place in enumerate(few)}
    shares |= _shares(_among(texts, line_few), logits[1], pieces, None)
    return _over_the_vocabulary(texts, line, logits[0], total), shares


def _tensors(model: LanguageModel, pairs: Sequence[tuple[int, int]]) -> Places:
    """Pairs of numbers as two tensors."""
    both = torch.tensor(pairs, dtype=torch.long, device=model.device).view(-1, 2)
    return both[:, 0], both[:, 1]


def _over_the_vocabulary(
    texts: Sequence[AskedText], line: Lines, logits: torch.Tensor, total: torch.Tensor
) -> dict[Name, Read]:
    """P, rank and first choice of every plain row, from (place, token) logits and their log-sums (place,)."""
    asked = [
        (name, line[i, row.position], row.target) for i, text in enumerate(texts) for name, row in text.plain
    ]
    first = logits.argmax(1)
    read: dict[Name, Read] = {}
    for start in range(0, len(asked), AT_ONCE):
        names, *numbers = zip(*asked[start : start + AT_ONCE], strict=True)
        where, target = (torch.tensor(x, device=logits.device) for x in numbers)
        here = logits[where]
        right = here.gather(1, target[:, None])
        p = (right[:, 0].double() - total[where]).exp()
        values = zip(p.tolist(), (1 + (here > right).sum(1)).tolist(), first[where].tolist(), strict=True)
        read |= {name: Read(*value) for name, value in zip(names, values, strict=True)}
    return read


def _among(texts: Sequence[AskedText], line: Lines) -> list[tuple[Name, int, tuple[int, ...]]]:
    """Name, line and competing pieces of every row that competes with a few at one of these places."""
    return [
        (name, line[i, row.position], row.among)
        for i, text in enumerate(texts)
        for name, row in text.choices
        if (i, row.position) in line
    ]


def _shares(
    asked: Sequence[tuple[Name, int, tuple[int, ...]]],
    logits: torch.Tensor,
    pieces: Sequence[int],
    total: torch.Tensor | None,
) -> dict[Name, np.ndarray]:
    """How the probability is shared between competing pieces; ``ANYTHING_ELSE`` takes all others' part.

    Args:
        asked: name, line and pieces of each row.
        logits: (line, piece), of ``pieces``.
        total: the log-sum of each line over the whole vocabulary, (line,); ``None``: all pieces are named.
    """
    column = pieces if isinstance(pieces, range) else {piece: n for n, piece in enumerate(pieces)}
    places = [(line, column[piece]) for _, line, among in asked for piece in among if piece != ANYTHING_ELSE]
    if not places:
        return {}
    line, piece = torch.tensor(places, device=logits.device).T
    values = logits[line, piece].double().cpu().numpy()
    sums = None if total is None else total.cpu().numpy()
    shares, start = {}, 0
    for name, at, among in asked:
        named = [n for n, one in enumerate(among) if one != ANYTHING_ELSE]
        here = values[start : start + len(named)]
        start += len(named)
        if len(named) == len(among):
            part = np.exp(here - here.max())
            shares[name] = part / part.sum()
        else:
            assert sums is not None, "such a place is read over the whole vocabulary"
            part = np.exp(here - sums[at])
            shares[name] = np.full(len(among), max(0.0, 1 - part.sum()))
            shares[name][named] = part
    return shares
