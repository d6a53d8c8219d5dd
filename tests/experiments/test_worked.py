"""One fact worked through."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model

from kn_utils import ask, make_prompts, suppress
from kn_utils.checks import ParameterError
from kn_utils.experiments.worked import before_and_silenced, with_writing
from kn_utils.model.written import slot_logits
from kn_utils.neurons.choose import best_neurons


def test_best_neurons_are_those_of_the_sorted_scores():
    scores = np.random.default_rng(0).normal(size=(3, 5)).round(1)  # with equals
    found = best_neurons(scores, 6)
    every = sorted(np.ndindex(3, 5), key=lambda place: (-scores[place], place))
    assert list(zip(found["layer"], found["neuron"], strict=True)) == every[:6]
    assert found["score"].tolist() == [scores[place] for place in every[:6]]
    with pytest.raises(ParameterError, match="k=0"):
        best_neurons(scores, 0)


def test_what_is_written_goes_by_the_sign_of_the_activation(bert, prompts):
    prompt = prompts.iloc[[0]]
    neurons = pd.DataFrame(
        [(layer, neuron) for layer in range(3) for neuron in range(8)], columns=["layer", "neuron"]
    )
    found = with_writing(bert, neurons, prompt, k=1)
    rows = bert.encode(prompt)
    values = []
    hooks = [
        second.register_forward_pre_hook(lambda _, args: values.append(args[0])) for second in bert.seconds
    ]
    with torch.no_grad():
        inputs, at, _ = bert.batch(rows)
        bert.model(**inputs)
    for hook in hooks:
        hook.remove()
    by_hand = [
        values[row.layer][range(len(rows)), at, row.neuron].mean().item() for row in neurons.itertuples()
    ]
    assert found["activation"].tolist() == pytest.approx(by_hand)
    assert {value > 0 for value in by_hand} == {True, False}
    written = slot_logits(bert, neurons)
    for logits, value, told in zip(written, by_hand, found["writes"], strict=True):
        piece = int((logits * np.sign(value)).argmax())
        assert told == bert.tokenizer.decode([piece]).strip()
    assert with_writing(bert, neurons.iloc[:0], prompt).columns.tolist() == [*neurons, "activation", "writes"]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_silenced_answers_are_those_that_asking_gives(kind, toy):
    model = make_model(kind)
    prompt = make_prompts(toy, "en").iloc[[0]]
    text, answers, neurons = (
        prompt["text"].item(),
        ["Berlin", "Paris", "New Delhi", "Delhi"],
        [(0, 1), (2, 5)],
    )
    table = before_and_silenced(model, prompt, answers, neurons, k=3)
    before = ask(model, text, answers).set_index(pd.Index(answers))["probability"]
    with suppress(model, neurons):
        silenced = ask(model, text, answers).set_index(pd.Index(answers))["probability"]
    length = {name: len(model.encode(prompt.assign(answer=name))) for name in answers}
    kept = [name for name in answers if model.causal or length[name] == length["Paris"]]
    assert model.causal == (len(kept) == 4) and "Paris" in kept
    wanted = before[kept].sort_values(ascending=False).index[:3]
    assert table["answer"].tolist() == wanted.tolist()
    assert table["before"].to_numpy() == pytest.approx(before[wanted].to_numpy())
    assert table["silenced"].to_numpy() == pytest.approx(silenced[wanted].to_numpy())
    assert table["change"].to_numpy() == pytest.approx((silenced / before - 1)[wanted].to_numpy())
    assert table["change"].abs().max() > 1e-6
