"""Precision of the matrix products: the weights' own, TF32, or bfloat16 with all else in float32.

In bfloat16 only the products are rounded (8 bits of mantissa); residual stream, normalisations, softmax and
path points stay float32. Weights are converted once and kept beside the originals until these are edited
(edits through ``weight.data``, which torch does not count, are not seen).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..base import StudyError
from ..model.language_model import LanguageModel

PRECISIONS = ("float32", "tf32", "bfloat16")


class PrecisionError(StudyError):
    """A precision that is unknown, or that this device or this model cannot compute in."""


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
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled()
    # cuDNN's attention, torch's choice in half precision, plans anew for every shape, and here each is new.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        if precision == "bfloat16":
            with _rounded(model), torch.autocast(model.device.type, dtype=torch.bfloat16):
                yield
        else:
            with torch.autocast(model.device.type, enabled=False):
                yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


#: Linear map -> (what its weights were when converted, its parameters in bfloat16).
_COPIES: WeakKeyDictionary[nn.Module, tuple[tuple[tuple[int, int], ...], dict[str, nn.Parameter]]] = (
    WeakKeyDictionary()
)


@contextmanager
def _rounded(model: LanguageModel) -> Iterator[None]:
    # Autocast would convert frozen weights anew at every product.
    kept: list[tuple[nn.Module, dict[str, nn.Parameter | None]]] = []
    try:
        for module in _linear_maps(model.model):
            own = {name: weight for name, weight in module._parameters.items() if weight is not None}
            state = tuple((weight.data_ptr(), weight._version) for weight in own.values())
            if _COPIES.get(module, (None,))[0] != state:
                copies = {
                    name: nn.Parameter(weight.bfloat16(), requires_grad=False) for name, weight in own.items()
                }
                _COPIES[module] = (state, copies)
            kept.append((module, dict(module._parameters)))
            module._parameters.update(_COPIES[module][1])
        yield
    finally:
        for module, parameters in kept:
            module._parameters.update(parameters)


def _linear_maps(model: nn.Module) -> Iterator[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return (module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D)))
