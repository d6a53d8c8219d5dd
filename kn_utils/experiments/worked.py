"""One fact worked through: its neurons, what each of them writes, and its answers without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..attribution.reading import read_neurons
from ..checks import check_numbers
from ..model.answers import answer_probability
from ..model.interventions import Neurons, suppress
from ..model.language_model import LanguageModel
from ..model.written import written_pieces


def with_writing(
    model: LanguageModel, neurons: pd.DataFrame, prompt: pd.DataFrame, k: int = 3
) -> pd.DataFrame:
    """The same table with what each neuron does at a prompt's blank.

    Args:
        model: whose neurons.
        neurons: ``layer, neuron`` and whatever else.
        prompt: one; of an answer of several pieces the mean over their blanks counts.
        k: so many pieces.

    Returns:
        with the columns ``activation`` and ``writes``: the ``k`` pieces that its value slot, read by the head
        alone, raises most (:func:`kn_utils.model.written.written_pieces`); where the activation is negative,
        those that the slot lowers most.
    """
    if neurons.empty:
        return neurons.assign(activation=pd.Series(dtype=float), writes=pd.Series(dtype=object))
    values = read_neurons(model, model.encode(prompt))[0].mean(0).cpu().numpy()
    pairs = [(int(layer), int(neuron)) for layer, neuron in neurons[["layer", "neuron"]].to_numpy()]
    pieces = written_pieces(model, pairs, k).sort_values("rank").groupby(["layer", "neuron"])
    active = [float(values[pair]) for pair in pairs]
    told = [
        ", ".join(pieces.get_group(pair)["raises" if value > 0 else "lowers"])
        for pair, value in zip(pairs, active, strict=True)
    ]
    return neurons.assign(activation=active, writes=told)


def before_and_silenced(
    model: LanguageModel, prompt: pd.DataFrame, answers: Sequence[str], neurons: Neurons, k: int = 5
) -> pd.DataFrame:
    """How probable answers are as the model is, and with neurons silenced at the blank.

    Args:
        model: which to ask.
        prompt: one, with its right ``answer``.
        answers: those to compare. A masked model is given the number of blanks, so there only those of as
            many pieces as the right answer compete.
        neurons: any table or list with layer and neuron.
        k: so many answers are told, the most probable ones.

    Returns:
        ``answer, before, silenced, change`` (a part of ``before``), from the most probable one on.
    """
    check_numbers(k=k)
    table = pd.concat([prompt] * len(answers), ignore_index=True)
    table = table.assign(answer=list(answers), prompt=list(answers))
    if not model.causal:
        pieces = pd.Series([row.prompt for row in model.encode(table)]).value_counts()
        own = len(model.encode(prompt))
        table = table[(pieces.sort_index() == own).to_numpy()].reset_index(drop=True)
    before, silenced = _probability(model, table), _silenced(model, table, neurons)
    found = pd.DataFrame({"answer": table["answer"], "before": before, "silenced": silenced})
    found["change"] = found["silenced"] / found["before"] - 1
    return found.sort_values("before", ascending=False, kind="stable").head(k).reset_index(drop=True)


def _probability(model: LanguageModel, prompts: pd.DataFrame) -> np.ndarray:
    return answer_probability(model, prompts, progress=False)["probability"].to_numpy()


def _silenced(model: LanguageModel, prompts: pd.DataFrame, neurons: Neurons) -> np.ndarray:
    with suppress(model, neurons):
        return _probability(model, prompts)
