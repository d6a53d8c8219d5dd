"""The kernel on an accelerator: the same scores, no waiting inside the walk, and memory that runs out."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import plain_scores

from kn_utils.attribution import kernel as kernel_room
from kn_utils.attribution.attribute import attribute, attribution_map
from kn_utils.attribution.batching import free_memory, memory_budget
from kn_utils.attribution.benchmark import exact_scores, sample_prompts
from kn_utils.attribution.judging import agreement
from kn_utils.attribution.kernel import integrate
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.loading import load_model
from kn_utils.model.rows import Row

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
POINTS, WEIGHTS = [0.5 - 3**-0.5 / 2, 0.5 + 3**-0.5 / 2], [0.5, 0.5]  # Gauss-Legendre of two points


def on_both(kind: str) -> tuple[LanguageModel, LanguageModel]:
    """One model in float32 on the accelerator, and the same numbers in float64 on the processor."""
    model = make_model(kind, torch.float32)
    double = LanguageModel(copy.deepcopy(model.model).double(), model.tokenizer)
    return LanguageModel(model.model.to("cuda"), model.tokenizer), double


def random_rows(model: LanguageModel, lengths: list[int]) -> list[Row]:
    draw = torch.Generator().manual_seed(0)
    rows = []
    for number, length in enumerate(lengths):
        *ids, target = torch.randint(5, len(model.tokenizer), (length + 1,), generator=draw).tolist()
        if not model.causal:
            ids[-1] = model.tokenizer.mask_token_id
        rows.append(Row(number, ids, length - 1, target))
    return rows


def errors(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (found.cpu().double() - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2))


@pytest.mark.parametrize("lengths", [[6, 6, 6], [3, 6, 5]])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_float32_equals_the_double_loop_of_the_processor(kind, lengths):
    model, double = on_both(kind)
    rows = random_rows(model, lengths)
    truth = torch.stack([plain_scores(double, r.ids, r.position, r.target, POINTS, WEIGHTS) for r in rows])
    torch.set_float32_matmul_precision("high")  # a caller's TF32 must not reach the kernel
    try:
        found = integrate(model, rows, steps=2).scores
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found.device.type == "cuda"
    assert errors(found, truth).max() < 1e-4


@pytest.mark.parametrize("baseline", ["zero", "replacement", "replacement-each", "replacement-content"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_baselines_equal_the_processors(kind, baseline):
    model, double = on_both(kind)
    rows = random_rows(model, [5, 3])
    ours, truth = (integrate(m, rows, baseline=baseline, gap=True) for m in (model, double))
    assert errors(ours.scores, truth.scores).max() < 1e-3
    torch.testing.assert_close(ours.probability.cpu().double(), truth.probability, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_rounded_products_are_close_and_rounded(kind, precision):
    model, double = on_both(kind)
    rows = random_rows(model, [8] * 12)
    truth = integrate(double, rows).scores
    settings = torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cuda")
    rounded, whole = (
        errors(integrate(model, rows, precision=p).scores, truth).max() for p in (precision, "float32")
    )
    assert rounded < {"tf32": 2e-2, "bfloat16": 8e-2}[precision]
    if precision == "bfloat16" or torch.cuda.get_device_capability() >= (8, 0):
        assert rounded > 3 * whole
    assert (torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cuda")) == settings


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_bundled_model_against_the_exact_integral(precision):
    model = load_model("mini", device="cuda")
    prompts = sample_prompts(model, 24)
    truth = torch.stack(exact_scores(model, prompts))
    ours = agreement(attribution_map(model, prompts, precision=precision).double(), truth)
    papers = agreement(attribution_map(model, prompts, rule="right", steps=20).double(), truth)
    assert ours["jaccard"].double().mean() >= 0.95
    assert ours["error"].mean() <= papers["error"].mean()


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2", "gpt_neox", "opt", "llama"])
def test_nothing_waits_for_the_device_inside_the_walk(kind, precision, monkeypatch):
    model, _ = on_both(kind)
    rows = random_rows(model, [6, 6, 6])
    truth = integrate(model, rows, precision=precision).scores  # also warms up
    gradients, entered = kernel_room._gradients, []

    def watched(*arguments):
        entered.append(True)
        with no_waiting():
            return gradients(*arguments)

    monkeypatch.setattr(kernel_room, "_gradients", watched)
    torch.testing.assert_close(
        integrate(model, rows, precision=precision).scores, truth, rtol=1e-3, atol=1e-7
    )
    assert entered
    with pytest.raises(RuntimeError), no_waiting():  # the watch can see one
        torch.ones(1, device="cuda").item()


def test_the_budget_follows_the_memory_that_is_left(monkeypatch):
    model = load_model("mini", device="cuda")
    free = free_memory(model.device)
    held = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    assert free - free_memory(model.device) >= 2**28
    del held
    monkeypatch.setattr("kn_utils.attribution.batching.free_memory", lambda device: 2.0**27)
    little = memory_budget(model)
    assert 1 < little < memory_budget(model, "bfloat16")
    monkeypatch.setattr("kn_utils.attribution.batching.free_memory", lambda device: 2.0**28)
    assert memory_budget(model) == pytest.approx(2 * little, abs=2)


def test_a_pass_of_the_budget_fits_into_the_memory(monkeypatch):
    model = load_model("mini", device="cuda")
    prompts = pd.concat([sample_prompts(model, 16)] * 24, ignore_index=True)
    prompts["prompt"] = [str(number) for number in range(len(prompts))]
    attribution_map(model, prompts.iloc[:2])
    room = 2.0**29
    monkeypatch.setattr("kn_utils.attribution.batching.free_memory", lambda device: room)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attribute(model, prompts, progress=False)
    assert torch.cuda.max_memory_allocated() - before < room


def test_passes_are_halved_when_memory_runs_out(capsys):
    model = load_model("mini", device="cuda")
    prompts = pd.concat([sample_prompts(model, 16)] * 32, ignore_index=True)
    prompts["prompt"] = [str(number) for number in range(len(prompts))]
    truth = attribute(model, prompts, batch_size=32, progress=False)
    assert "out of memory" not in capsys.readouterr().err
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / whole)
    try:
        found = attribute(model, prompts, batch_size=len(prompts), progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with" in capsys.readouterr().err
    both = truth.merge(found, on=["prompt", "layer", "neuron"], how="outer", suffixes=("", "_found"))
    assert (
        both[["score", "score_found"]].notna().all(axis=1).mean() > 0.999
    )  # but at the edge of what is kept
    both = both.dropna()
    assert both["score_found"].to_numpy() == pytest.approx(both["score"].to_numpy(), rel=1e-3, abs=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_devices_give_what_one_gives(tmp_path):
    from kn_utils.store.tables import load_table

    model = load_model("mini", device="cuda:0")
    prompts = sample_prompts(model, 32)
    one = attribute(model, prompts, progress=False, out=tmp_path / "one.parquet")
    two = attribute(
        model, prompts, progress=False, out=tmp_path / "two.parquet", devices=["cuda:0", "cuda:1"]
    )
    pd.testing.assert_frame_equal(load_table(one), load_table(two), rtol=1e-3)
