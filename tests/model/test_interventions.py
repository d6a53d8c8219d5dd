"""Interventions act where they should, and restore weights bit for bit, also after an exception."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import core_first, make_model, texts_run
from oracles import neurons_at, probability_with

from kn_utils.experiments.effects import effects
from kn_utils.model import edits, one_pass
from kn_utils.model.acting import Scaling
from kn_utils.model.answers import answer_probability, answers, questions_of
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.edits import FineTune, Request, ValueEdit, _slopes
from kn_utils.model.hooks import InterventionError, SlotChange, find_blank, read_at, replace_at
from kn_utils.model.interventions import amplify, erase, fine_tune, suppress, update_fact
from kn_utils.model.memory import OutOfMemory

NEURONS = [(0, 3), (1, 7), (1, 11)]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def same(model, before) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_scaling_equals_setting_the_neuron_by_hand(kind, prompts):
    model = make_model(kind)
    prompts = prompts[prompts["text"].str.contains(r"capital of .* is \[Y\]|has \[Y\]")]
    layer, neuron = 1, 7
    wanted = {0.0: [1.0] * len(prompts), 2.0: [1.0] * len(prompts)}
    for row in model.encode(prompts):
        w = neurons_at(model, row.ids, row.position, layer)
        for factor, products in wanted.items():
            scaled = w.clone()
            scaled[neuron] *= factor
            p = probability_with(model, row.ids, row.position, row.target, layer, scaled)
            products[row.prompt] *= p.item()
    with suppress(model, [(layer, neuron)]):
        silenced = answer_probability(model, prompts)
    with amplify(model, [(layer, neuron)], factor=2.0):
        doubled = answer_probability(model, prompts)
    for factor, after in ((0.0, silenced), (2.0, doubled)):
        assert after["probability"].tolist() == pytest.approx(wanted[factor], rel=1e-9, abs=0)


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


# Fine-tuning


SLOTS = [(0, 3), (2, 7), (2, 11)]


@pytest.mark.slow
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
    change = SlotChange(np.array(SLOTS), torch.cat(moves))
    (found,), _ = _slopes(model, [change], [rows])
    slopes = found[:1], found[1:]

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
        for place, row, coordinate in [(0, 0, 0), (0, 0, 31), (1, 0, 5), (1, 1, 5)]:
            slope = (plain(place, row, coordinate, 1e-5) - plain(place, row, coordinate, -1e-5)) / 2e-5
            assert slopes[place][row, coordinate].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_one_step_of_fine_tuning_goes_down_by_a_part_of_the_length(bert, prompts):
    table = prompts.iloc[:1]
    slots = [(0, torch.tensor([3])), (2, torch.tensor([7, 11]))]
    old = [bert.value_slots(layer)[columns].clone() for layer, columns in slots]
    (found,), right = _slopes(
        bert, [SlotChange(np.array(SLOTS), torch.zeros(3, 32, dtype=torch.float64))], [bert.encode(table)]
    )
    slopes = found[:1], found[1:]
    assert right == [False]
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


# Rows with edits of their own, against edits of the weights


def asked_for(model, prompts) -> pd.DataFrame:
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith("[Y]")]
    return prompts.reset_index(drop=True)


@pytest.mark.parametrize(
    "kind", core_first(kind for kind in ARCHITECTURES if kind != "electra")
)  # its embeddings are narrower
def test_edits_row_by_row_equal_edits_of_the_weights(kind, prompts):
    model, random = make_model(kind), np.random.default_rng(0)
    prompts = asked_for(model, prompts)
    questions = questions_of(model, prompts)
    assert max(map(len, questions)) > 1  # answers of several pieces
    requests = []
    for n, rows in enumerate(questions):
        layers = (
            [0, 0, 1][: 1 + n % 3] if n else [model.n_layers - 1] * 3
        )  # several in one layer, one, several layers
        pairs = np.unique([(layer, random.integers(model.n_neurons)) for layer in layers], axis=0)
        requests.append(Request(pairs, "Paris", ["Berlin", "India"][n % 2], rows))
    changes = ValueEdit(1.0, 4.0).changes(model, requests)
    acting = [None if n == 1 else change for n, change in enumerate(changes)]
    found = answers(model, questions, acting, batch_size=3)
    plain = answers(model, questions)
    assert (
        found["p"][1] == pytest.approx(plain["p"][1], rel=1e-12, abs=0)
        and (found["p"][2:] != plain["p"][2:]).all()
    )
    for n, request in enumerate(requests):
        if n != 1:
            with update_fact(model, request.neurons, old="Paris", new=request.new, l1=1.0, l2=4.0):
                wanted = answers(model, [questions[n]]).iloc[0]
            assert found["p"][n] == pytest.approx(wanted["p"], rel=1e-6, abs=0)
            assert (found["rank"][n], found["first"][n], found["right"][n]) == tuple(
                wanted[["rank", "first", "right"]]
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2", "opt"])
def test_learning_many_facts_at_once_equals_one_by_one(kind, prompts):
    model = make_model(kind)
    prompts = asked_for(model, prompts).head(4).assign(answer=["is", "country", "the", "of"])
    requests = [
        Request(np.array([(1, 3 + n), (2, 9)][: 1 + n % 2]), rows=rows)
        for n, rows in enumerate(questions_of(model, prompts))
    ]
    learning = FineTune(0.3, 6)
    together = learning.changes(model, requests)
    for change, request in zip(together, requests, strict=True):
        (alone,) = learning.changes(model, [request])
        torch.testing.assert_close(change.added, alone.added, rtol=1e-6, atol=1e-9)
    assert any(change.added.abs().sum() > 0 for change in together)


def test_training_takes_no_more_questions_at_once_than_their_logits_allow(bert, prompts, monkeypatch):
    pairs, learning = np.array([(1, 3), (2, 9)]), FineTune(0.3, 3)
    questions = questions_of(bert, prompts.head(3).assign(answer="Berlin"))
    requests = [Request(pairs, rows=rows) for rows in questions]
    whole, sizes, train = learning.changes(bert, requests), [], FineTune._train
    monkeypatch.setattr(FineTune, "_train", lambda *a: sizes.append(len(a[2])) or train(*a))
    monkeypatch.setattr(edits, "LOGITS", 2 * bert.embeddings.shape[0] * bert.dtype.itemsize)
    apart = learning.changes(bert, requests)
    rows = max(len(request.rows) for request in requests)
    assert max(sizes) == max(1, 2 // rows) and sum(sizes) == 3
    for one, other in zip(apart, whole, strict=True):
        torch.testing.assert_close(one.added, other.added, rtol=1e-6, atol=1e-9)


def test_a_question_is_silenced_at_each_pieces_own_blank(prompts):
    model = make_model("gpt2")
    table = asked_for(model, prompts)
    questions = questions_of(model, table)
    pairs = np.array(NEURONS)
    found = answers(model, questions, [Scaling(pairs, 0.0)] * len(questions))
    with suppress(model, NEURONS):
        wanted = answer_probability(model, table)
    assert found["p"].to_numpy() == pytest.approx(wanted["probability"].to_numpy(), rel=1e-9, abs=0)


def test_different_interventions_share_a_batch(bert, prompts):
    questions = questions_of(bert, prompts)
    (change,) = ValueEdit().changes(bert, [Request(np.array([(1, 7)]), "Paris", "Berlin")])
    acts = [Scaling(np.array([(0, 3)]), 0.0), change, None, Scaling(np.array([(2, 5), (0, 1)]), 3.0)]
    acting = [acts[i % 4] for i in range(len(questions))]
    found = answers(bert, questions, acting)
    for i, (question, act) in enumerate(zip(questions, acting, strict=True)):
        alone = answers(bert, [question], [act]).iloc[0]
        assert (
            found["p"][i] == pytest.approx(alone["p"], rel=1e-9, abs=0)
            and found["first"][i] == alone["first"]
        )
    with pytest.raises(InterventionError, match="1 interventions for"):
        answers(bert, questions, [None])


@pytest.mark.slow
@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_rows_of_one_text_share_its_lower_layers(kind, prompts, monkeypatch):
    model = make_model(kind)
    questions = questions_of(model, asked_for(model, prompts))[:3]
    last = model.n_layers - 1
    acts = [Scaling(np.array([(last, n)]), 0.0) for n in (1, 2, 3)]
    acts += [Scaling(np.array([(last, 1), (last - 1, 2)]), 2.0), None]
    asked = [(question, act) for question in questions for act in acts]
    rows = []
    handle = model.blocks[0].register_forward_pre_hook(
        lambda _, args: rows.append(len(args[0])) if args else None
    )
    together = answers(model, [q for q, _ in asked], [a for _, a in asked], batch_size=64)
    handle.remove()
    for i, (question, act) in enumerate(asked):
        alone = answers(model, [question], [act]).iloc[0]
        assert together["p"][i] == pytest.approx(alone["p"], rel=1e-9, abs=0)
        assert (together["rank"][i], together["first"][i]) == (alone["rank"], alone["first"])
    if rows:  # where blocks take hidden states by position
        assert sum(rows) < sum(len(q) for q, _ in asked)


def test_no_neurons_change_nothing_in_any_form(bert, prompts):
    plain = answer_probability(bert, prompts)
    empty = pd.DataFrame({"layer": [], "neuron": []})
    for nothing in ([], empty, np.zeros((0, 2), int)):
        with (
            suppress(bert, nothing),
            erase(bert, nothing),
            update_fact(bert, nothing, old="Paris", new="Berlin"),
        ):
            pd.testing.assert_frame_equal(answer_probability(bert, prompts), plain)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "opt"])
def test_what_is_read_and_what_is_put(kind, prompts):
    model = make_model(kind)
    rows = model.encode(asked_for(model, prompts))[:3]
    inputs, at, _ = model.batch(rows)
    with read_at(model, at) as values:
        plain = model.logits(inputs, at)
    for i, row in enumerate(rows):
        torch.testing.assert_close(values[1][i], neurons_at(model, row.ids, row.position, 1))
    with replace_at(model, {1: lambda neurons: neurons}, at):
        torch.testing.assert_close(model.logits(inputs, at), plain)
    with replace_at(model, {1: torch.zeros_like}, at), read_at(model, at) as values:
        silent = model.logits(inputs, at)
    assert (silent != plain).any()
    with suppress(model, [(1, n) for n in range(model.n_neurons)]):
        torch.testing.assert_close(model.logits(inputs, at), silent)
    torch.testing.assert_close(find_blank(model, inputs["input_ids"], inputs.get("attention_mask")), at)
    assert not any(second._forward_pre_hooks for second in model.seconds)


def test_a_signed_edit_turns_where_the_neuron_is_negative(bert, prompts):
    table = prompts.iloc[[0]]
    (rows,) = questions_of(bert, table)
    pairs = np.array([(1, n) for n in range(48)])
    signs = torch.stack([neurons_at(bert, row.ids, row.position, 1) for row in rows]).mean(0).sign()
    request = Request(pairs, "Paris", "Berlin", rows)
    (plain,), (signed,) = (ValueEdit(signed=s).changes(bert, [request]) for s in (False, True))
    assert {-1.0, 1.0} <= set(signs.tolist())
    torch.testing.assert_close(signed.added, signs[:, None] * plain.added)
    with pytest.raises(InterventionError, match="needs the question"):
        ValueEdit(signed=True).changes(bert, [Request(pairs, "Paris", "Berlin")])


@pytest.mark.slow
def test_memory_that_ends_halves_the_batch_and_says_so(bert, prompts, monkeypatch, capsys):
    questions = questions_of(bert, prompts)
    plain, sizes = answers(bert, questions), []
    logits = bert.logits

    def small(inputs, *where):
        sizes.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 3:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
            )
        return logits(inputs, *where)

    monkeypatch.setattr(bert, "logits", small)
    pd.testing.assert_frame_equal(answers(bert, questions), plain, rtol=1e-9)
    assert max(sizes) > 3 and sizes.count(max(sizes)) == 1 and "going on with" in capsys.readouterr().err
    monkeypatch.setattr(bert, "logits", lambda *_: (_ for _ in ()).throw(MemoryError("out")))
    with pytest.raises(OutOfMemory, match="one text does not fit"):
        answers(bert, questions)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_a_left_to_right_model_reads_all_pieces_in_one_text(kind, prompts):
    model = make_model(kind)
    questions = questions_of(model, asked_for(model, prompts))
    assert sum(map(len, questions)) > len(questions)
    with texts_run(model) as seen:
        answers(model, questions)
    assert len(seen) == len(questions)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_two_answers_to_one_question_are_read_in_one_text(kind, prompts, monkeypatch):
    model, table = make_model(kind), asked_for(make_model(kind), prompts)
    pair = [questions_of(model, table.assign(answer=name))[0][:1] for name in ("Paris", "India")]
    assert pair[0][0].ids == pair[1][0].ids and pair[0][0].target != pair[1][0].target
    acts = [Scaling(np.array([(1, n)]), 0.0) for n in (3, 4)]
    asked = [(question, act) for act in acts for question in pair]
    alone = [answers(model, [question], [act]).iloc[0] for question, act in asked]
    seen = []
    acting_on = one_pass.acting_on
    monkeypatch.setattr(one_pass, "acting_on", lambda m, at, a: seen.append(len(a)) or acting_on(m, at, a))
    together = answers(model, [q for q, _ in asked], [a for _, a in asked])
    assert sum(seen) == len(acts)
    for i, one in enumerate(alone):
        assert together["p"][i] == pytest.approx(one["p"], rel=1e-9, abs=0)
        assert together["first"][i] == one["first"] and together["right"][i] == one["right"]


def p_of_kept(model, row, kept: np.ndarray) -> float:
    """One unpadded pass in which every neuron at the blank is 0 but these."""

    def hook(layer: int):
        def put(_, args):
            value = args[0].clone()
            own = value.view(-1, value.shape[-1])[row.position]
            stay = torch.as_tensor(kept[kept[:, 0] == layer, 1])
            own[[n for n in range(len(own)) if n not in set(stay.tolist())]] = 0
            return (value, *args[1:])

        return put

    handles = [second.register_forward_pre_hook(hook(layer)) for layer, second in enumerate(model.seconds)]
    try:
        logits = model.model(input_ids=torch.tensor([row.ids])).logits[0, row.position]
    finally:
        for handle in handles:
            handle.remove()
    return logits.softmax(-1)[row.target].item()


@pytest.mark.slow
@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_all_but_some_neurons_silenced_equals_a_plain_loop(kind, prompts):
    model = make_model(kind)
    nothing = np.zeros((0, 2), int)
    every = np.stack(np.divmod(np.arange(model.n_layers * model.n_neurons), model.n_neurons), 1)
    sets = [nothing, np.array([(0, 3), (1, 7), (1, 11)]), every[::2], every]
    questions = questions_of(model, prompts)
    acts = [Scaling(own, 0.0, others=True) for own in sets] + [Scaling(sets[1], 0.0), None]
    asked = [question for _ in acts for question in questions]
    found = answers(model, asked, [act for act in acts for _ in questions], batch_size=7)["p"].to_numpy()
    found = found.reshape(len(acts), len(questions))
    with torch.no_grad():
        for own, here in zip(sets, found, strict=False):
            wanted = [np.prod([p_of_kept(model, row, own) for row in rows]) for rows in questions]
            assert here == pytest.approx(wanted, rel=1e-6, abs=0)
    assert found[3] == pytest.approx(found[5], rel=1e-9)  # all kept: nothing acts
    assert abs(found[4] / found[5] - 1).max() > 1e-6 and abs(found[0] / found[5] - 1).max() > 1e-6


def test_others_may_be_doubled_too(bert, prompts):
    rest = np.array([(layer, n) for layer in range(3) for n in range(48) if (layer, n) not in NEURONS])
    questions = questions_of(bert, prompts)
    one, other = (
        answers(bert, questions, [act] * len(questions))["p"].to_numpy()
        for act in (Scaling(np.array(NEURONS), 2.0, others=True), Scaling(rest, 2.0))
    )
    assert one == pytest.approx(other, rel=1e-12)
