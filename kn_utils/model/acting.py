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
    """Neurons (n, 2), layer and neuron, multiplied by a factor at the blank (0 silences, 2 doubles)."""

    neurons: np.ndarray
    factor: float


#: What acts on the model while it answers a question.
Intervention = Scaling | SlotChange


def lowest_layer(model: LanguageModel, acting: Intervention | None) -> int:
    """The lowest layer that an intervention touches; the number of layers if it touches none."""
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
    """Layer -> what multiplies each row's own neurons in it."""
    for _, act in scalings:
        check_neurons(model, act.neurons)
    row = np.repeat([row for row, _ in scalings], [len(act.neurons) for _, act in scalings])
    pairs = np.concatenate([act.neurons for _, act in scalings])
    factor = np.repeat([act.factor for _, act in scalings], [len(act.neurons) for _, act in scalings])

    def scaled(layer: int) -> Replace:
        here = pairs[:, 0] == layer
        rows, columns = (torch.as_tensor(x[here], device=model.device) for x in (row, pairs[:, 1]))
        factors = torch.as_tensor(factor[here], dtype=model.dtype, device=model.device)

        def replace(values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            values[rows, columns] *= factors
            return values

        return replace

    return {int(layer): scaled(layer) for layer in np.unique(pairs[:, 0])}
