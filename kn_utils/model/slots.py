"""What a model would write at places of many texts: the best pieces there, or how likely given ones are.

Probabilities are the model's own, over its whole vocabulary: a ban narrows the choice and changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .acting import Intervention, Scaling, acting_on
from .head import AT_ONCE, log_sums
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .rows import Row


@dataclass(frozen=True)
class Text:
    """A text and where it is read.

    Attributes:
        ids: its token ids.
        slots: the positions.
        wanted: per position the pieces that are asked for; empty: the best ones.
        acting: what acts on the model; neurons are scaled at the position that is read.
    """

    ids: list[int]
    slots: tuple[int, ...]
    wanted: tuple[tuple[int, ...], ...] = ()
    acting: Intervention | None = None


def best_pieces(
    model: LanguageModel,
    texts: Sequence[Text],
    k: int = 1,
    *,
    banned: torch.Tensor | None = None,
    batch_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best pieces at every place of these texts.

    Args:
        model: which to ask.
        texts: read together, those of like length beside each other.
        k: so many.
        banned: ids that are never among them.
        batch_size: texts per pass; ``None`` suits the device. Halved when memory ends.

    Returns:
        log-probabilities and ids, each (place, k), the places in the order of the texts and, in a text, of
        its ``slots``. Of equally likely pieces the lower id comes first. What there is no piece for has -inf.
    """
    return _read(model, texts, k, banned, batch_size)


def log_probabilities(
    model: LanguageModel, texts: Sequence[Text], *, batch_size: int | None = None
) -> np.ndarray:
    """The log-probability of every piece that texts want: by text, position and piece, in their order."""
    return _read(model, texts, 1, None, batch_size)[0][:, 0]


def _read(
    model: LanguageModel, texts: Sequence[Text], k: int, banned: torch.Tensor | None, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and ids: (place, k), or of all wanted pieces one below the other."""
    start = np.concatenate([[0], np.cumsum([_lines(text) for text in texts])]).astype(int)
    logp, piece = np.full((start[-1], k), -np.inf), np.zeros((start[-1], k), int)
    parts = [
        (place, text) for number, text in enumerate(texts) for place, text in _apart(start[number], text)
    ]
    parts.sort(key=lambda part: (len(part[1].ids), part[0]))
    at_once = batch_size or rows_at_once(model)
    for part, (values, ids) in in_parts(lambda some: _ask(model, some, k, banned), parts, at_once):
        place = np.concatenate([np.arange(first, first + _lines(text)) for first, text in part])
        logp[place, : values.shape[1]], piece[place, : values.shape[1]] = values, ids
    return logp, piece


def _lines(text: Text) -> int:
    """How many lines of numbers a text gives."""
    return sum(map(len, text.wanted)) if text.wanted else len(text.slots)


def _apart(place: int, text: Text) -> list[tuple[int, Text]]:
    """The text with its first place; where neurons are scaled, a text for each of its positions."""
    if not isinstance(text.acting, Scaling):
        return [(place, text)]
    parts = []
    for i, slot in enumerate(text.slots):
        part = Text(text.ids, (slot,), text.wanted[i : i + 1], text.acting)
        parts.append((place, part))
        place += _lines(part)
    return parts


@torch.no_grad()
def _ask(
    model: LanguageModel, parts: Sequence[tuple[int, Text]], k: int, banned: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """One pass: log-probabilities and ids, (place, k)."""
    texts = [text for _, text in parts]
    inputs, at, _ = model.batch([Row(0, text.ids, text.slots[0], 0) for text in texts])
    row, position = (
        torch.tensor(x, device=model.device)
        for x in zip(*((i, slot) for i, text in enumerate(texts) for slot in text.slots), strict=True)
    )
    with acting_on(model, at, [text.acting for text in texts]):
        logits = model.logits(inputs, position, row)
    asked = [pieces for text in texts for pieces in text.wanted]
    if asked:
        whole = log_sums(logits)
        ids = torch.tensor([piece for pieces in asked for piece in pieces], device=model.device)
        counts = torch.tensor([len(pieces) for pieces in asked], device=model.device)
        line = torch.repeat_interleave(torch.arange(len(asked), device=model.device), counts)
        own = (logits[line, ids].double() - whole[line])[:, None]
        return own.cpu().numpy(), ids[:, None].cpu().numpy()
    return top_pieces(logits, k, banned)


def top_pieces(
    logits: torch.Tensor, k: int, banned: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and ids, (place, k), of the best pieces of (place, token) logits."""
    found = [_top(here.double(), k, banned) for here in logits.split(AT_ONCE)]
    logp, piece = (torch.cat(x).cpu().numpy() for x in zip(*found, strict=True))
    order = np.lexsort((piece, -logp))
    return np.take_along_axis(logp, order, 1), np.take_along_axis(piece, order, 1)


def _top(logits: torch.Tensor, k: int, banned: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The best pieces of (place, token) logits."""
    whole = logits.logsumexp(1, keepdim=True)
    if banned is not None:
        logits[:, banned] = -torch.inf
    if k == 1:  # argmax promises the lowest id, topk does not
        piece = logits.argmax(1, keepdim=True)
        return logits.gather(1, piece) - whole, piece
    values, piece = logits.topk(min(k, logits.shape[1]))
    return values - whole, piece


def banned_pieces(model: LanguageModel) -> torch.Tensor:
    """Ids that are no part of an answer.

    They are the mask, the unknown and all other special tokens, unused ones (``[unused7]``), and rows of the
    vocabulary that the tokenizer does not know. A left-to-right model keeps its end of text.
    """
    tokenizer = model.tokenizer
    size = model.model.get_output_embeddings().weight.shape[0]
    names = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
    banned = {i for i, name in enumerate(names) if name is None or name.startswith("[unused")}
    banned |= set(tokenizer.all_special_ids) | set(range(len(tokenizer), size))
    if model.causal:
        banned.discard(tokenizer.eos_token_id)
    return torch.tensor(sorted(i for i in banned if i < size), dtype=torch.long, device=model.device)
