"""Interventions act where they should, and restore weights bit for bit, also after an exception."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import neurons_at, probability_with

from kn_utils.experiments.effects import effects
from kn_utils.model.answers import answer_probability
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.interventions import (
    InterventionError,
    _loss,
    amplify,
    erase,
    fine_tune,
    suppress,
    update_fact,
)

NEURONS = [(0, 3), (1, 7), (1, 11)]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def same(model, before) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_scaling_equals_setting_the_neuron_by_hand(kind, factor, prompts):
    model = make_model(kind)
    prompts = prompts[prompts["text"].str.contains(r"capital of .* is \[Y\]|has \[Y\]")]
    neuron = (1, 7)
    acting = suppress(model, [neuron]) if factor == 0 else amplify(model, [neuron], factor=factor)
    with acting:
        after = answer_probability(model, prompts)
    for name, group in pd.DataFrame({"row": model.encode(prompts)}).groupby(
        lambda i: model.encode(prompts)[i].prompt
    ):
        wanted = 1.0
        for row in group["row"]:
            w = neurons_at(model, row.ids, row.position, neuron[0])
            w[neuron[1]] *= factor
            wanted *= probability_with(model, row.ids, row.position, row.target, neuron[0], w).item()
        assert after["probability"][name] == pytest.approx(wanted, rel=1e-9)


def test_only_the_blank_is_touched(bert, prompts):
    inputs, at, _ = bert.batch(bert.encode(prompts)[:3])
    seen = []
    with suppress(bert, NEURONS):
        handle = bert.seconds[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        bert.model(**inputs)
        handle.remove()
    rows = torch.arange(3)
    assert (seen[0][rows, at][:, [7, 11]] == 0).all()
    assert (seen[0][:, :, 7] == 0).sum() == 3


def test_suppress_and_amplify_nest_and_leave_nothing(bert, prompts):
    plain = answer_probability(bert, prompts)["probability"]
    with amplify(bert, NEURONS, factor=2.0), amplify(bert, NEURONS, factor=0.5):
        assert answer_probability(bert, prompts)["probability"].to_numpy() == pytest.approx(
            plain.to_numpy(), rel=1e-12
        )
    with suppress(bert, NEURONS), amplify(bert, NEURONS):
        both = answer_probability(bert, prompts)["probability"]
    with suppress(bert, NEURONS):
        one = answer_probability(bert, prompts)["probability"]
    assert (both == one).all() and (one != plain).any()
    assert (answer_probability(bert, prompts)["probability"] == plain).all()


def test_a_hook_does_not_outlive_an_exception(bert, prompts):
    plain = answer_probability(bert, prompts)["probability"]
    with pytest.raises(KeyboardInterrupt), suppress(bert, NEURONS):
        raise KeyboardInterrupt
    assert (answer_probability(bert, prompts)["probability"] == plain).all()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "opt"])
def test_update_follows_the_formula_and_is_taken_back_bit_for_bit(kind):
    model = make_model(kind, torch.float32)
    before = weights(model)
    v = model.value_slots(1)[7].clone()
    old, new = (
        model.tokenizer(" " + x if model.causal else x, add_special_tokens=False)["input_ids"]
        for x in ("Paris", "Berlin")
    )
    e, f = model.embeddings[old].mean(0), model.embeddings[new].mean(0)
    with update_fact(model, NEURONS, old="Paris", new="Berlin", l1=1.0, l2=8.0):
        wanted = v - v.norm() * e / e.norm() + 8 * v.norm() * f / f.norm()
        torch.testing.assert_close(model.value_slots(1)[7], wanted)
        assert not same(model, before)
    assert same(model, before)


def test_edits_nest_and_survive_exceptions(bert):
    bert.model.float()
    before = weights(bert)
    with update_fact(bert, NEURONS, old="Paris", new="Berlin"):
        middle = weights(bert)
        with pytest.raises(RuntimeError, match="stop"), erase(bert, [(1, 7), (0, 0)]):
            assert (bert.value_slots(1)[7] == 0).all()
            raise RuntimeError("stop")
        assert same(bert, middle)
        with erase(bert, [(1, 7)], to="unknown"):
            assert torch.equal(bert.value_slots(1)[7], bert.embeddings[bert.tokenizer.unk_token_id])
        assert same(bert, middle)
    assert same(bert, before)


def test_neurons_that_are_not_there(bert):
    with pytest.raises(InterventionError, match="3 layers x 48"), suppress(bert, [(3, 0)]):
        pass
    with pytest.raises(InterventionError, match="3 layers x 48"), erase(bert, [(0, 48)]):
        pass


def test_a_text_without_a_blank_is_refused(bert):
    inputs = {"input_ids": torch.tensor([[2, 10, 11, 3]])}
    with pytest.raises(InterventionError, match="no mask"), suppress(bert, NEURONS):
        bert.model(**inputs)


def test_effects_act_with_each_facts_own_neurons(bert, prompts):
    facts = list(dict.fromkeys(prompts["fact"]))
    neurons = pd.DataFrame({"fact": facts[:2] + facts[:1], "layer": [0, 1, 2], "neuron": [3, 7, 9]})
    table = effects(bert, prompts, neurons, operation="suppress")
    assert set(table["fact"]) == set(facts[:2])  # the third has no neuron
    for fact in facts[:2]:
        own = prompts[prompts["fact"] == fact]
        with suppress(bert, neurons[neurons["fact"] == fact]):
            wanted = answer_probability(bert, own)["probability"]
        assert table.loc[table["fact"] == fact, "after"].to_numpy() == pytest.approx(
            wanted.to_numpy(), rel=1e-12
        )
    other = effects(bert, prompts, neurons, source=[facts[0]] * len(prompts))
    assert len(other) == len(prompts)


# Fine-tuning


SLOTS = [(0, 3), (2, 7), (2, 11)]


@pytest.mark.parametrize(
    "kind", ["bert", "gpt2", "distilbert", "opt"]
)  # llama norms in float32, too coarse here
def test_gradient_of_slots_against_finite_differences(kind, prompts):
    model = make_model(kind)
    table = prompts[prompts["text"].str.contains("has")].iloc[:1].assign(answer="Paris Berlin")
    rows = model.encode(table)
    assert len(rows) > 1  # several pieces
    torch.manual_seed(1)
    slots = [(0, torch.tensor([3])), (2, torch.tensor([7, 11]))]
    moves = [0.1 * torch.randn(len(columns), 32, dtype=torch.float64) for _, columns in slots]
    loss, slopes, _ = _loss(model, slots, moves, rows)

    def plain(place: int, row: int, coordinate: int, h: float) -> float:
        """Mean -ln P with the weights written, one row at a time."""
        saved = [model.value_slots(layer).clone() for layer, _ in slots]
        for (layer, columns), move in zip(slots, moves, strict=True):
            model.value_slots(layer)[columns] += move
        model.value_slots(slots[place][0])[slots[place][1][row], coordinate] += h
        total = 0.0
        for one in rows:
            logits = model.model(input_ids=torch.tensor([one.ids])).logits[0, one.position]
            total -= logits.log_softmax(-1)[one.target].item() / len(rows)
        for (layer, _), values in zip(slots, saved, strict=True):
            model.value_slots(layer).copy_(values)
        return total

    with torch.no_grad():
        assert loss == pytest.approx(plain(0, 0, 0, 0.0), rel=1e-9)
        for place, row, coordinate in [(0, 0, 0), (0, 0, 31), (1, 0, 5), (1, 1, 5)]:
            slope = (plain(place, row, coordinate, 1e-5) - plain(place, row, coordinate, -1e-5)) / 2e-5
            assert slopes[place][row, coordinate].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_one_step_of_fine_tuning_goes_down_by_a_part_of_the_length(bert, prompts):
    table = prompts.iloc[:1]
    slots = [(0, torch.tensor([3])), (2, torch.tensor([7, 11]))]
    old = [bert.value_slots(layer)[columns].clone() for layer, columns in slots]
    _, slopes, right = _loss(bert, slots, [torch.zeros_like(v) for v in old], bert.encode(table))
    assert not right
    with fine_tune(bert, SLOTS, table, lr=0.2, steps=1):
        for (layer, columns), v, slope in zip(slots, old, slopes, strict=True):
            moved = bert.value_slots(layer)[columns] - v
            unit = v.norm(dim=1, keepdim=True) / 32**0.5
            wanted = (
                -0.2 * unit * unit * slope / ((unit * slope).abs() + 1e-8)
            )  # Adam's first step: all but the sign
            torch.testing.assert_close(moved, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_fine_tuning_reaches_the_answer_moves_slots_only_and_is_taken_back(kind, prompts):
    model = make_model(kind, torch.float32)
    before = weights(model)
    table = prompts[prompts["text"].str.contains("has")].iloc[:1]
    table = table.assign(answer="is")
    many = [(layer, n) for layer in (1, 2) for n in range(48)]
    assert not answer_probability(model, table)["correct"].any()
    with pytest.raises(RuntimeError, match="stop"), fine_tune(model, many, table, lr=0.2, steps=200):
        assert answer_probability(model, table)["correct"].all()
        changed = [
            name for name, value in model.model.state_dict().items() if not torch.equal(value, before[name])
        ]
        assert len(changed) == 2 and all(
            any(word in name for word in ("output.dense", "c_proj")) for name in changed
        )
        inside = weights(model)
        with fine_tune(model, many, table):  # it is the first choice already
            assert same(model, inside)
        raise RuntimeError("stop")
    assert same(model, before)
    with fine_tune(model, many, table, steps=0):
        assert same(model, before)
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_several_answers_give_the_mean_of_their_directions(bert):
    v = bert.value_slots(1)[7].clone()
    unit = {}
    for word in ("Paris", "Berlin", "India"):
        e = bert.embeddings[bert.tokenizer(word, add_special_tokens=False)["input_ids"]].mean(0)
        unit[word] = e / e.norm()
    new = (unit["Berlin"] + unit["India"]) / 2
    with update_fact(bert, [(1, 7)], old="Paris", new=["Berlin", "India"], l1=1.0, l2=4.0):
        wanted = v - v.norm() * unit["Paris"] + 4 * v.norm() * new / new.norm()
        torch.testing.assert_close(bert.value_slots(1)[7], wanted)
