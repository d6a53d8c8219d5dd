"""Precision of the matrix products: the weights' own, TF32, or bfloat16 with all else in float32.

In bfloat16 only the products are rounded (8 bits of mantissa); residual stream, normalisations, softmax and
path points stay float32. Weights are converted once and kept beside the originals until these are edited
(edits through ``weight.data``, which torch does not count, are not seen).

On CUDA a head whose number of pieces is no multiple of 8 (mBERT's 119,547) is given rows of zeros up to the
next multiple of 64, and their logits are cut off: otherwise slow, unaligned products are chosen.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..base import StudyError
from ..model.head import gives_logits
from ..model.language_model import LanguageModel
from ..model.memory import quick_attention

PRECISIONS = ("float32", "tf32", "bfloat16")


class PrecisionError(StudyError):
    """A precision that is unknown, or that this device or this model cannot compute in."""


def rounds_products(model: LanguageModel, precision: str | None = None) -> bool:
    """Whether matrix products keep fewer bits than float32's."""
    return precision in ("tf32", "bfloat16") or torch.finfo(model.dtype).bits < 32


def slower_than_float32(device: torch.device, precision: str | None) -> bool:
    """Whether a precision that is there for speed takes longer here: bfloat16 without instructions for it."""
    if precision != "bfloat16" or device.type != "cpu":
        return False
    has = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return platform.machine() in ("x86_64", "AMD64") and not any(one() for one in has if one is not None)


@contextmanager
def computing_in(model: LanguageModel, precision: str | None = None) -> Iterator[None]:
    """Inside, matrix products of ``model`` run in ``precision``, and attention is not cuDNN's.

    ``None`` is the weights' own type, without TF32.

    Raises:
        PrecisionError: unknown name; TF32 off CUDA; bfloat16 or float32 asked of weights in another type.
    """
    if precision not in (None, *PRECISIONS):
        raise PrecisionError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}.")
    if precision is not None and model.dtype != torch.float32:
        held = str(model.dtype).removeprefix("torch.")
        raise PrecisionError(
            f"precision={precision!r} needs weights in float32, these are {held}; load with dtype='float32'."
        )
    if precision == "tf32" and model.device.type != "cuda":
        raise PrecisionError(f"precision='tf32' exists on CUDA only, the model is on {model.device.type}.")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        rounded = precision == "bfloat16"
        kind = model.device.type
        with (
            quick_attention(),
            _copied(model, rounded),
            torch.autocast(kind, torch.bfloat16, enabled=rounded),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


#: Linear map -> (what its weights were when they were copied and how, the copies).
_COPIES: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], dict[str, nn.Parameter]]] = WeakKeyDictionary()


@contextmanager
def _copied(model: LanguageModel, rounded: bool) -> Iterator[None]:
    # Autocast would convert frozen weights again at every product.
    more, last = missing_rows(model), model.model.get_output_embeddings()
    maps = list(_linear_maps(model.model)) if rounded else [last] if more else []
    held: list[tuple[nn.Module, dict[str, nn.Parameter | None]]] = []
    with ExitStack() as stack:
        if more:
            size = last.out_features
            cut = last.register_forward_hook(lambda _, given, logits: logits[..., :size])
            stack.callback(cut.remove)
        try:
            for module in maps:
                held.append((module, dict(module._parameters)))
                module._parameters.update(_copy(module, rounded, more if module is last else 0))
            yield
        finally:
            for module, parameters in held:
                module._parameters.update(parameters)


def _copy(module: nn.Module, rounded: bool, more: int) -> dict[str, nn.Parameter]:
    """A linear map's parameters, rounded to bfloat16 or not, with so many rows of zeros more."""
    own = {name: weight for name, weight in module._parameters.items() if weight is not None}
    state = (rounded, more, *((weight.data_ptr(), weight._version) for weight in own.values()))
    if _COPIES.get(module, (None,))[0] != state:
        copies = {}
        for name, weight in own.items():
            values = weight.bfloat16() if rounded else weight
            zeros = values.new_zeros(more, *values.shape[1:])
            copies[name] = nn.Parameter(torch.cat([values, zeros]) if more else values, requires_grad=False)
        _COPIES[module] = (state, copies)
    return _COPIES[module][1]


def missing_rows(model: LanguageModel) -> int:
    """How many rows the head's last map lacks for products that this device is quick at."""
    last = model.model.get_output_embeddings()
    if model.device.type != "cuda" or not gives_logits(model, last) or not last.out_features % 8:
        return 0
    return -last.out_features % 64


def _linear_maps(model: nn.Module) -> Iterator[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return (module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D)))
