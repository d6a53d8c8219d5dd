"""One table that says where each architecture keeps its feed-forward neurons."""

from __future__ import annotations

from dataclasses import dataclass
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
class Architecture:
    """Where things are, as attribute paths: ``blocks`` and ``head`` from the model, others from a block.

    Attributes:
        blocks: the list of blocks.
        second: a block's second linear map of its feed-forward part; its inputs are the neurons.
        head: the first module of the output head, which receives the last hidden states; ``None`` where that
            is the output embedding itself.
        causal: asked at the last token before the answer; masked models are asked at the mask.
        norm: the block's module that normalises the sum of the residual and the second map's output; ``None``
            where a block's output is that sum.
        settled: (masked models) the first module of a block that mixes no tokens any more: in the last block
            all but the blank's token is dropped there.
        padded_positions: positions are counted from the padding token's id on, as fairseq did.
    """

    blocks: str
    second: str
    head: str | None = None
    causal: bool = False
    norm: str | None = None
    settled: str | None = None
    padded_positions: bool = False


_BERT: dict[str, Any] = {"norm": "output.LayerNorm", "settled": "attention.output"}
_ROBERTA = Architecture("roberta.encoder.layer", "output.dense", "lm_head", padded_positions=True, **_BERT)
_LLAMA = Architecture("model.layers", "mlp.down_proj", causal=True)
_GPT2 = Architecture("transformer.h", "mlp.c_proj", causal=True)

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
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gpt_neox": Architecture("gpt_neox.layers", "mlp.dense_4h_to_h", causal=True),
    "opt": Architecture("model.decoder.layers", "fc2", causal=True),
    "bloom": Architecture("transformer.h", "mlp.dense_4h_to_h", causal=True),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma3_text": _LLAMA,
}
