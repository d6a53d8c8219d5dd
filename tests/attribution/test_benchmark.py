"""The benchmark measures the right things: its published procedure is the plain loop, its table is true."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import make_model
from oracles import plain_scores

from kn_utils.attribution import benchmark
from kn_utils.attribution.benchmark import exact_scores, kernel, measured, published, sample_prompts
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.quadrature import quadrature
from kn_utils.attribution.settings import ScoreSettings
from kn_utils.model.loading import load_model
from kn_utils.model.measuring import random_model

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 8000,
    "initializer_range": 0.1,  # P moves by more than its rounding, which differs between processors
}
COLUMNS = ["method", "seconds", "ratio", "memory", "error", "jaccard", "gflop", "share"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["right", "gauss-legendre"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "opt", "llama"])
def test_the_published_procedure_is_the_plain_loop(kind, rule, prompts):
    model = make_model(kind)
    rows = model.encode(prompts[prompts["text"].str.endswith("[Y].")].iloc[:2])
    assert max(len(row.ids) for row in rows) < 64
    points = [x.tolist() for x in quadrature(rule, 3)]
    for row in rows[:2]:
        truth = plain_scores(model, row.ids, row.position, row.target, *points)
        size = truth.abs().max().item()
        for options in (
            {},
            {"head": "blank"},
            {"head": "blank", "padded": 64},
            {"padded": 64},
            {"padded": 3},
        ):
            found = published(model, row, rule, 3, **options)
            torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6 * size)
        ours = integrate(model, [row], rule=rule, steps=3).scores[0]
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6 * size)
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_padding_and_head_are_what_the_model_computes(bert, prompts):
    row, seen = bert.encode(prompts)[0], {}
    embedding, head = bert.model.get_input_embeddings(), bert.head
    embedding.register_forward_hook(lambda _, args, out: seen.setdefault("tokens", set()).add(out.shape[1]))
    head.register_forward_hook(lambda _, args, out: seen.setdefault("head", set()).add(out.shape[1]))
    length = len(row.ids)
    for options, wanted in (
        ({}, {"tokens": {length}, "head": {length}}),
        ({"head": "blank"}, {"tokens": {length}, "head": {1}}),
        ({"padded": 40}, {"tokens": {40}, "head": {40}}),
    ):
        seen.clear()
        published(bert, row, "right", 2, **options)
        assert seen == wanted


def test_the_kernel_of_the_table_is_the_kernel(bert, prompts):
    settings = ScoreSettings(gap=False, batch_size=2)
    single = prompts.iloc[[0, 2, 1]].reset_index(drop=True).assign(answer="Paris"[:1])
    rows = bert.encode(single)
    assert [row.prompt for row in rows] == [0, 1, 2]
    assert len({len(row.ids) for row in rows}) > 1  # batches of another order than the table's
    found = kernel(bert, list(settings.batches(bert, single)), settings)
    for row, scores in zip(rows, found, strict=True):
        torch.testing.assert_close(scores, integrate(bert, [row]).scores[0], rtol=1e-6, atol=1e-12)


@pytest.mark.slow
def test_the_exact_integral_is_a_fine_rule_in_double():
    model = load_model("mini", device="cpu")
    prompts = sample_prompts(model, 1)
    (found,) = exact_scores(model, prompts)
    assert found.dtype == torch.float64 and model.dtype == torch.float32
    double = load_model("mini", device="cpu", dtype="float64")
    truth = integrate(double, double.encode(prompts), steps=24).scores[0]
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-9)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(benchmark.SHAPES, "tiny", ("bert", TINY))
    return "tiny"


@pytest.mark.slow
def test_sample_prompts_are_of_one_piece_spread_and_the_same_each_time(tiny):
    model = random_model(tiny, torch.device("cpu"))
    prompts = sample_prompts(model, 9)
    rows = model.encode(prompts)
    assert len(prompts) == len(rows) == 9  # one row, so one piece, each
    assert prompts["prompt"].is_unique and prompts["language"].nunique() > 1
    lengths = [len(row.ids) for row in rows]
    assert lengths == sorted(lengths) and len(set(lengths)) >= 5 and lengths[-1] >= 1.5 * lengths[0]
    assert sample_prompts(model, 9).equals(prompts)
    assert len(sample_prompts(model, 1)) == 1


def test_random_models_of_a_shape_are_the_same_model(tiny):
    one, other = (random_model(tiny, torch.device("cpu")) for _ in range(2))
    assert one.checksum() == other.checksum()
    assert (one.n_layers, one.n_neurons) == (2, 24)


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_the_command_writes_all_that_it_measured(tiny, tmp_path, capsys, padded):
    out = tmp_path / "benchmark_tiny.json"
    arguments = (
        f"--model tiny --device cpu --prompts 3 --rounds 2 --exact 2 --precision bfloat16 --out {out}".split()
    )
    table = benchmark.main(arguments + ["--padded"] * padded)
    assert list(table.columns) == COLUMNS
    names = [
        "published",
        "published, head at the blank",
        "kernel, papers' rule",
        "kernel, default",
        "kernel, default, with its gap",
        "kernel, default, bfloat16",
    ]
    assert table["method"].tolist() == names + ["published, head at the blank, padded to 128"] * padded
    by = table.set_index("method")
    assert (by["ratio"] * by["seconds"]).tolist() == pytest.approx([by.loc["published", "seconds"]] * len(by))
    ours = by.loc[[name for name in names if name.startswith("kernel")]]
    assert (ours["gflop"] > 0).all() and (ours["share"] > 0).all()
    assert by.loc["kernel, papers' rule", "gflop"] > 1.2 * by.loc["kernel, default", "gflop"]
    assert by.loc["kernel, default, with its gap", "gflop"] > by.loc["kernel, default", "gflop"]
    assert by.loc[names[:2], "gflop"].isna().all()
    assert by.loc[names, "jaccard"].between(0, 1).all()
    # the published procedure and ours at its rule err alike, by the rule; the default errs less
    assert by.loc["kernel, papers' rule", "error"] == pytest.approx(by.loc["published", "error"], rel=1e-2)
    assert by.loc["kernel, default", "error"] < by.loc["published", "error"]
    content = json.loads(out.read_text(encoding="utf-8"))
    assert {
        "model",
        "rows",
        "lengths",
        "product_gflop_per_s",
        "rounds",
        "exact_prompts",
        "pararel_hours",
        "machine",
        "code",
        "commit",
    } <= set(content)
    assert (content["model"], content["rounds"], content["exact_prompts"]) == ("tiny", 2, 2)
    assert len(content["lengths"]) == 3 and content["product_gflop_per_s"] > 0
    assert content["pararel_hours"] == pytest.approx(by.loc["kernel, default", "seconds"] * 253_448 / 3600)
    assert [row["seconds"] for row in content["rows"]] == pytest.approx(by["seconds"].tolist())
    assert {"device", "processor", "capability", "threads", "torch", "python"} <= set(content["machine"])
    assert content["machine"]["device"] == "cpu"
    stored = measured(tmp_path)
    assert stored["method"].tolist() == table["method"].tolist()
    assert set(stored["model"]) == {"tiny"} and set(stored["device"]) == {"cpu"}
    said = capsys.readouterr()
    assert "253,448 prompts at this speed" in said.out and "kernel, default" in said.out
    assert said.err.count("round 2: ") == 6
