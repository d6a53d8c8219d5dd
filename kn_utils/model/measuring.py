"""What benchmarks need: models of published shapes that need no download, a clock, the peak of memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..data.downloads.identity import BUNDLED
from .language_model import LanguageModel
from .loading import choose_device, load_model

_SMALL = {"hidden_size": 160, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 768}
#: Shapes with random weights.
SHAPES = {
    "random-mbert": ("bert", {"vocab_size": 119547}),  # the rest of BERT-base is the library's default
    "random-small": ("bert", {"vocab_size": 8000, **_SMALL}),
    "random-gpt2": ("gpt2", {}),
}


def random_model(
    shape: str, device: torch.device | None = None, tokenizer: str | Path | None = None
) -> LanguageModel:
    """A model of one of :data:`SHAPES` with random weights.

    Args:
        shape: its name.
        device: where it goes; ``None``: the processor.
        tokenizer: a folder; that of mBERT itself makes texts as long as mBERT's. ``None``: the bundled one,
            whose ids lie inside every vocabulary.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    kind, changes = SHAPES[shape]
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if kind == "gpt2" else AutoModelForMaskedLM
    model = auto.from_config(AutoConfig.for_model(kind, **changes))
    pieces = AutoTokenizer.from_pretrained(tokenizer or BUNDLED["mini"])
    return LanguageModel(model.to(device or "cpu"), pieces, name=shape)


def model_to_measure(name: str, device: str = "auto", tokenizer: str | Path | None = None) -> LanguageModel:
    """One of :data:`SHAPES` with random weights, or what :func:`kn_utils.load_model` loads by that name."""
    if name in SHAPES:
        return random_model(name, choose_device(device), tokenizer)
    return load_model(name, device=device)


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def peak(device: torch.device) -> Iterator[list[float | None]]:
    """Most memory in MiB that the block takes beyond what is taken; ``None`` where nobody says."""
    gc.collect()
    found: list[float | None] = [None]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found[0] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted again from here
        before = _status("VmRSS")
    except OSError:
        yield found
        return
    yield found
    found[0] = (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
