"""How a block's output follows its neurons: against the block itself; rows of the table that are wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import make_model
from torch import nn

from kn_utils.model.architectures import ARCHITECTURES, ModelError
from kn_utils.model.blocks import BlockEnd
from kn_utils.model.language_model import LanguageModel

ADDED = replace(ARCHITECTURES["llama"])
WRONG = {
    "gemma2": ADDED,
    "gemma3_text": ADDED,
    "olmo2": ADDED,
    "glm4": ADDED,
    "granite": ADDED,
    "llama": replace(ADDED, norm="post_attention_layernorm"),
    "bert": replace(ARCHITECTURES["bert"], norm=None),
    "distilbert": replace(ARCHITECTURES["distilbert"], norm="sa_layer_norm"),
    "gpt2": replace(ARCHITECTURES["gpt2"], multiplier="initializer_range"),
    "qwen2": replace(ADDED, second="mlp.up_proj"),
}


def output_with(model: LanguageModel, layer: int, ids: torch.Tensor, factor: torch.Tensor | None):
    """A block's output and its norm's input at the last token, the neurons there times ``factor``."""
    end, seen = model.ends[layer], {}

    def change(_, args):
        value = args[0].clone()
        value.view(-1, value.shape[-1])[-1] *= 1 if factor is None else factor
        seen["neurons"] = value.view(-1, value.shape[-1])[-1]
        return (value,)

    def received(_, args):
        seen["normed"] = args[0].flatten(0, -2)[-1]

    def given(_, __, output):
        seen["output"] = (output[0] if isinstance(output, tuple) else output)[0, -1]

    handles = [end.second.register_forward_pre_hook(change), model.blocks[layer].register_forward_hook(given)]
    if end.norm is not None:
        handles.append(end.norm.register_forward_pre_hook(received))
    model.model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_shortcut_is_the_block(kind):
    model = make_model(kind)
    ids = torch.randint(5, 60, (1, 6), generator=torch.Generator().manual_seed(3))
    factor = 3 * torch.rand(model.n_neurons, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for layer in range(model.n_layers):
        before, after = (output_with(model, layer, ids, f) for f in (None, factor))
        move = (after["neurons"] - before["neurons"]).unsqueeze(0)
        normed = before["normed"].unsqueeze(0) if "normed" in before else None
        found = model.ends[layer].moved(before["output"].unsqueeze(0), normed, move)
        assert (after["output"] - before["output"]).norm() > 1e-2 * before["output"].norm()
        torch.testing.assert_close(found[0], after["output"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_right_rows_are_taken_in_every_type(kind, dtype):
    assert make_model(kind, dtype).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_row_is_refused_in_one_line(kind, dtype, monkeypatch):
    model = make_model(kind, dtype)
    monkeypatch.setitem(ARCHITECTURES, kind, WRONG[kind])
    with pytest.raises(ModelError) as caught:
        LanguageModel(model.model, model.tokenizer, name="mine")
    said = str(caught.value)
    assert "\n" not in said
    if kind == "qwen2":
        assert said.startswith(
            "mine: layer 0: its second map writes 48 numbers, the hidden states have 32; second of 'qwen2'"
        )
    else:
        assert said.startswith("mine: layer 0: with neurons ")
        assert f"norm, normed_output or multiplier of {kind!r} in ARCHITECTURES is wrong" in said
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.model.modules())


def test_one_layer_that_differs_is_named():
    model = make_model("llama").model
    model.model.layers[2].mlp.register_forward_hook(lambda _, __, output: 1.3 * output)
    with pytest.raises(ModelError, match="mine: layer 2: with neurons silenced the block's output moves by"):
        LanguageModel(model, make_model("llama").tokenizer, name="mine")


def test_a_block_that_is_not_linear_in_what_its_neurons_write():
    model = make_model("gpt2").model
    model.transformer.h[1].mlp.register_forward_hook(lambda _, __, output: output.tanh())
    with pytest.raises(ModelError, match="layer 1"):
        LanguageModel(model, make_model("gpt2").tokenizer)


def test_a_switch_of_the_config_decides_the_column():
    before, after = (make_model("opt", do_layer_norm_before=on) for on in (True, False))
    assert before.ends[0].norm is None
    assert after.ends[0].norm is after.blocks[0].final_layer_norm
    assert before.architecture.norm is None and after.architecture.norm == "final_layer_norm"
    new = make_model("deberta-v2", legacy=False)
    assert new.head is new.model.lm_predictions and make_model("deberta-v2").architecture.head == "cls"


def test_the_check_is_one_pass_of_twelve_tokens(monkeypatch):
    model = make_model("bert")
    shapes = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    head = []
    model.head.register_forward_pre_hook(lambda *_: head.append(1))
    LanguageModel(model.model, model.tokenizer)
    assert shapes == [(3, 4, 32)] * 3 and not head


def test_weights_that_are_not_finite_are_said():
    model = make_model("bert")
    model.model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="mine: hidden states of layer 1 are not finite"):
        LanguageModel(model.model, model.tokenizer, name="mine")


@pytest.mark.parametrize("kind", [kind for kind, row in ARCHITECTURES.items() if row.normed_output])
def test_a_held_norm_keeps_its_scale(kind):
    """At the value itself a held norm is the norm; along the path it is linear."""
    model = make_model(kind)
    end = model.ends[1]
    y, x = torch.randn(2, 10, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # some norms compute in float32 whatever they are given
    torch.testing.assert_close(end._scale(y) * y, end.norm(y), rtol=1e-6, atol=1e-6)
    move = torch.randn(10, model.n_neurons, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    held = end.moved(x, y, move, held=True)
    torch.testing.assert_close(held - x, end._scale(y) * (move @ end.slots))
    assert not torch.allclose(held, end.moved(x, y, move))


def test_a_multiplier_stands_behind_the_norm():
    """No architecture has both yet; the formula holds all the same."""
    torch.manual_seed(0)
    second, norm = nn.Linear(6, 4).double(), nn.RMSNorm(4).double()
    block = nn.ModuleDict({"second": second, "norm": norm})
    row = replace(ADDED, second="second", normed_output="norm", multiplier="s")
    end = BlockEnd(block, row, type("Config", (), {"s": 0.3}))
    r, w, to = torch.randn(1, 4).double(), torch.randn(1, 6).double(), torch.randn(3, 6).double()
    with torch.no_grad():
        y = second(w)
        found = end.moved((r + 0.3 * norm(y)).expand(3, -1), y.expand(3, -1), to - w)
        torch.testing.assert_close(found, r + 0.3 * norm(second(to)))
    assert copy.copy(end).factor == 0.3
