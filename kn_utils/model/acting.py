"""What acts on a model while it answers: neurons scaled at the blank, or value slots changed, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from .hooks import Replace, SlotChange, check_neurons, replace_at, slots_changed
from .language_model import LanguageModel


@dataclass(frozen=True)
class Scaling:
    """Neurons (n, 2), layer and neuron, multiplied by a factor at the blank (0 silences, 2 doubles).

    With ``others`` these stay as they are, and all other neurons of the model are multiplied instead. With
    ``towards`` (layer, neuron) it is their way from there that is multiplied: factor 0 sets them to it.
    """

    neurons: np.ndarray
    factor: float
    others: bool = False
    towards: np.ndarray | None = None


#: What acts on the model while it answers a question.
Intervention = Scaling | SlotChange


def lowest_layer(model: LanguageModel, acting: Intervention | None) -> int:
    """The lowest layer that an intervention touches; the number of layers if it touches none."""
    if isinstance(acting, Scaling) and acting.others:
        return 0
    return model.n_layers if acting is None or not len(acting.neurons) else int(acting.neurons[:, 0].min())


@contextmanager
def acting_on(
    model: LanguageModel, at: torch.Tensor, acting: Sequence[Intervention | None]
) -> Iterator[None]:
    """Inside, each row of a batch, its blank at ``at`` (row,), runs under its own intervention."""
    scalings = [(row, act) for row, act in enumerate(acting) if isinstance(act, Scaling)]
    with ExitStack() as stack:
        if scalings:
            stack.enter_context(replace_at(model, _factors(model, scalings), at))
        if any(isinstance(act, SlotChange) for act in acting):
            changes = [act if isinstance(act, SlotChange) else None for act in acting]
            stack.enter_context(slots_changed(model, changes))
        yield


def _factors(model: LanguageModel, scalings: list[tuple[int, Scaling]]) -> dict[int, Replace]:
    """Layer -> what multiplies each row's own neurons in it, or all others."""
    for _, act in scalings:
        check_neurons(model, act.neurons)
    sizes = [len(act.neurons) for _, act in scalings]
    row = np.repeat([row for row, _ in scalings], sizes)
    pairs = np.concatenate([act.neurons for _, act in scalings])
    factor = np.repeat([1.0 if act.others else act.factor for _, act in scalings], sizes)
    start = np.concatenate([_starts(act) for _, act in scalings])
    rest = {row: act for row, act in scalings if act.others}

    def scaled(layer: int) -> Replace:
        here = pairs[:, 0] == layer
        rows, columns = (torch.as_tensor(x[here], device=model.device) for x in (row, pairs[:, 1]))
        factors, starts = (
            torch.as_tensor(x[here], dtype=model.dtype, device=model.device) for x in (factor, start)
        )
        moved = (1 - factors) * starts

        def replace(values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            kept = values[rows, columns]
            for own, act in rest.items():
                values[own] *= act.factor
                if act.towards is not None:
                    away = (1 - act.factor) * np.asarray(act.towards)[layer]
                    values[own] += torch.as_tensor(away, dtype=values.dtype, device=values.device)
            values[rows, columns] = (kept * factors + moved).to(values.dtype)
            return values

        return replace

    layers = range(model.n_layers) if rest else np.unique(pairs[:, 0])
    return {int(layer): scaled(int(layer)) for layer in layers}


def _starts(act: Scaling) -> np.ndarray:
    """Where the neurons of a scaling are moved towards, (n,)."""
    if act.towards is None:
        return np.zeros(len(act.neurons))
    return np.asarray(act.towards, dtype=float)[act.neurons[:, 0], act.neurons[:, 1]]
