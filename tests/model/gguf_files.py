"""Small models written as GGUF files, by the format's own rules and not by transformers' tables of names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from conftest import make_tokenizer
from gguf import GGUFWriter, TokenType
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from kn_utils.base import LANGUAGES

KINDS = ("llama", "gpt2", "gemma3_text")
SHAPE = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
CONFIGS = {
    "llama": {**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "rope_theta": 50000.0},
    "gpt2": {"n_layer": 3, "n_embd": 32, "n_head": 4},
    "gemma3_text": {
        **SHAPE,
        "num_hidden_layers": 6,  # the sixth looks back without limit
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 256,
        "sliding_window": 8,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 128,
    },
}
#: GGUF's names of the parts of a block, and whose rows are rotated pairs there.
BLOCK = {
    "llama": {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    "gpt2": {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
}
BLOCK["gemma3_text"] = BLOCK["llama"] | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def random_model(kind: str, vocabulary: int) -> nn.Module:
    """Random weights, norms too, large enough that logits differ."""
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **CONFIGS[kind], **special)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.ndim > 1 else 1).add_(0.1 * torch.randn_like(weight))
    return model.eval()


def tensors(model: nn.Module, kind: str) -> dict[str, np.ndarray]:
    """What a GGUF file of the model holds: its weights under GGUF's names, in GGUF's order of rows."""
    heads = {"attn_q": model.config.num_attention_heads}
    if kind == "llama":
        heads["attn_k"] = model.config.num_key_value_heads
    names = {"gpt2": ("transformer", "h", "wte", "ln_f")}
    base, blocks, words, last = names.get(kind, ("model", "layers", "embed_tokens", "norm"))
    body = getattr(model, base)
    content = {"token_embd.weight": getattr(body, words).weight}
    if kind == "gpt2":
        content["position_embd.weight"] = body.wpe.weight
    modules = {"output_norm": getattr(body, last)}
    for number, block in enumerate(getattr(body, blocks)):
        modules |= {f"blk.{number}.{part}": block.get_submodule(ours) for part, ours in BLOCK[kind].items()}
    for name, module in modules.items():
        for which, weight in module.named_parameters(recurse=False):
            if kind == "gpt2" and weight.ndim == 2:  # Conv1D keeps its matrices the other way round
                weight = weight.T
            if kind == "gemma3_text" and name.endswith("norm"):  # 1 + weight is stored
                weight = weight + 1
            part = name.rpartition(".")[2]
            if kind == "llama" and part in heads:  # halves of a head become pairs
                n = heads[part]
                weight = (
                    weight.view(n, 2, weight.shape[0] // n // 2, -1).transpose(1, 2).reshape(weight.shape)
                )
            content[f"{name}.{which}"] = weight
    if not model.config.tie_word_embeddings:
        content["output.weight"] = model.lm_head.weight
    return {name: weight.detach().contiguous().numpy() for name, weight in content.items()}


def write(
    path: Path,
    model: nn.Module,
    kind: str,
    *,
    bos: bool | None = None,
    drop: str | None = None,
    extra: dict[str, np.ndarray] | None = None,
    architecture: str | None = None,
    stretched: bool = False,
) -> Path:
    """The model as a GGUF file with a tokenizer: GPT-2's kind, or SentencePiece's for Gemma."""
    config = model.config
    arch = architecture or {"gemma3_text": "gemma3"}.get(kind, kind)
    writer = GGUFWriter(path, arch)
    writer.add_name(f"small {kind}")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if kind == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_head_count_kv(config.num_key_value_heads)
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if kind == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if kind == "gemma3_text":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    if stretched:
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        writer.add_float32(f"{arch}.rope.scaling.factor", 8.0)
    _add_tokenizer(writer, kind)
    if bos is not None:
        writer.add_add_bos_token(bos)
    for name, weight in {**tensors(model, kind), **(extra or {})}.items():
        if name != drop:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, kind: str) -> None:
    if kind == "gemma3_text":
        pieces, scores, kinds = sentence_pieces()
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        for name, number in (("pad", 0), ("eos", 1), ("bos", 2), ("unk", 3)):
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_space_prefix(False)
        return
    tokenizer = make_tokenizer(causal=True)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokenizer) - 1))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def sentence_pieces() -> tuple[list[str], list[float], list[int]]:
    """A SentencePiece vocabulary as Gemma's: five controls, all bytes, letters, and a few joined pieces."""
    letters = sorted(set("The capital of France is Paris. Berlin Germany") - {" "})
    joined = ["▁is", "Par", "Paris", "▁Paris", "is", "ar"]
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*controls, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    kinds = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN, TokenType.CONTROL] + [TokenType.BYTE] * 256
    kinds += [TokenType.NORMAL] * (1 + len(letters) + len(joined))
    every = [*pieces, *joined]
    return every, [-float(number) for number in range(len(every))], [int(kind) for kind in kinds]


#: A sentence in each language of the study, with signs, digits and blanks that a tokenizer may change.
SENTENCES = dict(
    zip(
        LANGUAGES,
        (
            "The capital of France is Paris, 1984 (not  Lyon).",
            "De hoofdstad van België is Brussel; ’s-Gravenhage niet.",
            "日本の首都は東京です。「ドイツ」",
            "Thủ đô của Việt Nam là Hà Nội.",
            "法国的首都是巴黎，不是里昂。",
            "대한민국의 수도는 서울이다.",
        ),
        strict=True,
    )
)
