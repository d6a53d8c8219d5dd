"""Decoded answers under interventions: the same as decoding with each of them, prompt by prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import make_model

from kn_utils.experiments.decoded import (
    costs,
    decoded_edits,
    decoded_effects,
    decodings_of,
    reports_by_choice,
)
from kn_utils.experiments.effects import EvaluationError
from kn_utils.model.acting import Scaling
from kn_utils.model.decoding import decode
from kn_utils.model.decoding_choice import choose
from kn_utils.model.edits import ValueEdit
from kn_utils.model.interventions import update_fact
from kn_utils.statistics.decoded import decoded_moves

COLUMNS = ["prompt", "masks", "ids", "chosen", "rounds"]


@pytest.fixture
def neurons(prompts) -> pd.DataFrame:
    facts = prompts["fact"].unique()[:2]  # the third has none
    return pd.DataFrame(
        {"fact": np.repeat(facts, 6), "layer": [0, 1, 2] * 4, "neuron": [*range(6), *range(9, 15)]}
    )


@pytest.mark.slow
def test_each_prompt_is_decoded_under_its_own_facts_neurons(bert, prompts, neurons):
    how = {"masks": 2, "init": "order"}
    table = decoded_effects(bert, prompts, neurons, operations={"none at all": 1.0, "stronger": 9.0}, **how)
    assert set(table["fact"]) == set(neurons["fact"]) and set(table["neurons"]) == {"knowledge"}
    asked = prompts[prompts["fact"].isin(neurons["fact"])]
    plain = decode(bert, asked, **how)
    for name in ("none", "none at all"):
        part = table[table["operation"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(part[COLUMNS], plain[COLUMNS])
    for i, prompt in enumerate(asked.itertuples()):
        pairs = neurons.loc[neurons["fact"] == prompt.fact, ["layer", "neuron"]].to_numpy()
        alone = decode(bert, asked.iloc[[i]], acting=[Scaling(pairs, 9.0)], **how)
        mine = table[(table["operation"] == "stronger") & (table["prompt"] == prompt.prompt)]
        assert mine["ids"].tolist() == alone["ids"].tolist()
        np.testing.assert_allclose(mine["sum_logp"], alone["sum_logp"], atol=1e-9)
    assert not np.allclose(*(table.loc[table["operation"] == n, "sum_logp"] for n in ("none", "stronger")))


@pytest.mark.slow
def test_edits_are_those_of_update_fact(bert, prompts, neurons):
    updates = prompts.groupby("fact").head(1).rename(columns={"answer": "old"}).assign(new="India")
    table = decoded_edits(bert, updates, neurons, edit=ValueEdit(2.0, 30.0), masks=2, init="order")
    assert table["operation"].unique().tolist() == ["none", "update"] and set(table["new"]) == {"India"}
    for i, update in enumerate(updates.itertuples()):
        mine = neurons[neurons["fact"] == update.fact]
        if mine.empty:
            assert update.prompt not in set(table["prompt"])
            continue
        with update_fact(bert, mine, old=update.old, new="India", l1=2.0, l2=30.0):
            prompt = updates.iloc[[i]].rename(columns={"old": "answer"})
            edited = decode(bert, prompt, masks=2, init="order")
        here = table[(table["operation"] == "update") & (table["prompt"] == update.prompt)]
        assert here["ids"].tolist() == edited["ids"].tolist()
        np.testing.assert_allclose(here["sum_logp"], edited["sum_logp"], atol=1e-7)


def test_moves_by_hand(toy, prompts):
    one = prompts.head(2)  # Paris
    rows = []
    for operation, texts in {
        "none": ["Paris", "Rome"],
        "suppress": ["paris.", "Paris"],
        "x": ["India", "Rome"],
    }.items():
        for prompt, text in zip(one.itertuples(), texts, strict=True):
            about = {name: getattr(prompt, name) for name in ("prompt", "fact", "relation", "language")}
            rows.append(
                {**about, "operation": operation, "neurons": "knowledge", "text": text, "masks": len(text)}
                | {"end": "blanks", "chosen": True, "new": "India"}
            )
    decoded = pd.DataFrame(rows).assign(gold_pieces=pd.array([1] * len(rows), "Int64"))
    moves = decoded_moves(decoded, one, toy).set_index("operation")
    assert moves.loc["suppress", "changed"].tolist() == [False, True]
    assert moves.loc["suppress", "right_after"].tolist() == [True, True]
    assert moves.loc["suppress", "right_before"].tolist() == [True, False]
    assert moves.loc["x", "got_new"].tolist() == [True, False]
    assert moves.loc["x", "length_changed"].tolist() == [False, False]
    assert moves.loc["suppress", "length_changed"].tolist() == [True, True]


def test_no_neurons_is_an_error(bert, prompts, neurons):
    updates = prompts.head(1).rename(columns={"answer": "old"}).assign(new="India")
    with pytest.raises(EvaluationError, match="neuron"):
        decoded_effects(bert, prompts, neurons.iloc[:0])
    with pytest.raises(EvaluationError, match="neuron"):
        decoded_edits(bert, updates, neurons.iloc[:0])


@pytest.mark.slow
def test_ways_that_suit_a_model(bert, prompts, toy):
    for model in (bert, make_model("gpt2")):
        ways = decodings_of(model, masks=2)
        asked = prompts[~prompts["text"].str.startswith("[Y]")]
        parts = [
            decode(model, asked, masks=ways.masks, **how).assign(decoding=name)
            for name, how in (ways.first | ways.more).items()
        ]
        decoded = pd.concat(parts, ignore_index=True)
        reports = reports_by_choice(decoded, asked, toy, ways.choices)
        assert len(reports) == len(parts) * len(ways.choices) * len(asked)
        for (name, by), part in reports.groupby(["decoding", "choose"]):
            alone = choose(decoded[decoded["decoding"] == name], by)
            assert part["text"].tolist() == alone.loc[alone["chosen"], "text"].tolist()
        cost = costs(decoded).set_index("decoding")
        assert cost.index.tolist() == [*ways.first, *ways.more]
        if not model.causal:
            assert cost.loc["independent", "passes"] == 2 and cost.loc["order", "passes"] == 3
    assert decodings_of(bert).masks == 5 and decodings_of(model).masks == 12
