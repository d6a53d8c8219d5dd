"""Attribution against a plain loop, captum, finite differences, and the properties that any right version has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from conftest import make_model
from oracles import neurons_at, plain_scores, probability_with

from kn_utils.attribution import (
    AttributionError,
    attribute,
    attribution_map,
    convergence,
    integrate,
    quadrature,
    read_neurons,
)
from kn_utils.facts import DataError, Row
from kn_utils.models import ARCHITECTURES

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
    return torch.stack([
        torch.stack([m for r, m in zip(rows, maps, strict=True) if r.prompt == i]).mean(0) for i in range(len(prompts))
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_one_pass_equals_the_plain_loop(kind, prompts):
    model = make_model(kind)
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith("[Y]")]
    lengths = {len([r for r in model.encode(prompts) if r.prompt == i]) for i in range(len(prompts))}
    assert len(lengths) > 1, "answers of several lengths are wanted here"
    for rule in POINTS:
        ours = attribution_map(model, prompts, rule=rule, steps=4, batch_size=5)
        truth = oracle_map(model, prompts, rule)
        assert truth.abs().max() > 1e-7
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
