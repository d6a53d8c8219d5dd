"""How rows enter the walk: whole texts, or the blank's token alone behind a prefix computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from ..model.language_model import LanguageModel
from ..model.rows import Row
from .quadrature import AttributionError
from .walk import Walk

#: Runs the model while a walk's hooks are in place; logits at the blanks of the grown batch, (row, token).
Run = Callable[[Walk], torch.Tensor]


def entered(model: LanguageModel, rows: list[Row]) -> Run:
    """What runs these rows, as often as there are walks."""
    return _last_tokens(model, rows) if model.causal else _whole_texts(model, rows)


def _whole_texts(model: LanguageModel, rows: list[Row]) -> Run:
    """A masked model: every copy is a whole text, since all its tokens see the blank."""
    inputs, at, _ = model.batch(rows)
    if len({len(row.ids) for row in rows}) == 1:
        del inputs["attention_mask"]

    def run(walk: Walk) -> torch.Tensor:
        with walk.installed(model, at):
            return model.model(**inputs).logits[:, 0]

    return run


def _last_tokens(model: LanguageModel, rows: list[Row]) -> Run:
    """A left-to-right model: the prefixes once; then the last tokens, which grow into copies."""
    inputs, at, _ = model.batch(rows)
    ids, longest = inputs["input_ids"], inputs["input_ids"].shape[1]
    last = {"input_ids": ids.gather(1, at.unsqueeze(1)), "use_cache": True}
    cache = PrefixCache(config=model.model.config)
    if longest > 1:
        with torch.no_grad():  # no token sees the padding behind it
            model.model.base_model(input_ids=ids[:, :-1], use_cache=True, past_key_values=cache)
    if len({len(row.ids) for row in rows}) > 1:
        window = getattr(model.model.config, "sliding_window", None) or longest
        if longest > window:
            raise AttributionError(
                f"texts longer than the model's window of {window} tokens need batches of equal length."
            )
        cache.end_together(longest - 1 - at)
        last["attention_mask"] = (
            torch.arange(longest, device=at.device) >= (longest - 1 - at).unsqueeze(1)
        ).long()
        if model.takes_positions:
            last["position_ids"] = at.unsqueeze(1)

    def run(walk: Walk) -> torch.Tensor:
        cache.lent_to = walk
        with walk.installed(model, torch.zeros_like(at)):
            return model.model(**last, past_key_values=cache).logits[:, 0]

    return run


class PrefixCache(DynamicCache):
    """Keys and values of the prefixes.

    Lent to a walk, it gives every row of the batch those of its base row and keeps nothing.
    """

    lent_to: Walk | None = None

    def end_together(self, short: torch.Tensor) -> None:
        """Move keys and values to the right by a text's padding (row,): distances to its end then hold."""
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
        if kept is None or getattr(kept, "keys", None) is None:  # texts of one token
            return key_states, value_states
        both, rows = ((kept.keys, key_states), (kept.values, value_states)), self.lent_to.rows
        return tuple(torch.cat([old if len(old) == len(new) else old[rows], new], -2) for old, new in both)
