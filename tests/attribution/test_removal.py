"""Removals against suppressed neurons one by one, log-odds against a plain loop, and paths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import neurons_at, plain_scores, probability_with

from kn_utils.attribution.attribute import attribution_map, score_tables
from kn_utils.attribution.judging import agreement
from kn_utils.attribution.quadrature import quadrature
from kn_utils.attribution.removal import (
    TOP,
    _agreement,
    judged_by_removal,
    kinds_of_paths,
    paths,
    removed,
    removed_together,
    usual_rules,
)
from kn_utils.model.answers import answer_probability, questions_of
from kn_utils.model.interventions import suppress

GRADIENT = {"gradient": {"rule": "gradient"}}


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    """Answers of one and of several pieces."""
    table = prompts[~prompts["text"].str.startswith("[Y]") & (prompts["answer"] == "New Delhi")]
    return pd.concat([table, table.assign(answer="is", prompt=table["prompt"] + " is")], ignore_index=True)


def mean_p(model, rows, pairs, odds: bool = False) -> float:
    """The mean of P over rows with neurons at nothing; a forward pass for each row."""
    found = []
    with suppress(model, pairs):
        for row in rows:
            ids = torch.tensor([row.ids])
            if model.causal:
                p = model.model(input_ids=ids).logits[0, -1].softmax(-1)[row.target]
            else:  # suppress acts at the first mask
                assert row.ids.index(model.tokenizer.mask_token_id) == row.position
                p = model.model(input_ids=ids).logits[0, row.position].softmax(-1)[row.target]
            found.append((torch.log(p) - torch.log1p(-p) if odds else p).item())
    return float(np.mean(found))


@pytest.mark.slow
@pytest.mark.parametrize("odds", [False, True])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "gemma2", "granite"])
def test_removals_are_those_of_suppressed_neurons(kind, odds, asked):
    model = make_model(kind)
    neurons = np.array([(2, 5), (0, 7), (1, 0), (0, 3), (2, 40), (1, 47)])
    several = 0
    for rows in questions_of(model, asked.iloc[[0, -1]]):
        several += len(rows) > 1
        whole = mean_p(model, rows, [], odds)
        truth = [whole - mean_p(model, rows, [pair], odds) for pair in neurons]
        for size in (None, 1, 4):
            found = removed(model, rows, neurons, odds=odds, batch_size=size)
            np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-10)
        sets = [neurons[:2], neurons[[1, 4, 5]], neurons]
        truth = [whole - mean_p(model, rows, pairs, odds) for pairs in sets]
        found = removed_together(model, rows, sets, odds=odds)
        np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-10)
    assert several


def test_scores_that_are_the_losses_agree_with_them():
    lost = np.random.default_rng(0).normal(size=200)
    assert _agreement(lost, lost, 0.5) == pytest.approx(
        {"rank": 1, "found": 1, "error": 0, "error of the top": 0}
    )
    twice = _agreement(2 * lost, lost, 0.5)
    sizes = {"error": np.abs(lost).mean() / 0.5, "error of the top": np.sort(lost)[-TOP:].mean() / 0.5}
    assert twice == pytest.approx({"rank": 1, "found": 1, **sizes})
    turned = _agreement(-lost, lost, 1)
    assert turned["rank"] == pytest.approx(-1) and turned["found"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gemma2"])
def test_rules_are_judged_by_what_removal_does(kind, asked):
    model = make_model(kind)
    asked = asked.iloc[[0, -1]]
    table = judged_by_removal(model, asked, strongest=20, random=30, sizes=(2, 5), progress=False)
    wide = table.pivot(index=["prompt", "rule"], columns="measure", values="value")
    assert wide.notna().all(axis=None) and len(wide) == 2 * len(usual_rules(model)) == 12
    assert wide["rank"].between(-1, 1).all() and wide["found"].between(0, 1).all()
    for number, (rows, name) in enumerate(zip(questions_of(model, asked), asked["prompt"], strict=True)):
        whole = mean_p(model, rows, [])
        assert table.loc[table["prompt"] == name, "probability"].to_numpy() == pytest.approx(whole)
        scores = attribution_map(model, asked.iloc[[number]], rule="gradient")[0].flatten()
        five = [divmod(int(i), model.n_neurons) for i in scores.argsort(descending=True)[:5]]
        own = wide.loc[(name, "gradient")]
        assert own["loss of 5"] == pytest.approx(1 - mean_p(model, rows, five) / whole, rel=1e-5)
        told, pairs = scores.sort(descending=True).values[:5].sum().item(), five[:2]
        two = scores.sort(descending=True).values[:2].sum().item()
        errors = [
            abs(told - (whole - mean_p(model, rows, five))),
            abs(two - (whole - mean_p(model, rows, pairs))),
        ]
        assert own["error of sets"] == pytest.approx(np.mean(errors) / whole, rel=1e-4)
    one = judged_by_removal(
        model, asked.iloc[[1]], GRADIENT, strongest=20, random=30, sizes=(2, 5), progress=False
    )
    assert one["measure"].tolist() == [
        *("rank", "found", "error", "error of the top", "error of sets", "loss of 5")
    ]
    assert judged_by_removal(model, asked.iloc[:0], progress=False).empty


def test_the_gradient_tells_the_removal_of_neurons_that_do_little(asked):
    """With small neurons the loss is the gradient times the value, up to its square."""
    model = make_model("llama")
    with torch.no_grad():
        for layer in range(model.n_layers):
            model.value_slots(layer).mul_(1e-3)
    table = judged_by_removal(model, asked.iloc[[-1]], GRADIENT, strongest=60, random=20, progress=False)
    found = table.set_index("measure")["value"]
    assert found["rank"] > 0.9999 and found["found"] == 1 and found["error"] < 1e-3


def sure(model, question) -> None:
    """Make the model certain of an answer of one piece."""
    (row,) = questions_of(model, question)[0]
    with torch.no_grad():
        head = model.model.get_output_embeddings()
        at = model.model(input_ids=torch.tensor([row.ids])).logits[0, row.position]
        head.bias[row.target] += at.logsumexp(0) - at[row.target] + 5


def test_what_is_sure_is_judged_by_its_log_odds(bert, asked):
    question = asked.iloc[[-1]]
    sure(bert, question)
    table = judged_by_removal(bert, question, GRADIENT, strongest=30, random=20, sizes=(5,), progress=False)
    assert set(table["target"]) == {"log-odds"} and (table["probability"] > 0.99).all()
    (rows,) = questions_of(bert, question)
    scores = attribution_map(bert, question, rule="gradient", target="log-odds")[0].flatten()
    five = [divmod(int(i), bert.n_neurons) for i in scores.argsort(descending=True)[:5]]
    loss = mean_p(bert, rows, [], odds=True) - mean_p(bert, rows, five, odds=True)
    assert table.set_index("measure").loc["loss of 5", "value"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_scores_of_log_odds_equal_a_plain_loop(kind, asked):
    model, asked = make_model(kind), asked.iloc[[0, -1]]
    nodes, weights = (values.tolist() for values in quadrature("right", 3))
    found = attribution_map(model, asked, rule="right", steps=3, target="log-odds", batch_size=4).double()
    for scores, rows in zip(found, questions_of(model, asked), strict=True):

        def odds(p, target):
            return torch.log(p[target]) - torch.log1p(-p[target])

        maps = [
            plain_scores(model, r.ids, r.position, lambda p, r=r: odds(p, r.target), nodes, weights)
            for r in rows
        ]
        truth = torch.stack(maps).mean(0)
        torch.testing.assert_close(scores, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
    tables = score_tables(model, asked, target="log-odds", tolerance=1e-3, gap=True, progress=False)
    assert tables.prompts["probability"].tolist() == pytest.approx(
        answer_probability(model, asked)["probability"].tolist()
    )
    assert (tables.prompts["gap"] < 1e-2 * tables.prompts["maximum"]).all()
    truth = attribution_map(model, asked, rule="gauss-legendre", steps=96, target="log-odds")
    assert (
        agreement(attribution_map(model, asked, tolerance=1e-3, target="log-odds"), truth)["error"].max()
        < 1e-3
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2", "gemma2"])
def test_a_path_leads_from_nothing_to_the_answer(kind, asked):
    model = make_model(kind)
    table = paths(model, asked.iloc[[-1]], points=5)
    (row,) = questions_of(model, asked.iloc[[-1]])[0]
    for layer, part in table.groupby("layer"):
        w = neurons_at(model, row.ids, row.position, layer)
        truth = [probability_with(model, row.ids, row.position, row.target, layer, a * w) for a in part["a"]]
        np.testing.assert_allclose(part["p"], truth, rtol=1e-6, atol=1e-10)
    assert table["a"].unique().tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_kinds_of_paths_are_told_apart():
    a = np.linspace(0, 1, 21)
    curves = [0.5 + 0.001 * a, 0.2 + 0.3 * a, 0.2 + 0.3 * (a > 0.4), 0.5 - 0.1 * a**8]
    table = pd.concat([pd.DataFrame({"layer": i, "a": a, "p": p}) for i, p in enumerate(curves)])
    assert kinds_of_paths(table) == {"smoothest": 1, "steepest": 2, "flattest": 0}
    assert kinds_of_paths(table[table["layer"] == 1]) == {"smoothest": 1, "steepest": 1, "flattest": 1}
