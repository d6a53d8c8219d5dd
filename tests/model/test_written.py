"""What value slots write, against the same worked out by hand; and how candidates share P."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_model

from kn_utils.checks import ParameterError
from kn_utils.model.hooks import InterventionError
from kn_utils.model.loading import load_model
from kn_utils.model.typed import candidates_of, typed_answers, typed_distribution
from kn_utils.model.written import shown_piece, slot_logits, written_pieces

PAIRS = [(0, 3), (2, 7)]


def by_hand(model, layer: int, neuron: int) -> torch.Tensor:
    """From the weights of three kinds of blocks."""
    hf, kind = model.model, model.model.config.model_type
    if kind == "bert":
        block = hf.bert.encoder.layer
        norm, slot = block[-1].output.LayerNorm, block[layer].output.dense.weight[:, neuron]
        return hf.cls(norm(slot)) - hf.cls(norm(torch.zeros_like(slot)))
    if kind == "gpt2":
        slot = hf.transformer.h[layer].mlp.c_proj.weight[neuron]
        return hf.lm_head(hf.transformer.ln_f(slot) - hf.transformer.ln_f(torch.zeros_like(slot)))
    slot = hf.model.layers[layer].mlp.down_proj.weight[:, neuron]
    if kind == "gemma3_text":
        own = hf.model.layers[layer].post_feedforward_layernorm
        slot = slot / (slot.square().mean() + own.eps).sqrt() * (1 + own.weight)
    return hf.lm_head(hf.model.norm(slot))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "gemma3_text"])
def test_logits_are_those_of_the_slot_alone(kind):
    model = make_model(kind)
    found = slot_logits(model, PAIRS)
    for row, (layer, neuron) in zip(found, PAIRS, strict=True):
        with torch.no_grad():
            assert torch.allclose(
                row, by_hand(model, layer, neuron), rtol=1e-4, atol=1e-5
            )  # some norms compute in float32
    assert not any(block._forward_hooks for block in model.blocks)


def test_pieces_are_in_their_order_and_named():
    model = load_model("mini", device="cpu")
    table = written_pieces(model, [(5, 401), (4, 7)], k=4)
    logits = slot_logits(model, [(5, 401), (4, 7)])
    assert table.groupby(["layer", "neuron"]).size().to_dict() == {(4, 7): 4, (5, 401): 4}
    own = table[table["neuron"] == 401]
    best = logits[1].argsort(descending=True)
    assert own["raises"].tolist() == [shown_piece(model, int(i)) for i in best[:4]]
    assert own["lowers"].tolist() == [shown_piece(model, int(i)) for i in best.flip(0)[:4]]
    assert np.allclose(own["by"], logits[1][best[:4]]) and (own["by_lower"] < own["by"].min()).all()
    assert own["raises"].iloc[0] == "Paris"  # what an answer leans on most writes the answer


def test_neurons_that_are_not_there_are_refused():
    with pytest.raises(InterventionError, match="not in the model"):
        written_pieces(make_model("bert"), [(0, 999)])
    assert written_pieces(make_model("bert"), []).empty


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_candidates_share_all_of_p(kind, prompts):
    model = make_model(kind)
    asked = prompts[prompts["text"] == "The capital of France is [Y]."].reset_index(drop=True)
    (names,) = candidates_of(asked, prompts)
    table = typed_distribution(model, asked, names)
    told = typed_answers(model, asked, [names], progress=False).iloc[0]
    assert table["probability"].sum() == pytest.approx(1) and table["probability"].is_monotonic_decreasing
    assert len(table) == told["candidates"]
    own = table.set_index("answer")["probability"]
    assert own[asked["answer"][0]] == pytest.approx(told["typed_probability"])
    for name in own.index:
        other = typed_answers(model, asked.assign(answer=name), [names], progress=False).iloc[0]
        if model.causal:  # a masked model's candidates are those as long as the answer
            assert own[name] == pytest.approx(other["typed_probability"])


def test_a_distribution_is_of_one_prompt_and_its_candidates(prompts):
    model = make_model("bert")
    with pytest.raises(ParameterError, match="one is asked"):
        typed_distribution(model, prompts, ["Paris"])
    with pytest.raises(ParameterError, match="among its candidates"):
        typed_distribution(model, prompts.head(1), ["Rome"])
