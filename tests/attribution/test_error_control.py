"""Errors that are known: estimates against fine rules, also where paths are sharp on purpose."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from test_kernel_options import random_rows
from test_streaming import same_files
from torch import nn

from kn_utils.attribution import attribute as attribution
from kn_utils.attribution import error_control
from kn_utils.attribution import settings as settings_room
from kn_utils.attribution.attribute import attribute, attribution_map, score_tables
from kn_utils.attribution.error_control import LEVELS, Samples, error_of, first_error, first_pass
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.quadrature import AttributionError, quadrature
from kn_utils.attribution.removal import usual_rules
from kn_utils.attribution.settings import ScoreSettings
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.rows import Row

KINDS = ["bert", "gpt2", "llama", "distilbert"]


def sharpened(kind: str, by: float) -> LanguageModel:
    model = make_model(kind)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(by)
    return model


def errors(model: LanguageModel, rows: list[Row], points: int = 256, **options):
    """Per row and layer: true and estimated errors over the row's largest score, and the points."""
    rows = [Row(i, row.ids, row.position, row.target) for i, row in enumerate(rows)]
    found = ScoreSettings(**options).scorer(model)(rows)
    fixed = {name: value for name, value in options.items() if name in ("baseline", "multiplier", "norm")}
    truth = torch.cat(
        [integrate(model, [row], rule="gauss-legendre", steps=points, **fixed).scores for row in rows]
    )
    largest = truth.abs().amax((1, 2))[:, None]
    return (found.scores - truth).abs().amax(2) / largest, found.error / largest, found.points


@pytest.mark.slow
@pytest.mark.parametrize("by", [1.0, 1.5, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_keep_to_the_tolerance_on_random_models(kind, by):
    model = sharpened(kind, by)
    true, estimated, points = errors(model, random_rows(model, [3 + i % 8 for i in range(24)]))
    assert true.max() <= 0.01
    assert estimated.max() <= 0.011  # over the largest of the true scores, not of the found
    assert (estimated < true)[true > 1e-3].sum() <= 1  # of what is left above a thousandth
    if by == 1:
        assert (points == 4).double().mean() > 0.95  # smooth: nothing more is needed
    if by == 2.5:
        assert (points > 4).any()


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.1, 0.001, 1e-5])
def test_a_tolerance_is_met_whatever_it_is(tolerance):
    model = sharpened("llama", 1.5)
    rows = random_rows(model, [3 + i % 6 for i in range(12)])
    true, _, points = errors(model, rows, tolerance=tolerance)
    assert true.max() <= tolerance
    assert {int(one) for one in points.flatten()} <= {4, *LEVELS}


# Paths by hand: what a rule sees at its nodes, and the truth


def on_path(slope, points: int, neurons) -> Samples:
    """Samples at Clenshaw-Curtis points of a path whose neurons contribute ``neurons(a)``, (node, neuron)."""
    nodes = torch.as_tensor(quadrature("clenshaw-curtis", points)[0])
    contributions = neurons(nodes)
    return Samples(contributions[None], slope(nodes)[None], contributions.sum(-1)[None])


def at_gauss(p, neurons) -> tuple[Samples, torch.Tensor]:
    nodes = torch.as_tensor(quadrature("gauss-legendre", 4)[0])
    contributions = neurons(nodes)
    return Samples(contributions[:, None], p(nodes)[:, None], contributions.sum(-1)[:, None]), p(
        torch.ones(1)
    )


def integral(neurons, rule: str, points: int) -> torch.Tensor:
    nodes, weights = (torch.as_tensor(x) for x in quadrature(rule, points))
    return (neurons(nodes) * weights[:, None]).sum(0)


def jump(at: float, width: float):
    """P rises from 0 to 1 around a place; three neurons share the slope."""
    share = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def p(a):
        return torch.sigmoid((a - at) / width)

    return p, lambda a: (p(a) * (1 - p(a)) / width)[:, None] * share


def oscillation(waves: float):
    """P's slope swings many times; the swings cancel in the integral."""

    def p(a):
        return 0.5 + 0.1 * a + 0.05 * torch.sin(2 * np.pi * waves * a)

    def neurons(a):
        slope = 0.1 + 0.05 * 2 * np.pi * waves * torch.cos(2 * np.pi * waves * a)
        return slope[:, None] * torch.tensor([0.7, 0.3], dtype=torch.float64)

    return p, neurons


def cancelling(waves: float):
    """Two neurons swing against each other: P and the completeness gap see nothing of it."""

    def p(a):
        return 0.2 + 0.1 * a

    def neurons(a):
        swing = torch.cos(2 * np.pi * waves * a) ** 2
        return torch.stack([swing, 0.1 - swing, 0 * a], 1)

    return p, neurons


PATHS = {
    "jump in the middle": jump(0.5, 0.01),
    "jump between nodes": jump(0.37, 0.003),
    "jump at the start": jump(0.03, 0.01),
    "jump at the end": jump(0.98, 0.004),
    "oscillation": oscillation(7),
    "fast oscillation": oscillation(20),
    "neurons that cancel": cancelling(3),
    "neurons that cancel fast": cancelling(9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_four_points_see_that_a_sharp_path_needs_more(name):
    p, neurons = PATHS[name]
    truth = integral(neurons, "gauss-legendre", 2000)
    true = (integral(neurons, "gauss-legendre", 4) - truth).abs().max()
    estimated = first_error(*at_gauss(p, neurons)).item()
    assert true > 0.05 * truth.abs().max()
    assert estimated > 0.01 * truth.abs().max(), (true, estimated)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_no_rule_is_taken_for_exact_before_it_is(name):
    """At every number of points: where the error is above a hundredth, so is the estimate."""
    p, neurons = PATHS[name]
    truth = integral(neurons, "gauss-legendre", 2000)
    size = truth.abs().max()
    trusted = []
    for points in LEVELS:
        true = (integral(neurons, "clenshaw-curtis", points) - truth).abs().max() / size
        estimated = error_of(on_path(p, points, neurons)).item() / size
        assert estimated > 0.01 or true <= 0.01, (points, true, estimated)
        trusted.append(estimated <= 0.01)
    assert not trusted[0] and trusted[-1] == (name != "jump between nodes")  # that one is too sharp for 257


def test_a_smooth_path_needs_no_more():
    p, neurons = jump(0.5, 0.5)
    truth = integral(neurons, "gauss-legendre", 64)
    for points in LEVELS:
        assert error_of(on_path(p, points, neurons)) < 1e-3 * truth.max()
    assert first_error(*at_gauss(p, neurons)) < 1e-3 * truth.max()


def test_the_completeness_gap_alone_would_be_fooled():
    """Two neurons that cancel: the slope is constant, so the gap is nothing, and scores are far off."""
    p, neurons = cancelling(9)
    found = on_path(p, 9, neurons)
    weights = torch.as_tensor(quadrature("clenshaw-curtis", 9)[1])
    assert ((found.slope * weights).sum() - 0.1).abs() < 1e-12
    assert (
        integral(neurons, "clenshaw-curtis", 9) - integral(neurons, "gauss-legendre", 500)
    ).abs().max() > 0.05
    assert error_of(found) > 0.05


# A model with a jump in one layer


def jumping(layer: int, width: float = 0.02) -> LanguageModel:
    """A random GPT-2 whose block behind one layer has a threshold: P jumps along the paths in front of it."""
    model = make_model("gpt2")
    block = model.model.transformer.h[layer + 1]
    norm = block.ln_2

    class Threshold(nn.Module):
        def forward(self, x):
            y = norm(x)
            push = torch.tanh((x[..., :1] - Threshold.middle) / width)
            return torch.cat([y[..., :1] + 4 * push, y[..., 1:]], -1)

    Threshold.middle = 0.0
    block.ln_2 = Threshold()
    whole = LanguageModel(model.model, model.tokenizer)
    return whole


def test_more_points_go_where_the_path_is_sharp_and_nowhere_else():
    model = sharpened("llama", 1.5)
    rows = random_rows(model, [3 + i % 6 for i in range(24)])
    rows = [Row(i, row.ids, row.position, row.target) for i, row in enumerate(rows)]
    four = integrate(model, rows, rule="gauss-legendre", steps=4).scores
    found = ScoreSettings().scorer(model)(rows)
    refined = found.points > 4
    assert 0 < refined.double().mean() < 0.5
    assert torch.equal(found.scores[~refined], four[~refined])
    assert not torch.equal(found.scores[refined], four[refined])


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.05, 0.01])
def test_a_jump_in_one_layer(width):
    model = jumping(0, width)
    rows = random_rows(model, [3 + i % 6 for i in range(16)])
    true, estimated, points = errors(model, rows, points=1000)
    converged = estimated <= 0.01
    assert true[converged].max() <= 0.01
    assert points[:, 0].double().mean() > 2 * points[:, 2].double().mean()
    assert (points[:, 2] == 4).double().mean() > 0.9


@pytest.mark.slow
def test_what_does_not_converge_is_said(prompts, capsys, monkeypatch, tmp_path):
    model = sharpened("bert", 2.5)
    monkeypatch.setattr(error_control, "LEVELS", (9,))
    monkeypatch.setattr(attribution, "LEVELS", (9,))
    notes = score_tables(model, prompts, tolerance=1e-4, progress=False).prompts
    over = notes["error"] > 1e-4
    assert over.any() and notes["points"].max() == 9
    said = capsys.readouterr().err
    assert said == (
        f"{over.sum()} of {len(prompts)} prompts: a score's error stays above 0.0001 of the largest with 9 "
        f"points (up to {notes['error'].max():.2g}); see the column error\n"
    )
    out = attribute(model, prompts, tolerance=1e-4, progress=False, out=tmp_path / "scores.parquet")
    assert capsys.readouterr().err == said and out.exists()
    attribute(make_model("bert"), prompts, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_table_per_prompt(prompts):
    model = sharpened("bert", 2.0)
    notes = score_tables(model, prompts, gap=True, progress=False).prompts
    assert (notes["error"] <= 0.01).all() and notes["points"].between(4, 257).all()
    assert (notes["points"] > 4).any() and notes["gap"].notna().all()
    fixed = score_tables(model, prompts, steps=7, progress=False).prompts
    assert fixed["error"].isna().all() and (fixed["points"] == 7).all() and fixed["gap"].isna().all()
    gradient = score_tables(model, prompts, rule="gradient", gap=True, progress=False).prompts
    assert (gradient["points"] == 1).all() and gradient["gap"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["zero", "replacement", "replacement-each"])
@pytest.mark.parametrize("multiplier", ["difference", "activation"])
def test_every_path_is_controlled(baseline, multiplier):
    model = sharpened("bert", 2.0)
    options = {"baseline": baseline, "multiplier": multiplier}
    true, _, points = errors(model, random_rows(model, [4, 6, 5, 6]), points=64, **options)
    assert true.max() <= 0.01
    assert (points > 4).any() == (baseline == "zero")  # the other paths are short


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_batching_changes_nothing(kind, prompts):
    model = sharpened(kind, 2.0)
    prompts = prompts[~prompts["text"].str.startswith("[Y]")]
    together = attribution_map(model, prompts, batch_size=64)
    alone = torch.cat([attribution_map(model, prompts.iloc[[i]]) for i in range(len(prompts))])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-12)
    a, b = (score_tables(model, prompts, batch_size=n, progress=False) for n in (1, 7))
    pd.testing.assert_frame_equal(a.scores, b.scores, rtol=1e-6)
    assert max(a.prompts["points"]) > 4


@pytest.mark.slow
def test_a_small_memory_changes_nothing(prompts, monkeypatch, capsys):
    model = sharpened("bert", 2.0)
    whole = attribute(model, prompts, batch_size=8, progress=False)
    own = error_control.sample

    def limited(model, tasks, **path):
        if sum(len(task.nodes) for task in tasks) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(model, tasks, **path)

    monkeypatch.setattr(settings_room, "sample", limited)
    found = attribute(model, prompts, batch_size=8, progress=False)
    pd.testing.assert_frame_equal(found, whole, rtol=1e-6)
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.slow
def test_taken_up_in_the_middle_it_ends_with_the_same_files(prompts, tmp_path, monkeypatch):
    model = sharpened("bert", 2.0)
    options = {"batch_size": 1, "progress": False}
    whole = attribute(model, prompts, out=tmp_path / "whole" / "scores.parquet", **options)
    out, own, calls = tmp_path / "broken" / "scores.parquet", error_control.sample, []

    def breaking(*arguments, **path):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return own(*arguments, **path)

    with monkeypatch.context() as here, pytest.raises(KeyboardInterrupt):
        here.setattr(settings_room, "sample", breaking)
        attribute(model, prompts, out=out, **options)
    attribute(model, prompts, out=out, **options)
    same_files(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_rounded_products(precision, prompts):
    model = make_model("bert", torch.float32)
    exact = LanguageModel(copy.deepcopy(model.model).double(), model.tokenizer)
    rows = random_rows(model, [6] * 8)
    found = ScoreSettings(precision=precision).scorer(model)(rows)
    truth = integrate(exact, rows, steps=32).scores
    off = (found.scores.double() - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2))
    assert off.max() < {"bfloat16": 5e-2, "float32": 1e-2}[precision]


# What auto means


@pytest.mark.slow
def test_without_refinement_auto_is_gauss_legendre_with_four_points(bert, prompts):
    auto, four = (attribution_map(bert, prompts, **options) for options in ({}, {"steps": 4}))
    torch.testing.assert_close(auto, four, rtol=1e-6, atol=1e-12)
    rows = bert.encode(prompts)
    first, fixed = first_pass(bert, rows, [2, 0]), integrate(bert, rows, layers=[2, 0])
    torch.testing.assert_close(first.scores, fixed.scores)


@pytest.mark.parametrize("rounded", ["products", "weights"])
def test_where_products_are_rounded_auto_is_four_points(rounded, prompts):
    """Their noise passes for an integral's error: every layer would be given all points, in vain."""
    kind = torch.float32 if rounded == "products" else torch.bfloat16
    model = make_model("bert", kind)
    precision = {"precision": "bfloat16"} if rounded == "products" else {}
    found = score_tables(model, prompts, progress=False, **precision)
    assert (found.prompts["points"] == 4).all()
    four = attribution_map(model, prompts, rule="gauss-legendre", steps=4, **precision)
    assert torch.equal(attribution_map(model, prompts, **precision), four)
    with pytest.raises(AttributionError, match="products rounded to bfloat16 hide how far") as caught:
        attribute(model, prompts, tolerance=0.05, progress=False, **precision)
    assert "\n" not in str(caught.value)
    assert ("tolerance" in usual_rules(model)) == (rounded == "products")  # whose precision nobody asked for


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3_text", "olmo2"])
def test_where_the_output_is_normed_auto_is_the_gradient(kind, prompts):
    model = make_model(kind, rms_norm_eps=1e-12)
    prompts = prompts[prompts["text"].str.endswith("[Y].")]
    auto, gradient = (attribution_map(model, prompts, **one) for one in ({}, {"rule": "gradient"}))
    assert torch.equal(auto, gradient)
    with pytest.raises(AttributionError) as caught:
        attribute(model, prompts, tolerance=0.01, progress=False)
    assert "no integral and no tolerance can be met: use rule='gradient', or norm='held'" in str(caught.value)
    assert "\n" not in str(caught.value)
    held = score_tables(model, prompts, norm="held", progress=False)
    assert max(held.prompts["error"]) <= 0.01
    papers = attribution_map(model, prompts, rule="right", steps=20)
    harmonic = sum(1 / k for k in range(1, 21))
    assert (papers / harmonic - gradient).abs().max() < 1e-4 * gradient.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.01, "rule": "right"}, "rule='right' has a fixed number of points"),
        ({"tolerance": 0.01, "steps": 8}, "give one of them"),
        ({"norm": "held"}, "use norm='free'"),
    ],
)
def test_what_cannot_be_is_refused(bert, prompts, options, message):
    for call in (attribution_map, attribute):
        with pytest.raises(AttributionError, match=message):
            call(bert, prompts, **options)
