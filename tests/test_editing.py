"""Edits against doing them by hand: sampling, measures, costs."""

from __future__ import annotations

import math
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import plain_answer, whole_words
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kn_utils.editing import evaluate_updates, summarise_updates
from kn_utils.evaluation import EvaluationError, answer_probability
from kn_utils.facts import Facts, make_prompts
from kn_utils.updates import sample_updates


@pytest.fixture(scope="module")
def two_relations() -> Facts:
    """Six capitals in two languages and four continents; P30 has one answer only."""
    pairs = {"P36": "France:Paris Germany:Berlin India:Delhi today:cities Europe:country one:could".split()}
    pairs["P30"] = [f"{subject}:Europe" for subject in ("France", "Germany", "India", "Paris")]
    names = dict.fromkeys(name for pair in sum(pairs.values(), []) for name in pair.split(":"))
    entities = [(name, lang, name, "") for name in names for lang in ("en", "nl")]
    facts = [(f"{r}:{pair}", r, *pair.split(":")) for r in pairs for pair in pairs[r]]
    templates = [
        ("P36", "en", "P36-en-1", "The capital of [X] is [Y]."),
        ("P36", "en", "P36-en-2", "[Y] governs [X]."),
        ("P36", "nl", "P36-nl-1", "is [Y] of [X]"),
        ("P30", "en", "P30-en-1", "[X] is in [Y]."),
    ]
    return Facts(
        "two",
        pd.DataFrame(entities, columns=["entity", "language", "label", "aliases"]),
        pd.DataFrame(facts, columns=["fact", "relation", "subject", "object"]),
        pd.DataFrame(templates, columns=["relation", "language", "template", "text"]),
    )


@pytest.fixture
def asked(two_relations) -> pd.DataFrame:
    return make_prompts(two_relations, "all")


@pytest.fixture
def neurons(two_relations) -> pd.DataFrame:
    """Every fact its own neuron, and one that all of them hold."""
    facts = two_relations.facts
    own = facts[["fact", "relation"]].assign(layer=0, neuron=range(len(facts)))
    shared = facts[["fact", "relation"]].assign(layer=2, neuron=7)
    table = pd.concat([own, shared], ignore_index=True)
    table.attrs["facts"] = dict(zip(facts["fact"], facts["relation"], strict=True))
    return table


ANSWERS = "Paris Berlin Delhi cities country could Europe".split()
VOCABULARY = [*ANSWERS, *(f"{answer}-nl" for answer in ANSWERS), "New"]


def knowing(asked: pd.DataFrame, known) -> pd.DataFrame:
    return pd.DataFrame({"prompt": asked["prompt"], "probability": 0.5, "correct": np.asarray(known)})


@pytest.fixture(scope="module")
def words() -> SimpleNamespace:
    """All that is needed of a model here: a tokenizer for which a word is a piece."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0} | {word: i for i, word in enumerate(VOCABULARY, 1)}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?"))


def test_only_known_facts_are_updated_through_prompts_that_are_answered(words, asked, neurons):
    known = asked["prompt"].isin(["P36:India:Delhi/P36-nl-1", "P36:Germany:Berlin/P36-en-2"])
    updates, _ = sample_updates(words, asked, knowing(asked, known), neurons)
    assert list(updates.columns) == ["fact", "relation", "prompt", "old", "new"]
    assert sorted(updates["prompt"]) == ["P36:Germany:Berlin/P36-en-2", "P36:India:Delhi/P36-nl-1"]
    assert dict(zip(updates["fact"], updates["old"], strict=True)) == {
        "P36:India:Delhi": "Delhi", "P36:Germany:Berlin": "Berlin",
    }  # fmt: skip


def test_the_new_answer_is_another_of_the_relation_in_that_language(words, asked, neurons):
    # in nl the answers are written with a mark, so that a mix of languages would show
    asked = asked.assign(answer=asked["answer"].where(asked["language"] == "en", asked["answer"] + "-nl"))
    answers = asked.groupby(["relation", "language"])["answer"].agg(set)
    seen = set()
    for seed in range(20):
        updates, _ = sample_updates(words, asked, knowing(asked, True), neurons, seed=seed)
        table = updates.merge(asked[["prompt", "language"]], on="prompt")
        for row in table.itertuples():
            assert row.new in answers[row.relation, row.language] - {row.old}
            seen.add((row.language, row.new))
    assert len(seen) > 8  # all of them come up, in time


def test_a_relation_with_a_single_answer_is_passed_over(words, asked, neurons):
    updates, left = sample_updates(words, asked, knowing(asked, True), neurons)
    assert set(updates["relation"]) == {"P36"} and set(left["relation"]) == {"P36"}
    only = asked[asked["relation"] == "P30"]
    with pytest.raises(EvaluationError, match="^no fact can be updated"):
        sample_updates(words, only, knowing(only, True), neurons)


def test_the_new_answer_has_as_many_pieces_as_the_old(words, asked, neurons):
    longer = asked["answer"].isin(["Delhi", "Berlin"])
    asked = asked.assign(answer=asked["answer"].mask(longer, "New " + asked["answer"]))
    for seed in range(10):
        updates, _ = sample_updates(words, asked, knowing(asked, True), neurons, seed=seed)
        assert len(updates) == 6
        assert (updates["new"].str.startswith("New ") == updates["old"].str.startswith("New ")).all()
    alone = asked.assign(answer=asked["answer"].replace("New Berlin", "Berlin"))
    updates, _ = sample_updates(words, alone, knowing(alone, True), neurons)
    assert "New Delhi" not in [*updates["old"], *updates["new"]] and len(updates) == 5


def test_neurons_of_many_facts_are_left_out(words, asked, neurons):
    _, left = sample_updates(words, asked, knowing(asked, True), neurons)
    assert set(left["layer"]) == {0} and len(left) == 6  # each its own, none of the shared
    # held by three of six: above 40 %, not above 50 %
    half = neurons[(neurons["layer"] == 0) | neurons["fact"].isin(neurons["fact"][:3])]
    half.attrs = neurons.attrs
    assert len(sample_updates(words, asked, knowing(asked, True), half, common=0.5)[1]) == 9
    assert len(sample_updates(words, asked, knowing(asked, True), half, common=0.4)[1]) == 6


def test_common_is_counted_over_all_the_relations_facts_not_those_with_neurons(words, asked, neurons):
    # twenty facts were asked about; what two of them hold occurs in 10 %, which is not more than 10 %
    few = neurons[neurons["fact"].isin(neurons["fact"][:2])]
    few.attrs["facts"] = {**neurons.attrs["facts"], **{f"P36:extra{i}": "P36" for i in range(14)}}
    _, left = sample_updates(words, asked, knowing(asked, True), few, common=0.1)
    assert sorted(left["layer"]) == [0, 0, 2, 2]


def test_a_fact_whose_neurons_are_all_common_is_not_updated(words, asked, neurons):
    gone = neurons[(neurons["layer"] == 2) | (neurons["fact"] == "P36:India:Delhi")]
    gone.attrs = neurons.attrs
    updates, _ = sample_updates(words, asked, knowing(asked, True), gone)
    assert updates["fact"].tolist() == ["P36:India:Delhi"]


def test_at_most_so_many_of_a_relation_and_the_same_again(words, asked, neurons):
    three = sample_updates(words, asked, knowing(asked, True), neurons, per_relation=3, seed=4)
    assert len(three[0]) == 3 and three[0]["fact"].is_unique
    again = sample_updates(words, asked, knowing(asked, True), neurons, per_relation=3, seed=4)
    assert three[0].equals(again[0]) and three[1].equals(again[1])
    others = [
        sample_updates(words, asked, knowing(asked, True), neurons, per_relation=3, seed=s)[0] for s in range(5, 10)
    ]
    assert not all(three[0].equals(one) for one in others)
    assert set(three[1]["fact"]) == set(three[0]["fact"])


def test_nothing_known_is_one_clear_error(words, asked, neurons):
    with pytest.raises(EvaluationError, match="^no fact can be updated: "):
        sample_updates(words, asked, knowing(asked, False), neurons)


@pytest.fixture
def updated(asked, neurons):
    """A model, its answers, and three updates."""
    model = make_model("bert")
    neurons = neurons[neurons["layer"] == 0]
    updates = pd.DataFrame(
        [
            ("P36:France:Paris", "P36", "P36:France:Paris/P36-en-1", "Paris", "Berlin"),
            ("P36:India:Delhi", "P36", "P36:India:Delhi/P36-nl-1", "Delhi", "country"),
            ("P36:one:could", "P36", "P36:one:could/P36-en-2", "could", "Delhi"),
        ],
        columns=["fact", "relation", "prompt", "old", "new"],
    )
    return model, answer_probability(model, asked), updates, neurons


def edit_by_hand(model, layer: int, neuron: int, old: str, new: str, l1: float, l2: float) -> None:
    """Write the edited value slot into ``nn.Linear``'s own weight (hidden, neuron)."""
    embedding = model.model.bert.embeddings.word_embeddings.weight
    weight = model.model.bert.encoder.layer[layer].output.dense.weight
    e, f = (embedding[model.tokenizer(w, add_special_tokens=False)["input_ids"]].mean(0) for w in (old, new))
    v = weight[:, neuron].clone()
    weight[:, neuron] = v - l1 * v.norm() * e / e.norm() + l2 * v.norm() * f / f.norm()


@pytest.mark.parametrize("l2", [0.0, 8.0])
def test_updates_against_doing_the_edit_by_hand(updated, asked, l2):
    model, probabilities, updates, neurons = updated
    found = evaluate_updates(model, asked, probabilities, updates, neurons, l1=1.0, l2=l2, others=99, wordings=99)
    texts = asked.set_index("prompt")
    nll = {p: -math.log(x) for p, x in zip(probabilities["prompt"], probabilities["probability"], strict=True)}
    for row, update in zip(found.itertuples(), updates.itertuples(), strict=True):
        sides = texts.loc[update.prompt, "text"].split("[Y]")
        before_old, before_new = (plain_answer(model, *sides, answer) for answer in (update.old, update.new))
        (number,) = neurons.loc[neurons["fact"] == update.fact, "neuron"]
        edited = deepcopy(model)
        edit_by_hand(edited, 0, number, update.old, update.new, 1.0, l2)
        old, new = (plain_answer(edited, *sides, answer) for answer in (update.old, update.new))
        assert row.changed == (old[2] != before_old[2])
        assert row.success == (new[2] == new[3])
        assert row.new_before == pytest.approx(before_new[0], rel=1e-9)
        assert row.new_after == pytest.approx(new[0], rel=1e-9) and row.new_after != row.new_before
        # all other facts, since ``others`` is large
        within = asked[(asked["relation"] == "P36") & (asked["fact"] != update.fact)]
        between = asked[asked["relation"] == "P30"]
        for name, group in (("within", within), ("between", between)):
            after = [-math.log(plain_answer(edited, *q.text.split("[Y]"), q.answer)[0]) for q in group.itertuples()]
            assert getattr(row, f"{name}_before") == pytest.approx(np.mean([nll[p] for p in group["prompt"]]))
            assert getattr(row, f"{name}_after") == pytest.approx(np.mean(after), rel=1e-9)
    assert found["n_neurons"].tolist() == [1, 1, 1] and set(found["l2"]) == {l2}


def test_an_update_that_is_strong_enough_changes_and_succeeds(updated, asked):
    # the head made plain (a token's logit: its embedding times the hidden state), all last neurons on
    model, _, updates, neurons = updated
    head, last = model.model.cls.predictions, model.model.bert.encoder.layer[-1]
    head.transform.dense.weight.copy_(torch.eye(32))
    head.transform.transform_act_fn = torch.nn.Identity()
    for bias in (
        head.bias,
        head.transform.dense.bias,
        head.transform.LayerNorm.bias,
        last.output.LayerNorm.bias,
    ):
        bias.zero_()
    for scale in (head.transform.LayerNorm.weight, last.output.LayerNorm.weight):
        scale.fill_(1)
    last.intermediate.dense.bias.fill_(100)
    probabilities = answer_probability(model, asked)
    many = pd.concat([neurons.assign(layer=2, neuron=n) for n in range(48)])
    embeddings = model.embeddings - model.embeddings.mean(1, keepdim=True)  # LayerNorm takes the mean away
    word = max(whole_words(model), key=lambda w: embeddings[model.tokenizer.convert_tokens_to_ids(w)].norm().item())
    found = evaluate_updates(model, asked, probabilities, updates.assign(new=word), many, l2=1000.0)
    weak = evaluate_updates(model, asked, probabilities, updates.assign(new=word), many, l1=0.0, l2=0.0)
    assert found["success"].all() and found["changed"].all()
    assert (found["new_after"] > 5 * found["new_before"]).all()
    assert not weak["changed"].any()
    assert weak["new_after"].to_numpy() == pytest.approx(weak["new_before"].to_numpy(), rel=1e-9)


def test_the_weights_come_back_bit_for_bit(updated, asked):
    model, probabilities, updates, neurons = updated
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    evaluate_updates(model, asked, probabilities, updates, neurons)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    with pytest.raises(KeyError):  # an update of a fact without neurons, after one that has some
        evaluate_updates(model, asked, probabilities, updates, neurons[neurons["fact"] == "P36:France:Paris"])
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_every_kind_of_neurons_is_judged_on_the_same_other_facts(updated, asked):
    model, probabilities, updates, neurons = updated
    other = neurons.assign(layer=1, neuron=neurons["neuron"] + 9)
    a = evaluate_updates(model, asked, probabilities, updates, neurons, others=2, seed=3)
    b = evaluate_updates(model, asked, probabilities, updates, other, others=2, seed=3, kind="random")
    same = ["fact", "new_before", "within_before", "between_before"]
    pd.testing.assert_frame_equal(a[same], b[same])
    assert (a["within_after"] != b["within_after"]).any()
    assert set(a["neurons"]) == {"knowledge"} and set(b["neurons"]) == {"random"}
    c = evaluate_updates(model, asked, probabilities, updates, neurons, others=2, seed=4)
    assert (a["within_before"] != c["within_before"]).any()


def test_no_other_relation_leaves_that_column_empty(updated, asked):
    model, _, updates, neurons = updated
    alone = asked[asked["relation"] == "P36"]
    found = evaluate_updates(model, alone, answer_probability(model, alone), updates, neurons)
    assert found[["between_before", "between_after"]].isna().all(axis=None)
    assert found[["within_before", "within_after"]].notna().all(axis=None)


def test_summary_of_updates_by_hand():
    edits = pd.DataFrame(
        {
            "neurons": ["knowledge", "knowledge", "random"], "changed": [True, True, False],
            "success": [True, False, False], "new_after": [0.5, 0.1, 0.2],
            "within_before": np.log([2.0, 8.0, 4.0]), "within_after": np.log([4.0, 16.0, 4.0]),
            "between_before": [0.0, 0.0, np.nan], "between_after": np.log([3.0, 3.0, np.nan]),
        }
    )  # fmt: skip
    table = summarise_updates(edits).set_index(["neurons", "measure"])["value"]
    assert table["knowledge"].to_dict() == pytest.approx(
        {
            "change rate": 1.0, "success rate": 0.5, "P(new answer)": 0.3,
            "perplexity within, before": 4.0, "perplexity within, after": 8.0,
            "perplexity within, ratio": 2.0, "perplexity between, ratio": 3.0,
            "perplexity between, before": 1.0, "perplexity between, after": 3.0,
        }
    )  # fmt: skip
    assert table["random", "change rate"] == 0 and table["random", "perplexity within, ratio"] == 1
    assert np.isnan(table["random", "perplexity between, ratio"])
