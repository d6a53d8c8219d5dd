"""Attribution against a plain loop, captum, finite differences, and properties that any right version has."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from conftest import make_model
from oracles import neurons_at, plain_scores, probability_with

from kn_utils.attribution.attribute import attribute, attribution_map, score_tables
from kn_utils.attribution.judging import convergence
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.quadrature import AttributionError, quadrature
from kn_utils.attribution.reading import read_neurons
from kn_utils.data.facts import DataError
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.interventions import suppress
from kn_utils.model.rows import Row

POINTS = {
    "right": ([0.25, 0.5, 0.75, 1.0], [0.25] * 4),
    "left": ([0.0, 0.25, 0.5, 0.75], [0.25] * 4),
    "midpoint": ([0.125, 0.375, 0.625, 0.875], [0.25] * 4),
    # Abramowitz & Stegun, table 25.4, n = 4, moved from [-1, 1] to [0, 1]
    "gauss-legendre": (
        [(1 + x) / 2 for x in (-0.861136311594053, -0.339981043584856, 0.339981043584856, 0.861136311594053)],
        [w / 2 for w in (0.347854845137454, 0.652145154862546, 0.652145154862546, 0.347854845137454)],
    ),
}


def oracle_map(model, prompts, rule):
    rows = model.encode(prompts)
    maps = [plain_scores(model, r.ids, r.position, r.target, *POINTS[rule]) for r in rows]
    return torch.stack(
        [
            torch.stack([m for r, m in zip(rows, maps, strict=True) if r.prompt == i]).mean(0)
            for i in range(len(prompts))
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_one_pass_equals_the_plain_loop(kind, prompts):
    model = make_model(kind)
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith("[Y]")]
    # Rules differ in points and weights, which no architecture sees: all of them for one of each direction.
    rules = list(POINTS) if kind in ("bert", "gpt2") else ["gauss-legendre"]
    lengths = {len([r for r in model.encode(prompts) if r.prompt == i]) for i in range(len(prompts))}
    assert len(lengths) > 1, "answers of several lengths are wanted here"
    for rule in rules:
        ours = attribution_map(model, prompts, rule=rule, steps=4, batch_size=5)
        truth = oracle_map(model, prompts, rule)
        assert truth.abs().max() > 1e-7
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())


@pytest.mark.parametrize(("rule", "method"), [("left", "riemann_left"), ("right", "riemann_right")])
def test_agrees_with_captum(rule, method, bert, prompts):
    row = bert.encode(prompts)[0]
    ours = integrate(bert, [row], rule=rule, steps=10).scores[0]
    for layer in range(bert.n_layers):
        value = _activations(bert, row, layer)
        start = value.clone()
        start[0, row.position] = 0  # only the blank's neurons move
        rest = partial(_probability_from, bert, row, layer)
        with torch.enable_grad():
            found = IntegratedGradients(rest).attribute(value, baselines=start, n_steps=10, method=method)
        # captum keeps its points in float32
        torch.testing.assert_close(
            ours[layer], found[0, row.position], rtol=1e-5, atol=1e-6 * ours.abs().max().item()
        )


def _activations(model, row, layer):
    seen = []
    handle = model.seconds[layer].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach().clone())
    )
    model.model(input_ids=torch.tensor([row.ids]))
    handle.remove()
    return seen[0]


def _probability_from(model, row, layer, neurons):
    """P(answer) with a layer's neurons, all positions, given: the rest of the model as a function."""
    handle = model.seconds[layer].register_forward_pre_hook(lambda _, args: (neurons,))
    try:
        ids = torch.tensor([row.ids]).repeat(len(neurons), 1)
        return model.model(input_ids=ids).logits[:, row.position].softmax(-1)[:, row.target]
    finally:
        handle.remove()


def test_gradient_agrees_with_finite_differences(bert, prompts):
    row = bert.encode(prompts)[0]
    scores = integrate(bert, [row], rule="right", steps=1).scores[0]
    for layer in range(bert.n_layers):
        w = neurons_at(bert, row.ids, row.position, layer)
        for neuron in (0, 17, 40):
            step = torch.zeros_like(w)
            step[neuron] = 1e-5
            up, down = (
                probability_with(bert, row.ids, row.position, row.target, layer, w + s) for s in (step, -step)
            )
            assert scores[layer, neuron].item() == pytest.approx(
                w[neuron].item() * (up - down).item() / 2e-5, rel=1e-4, abs=1e-10
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_fine_rule_is_complete(kind, prompts):
    model = make_model(kind)
    rows = model.encode(prompts[prompts["text"].str.endswith("[Y].")])
    found = integrate(model, rows, steps=48, gap=True)
    for i, row in enumerate(rows):
        for layer in range(model.n_layers):
            start = probability_with(
                model,
                row.ids,
                row.position,
                row.target,
                layer,
                torch.zeros(model.n_neurons, dtype=torch.float64),
            )
            moved = found.probability[i] - start
            assert found.scores[i, layer].sum().item() == pytest.approx(moved.item(), abs=1e-6)
    assert found.gap.abs().max() < 1e-6


@pytest.mark.slow
def test_a_coarse_rule_reports_its_gap(bert, prompts):
    rows = bert.encode(prompts)
    coarse, fine = (integrate(bert, rows, rule="right", steps=n, gap=True).gap.abs().max() for n in (2, 32))
    assert coarse > 10 * fine > 0


@pytest.mark.slow
def test_batching_and_padding_change_nothing(bert, prompts):
    long = prompts.iloc[[0]].assign(prompt="long", text="France, " * 9 + "that is, has [Y] as its capital.")
    mixed = pd.concat([prompts, long], ignore_index=True)
    together = attribution_map(bert, mixed, batch_size=64)
    for i in range(len(mixed)):
        torch.testing.assert_close(
            together[i], attribution_map(bert, mixed.iloc[[i]])[0], rtol=1e-6, atol=1e-12
        )
    a, b = (attribute(bert, mixed, batch_size=n, progress=False) for n in (1, 7))
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)


@pytest.mark.slow
def test_a_layer_subset_gives_those_layers(bert, prompts):
    whole = attribution_map(bert, prompts)
    part = attribution_map(bert, prompts, layers=[2, 0])
    torch.testing.assert_close(part, whole[:, [2, 0]], rtol=1e-6, atol=1e-12)
    kept = attribute(bert, prompts, layers=[2], progress=False)
    assert set(kept["layer"]) == {2}


@pytest.mark.slow
def test_attribute_keeps_what_reaches_the_fraction(bert, prompts):
    full = attribution_map(bert, prompts).double()
    table = attribute(bert, prompts, keep=0.3, progress=False)
    for i, name in enumerate(prompts["prompt"]):
        wanted = (full[i] >= 0.3 * full[i].max()).nonzero().tolist()
        own = table[table["prompt"] == name]
        assert own[["layer", "neuron"]].to_numpy().tolist() == wanted
        assert own["score"].max() == pytest.approx(full[i].max().item(), rel=1e-6)
    again, note = score_tables(bert, prompts, keep=0.3, gap=True, progress=False)
    pd.testing.assert_frame_equal(again, table)
    assert note["maximum"].tolist() == pytest.approx(full.amax((1, 2)).tolist(), rel=1e-6)
    assert note["prompt"].tolist() == prompts["prompt"].tolist() and note["gap"].notna().all()


@pytest.mark.slow
def test_the_activation_baseline_is_the_activation(bert, prompts):
    rows = bert.encode(prompts)
    values, p = read_neurons(bert, rows)
    for row, value, chance in list(zip(rows, values, p, strict=True))[:4]:
        for layer in range(bert.n_layers):
            torch.testing.assert_close(
                value[layer], neurons_at(bert, row.ids, row.position, layer), rtol=1e-9, atol=1e-12
            )
            found = probability_with(bert, row.ids, row.position, row.target, layer, value[layer])
            assert chance.item() == pytest.approx(found.item(), rel=1e-9)
    one = attribution_map(bert, prompts.iloc[[0]], method="activation")[0]
    n = sum(row.prompt == 0 for row in rows)
    torch.testing.assert_close(one, values[:n].mean(0).float())


def test_quadrature_rules_are_exact_where_theory_says():
    for rule in POINTS:
        nodes, weights = quadrature(rule, 4)
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(nodes, POINTS[rule][0], atol=1e-12)
    nodes, weights = quadrature("gauss-legendre", 4)
    for power in range(8):
        assert (weights * nodes**power).sum() == pytest.approx(1 / (power + 1))


@pytest.mark.slow
def test_convergence_report(bert, prompts):
    table = convergence(bert, prompts, [("right", 4), ("gauss-legendre", 8)], reference=24)
    error = table.groupby("rule")["error"].max()
    assert error["gauss-legendre"] < error["right"]
    assert table["jaccard"].between(0, 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "simpson"}, "unknown rule 'simpson'; known: right, left"),
        ({"layers": [0, 0]}, "a list of different ones"),
        ({"layers": [3]}, "layers 0 to 2"),
        ({"method": "lime"}, "unknown method 'lime'"),
        ({"baseline": "mean"}, "unknown baseline"),
    ],
)
def test_bad_options(bert, prompts, options, message):
    with pytest.raises(AttributionError, match=message):
        attribution_map(bert, prompts, **options)


def test_no_prompts(bert, prompts):
    with pytest.raises(AttributionError, match="no prompts"):
        attribute(bert, prompts.iloc[:0], progress=False)


def test_an_answer_with_the_unknown_token_is_refused_unless_allowed(bert, prompts):
    odd = prompts.iloc[[0]].assign(answer="Ω")
    with pytest.raises(DataError, match="cannot write the answer 'Ω'"):
        attribute(bert, odd, progress=False)
    assert len(attribute(bert, odd, unknown="allow", progress=False))


def test_nan_is_reported_not_averaged_away(bert, prompts):
    bert.model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(AttributionError, match="not finite"):
        attribute(bert, prompts, progress=False)


@pytest.mark.slow
def test_attribution_inside_an_intervention_is_refused(bert, prompts):
    before = attribution_map(bert, prompts)
    with suppress(bert, [(1, 0)]), pytest.raises(AttributionError, match="suppressed or amplified"):
        attribution_map(bert, prompts)
    assert torch.equal(attribution_map(bert, prompts), before)


@pytest.mark.slow
def test_no_hook_is_left_behind(bert, prompts):
    rows = bert.encode(prompts)
    with pytest.raises(IndexError):
        integrate(bert, [Row(0, rows[0].ids, 10_000, 1)])
    integrate(bert, rows)
    assert not any(module._forward_pre_hooks for module in bert.model.modules())
