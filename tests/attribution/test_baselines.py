"""Baselines that leave something out, and scores of ln P, against plain loops from their definitions."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import every_layer, pieces_of, place_of, plain_scores, probability_with

from kn_utils.attribution.attribute import attribute, attribution_map, score_tables
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.quadrature import AttributionError, quadrature
from kn_utils.neurons.shares import RefinementError, layer_sums
from kn_utils.store.tables import load_table

KINDS = ["bert", "gpt2", "llama"]
RULE = ("gauss-legendre", 3)


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    """One and several pieces; the second fact is asked for in two wordings, the others in one."""
    table = prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)
    return table.iloc[[0, 2, 3, 4]].reset_index(drop=True)


def from_starts(model, ids, position, target, starts: list[torch.Tensor]) -> torch.Tensor:
    """Equation 6 from a start of each layer: (layer, neuron)."""
    nodes, weights = (values.tolist() for values in quadrature(*RULE))
    found = []
    for layer, (w, b) in enumerate(zip(every_layer(model, ids, position), starts, strict=True)):
        total = torch.zeros_like(w)
        for a, c in zip(nodes, weights, strict=True):
            leaf = (b + a * (w - b)).detach().requires_grad_()
            with torch.enable_grad():
                p = probability_with(model, ids, position, target, layer, leaf)
            total += c * torch.autograd.grad(p, leaf)[0]
        found.append((w - b) * total)
    return torch.stack(found)


def rows_by_hand(model, text: str, answer: str) -> list[tuple[list[int], int, int]]:
    """Ids, position and wanted piece of each piece of an answer."""
    before, after = text.split("[Y]")
    pieces = pieces_of(model, answer)
    return [(*place_of(model, before, after, pieces, j), piece) for j, piece in enumerate(pieces)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_content_leaves_out_special_tokens_and_the_blank(kind, asked):
    model = make_model(kind)
    tokenizer = model.tokenizer
    put = tokenizer.eos_token_id if model.causal else tokenizer.mask_token_id
    found = attribution_map(
        model, asked, rule=RULE[0], steps=RULE[1], baseline="replacement-content"
    ).double()
    for ours, prompt in zip(found, asked.itertuples(), strict=True):
        maps = []
        for ids, position, piece in rows_by_hand(model, prompt.text, prompt.answer):
            places = [
                t for t, one in enumerate(ids) if t != position and one not in tokenizer.all_special_ids
            ]
            assert 0 < len(places) < len(ids)
            texts = [every_layer(model, ids[:t] + [put] + ids[t + 1 :], position) for t in places]
            starts = [torch.stack(layer).mean(0) for layer in zip(*texts, strict=True)]
            maps.append(from_starts(model, ids, position, piece, starts))
        truth = torch.stack(maps).mean(0)
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
    usual = attribution_map(model, asked, rule=RULE[0], steps=RULE[1], baseline="replacement").double()
    assert (usual - found).abs().max() > 1e-3 * found.abs().max()


def test_a_text_of_special_tokens_alone_has_no_content(bert):
    text = pd.DataFrame({"text": ["[Y]"], "answer": ["Paris"]})
    with pytest.raises(
        AttributionError, match="^baseline='replacement-content': a text of 3 tokens has none"
    ):
        attribution_map(bert, text, baseline="replacement-content")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_relation_s_mean_is_that_of_its_other_facts(kind, asked):
    model = make_model(kind)
    found = attribution_map(model, asked, rule=RULE[0], steps=RULE[1], baseline="relation-mean").double()
    every = [rows_by_hand(model, prompt.text, prompt.answer) for prompt in asked.itertuples()]
    for number, prompt in enumerate(asked.itertuples()):
        others = [
            every_layer(model, ids, position)
            for rows, fact in zip(every, asked["fact"], strict=True)
            if fact != prompt.fact
            for ids, position, _ in rows
        ]
        starts = [torch.stack(layer).mean(0) for layer in zip(*others, strict=True)]
        truth = torch.stack([from_starts(model, *row, starts) for row in every[number]]).mean(0)
        torch.testing.assert_close(found[number], truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
    mixed = attribution_map(
        model, asked.iloc[::-1], rule=RULE[0], steps=RULE[1], baseline="relation-mean", batch_size=1
    ).double()
    torch.testing.assert_close(mixed.flip(0), found, rtol=1e-5, atol=1e-9)


def test_the_relation_s_mean_is_complete_and_within_its_tolerance(bert, asked):
    notes = score_tables(bert, asked, baseline="relation-mean", tolerance=1e-3, gap=True, progress=False)
    assert (notes.prompts["gap"].abs() < 1e-3 * bert.n_neurons * notes.prompts["maximum"]).all()
    assert (notes.prompts["error"] < 1e-3).all()


def test_a_fact_alone_in_its_relation_has_no_mean(bert, asked):
    one = asked[asked["fact"] == asked["fact"][0]]
    with pytest.raises(AttributionError, match="relation P36 has one fact among these prompts"):
        attribute(bert, one, baseline="relation-mean", progress=False)
    with pytest.raises(AttributionError, match="needs rows with starts of their own"):
        integrate(bert, bert.encode(asked), baseline="relation-mean")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_the_logarithm_add_up_to_that_of_the_whole_answer(kind, asked):
    """Sum over pieces and neurons of a layer: ln P(answer) less ln P with that layer silenced."""
    model = make_model(kind)
    nodes, weights = (values.tolist() for values in quadrature("gauss-legendre", 3))
    coarse = attribution_map(model, asked, rule="gauss-legendre", steps=3, target="log").double()
    fine = attribution_map(model, asked, rule="gauss-legendre", steps=96, target="log").double()
    nothing = torch.zeros(model.n_neurons, dtype=torch.float64)
    several = 0
    for rough, ours, prompt in zip(coarse, fine, asked.itertuples(), strict=True):
        rows = rows_by_hand(model, prompt.text, prompt.answer)
        several += len(rows) > 1
        truth = torch.stack(
            [
                plain_scores(model, ids, at, lambda p, piece=piece: p[piece].log(), nodes, weights)
                for ids, at, piece in rows
            ]
        ).mean(0)
        torch.testing.assert_close(rough, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
        for layer in range(model.n_layers):
            change = sum(
                probability_with(model, ids, at, piece, layer, w).log()
                - probability_with(model, ids, at, piece, layer, nothing).log()
                for ids, at, piece in rows
                for w in [every_layer(model, ids, at)[layer]]
            )
            assert len(rows) * ours[layer].sum().item() == pytest.approx(change.item(), abs=1e-5)
    assert several, "an answer of several pieces is wanted here"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_scores_of_the_logarithm_keep_their_tolerance_and_tell_p(kind, asked):
    model = make_model(kind)
    found = score_tables(model, asked, target="log", tolerance=1e-3, progress=False).prompts
    assert (found["error"] < 1e-3).all()
    plain = score_tables(model, asked, tolerance=1e-3, progress=False).prompts
    assert found["probability"].tolist() == pytest.approx(plain["probability"].tolist(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["zero", "replacement"])
def test_sums_of_layers_are_those_of_all_scores(bert, asked, baseline, tmp_path):
    options = {"baseline": baseline, "rule": "right", "steps": 2}
    maps = attribution_map(bert, asked, **options).double().sum(2)
    notes = score_tables(bert, asked, progress=False, **options).prompts
    sums = layer_sums(notes).pivot(index="prompt", columns="layer", values="sum").loc[asked["prompt"]]
    torch.testing.assert_close(torch.tensor(sums.to_numpy()), maps, rtol=1e-4, atol=1e-9)
    attribute(bert, asked, progress=False, out=tmp_path / "scores.parquet", **options)
    stored = load_table(tmp_path / "scores.prompts.parquet")[0]
    pd.testing.assert_frame_equal(layer_sums(stored), layer_sums(notes), rtol=1e-9)
    some = score_tables(bert, asked, layers=[2, 0], progress=False, **options).prompts
    two = layer_sums(some, [2, 0])
    assert two["layer"].tolist()[:2] == [2, 0]
    with pytest.raises(RefinementError, match="3 layers, and sums of 2"):
        layer_sums(some, [0, 1, 2])
