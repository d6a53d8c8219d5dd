"""How often each neuron is active in texts: the share of tokens at which it exceeds a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..base import StudyError
from ..checks import check_model
from .blocks import by_row
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .rows import Row


class TextsError(StudyError):
    """Texts without a token to look at."""


def active_shares(model: LanguageModel, texts: pd.DataFrame, *, threshold: float = 0.0) -> pd.DataFrame:
    """In each language the share of tokens at which each neuron is active.

    Args:
        model: which reads the texts.
        texts: ``language, text``; special tokens do not count.
        threshold: a neuron is active where its value (:mod:`kn_utils.model.hooks`) is greater. With GELU and
            in gated blocks 0 is as arbitrary as any other.

    Returns:
        ``language, layer, neuron, share``, every neuron of the model in every language.

    Raises:
        TextsError: a language without a token.
    """
    check_model(model)
    parts = []
    for language, own in texts.groupby("language", sort=False):
        share = _shares(model, list(dict.fromkeys(own["text"])), threshold, str(language))
        layer, neuron = np.indices(share.shape)
        columns = {"layer": layer.ravel(), "neuron": neuron.ravel(), "share": share.ravel()}
        parts.append(pd.DataFrame(columns).assign(language=language))
    return pd.concat(parts, ignore_index=True)[["language", "layer", "neuron", "share"]]


def as_arrays(shares: pd.DataFrame) -> dict[str, np.ndarray]:
    """:func:`active_shares` by language, (layer, neuron) each."""
    return {
        str(language): own.pivot(index="layer", columns="neuron", values="share").to_numpy(float)
        for language, own in shares.groupby("language", sort=False)
    }


def _shares(model: LanguageModel, texts: Sequence[str], threshold: float, language: str) -> np.ndarray:
    rows = [Row(0, list(model.tokenizer(text)["input_ids"]), 0, 0) for text in texts]
    special = torch.tensor(sorted(model.tokenizer.all_special_ids), device=model.device)
    count = torch.zeros(model.n_layers, model.n_neurons, dtype=torch.long)
    tokens = 0

    def read(part: Sequence[Row]) -> tuple[torch.Tensor, int]:
        inputs, at, _ = model.batch(list(part))
        ids = inputs["input_ids"]
        real = ~torch.isin(ids, special)
        real &= inputs.get("attention_mask", torch.ones_like(ids)).bool()
        with _counted(model, real, threshold) as found, torch.no_grad():
            model.logits(inputs, at)
        return torch.stack(found).cpu(), int(real.sum())

    for _, (found, number) in in_parts(read, rows, rows_at_once(model)):
        count += found
        tokens += number
    if not tokens:
        raise TextsError(f"no token to look at in {language}; give texts.")
    return count.numpy() / tokens


@contextmanager
def _counted(model: LanguageModel, real: torch.Tensor, threshold: float) -> Iterator[list[torch.Tensor]]:
    """Inside, a pass leaves per layer at how many of the real tokens each neuron exceeds the threshold."""
    found: list[torch.Tensor] = []

    def read(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found.append((by_row(args[0], len(real))[real] > threshold).sum(0))

    with ExitStack() as stack:
        for second in model.seconds:
            stack.callback(second.register_forward_pre_hook(read).remove)
        yield found
