"""Texts behind prefixes that a left-to-right model reads once.

What such a model makes of a token depends on the tokens before it only. So texts that begin alike (the names
that could stand behind a question, a question under many interventions at its blank) share what was made of
their beginning: keys and values of the prefix are kept, and only the tokens behind it go through the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from .language_model import LanguageModel, on_device


class Rows(Protocol):
    """Says of which prefix each row of a batch is: ``rows`` (row,)."""

    @property
    def rows(self) -> torch.Tensor:
        """The prefix of each row as the batch is now."""


class Behind:
    """Rows that do not change: ``rows`` (row,)."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows


class PrefixCache(DynamicCache):
    """Keys and values of prefixes.

    Lent to a batch, it gives every row those of its prefix and keeps nothing.
    """

    lent_to: Rows | None = None

    def end_together(self, short: torch.Tensor) -> None:
        """Move keys and values right by each prefix's padding (prefix,): distances to its end then hold."""
        layer: Any  # one that keeps keys and values
        for layer in self.layers:
            place = torch.arange(layer.keys.shape[2], device=short.device)
            index = (place - short.unsqueeze(1)).clamp(min=0)[:, None, :, None].expand_as(layer.keys)
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Keys and values of a layer for the tokens that come in, with those kept before them."""
        if self.lent_to is None:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        kept: Any = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        if kept is None or getattr(kept, "keys", None) is None:  # nothing stands before
            return key_states, value_states
        both, rows = ((kept.keys, key_states), (kept.values, value_states)), self.lent_to.rows
        return tuple(torch.cat([old[rows], new], -2) for old, new in both)


def window(model: LanguageModel) -> int | None:
    """How far back some layer looks; ``None``: to the beginning."""
    return getattr(model.model.config, "sliding_window", None)


def read_prefixes(
    model: LanguageModel, prefixes: Sequence[Sequence[int]], rows: torch.Tensor, tails: torch.Tensor
) -> dict[str, Any]:
    """Read prefixes once.

    Args:
        model: a left-to-right one. No prefix and tail are longer than its :func:`window`, unless all prefixes
            are equally long.
        prefixes: token ids; a prefix may be empty.
        rows: of which prefix each text is, (text,).
        tails: the texts' other token ids, padded on the right, (text, token).

    Returns:
        what the model is given to read the tails; ``past_key_values`` is a :class:`PrefixCache` lent to
        ``rows``.
    """
    lengths = [len(prefix) for prefix in prefixes]
    longest, device = max(lengths), tails.device
    cache = PrefixCache(config=model.model.config)
    if longest:
        ids = [[*prefix, *[0] * (longest - len(prefix))] for prefix in prefixes]
        with torch.no_grad():  # no token sees the padding behind it
            ids_there = on_device(ids, device)
            model.model.base_model(input_ids=ids_there, use_cache=True, past_key_values=cache)
    inputs: dict[str, Any] = {"input_ids": tails, "use_cache": True, "past_key_values": cache}
    if len(set(lengths)) > 1:
        length = on_device(lengths, device)
        cache.end_together(longest - length)
        start = length[rows].unsqueeze(1)
        place = torch.arange(longest + tails.shape[1], device=device)
        inputs["attention_mask"] = (place >= longest - start).long()
        if model.takes_positions:
            inputs["position_ids"] = start + torch.arange(tails.shape[1], device=device)
    cache.lent_to = Behind(rows)
    return inputs
