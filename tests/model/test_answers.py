"""Evaluation against a plain loop over pieces."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import core_first, make_model
from oracles import plain_answer, whole_words

from kn_utils.experiments.effects import EvaluationError, effects, perplexity
from kn_utils.model.answers import answer_probability
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.hooks import InterventionError
from kn_utils.model.interventions import amplify


@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_answers_against_a_plain_loop(kind, prompts):
    model = make_model(kind)
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith("[Y]")]
    table = answer_probability(model, prompts, batch_size=4)
    assert table["prompt"].tolist() == prompts["prompt"].tolist()
    lengths = set()
    for row, question in zip(table.itertuples(), prompts.itertuples(), strict=True):
        p, ranks, first, pieces = plain_answer(model, *question.text.split("[Y]"), question.answer)
        lengths.add(len(pieces))
        assert row.probability == pytest.approx(p, rel=1e-9, abs=0)
        assert row.correct == (first == pieces)
        assert row.predicted == model.tokenizer.decode(first)
        assert pd.isna(row.rank) if len(pieces) > 1 else row.rank == ranks[0]
    assert len(lengths) > 1, "answers of several lengths are wanted here"


def test_rank_against_sorting_for_every_answer_of_one_piece(bert, prompts):
    words = whole_words(bert)
    table = pd.concat([prompts.iloc[[0]].assign(prompt=word, answer=word) for word in words])
    found = answer_probability(bert, table)
    sides = prompts.iloc[0]["text"].split("[Y]")
    assert found["rank"].tolist() == [plain_answer(bert, *sides, word)[1][0] for word in words]
    assert found["rank"].is_unique and len(found) > 20
    assert found["correct"].tolist() == (found["rank"] == 1).tolist()
    # make the hardest of them the first choice: the head's bias of that word
    worst = found["prompt"][int(found["rank"].argmax())]
    bert.model.cls.predictions.bias[bert.tokenizer.convert_tokens_to_ids(worst)] += 1000
    (right,) = answer_probability(bert, table[table["prompt"] == worst]).itertuples(index=False)
    assert (right.rank, right.correct, right.predicted) == (1, True, worst) and right.probability > 0.999


def test_the_size_of_a_batch_changes_nothing(bert, prompts):
    one, many = (answer_probability(bert, prompts, batch_size=n) for n in (1, 100))
    pd.testing.assert_frame_equal(one, many, rtol=1e-9)


def test_the_order_and_index_of_the_prompts_are_kept(bert, prompts):
    turned = prompts.iloc[::-1]
    a, b = answer_probability(bert, prompts), answer_probability(bert, turned)
    pd.testing.assert_frame_equal(a.iloc[::-1].reset_index(drop=True), b, rtol=1e-9)


def test_no_prompts_give_an_empty_table(bert, prompts):
    table = answer_probability(bert, prompts.iloc[:0])
    assert table.empty and list(table.columns) == ["prompt", "probability", "rank", "correct", "predicted"]


def test_perplexity_by_hand():
    assert perplexity([0.25, 0.25]) == pytest.approx(4)
    assert perplexity([0.5, 0.125]) == pytest.approx(4)  # geometric mean
    assert perplexity([1.0]) == 1


# Effects


def neurons_for(*facts: str) -> pd.DataFrame:
    return pd.DataFrame({"fact": facts, "relation": "P36", "layer": 1, "neuron": range(len(facts))})


def test_effects_refuse_what_they_cannot_do(bert, prompts):
    with pytest.raises(EvaluationError, match="operation='erase'; it is 'suppress' or 'amplify'"):
        effects(bert, prompts, neurons_for(prompts["fact"][0]), operation="erase")
    with pytest.raises(
        EvaluationError, match="none of these prompts' facts has a neuron; lower the threshold or"
    ):
        effects(bert, prompts, neurons_for("P36:Q1:Q2"))
    with pytest.raises(InterventionError, match="3 layers x 48"):
        effects(bert, prompts, neurons_for(prompts["fact"][0]).assign(layer=9))


def test_effects_use_the_probabilities_that_they_are_given(bert, prompts):
    neurons = neurons_for(prompts["fact"].iloc[-1])
    before = answer_probability(bert, prompts).assign(
        probability=np.linspace(0.1, 0.9, len(prompts)), correct=True
    )
    table = effects(bert, prompts, neurons, before=before, operation="amplify", kind="random")
    own = (prompts["fact"] == neurons["fact"][0]).to_numpy()
    assert table["before"].tolist() == before["probability"][own].tolist() and table["right_before"].all()
    assert set(table["operation"]) == {"amplify"} and set(table["neurons"]) == {"random"}
    measured = effects(bert, prompts, neurons, operation="amplify")
    wanted = answer_probability(bert, prompts)["probability"][own].to_numpy()
    assert measured["before"].to_numpy() == pytest.approx(wanted, rel=1e-9, abs=0)
    assert measured["after"].tolist() == table["after"].tolist()


def test_effects_say_whether_the_first_choice_stays(bert, prompts):
    neurons = neurons_for(prompts["fact"][0])
    with amplify(bert, neurons, factor=50.0):
        wanted = answer_probability(bert, prompts[prompts["fact"] == prompts["fact"][0]])["correct"]
    # among eight answers some should be first choices, before or after
    table = effects(bert, prompts, neurons, operation="amplify", factor=50.0)
    assert table["right_after"].tolist() == wanted.tolist()
    plain = answer_probability(bert, prompts[prompts["fact"] == prompts["fact"][0]])["correct"]
    assert table["right_before"].tolist() == plain.tolist()


def test_a_factor_of_one_has_no_effect(bert, prompts):
    table = effects(bert, prompts, neurons_for(prompts["fact"][0]), operation="amplify", factor=1.0)
    assert table["after"].to_numpy() == pytest.approx(table["before"].to_numpy(), rel=1e-12, abs=0)
