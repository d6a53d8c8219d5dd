"""Where each architecture keeps its feed-forward neurons, and how a block adds what they write: one table."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ..base import StudyError


class ModelError(StudyError):
    """A model that is not there, is not supported, or is broken; the message says what to do.

    Example:
        >>> from kn_utils import ModelError, load_model
        >>> try:
        ...     load_model("mini", dtype="int8")
        ... except ModelError as error:
        ...     print(error)
        unknown dtype 'int8'; known: float32, float64, bfloat16.
    """


@dataclass(frozen=True)
class Switched:
    """A column that depends on a switch of the model's config: ``on`` where that is true, else ``off``."""

    switch: str
    on: str | None = None
    off: str | None = None


#: A place, or one that depends on the config; :meth:`Architecture.of` leaves places only.
Column = Any


@dataclass(frozen=True)
class Architecture:
    """Where things are, and what differs between architectures.

    Places are attribute paths: ``blocks`` and ``head`` from the model, others from a block.

    Attributes:
        blocks: the list of blocks.
        second: a block's second linear map of its feed-forward part; its inputs are the neurons.
        head: the first module of the output head, which receives the last hidden states; ``None`` where that
            is the output embedding itself.
        causal: asked at the last token before the answer; masked models are asked at the mask.
        norm: the block's module that normalises the sum of the residual and the second map's output; ``None``
            where a block's output is that sum.
        normed_output: the block's module that normalises the second map's output before it is added.
        multiplier: the name in the config of what that output is multiplied by before it is added.
        settled: (masked models) the first module of a block that mixes no tokens any more: in the last block
            all but the blank's token is dropped there. Its inputs are all that the rest of the block reads.
        padded_positions: positions are counted from the padding token's id on, as fairseq did.
        heads_in_rows: some arguments of a block hold a row per row of the batch and attention head.
        shared: names of a block's arguments that have no row per row of the batch.
    """

    blocks: str
    second: str
    head: Column = None
    causal: bool = False
    norm: Column = None
    normed_output: Column = None
    multiplier: str | None = None
    settled: str | None = None
    padded_positions: bool = False
    heads_in_rows: bool = False
    shared: tuple[str, ...] = ()

    def of(self, config: Any) -> Architecture:
        """This row for one model: every switched column has the value that the model's config asks for."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, column in columns.items():
            if isinstance(column, Switched):
                columns[name] = column.on if getattr(config, column.switch) else column.off
        return Architecture(**columns)


_BERT: dict[str, Any] = {"norm": "output.LayerNorm", "settled": "attention.output"}
_ROBERTA = Architecture("roberta.encoder.layer", "output.dense", "lm_head", padded_positions=True, **_BERT)
_LLAMA = Architecture("model.layers", "mlp.down_proj", causal=True)
_NORMED = replace(_LLAMA, normed_output="post_feedforward_layernorm")
_GPT2 = Architecture("transformer.h", "mlp.c_proj", causal=True)
_BLOOM = Architecture("transformer.h", "mlp.dense_4h_to_h", causal=True, heads_in_rows=True)

#: ``config.model_type`` -> architecture.
ARCHITECTURES = {
    "bert": Architecture("bert.encoder.layer", "output.dense", "cls", **_BERT),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Architecture(
        "distilbert.transformer.layer",
        "ffn.lin2",
        "vocab_transform",
        norm="output_layer_norm",
        settled="sa_layer_norm",
    ),
    "electra": Architecture("electra.encoder.layer", "output.dense", "generator_predictions", **_BERT),
    "deberta-v2": Architecture(
        "deberta.encoder.layer",
        "output.dense",
        Switched("legacy", "cls", "lm_predictions"),
        shared=("rel_embeddings", "relative_pos"),
        **_BERT,
    ),
    "modernbert": Architecture("model.layers", "mlp.Wo", "head"),
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gptj": Architecture("transformer.h", "mlp.fc_out", causal=True),
    "gpt_neox": Architecture("gpt_neox.layers", "mlp.dense_4h_to_h", causal=True),
    "opt": Architecture(
        "model.decoder.layers",
        "fc2",
        causal=True,
        norm=Switched("do_layer_norm_before", off="final_layer_norm"),
    ),
    "bloom": _BLOOM,
    "falcon": _BLOOM,
    "phi": Architecture("model.layers", "mlp.fc2", causal=True),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": replace(_LLAMA, multiplier="residual_multiplier"),
    "gemma": _LLAMA,
    "gemma2": _NORMED,
    "gemma3_text": _NORMED,
    "olmo2": _NORMED,
    "olmo3": _NORMED,
    "exaone4": _NORMED,
    "glm4": replace(_LLAMA, normed_output="post_mlp_layernorm"),
}
