"""The kernel's options against plain loops: baselines, multipliers, layers, windows, architectures."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import CORE, core_first, make_model
from oracles import neurons_at, plain_scores, scores_from

from kn_utils.attribution.attribute import attribution_map
from kn_utils.attribution.kernel import at_ends, integrate, travel
from kn_utils.attribution.quadrature import AttributionError
from kn_utils.attribution.targets import SCALES
from kn_utils.attribution.walk import everywhere
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.rows import Row

POINTS, WEIGHTS = [0.5 - 3**-0.5 / 2, 0.5 + 3**-0.5 / 2], [0.5, 0.5]  # Gauss-Legendre of two points
#: Abramowitz & Stegun, table 25.4, n = 4, moved from [-1, 1] to [0, 1]
GAUSS = (
    [(1 + x) / 2 for x in (-0.861136311594053, -0.339981043584856, 0.339981043584856, 0.861136311594053)],
    [w / 2 for w in (0.347854845137454, 0.652145154862546, 0.652145154862546, 0.347854845137454)],
)
KINDS = ["bert", "roberta", "distilbert", "gpt2", "llama", "bloom"]
VARIANTS = {
    **{kind: (kind, {}) for kind in ARCHITECTURES},
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
    "bloom-after-norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "gpt_neo-window": ("gpt_neo", {"window_size": 3}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "mistral-window": ("mistral", {"sliding_window": 9}),
    "gemma2-window": ("gemma2", {"sliding_window": 9}),
    "gemma3-window": ("gemma3_text", {"sliding_window": 9}),
    "falcon-rotary": ("falcon", {"alibi": False}),
    "falcon-serial": ("falcon", {"alibi": False, "parallel_attn": False}),
    "falcon-new": ("falcon", {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "deberta-v3": ("deberta-v2", {"legacy": False}),
}
CAUSAL = [name for name, (kind, _) in VARIANTS.items() if ARCHITECTURES[kind].causal]


def in_both(kind: str, **changes) -> tuple[LanguageModel, LanguageModel]:
    """One model in float32, and the same numbers in float64."""
    model = make_model(kind, torch.float32, **changes)
    return model, LanguageModel(copy.deepcopy(model.model).double(), model.tokenizer)


#: The loop's scores by architecture, changes and lengths: the ways to compute attention share them, but for
#: Falcon's, which with alibi are two models.
TRUTHS: dict[tuple, torch.Tensor] = {}


def random_rows(model: LanguageModel, lengths: list[int]) -> list[Row]:
    draw = torch.Generator().manual_seed(len(lengths) + sum(lengths))
    rows = []
    for number, length in enumerate(lengths):
        *ids, target = torch.randint(5, len(model.tokenizer), (length + 1,), generator=draw).tolist()
        at = length - 1
        if not model.causal:
            at = 2 * number % length
            ids[at] = model.tokenizer.mask_token_id
        rows.append(Row(number, ids, at, target))
    return rows


def largest_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Over each row's largest score, so that no row hides behind another."""
    return ((found - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2))).max().item()


def assert_equals_the_loop(kind: str, lengths: list[int], changes: dict) -> None:
    model, double = in_both(kind, **changes)
    rows = random_rows(model, lengths)
    asked = [(name, changes[name]) for name in sorted(changes)]
    key = (kind, *lengths, *(one for one in asked if one[0] != "attn_implementation" or kind == "falcon"))
    if key not in TRUTHS:
        each = [plain_scores(double, r.ids, r.position, r.target, POINTS, WEIGHTS) for r in rows]
        TRUTHS[key] = torch.stack(each)
    truth = TRUTHS[key]
    assert truth.abs().amax((1, 2)).min() > 1e-6
    found = integrate(model, rows, steps=2)
    assert found.scores.dtype == torch.float32
    assert largest_error(found.scores.double(), truth) < 1e-5
    assert (
        largest_error(integrate(double, rows, steps=2).scores, truth) < 1e-6
    )  # some blocks compute in float32 always


def replacement_token(model: LanguageModel) -> int:
    return model.tokenizer.eos_token_id if model.causal else model.tokenizer.mask_token_id


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["zero", "replacement", "replacement-each"])
@pytest.mark.parametrize("kind", KINDS)
def test_baselines_multipliers_and_gaps_equal_the_loop(kind, baseline):
    model = make_model(kind)
    rows = random_rows(model, [4, 3])
    found = {
        multiplier: integrate(
            model, rows, rule="right", steps=2, baseline=baseline, multiplier=multiplier, gap=True
        )
        for multiplier in ("difference", "activation")
    }
    for i, row in enumerate(rows):
        difference, activation, change = scores_from(
            model, row.ids, row.position, row.target, [0.5, 1.0], WEIGHTS, baseline, replacement_token(model)
        )
        for multiplier, truth in (("difference", difference), ("activation", activation)):
            ours = found[multiplier].scores[i]
            torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
        assert torch.equal(difference, activation) == (baseline == "zero")
        # the gap is that of the difference, whatever the scores are multiplied by
        missed, size = difference.sum(1) - change, change.abs().max().item()
        assert missed.abs().max() > 1e-3 * size > 1e-9
        for one in found.values():
            torch.testing.assert_close(one.gap[i], missed, rtol=1e-5, atol=1e-5 * size)
            torch.testing.assert_close(difference.sum(1) - one.gap[i], change, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["replacement", "replacement-each"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_answers_of_several_pieces_average_their_rows(kind, baseline, prompts):
    model = make_model(kind)
    prompts = (
        prompts[prompts["text"].str.endswith("[Y].")].iloc[[2, 1]].assign(text=["India: [Y].", "Is [Y]"])
    )
    rows = model.encode(prompts)
    truth = [
        torch.stack(
            scores_from(
                model, r.ids, r.position, r.target, POINTS, WEIGHTS, baseline, replacement_token(model)
            )[:2]
        )
        for r in rows
    ]
    pieces = [[t for r, t in zip(rows, truth, strict=True) if r.prompt == i] for i in range(len(prompts))]
    assert min(len(one) for one in pieces) > 1, "answers of several pieces are wanted here"
    for number, multiplier in enumerate(("difference", "activation")):
        wanted = torch.stack([torch.stack(one)[:, number].mean(0) for one in pieces])
        ours = attribution_map(
            model, prompts, steps=2, baseline=baseline, multiplier=multiplier, batch_size=4
        )
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["replacement", "replacement-each"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_fine_rule_is_complete_from_either_baseline(kind, baseline):
    model = make_model(kind)
    rows = random_rows(model, [4, 5])
    found = integrate(model, rows, steps=40, baseline=baseline, gap=True)
    for i, row in enumerate(rows):
        *_, change = scores_from(
            model, row.ids, row.position, row.target, [], [], baseline, replacement_token(model)
        )
        size = change.abs().max().item()
        assert size > 1e-5
        torch.testing.assert_close(found.scores[i].sum(1), change, rtol=0, atol=1e-5 * size)
        assert found.gap[i].abs().max() < 1e-5 * size


def test_from_zero_both_multipliers_are_one(bert):
    rows = random_rows(bert, [5, 3])
    one, other = (integrate(bert, rows, multiplier=m).scores for m in ("difference", "activation"))
    assert torch.equal(one, other)


def test_a_baseline_needs_its_token(bert):
    model = make_model("gpt2")
    rows = random_rows(model, [3])
    model.tokenizer.eos_token = None
    with pytest.raises(AttributionError, match="needs an end-of-text token"):
        integrate(model, rows, baseline="replacement")
    with pytest.raises(AttributionError, match="unknown multiplier 'slope'; known: difference, activation"):
        integrate(bert, random_rows(bert, [3]), multiplier="slope")


WITHOUT_SDPA = (
    "bloom",
    "gpt_neo",
    "gptj",
    "deberta-v2",
    "gemma2",
)  # transformers has no such attention for them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "attention"),
    [
        pytest.param(*one.values, how, marks=one.marks, id=f"{one.id}-{how}")
        for one in core_first(VARIANTS)
        for how in ("eager", "sdpa")
        if how == "eager" or VARIANTS[one.id][0] not in WITHOUT_SDPA
    ],
)
def test_float32_equals_the_double_loop(variant, attention):
    kind, changes = VARIANTS[variant]
    assert_equals_the_loop(kind, [3, 6, 5], {"attn_implementation": attention, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("variant", core_first(CAUSAL))
def test_texts_of_one_token(variant):
    kind, changes = VARIANTS[variant]
    assert_equals_the_loop(kind, [1, 1], changes)
    assert_equals_the_loop(kind, [1, 4], changes)


@pytest.mark.slow
@pytest.mark.parametrize("length", [3, 4, 5, 9])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "olmo3"])
def test_a_sliding_window_sees_what_the_model_sees(length, attention, kind):
    changes = {"sliding_window": 4, "attn_implementation": attention}
    model, wide = in_both(kind, **changes)[0], in_both(kind)[0]
    rows = random_rows(model, [length, length])
    away = largest_error(integrate(model, rows, steps=2).scores, integrate(wide, rows, steps=2).scores)
    assert (away > 1e-3) == (length > 4)  # else the window would not be tested
    assert_equals_the_loop(kind, [length, length], changes)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_unequal_texts_beyond_the_window_are_refused_by_name(kind):
    model = make_model(kind, sliding_window=4)
    with pytest.raises(AttributionError, match="window of 4 tokens need batches of equal length"):
        integrate(model, random_rows(model, [5, 3]))
    assert not any(module._forward_pre_hooks for module in model.model.modules())
    rows = random_rows(model, [4, 3])
    truth = torch.stack([plain_scores(model, r.ids, r.position, r.target, POINTS, WEIGHTS) for r in rows])
    assert largest_error(integrate(model, rows, steps=2).scores, truth) < 1e-6


NORMED = [kind for kind, row in ARCHITECTURES.items() if row.normed_output]


@pytest.mark.parametrize("kind", NORMED)
def test_normed_outputs_in_float64(kind, monkeypatch):
    """Norms and rotations that go to float32 by themselves are kept from it."""
    to, softmax = torch.Tensor.to, torch.nn.functional.softmax

    def exact(self, *args, **kwargs):
        return to(self, *(torch.float64 if one == torch.float32 else one for one in args), **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", exact)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim, torch.float64)
    )
    model = make_model(kind)
    rows = random_rows(model, [6, 3])
    truth = torch.stack([plain_scores(model, r.ids, r.position, r.target, POINTS, WEIGHTS) for r in rows])
    assert largest_error(integrate(model, rows, steps=2).scores, truth) < 1e-8


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("kind", NORMED)
def test_a_right_rule_of_m_points_is_h_m_times_the_gradient_where_the_output_is_normed(kind, steps):
    """H_m = 1 + 1/2 + ... + 1/m, up to the norm's epsilon."""
    model = make_model(kind, rms_norm_eps=1e-12)
    rows = random_rows(model, [6, 6, 3])
    gradient = integrate(model, rows, rule="gradient").scores
    found = integrate(model, rows, rule="right", steps=steps).scores
    harmonic = sum(1 / k for k in range(1, steps + 1))
    assert largest_error(found, harmonic * gradient) < 1e-5
    # and a layer's scores cancel: nothing changes where all its neurons are scaled together
    assert (gradient.sum(-1).abs() < 1e-4 * gradient.abs().amax(-1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", NORMED)
def test_held_norms_are_complete_with_four_points(kind):
    model = make_model(kind)
    rows = random_rows(model, [6, 6, 3])
    found = integrate(model, rows, norm="held", gap=True)
    for i, row in enumerate(rows):
        for layer in range(model.n_layers):
            scores, change = held_scores(model, row, layer, *GAUSS)
            torch.testing.assert_close(found.scores[i, layer], scores, rtol=1e-4, atol=1e-7)
            assert (scores.sum() - change).item() == pytest.approx(found.gap[i, layer].item(), abs=1e-6)
    assert largest_error(found.scores, integrate(model, rows).scores) > 0.1


def held_scores(model, row, layer, points, weights):
    """The path over what a layer adds: a fixed vector times what the neurons write."""
    w = neurons_at(model, row.ids, row.position, layer)
    end, seen = model.ends[layer], {}

    def keep(_, args):
        seen["y"] = args[0][0, row.position]

    handle = end.norm.register_forward_pre_hook(keep)
    model.model(input_ids=torch.tensor([row.ids]))
    handle.remove()
    scale = (
        end.norm(torch.full_like(seen["y"], seen["y"].square().mean().sqrt()))
        / seen["y"].square().mean().sqrt()
    )

    def probability(neurons):
        def put(_, __, output):
            output = output.clone()
            output[0, row.position] = scale * (neurons @ end.slots)
            return output

        handle = end.norm.register_forward_hook(put)
        try:
            logits = model.model(input_ids=torch.tensor([row.ids])).logits[0, row.position]
        finally:
            handle.remove()
        return logits.softmax(-1)[row.target]

    total = torch.zeros_like(w)
    for a, c in zip(points, weights, strict=True):
        leaf = (a * w).requires_grad_()
        with torch.enable_grad():
            p = probability(leaf)
        total += c * torch.autograd.grad(p, leaf)[0]
    with torch.no_grad():
        change = probability(w) - probability(torch.zeros_like(w))
    return w * total, change


@pytest.mark.parametrize("kind", ["bert", "llama", "granite"])
def test_held_norms_are_refused_where_no_output_is_normed(kind):
    model = make_model(kind)
    with pytest.raises(AttributionError, match=f"this one, {kind}, does not: use norm='free'"):
        integrate(model, random_rows(model, [3]), norm="held")
    with pytest.raises(AttributionError, match="unknown norm 'loose'; known: free, held"):
        integrate(model, random_rows(model, [3]), norm="loose")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "gemma3_text"])
def test_the_gradient_rule_is_gradient_times_activation(kind):
    model = make_model(kind)
    rows = random_rows(model, [5, 3])
    truth = torch.stack([plain_scores(model, r.ids, r.position, r.target, [1.0], [1.0]) for r in rows])
    for steps in (1, 7):
        assert largest_error(integrate(model, rows, rule="gradient", steps=steps).scores, truth) < 1e-6


@pytest.mark.parametrize("lengths", [[7, 7], [7, 2, 5]])
def test_a_local_window_sees_what_the_model_sees(lengths):
    model, wide = make_model("gpt_neo", window_size=3), make_model("gpt_neo", window_size=50)
    rows = random_rows(model, lengths)
    assert largest_error(integrate(model, rows).scores, integrate(wide, rows).scores) > 1e-3
    assert_equals_the_loop("gpt_neo", lengths, {"window_size": 3})


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bert", "distilbert", "gpt2", "llama", "opt-350m", "bloom"])
def test_layers_on_their_own_and_in_any_order(variant):
    kind, changes = VARIANTS[variant]
    model = make_model(kind, **changes)
    rows = random_rows(model, [4, 6])
    truth = torch.stack([plain_scores(model, r.ids, r.position, r.target, POINTS, WEIGHTS) for r in rows])
    every = integrate(model, rows, steps=2, gap=True).gap
    for layers in ([2], [0], [2, 0], [1, 0, 1]):
        found = integrate(model, rows, steps=2, layers=layers, gap=True)
        assert largest_error(found.scores, truth[:, layers]) < 1e-6
        torch.testing.assert_close(found.gap, every[:, layers], rtol=1e-6, atol=1e-9)
    starts = {"steps": 2, "baseline": "replacement-each"}
    whole, last = integrate(model, rows, **starts), integrate(model, rows, layers=[2], **starts)
    torch.testing.assert_close(last.scores, whole.scores[:, [2]], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(last.probability, whole.probability)


# What is asked for is read off P behind every architecture: all scales for the core ones, P for the others.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "scale"),
    [(kind, scale) for kind in ARCHITECTURES for scale in (SCALES if kind in CORE else SCALES[:1])],
)
def test_one_pass_without_copies_gives_the_gradients_at_the_ends_of_the_walk(kind, scale, prompts):
    model = make_model(kind)
    asked = prompts[~prompts["text"].str.startswith("[Y]")] if model.causal else prompts
    rows = model.encode(asked)
    one = torch.ones(1, dtype=torch.float64)
    layers = list(range(model.n_layers))
    for baseline in ("zero", "replacement-each"):
        walked = travel(model, rows, everywhere(one, len(rows), layers), baseline=baseline, scale=scale)
        ends = at_ends(model, rows, layers, baseline=baseline, scale=scale)
        torch.testing.assert_close(ends.probability, walked.probability)
        for layer in layers:
            for name in ("difference", "activation"):
                own, other = (paths.contributions(layer, name) for paths in (ends, walked))
                torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-12)
            assert own.abs().max() > 1e-6
            torch.testing.assert_close(ends.mean_p(layer), walked.mean_p(layer))
