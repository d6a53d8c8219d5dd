"""Batches: as many prompts together as suit device and memory, and halves when these do not fit."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..model.language_model import LanguageModel
from ..model.memory import is_out_of_memory
from ..model.rows import Row
from .quadrature import AttributionError

WINDOW = 1024  # prompts whose rows and scores are in memory together
CPU_TOKENS = 2500  # tokens of the widest layer: more no longer fit a processor's caches, and cost time
CPU_LOGITS = 2**30  # bytes of logits: nor is it faster to hold more than this
DEVICE_TOKENS = 2**16  # on an accelerator; products of this size keep it busy


@dataclass(frozen=True)
class Batch:
    """Prompts (by number), their rows (one per piece of the answer), and their window of the table."""

    window: int
    number: int
    prompts: list[int]
    rows: list[list[Row]]

    @property
    def name(self) -> str:
        """Sorts as batches are made."""
        return f"{self.window:06d}-{self.number:06d}"


def batches(
    encode: Callable[[pd.DataFrame], list[Row]],
    prompts: pd.DataFrame,
    cost: Callable[[int], int],
    budget: int,
) -> Iterator[Batch]:
    """Prompts of similar length together, whose rows' costs by length add up to at most ``budget``.

    A prompt that costs more is a batch of its own. Only :data:`WINDOW` prompts are encoded at a time, by
    ``encode``.
    """
    for window, first in enumerate(range(0, len(prompts), WINDOW)):
        rows: dict[int, list[Row]] = {}
        for row in encode(prompts.iloc[first : first + WINDOW]):
            rows.setdefault(first + row.prompt, []).append(row)
        order = sorted(rows, key=lambda prompt: (len(rows[prompt][-1].ids), prompt))
        number, size = 0, 0
        chosen: list[int] = []
        for prompt in order:
            # The longest comes last, and the others are padded to it.
            size, price = size + len(rows[prompt]), cost(len(rows[prompt][-1].ids))
            if chosen and size * price > budget:
                yield Batch(window, number, chosen, [rows[p] for p in chosen])
                number, chosen, size = number + 1, [], len(rows[prompt])
            chosen.append(prompt)
        yield Batch(window, number, chosen, [rows[p] for p in chosen])


def memory_budget(
    model: LanguageModel, precision: str | None = None, device: torch.device | None = None
) -> int:
    """Tokens of the widest layer that fit into half of a device's free memory.

    By a model of what a pass keeps to go back.

    Per layer and token: about twelve vectors of the hidden size and three of the neurons. The batch grows
    evenly on its way up, so a token of the widest layer stands for half a token in every layer. Per row: the
    logits three times; a masked model's row has eight tokens or more.
    """
    hidden, vocabulary = model.embeddings.shape[1], model.model.get_output_embeddings().weight.shape[0]
    logits = 3 * vocabulary / (1 if model.causal else 8)
    per_token = model.n_layers / 2 * (12 * hidden + 3 * model.n_neurons) + logits
    each = torch.finfo(model.dtype).bits / 8 * (0.7 if precision == "bfloat16" else 1)
    device = device or model.device
    fits = int(0.5 * free_memory(device) / (each * per_token))
    most = DEVICE_TOKENS
    if device.type == "cpu":
        most = min(CPU_TOKENS, int(CPU_LOGITS / (each * logits)))
    return max(1, min(fits, most))


def free_memory(device: torch.device) -> float:
    """Bytes that can still be taken on a device; 2 GiB where nobody says."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 2.0**31


class Halving:
    """Scores rows in as many passes as memory asks for.

    What it learns from one batch holds for texts as long or longer.

    Args:
        score: (rows, layers) -> scores of these rows at these layers; rows are whatever has ``ids``, scores
            whatever can be ``joined``.
        layers: the layers that are asked for.
    """

    def __init__(self, score: Callable[[list[Any], list[int]], Any], layers: list[int]) -> None:
        self.score, self.layers = score, layers
        #: Length of the longest text -> how many rows, and how many layers of one row, are tried at once.
        self.most_rows: dict[int, int] = {}
        self.most_layers: dict[int, int] = {}

    def __call__(self, rows: list[Any], layers: list[int] | None = None) -> Any:
        """Scores of these rows, at all layers or some."""
        layers = layers or self.layers
        longest = max(len(row.ids) for row in rows)
        some = _least(self.most_rows, longest, len(rows))
        if some < len(rows):
            parts = [self(rows[i : i + some], layers) for i in range(0, len(rows), some)]
            return parts[0].joined(parts, 0)
        some = _least(self.most_layers, longest, len(layers))
        if some < len(layers):
            parts = [self(rows, layers[i : i + some]) for i in range(0, len(layers), some)]
            return parts[0].joined(parts, 1)
        try:
            return self.score(rows, layers)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        # Out of the handler: the failed pass's tensors are gone now.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) > 1:
            some = self.most_rows[longest] = (len(rows) + 1) // 2
        elif len(layers) > 1:
            some = self.most_layers[longest] = (len(layers) + 1) // 2
        else:
            raise AttributionError(
                f"one text of {longest} tokens does not fit into memory ({said}); take fewer steps, "
                "precision='bfloat16', or a device with more memory."
            )
        what = f"{len(rows)} rows" if len(rows) > 1 else f"{len(layers)} layers of one row"
        print(
            f"out of memory with {what} of {longest} tokens; going on with {some} at a time", file=sys.stderr
        )
        return self(rows, layers)


def _least(learnt: dict[int, int], length: int, default: int) -> int:
    return min((some for known, some in learnt.items() if known <= length), default=default)
