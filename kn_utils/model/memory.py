"""How much goes through a model at once, and what happens when that was too much."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..base import StudyError
from .language_model import LanguageModel

Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfMemory(StudyError):
    """One text alone does not fit."""


def rows_at_once(model: LanguageModel) -> int:
    """How many rows go through the model together unless told otherwise.

    On a processor few: its caches hold them.
    """
    return 32 if model.device.type == "cpu" else 256


def in_parts(
    call: Callable[[Sequence[Item]], Result], items: Sequence[Item], at_once: int
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Call on so many items at once, on half as many from there on when memory ends.

    Yields:
        (items, result), in order.

    Raises:
        OutOfMemory: a single item does not fit.
    """
    start = 0
    while start < len(items):
        part = items[start : start + at_once]
        try:
            with quick_attention():
                result = call(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        else:
            yield part, result
            start += len(part)
            continue
        free_what_is_unused()  # out of the handler: the failed pass's tensors are gone now
        if len(part) == 1:
            raise OutOfMemory(
                f"one text does not fit into memory ({said}); take a device with more memory or a smaller "
                f"model."
            )
        at_once = (len(part) + 1) // 2
        print(f"out of memory with {len(part)} texts; going on with {at_once} at a time", file=sys.stderr)


@contextmanager
def quick_attention() -> Iterator[None]:
    """Inside, attention is not cuDNN's.

    Torch's choice in half precision, it plans again for every shape, and here nearly each is new: eleven
    times slower.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def free_what_is_unused() -> None:
    """Give memory that nothing refers to any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended: CUDA, MPS and the processor each say it in their own way."""
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
