"""Interventions: silence, strengthen, rewrite or erase neurons.

Every one is a context manager that restores the model on exit.

``suppress`` and ``amplify`` act on activations at the blank only, as the papers do. ``update_fact``,
``fine_tune`` and ``erase`` edit value slots (the vectors that neurons multiply) and put the very same numbers
back, also when an exception leaves the block. For many facts at once :mod:`kn_utils.model.answers` takes an
intervention per question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch

from ..checks import check_model, check_numbers, check_prompts
from ..neurons.choose import as_pairs
from .edits import Erasure, FineTune, Request, ValueEdit
from .hooks import Replace, SlotChange, check_neurons, replace_at
from .language_model import LanguageModel

#: Any table or list with layer and neuron.
Neurons: TypeAlias = pd.DataFrame | Iterable[tuple[int, int]]


@contextmanager
def suppress(model: LanguageModel, neurons: Neurons) -> Iterator[LanguageModel]:
    """Inside, the neurons are 0 at the blank (Dai et al., section 4.2). Nests; weights are not touched.

    Args:
        model: whose.
        neurons: any table or list with layer and neuron; an empty one changes nothing.

    Raises:
        InterventionError: a neuron that the model does not have; inside, a text without a blank.

    Example:
        >>> from kn_utils import answer_probability, load_facts, load_model, make_prompts, suppress
        >>> model = load_model("mini")
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(3)
        >>> with suppress(model, [(4, 7), (5, 9)]):
        ...     silenced = answer_probability(model, prompts)
        >>> len(silenced)
        3
    """
    with amplify(model, neurons, factor=0.0):
        yield model


@contextmanager
def amplify(model: LanguageModel, neurons: Neurons, *, factor: float = 2.0) -> Iterator[LanguageModel]:
    """Inside, the neurons are ``factor`` times their value at the blank. Nests; weights are not touched.

    The blank is read from the input: the first mask token of a row, or for a causal model its last token.

    Example:
        >>> from kn_utils import amplify, load_model
        >>> with amplify(load_model("mini"), [(4, 7)], factor=3.0) as model:
        ...     model.n_layers
        6
    """
    check_model(model)
    check_numbers(factor=factor)
    pairs = as_pairs(neurons)
    check_neurons(model, pairs)

    def scaled(layer: int) -> Replace:
        factors = torch.ones(model.n_neurons, dtype=model.dtype, device=model.device)
        factors[torch.as_tensor(pairs[pairs[:, 0] == layer, 1], device=model.device)] = factor
        return lambda values: values * factors

    with replace_at(model, {int(layer): scaled(layer) for layer in np.unique(pairs[:, 0])}):
        yield model


@contextmanager
def update_fact(
    model: LanguageModel,
    neurons: Neurons,
    *,
    old: str | Sequence[str],
    new: str | Sequence[str],
    l1: float = 1.0,
    l2: float = 8.0,
) -> Iterator[LanguageModel]:
    """Inside, value slots lean from the old answer to the new one (Dai et al. 2022, section 5.1).

    How far is in :class:`kn_utils.model.edits.ValueEdit`.

    Args:
        model: whose.
        neurons: any table or list with layer and neuron.
        old, new: answers, or lists of one thing's names in several languages.
        l1, l2: how far, in units of each slot's own length, away from the old and towards the new answer.

    Example:
        >>> from kn_utils import load_model, update_fact
        >>> with update_fact(load_model("mini"), [(4, 7)], old="Paris", new="Berlin") as edited:
        ...     edited.n_neurons
        768
    """
    check_model(model)
    with _in_place(model, ValueEdit(l1, l2).changes(model, [Request(as_pairs(neurons), old, new)])):
        yield model


@contextmanager
def fine_tune(
    model: LanguageModel, neurons: Neurons, prompts: pd.DataFrame, *, lr: float = 0.5, steps: int = 25
) -> Iterator[LanguageModel]:
    """Inside, the value slots, and nothing else, have been trained to give these prompts' answers.

    That is the best that can be done through them, see :class:`kn_utils.model.edits.FineTune`.

    Example:
        >>> from kn_utils import fine_tune, load_facts, load_model, make_prompts
        >>> model = load_model("mini")
        >>> prompt = make_prompts(load_facts(relations=["P36"]), "en").head(1).assign(answer="Rome")
        >>> with fine_tune(model, [(5, 7), (5, 9)], prompt, steps=2):
        ...     pass
    """
    check_model(model)
    check_prompts(prompts)
    request = Request(as_pairs(neurons), rows=model.encode(prompts))
    with _in_place(model, FineTune(lr, steps).changes(model, [request])):
        yield model


@contextmanager
def erase(model: LanguageModel, neurons: Neurons, *, to: str = "zero") -> Iterator[LanguageModel]:
    """Inside, the value slots are zero or the unknown token's embedding (Dai et al. 2022, section 5.2).

    Args:
        model: whose.
        neurons: any table or list with layer and neuron.
        to: ``"zero"`` or ``"unknown"``.

    Example:
        >>> from kn_utils import erase, load_model
        >>> with erase(load_model("mini"), [(4, 7)]) as erased:
        ...     float(erased.value_slots(4)[7].abs().sum())
        0.0
    """
    check_model(model)
    with _in_place(model, Erasure(to).changes(model, [Request(as_pairs(neurons))])):
        yield model


@contextmanager
def _in_place(model: LanguageModel, changes: list[SlotChange]) -> Iterator[None]:
    """Inside, the weights themselves are changed; the very same numbers are written back on the way out."""
    (change,) = changes
    layers = {int(n): np.flatnonzero(change.neurons[:, 0] == n) for n in np.unique(change.neurons[:, 0])}
    columns = {
        n: torch.as_tensor(change.neurons[place, 1], device=model.device) for n, place in layers.items()
    }
    saved = {n: model.value_slots(n)[columns[n]].clone() for n in layers}
    try:
        with torch.no_grad():
            for n, place in layers.items():
                moved = saved[n].to(change.added.dtype) + change.added[place]
                model.value_slots(n)[columns[n]] = moved.to(model.dtype)
        yield
    finally:
        with torch.no_grad():
            for n, values in saved.items():
                model.value_slots(n)[columns[n]] = values
