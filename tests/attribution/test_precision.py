"""Precision of matrix products: what bfloat16 costs, that nothing stays changed, that edits are seen."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import make_model

from kn_utils.attribution import precision as precision_room
from kn_utils.attribution.attribute import attribute, attribution_map
from kn_utils.attribution.benchmark import exact_scores, sample_prompts
from kn_utils.attribution.judging import agreement
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.precision import PrecisionError, computing_in
from kn_utils.attribution.reading import read_neurons
from kn_utils.model.answers import answer_probability
from kn_utils.model.interventions import erase, suppress, update_fact
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.loading import load_model

KINDS = ["bert", "distilbert", "gpt2", "llama"]  # gpt2 has Conv1D, the others nn.Linear


def settings_of_torch() -> tuple:
    return (
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )


def state_of(model: LanguageModel) -> list[tuple]:
    """Every parameter: which object it is, where it lies, its version, and a copy of its bits."""
    named = model.model.named_parameters(remove_duplicate=False)
    return [(name, id(p), p.data_ptr(), p._version, p.requires_grad, p.detach().clone()) for name, p in named]


def assert_same_state(before: list[tuple], after: list[tuple]) -> None:
    assert [one[:-1] for one in before] == [one[:-1] for one in after]
    for (*_, a), (*_, b) in zip(before, after, strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


def asked(model: LanguageModel, prompts):
    return model.encode(prompts[prompts["text"].str.endswith("[Y].")])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_and_is_not_float32(kind, prompts):
    model = make_model(kind, torch.float32)
    rows = asked(model, prompts)
    whole, rounded = (integrate(model, rows, precision=p, gap=True) for p in (None, "bfloat16"))
    error = (rounded.scores - whole.scores).abs().amax((1, 2)) / whole.scores.abs().amax((1, 2))
    assert error.max() < 5e-2
    assert error.min() > 1e-4  # 8 bits of mantissa show
    assert rounded.scores.dtype == rounded.probability.dtype == rounded.gap.dtype == torch.float32
    named = integrate(model, rows, precision="float32", gap=True)
    assert torch.equal(named.scores, whole.scores) and torch.equal(named.gap, whole.gap)
    again = integrate(model, rows, precision="bfloat16")
    assert torch.equal(again.scores, rounded.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_are_read_in_bfloat16_and_given_in_float32(kind, prompts):
    model = make_model(kind, torch.float32)
    rows = asked(model, prompts)
    (values, p), (exact, chance) = (read_neurons(model, rows, precision) for precision in ("bfloat16", None))
    assert values.dtype == p.dtype == torch.float32
    off = (values - exact).abs().amax((1, 2)) / exact.abs().amax((1, 2))
    assert 0 < off.min() and off.max() < 3e-2
    torch.testing.assert_close(p, chance, rtol=5e-2, atol=1e-3)
    # a softmax of 8 bits would sum to 1 within a few thousandths only, and its values would be bfloat16
    # numbers
    assert not torch.equal(p, p.bfloat16().float())


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["replacement", "replacement-each"])
def test_replaced_texts_in_bfloat16(baseline):
    # In a model with random weights a replaced token moves the neurons by less than bfloat16 rounds them.
    model = load_model("mini", device="cpu")
    prompts = sample_prompts(model, 3)
    exact, rounded = (
        attribution_map(model, prompts, baseline=baseline, precision=p) for p in (None, "bfloat16")
    )
    found = agreement(rounded, exact)
    assert 1e-3 < found["error"].min() and found["error"].mean() < 5e-2
    assert found["jaccard"].double().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_settings_come_back_bit_for_bit(kind, prompts):
    model = make_model(kind, torch.float32)
    rows = asked(model, prompts)
    before, settings = state_of(model), settings_of_torch()
    for precision in ("bfloat16", "float32", None):
        integrate(model, rows, precision=precision)
        assert_same_state(before, state_of(model))
        assert settings_of_torch() == settings
    second = model.seconds[0]
    with computing_in(model, "bfloat16"):
        assert second.weight.dtype == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    assert second.weight.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bfloat16", None])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_they_come_back_when_something_breaks_inside(kind, precision, prompts):
    model = make_model(kind, torch.float32)
    rows = asked(model, prompts)
    truth = integrate(model, rows).scores
    before, seen = state_of(model), []

    def break_off(*_):
        seen.append(settings_of_torch())
        raise KeyboardInterrupt

    torch.set_float32_matmul_precision("medium")
    try:
        settings = settings_of_torch()
        handle = model.head.register_forward_pre_hook(break_off)
        with pytest.raises(KeyboardInterrupt):
            integrate(model, rows, precision=precision)
        handle.remove()
        assert seen[0][:2] == ("highest", precision == "bfloat16")
        assert settings_of_torch() == settings
        assert_same_state(before, state_of(model))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(integrate(model, rows).scores, truth)


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_surrounding_autocast_changes_nothing(precision, prompts):
    model = make_model("bert", torch.float32)
    rows = asked(model, prompts)
    alone = integrate(model, rows, precision=precision, gap=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = integrate(model, rows, precision=precision, gap=True)
        assert torch.equal(inside.scores, alone.scores) and torch.equal(inside.gap, alone.gap)
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "distilbert"])
def test_tied_embeddings_stay_tied(kind, prompts):
    model = make_model(kind, torch.float32)
    embeddings, output = model.model.get_input_embeddings(), model.model.get_output_embeddings()
    assert embeddings.weight is output.weight, "a tied model is wanted here"
    rows = asked(model, prompts)
    first = integrate(model, rows, precision="bfloat16").scores
    assert model.model.get_input_embeddings().weight is model.model.get_output_embeddings().weight
    with torch.no_grad():
        embeddings.weight[rows[0].target] += 1.0  # seen by the output as well
    assert not torch.equal(integrate(model, rows, precision="bfloat16").scores, first)
    assert output.weight is embeddings.weight


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_attention_inside_the_walk_is_never_cudnn_s(kind, precision, prompts, monkeypatch):
    model = make_model(kind, torch.float32, attn_implementation="sdpa")
    rows, chosen, own = asked(model, prompts), [], torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments, **options):
        backends = torch.backends.cuda
        chosen.append(
            (backends.cudnn_sdp_enabled(), backends.flash_sdp_enabled(), backends.math_sdp_enabled())
        )
        return own(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    for on in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(on)
        integrate(model, rows, precision=precision)
        assert torch.backends.cuda.cudnn_sdp_enabled() == on
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert len(chosen) >= 2 * model.n_layers and set(chosen) == {(False, True, True)}


def _fresh(model: LanguageModel, rows) -> torch.Tensor:
    """Scores of a copy of the model that has never computed in bfloat16."""
    return integrate(
        LanguageModel(copy.deepcopy(model.model), model.tokenizer), rows, precision="bfloat16"
    ).scores


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_call_sees_an_edit(kind, prompts):
    model = make_model(kind, torch.float32)
    rows = asked(model, prompts)
    neurons = [(0, 3), (1, 11), (2, 40)]
    first = integrate(model, rows, precision="bfloat16").scores
    edits = {
        "update": lambda: update_fact(model, neurons, old="Paris", new="Berlin"),
        "erase": lambda: erase(model, neurons),
    }
    for edit in edits.values():
        with edit():
            inside = integrate(model, rows, precision="bfloat16").scores
            assert torch.equal(inside, _fresh(model, rows))
            assert (inside - first).abs().max() > 1e-2 * first.abs().max()
        assert torch.equal(integrate(model, rows, precision="bfloat16").scores, first)
    state = copy.deepcopy(model.model.state_dict())
    with torch.no_grad():
        model.seconds[1].weight.mul_(1.5)
        model.seconds[2].bias.add_(0.5) if model.seconds[2].bias is not None else None
    inside = integrate(model, rows, precision="bfloat16").scores
    assert torch.equal(inside, _fresh(model, rows)) and not torch.equal(inside, first)
    model.model.load_state_dict(state)
    assert torch.equal(integrate(model, rows, precision="bfloat16").scores, first)


def test_the_next_call_sees_a_silenced_neuron(prompts):
    model = make_model("bert", torch.float32)
    rows = asked(model, prompts)
    values, p = read_neurons(model, rows, "bfloat16")
    with suppress(model, [(0, 3)]):
        silenced, q = read_neurons(model, rows, "bfloat16")
    assert (silenced[:, 0, 3] == 0).all() and (values[:, 0, 3] != 0).all()
    assert not torch.equal(p, q)
    assert torch.equal(read_neurons(model, rows, "bfloat16")[0], values)


@pytest.mark.parametrize(
    ("machine", "has", "precision", "said"),
    [
        ("x86_64", {}, "bfloat16", True),
        ("x86_64", {"amx_tile"}, "bfloat16", False),
        ("x86_64", {"avx512_bf16"}, "bfloat16", False),
        ("x86_64", {}, None, False),
        ("aarch64", {}, "bfloat16", False),  # of which torch does not say
    ],
)
def test_where_bfloat16_is_slower_it_is_said(machine, has, precision, said, prompts, monkeypatch, capsys):
    monkeypatch.setattr(precision_room.platform, "machine", lambda: machine)
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in has, raising=False)
    model = make_model("bert", torch.float32)
    attribution_map(model, prompts.head(1), steps=1, precision=precision)  # says nothing
    attribute(model, prompts.head(1), steps=1, precision=precision, progress=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if "no instructions for it" in line]
    assert len(lines) == said


@pytest.mark.parametrize(
    ("dtype", "precision", "message"),
    [
        (torch.float32, "float16", "unknown precision 'float16'; known: float32, tf32, bfloat16"),
        (torch.float32, "tf32", "exists on CUDA only, the model is on cpu"),
        (torch.float64, "bfloat16", "needs weights in float32, these are float64; load with dtype='float32'"),
        (torch.float64, "float32", "needs weights in float32, these are float64"),
        (torch.bfloat16, "bfloat16", "needs weights in float32, these are bfloat16"),
    ],
)
def test_what_cannot_be_is_refused(dtype, precision, message, prompts):
    model = make_model("bert", dtype)
    settings = settings_of_torch()
    for call in (
        attribution_map,
        lambda m, p, precision: attribution_map(m, p, method="activation", precision=precision),
    ):
        with pytest.raises(PrecisionError, match=message):
            call(model, prompts, precision=precision)
    assert settings_of_torch() == settings


@pytest.mark.slow
def test_bundled_model_in_bfloat16_against_the_exact_integral():
    model = load_model("mini", device="cpu")
    prompts = sample_prompts(model, 24)
    truth = torch.stack(exact_scores(model, prompts, points=32))
    assert truth.dtype == torch.float64
    ours = agreement(attribution_map(model, prompts, precision="bfloat16").double(), truth)
    papers = agreement(attribution_map(model, prompts, rule="right", steps=20).double(), truth)
    figures = {
        name: [x.double().mean().item() for x in both]
        for name, both in {
            "error": (ours["error"], papers["error"]),
            "jaccard": (ours["jaccard"], papers["jaccard"]),
        }.items()
    }
    assert figures["jaccard"][0] >= 0.95, figures
    assert 0.001 < figures["error"][0] <= figures["error"][1], figures


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama", "gemma3_text"])
def test_a_head_filled_up_with_rows_changes_no_probability(kind, precision, prompts, monkeypatch):
    model = make_model(kind, torch.float32)
    rows = asked(model, prompts)
    truth = integrate(model, rows, precision=precision, gap=True)
    before, seen = state_of(model), []
    monkeypatch.setattr(precision_room, "missing_rows", lambda model: 7)
    last = model.model.get_output_embeddings()
    handle = last.register_forward_pre_hook(lambda head, _: seen.append(head.weight.shape[0]))
    filled = integrate(model, rows, precision=precision, gap=True)
    again = integrate(model, rows, precision=precision)
    handle.remove()
    assert set(seen) == {len(model.embeddings) + 7}
    for name in ("scores", "probability", "gap"):
        torch.testing.assert_close(getattr(filled, name), getattr(truth, name), rtol=1e-4, atol=1e-6)
    assert torch.equal(again.scores, filled.scores)
    assert_same_state(before, state_of(model))


def test_only_a_head_of_odd_size_on_cuda_is_filled_up(bert):
    class OnCuda:
        device = torch.device("cuda")

        def __init__(self, pieces: int) -> None:
            self.model, self.embeddings = self, torch.zeros(pieces, 4)
            self.last = torch.nn.Linear(4, pieces)

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.last

    assert precision_room.missing_rows(bert) == 0
    assert precision_room.missing_rows(OnCuda(119_547)) == 5  # mBERT: 119,552 = 1,868 x 64
    assert precision_room.missing_rows(OnCuda(119_552)) == precision_room.missing_rows(OnCuda(30_000)) == 0


@pytest.mark.parametrize("before", [True, False])
def test_answers_and_scores_do_without_cudnns_attention_and_give_it_back(before, prompts):
    model, seen = make_model("bert", torch.float32), []
    handle = model.head.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    held = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before)
    try:
        answer_probability(model, prompts)
        integrate(model, asked(model, prompts))
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    finally:
        torch.backends.cuda.enable_cudnn_sdp(held)
        handle.remove()
    assert len(seen) >= 2 and not any(seen)
