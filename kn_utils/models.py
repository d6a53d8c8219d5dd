"""Models: loading them, and one table that says where each architecture keeps its feed-forward neurons.

A *neuron* is one input of a feed-forward block's second linear map, read after the non-linearity (for gated blocks:
after the product). Its *value slot* is the weight vector of that map which it multiplies. Supporting another
architecture is one row in :data:`ARCHITECTURES`.
"""

from __future__ import annotations

import hashlib
import inspect
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from torch import nn

from .base import DATA, StudyError
from .facts import Row, encode

MINI = DATA / "mini" / "model"

#: Names that need no knowledge of the Hub. Pin your own revision (40 hex digits) for a result you publish.
REGISTERED = {
    "mini": str(MINI),
    "mbert-uncased": "google-bert/bert-base-multilingual-uncased",
    "mbert-cased": "google-bert/bert-base-multilingual-cased",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class ModelError(StudyError):
    """A model that is not there, is not supported, or is broken; the message says what to do."""


@dataclass(frozen=True)
class Architecture:
    """Where things are, as attribute paths: ``blocks`` from the model, ``second`` from a block, ``head`` from the model.

    ``head`` is the first module of the output head, which receives the last hidden states; ``None`` where that is the
    output embedding itself. ``causal`` models are asked at the last token before the answer, masked ones at the mask.
    ``norm`` is the block's module that normalises the sum of the residual and the second map's output; ``None`` where a
    block's output is that sum. ``settled`` (masked models) is the first module of a block that mixes no tokens any more:
    in the last block all but the blank's token is dropped there.
    """

    blocks: str
    second: str
    head: str | None = None
    causal: bool = False
    norm: str | None = None
    settled: str | None = None
    padded_positions: bool = False  # positions are counted from the padding token's id on, as fairseq did


_BERT = {"norm": "output.LayerNorm", "settled": "attention.output"}
_ROBERTA = Architecture("roberta.encoder.layer", "output.dense", "lm_head", padded_positions=True, **_BERT)
_LLAMA = Architecture("model.layers", "mlp.down_proj", causal=True)
_GPT2 = Architecture("transformer.h", "mlp.c_proj", causal=True)

#: ``config.model_type`` -> architecture.
ARCHITECTURES = {
    "bert": Architecture("bert.encoder.layer", "output.dense", "cls", **_BERT),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Architecture(
        "distilbert.transformer.layer", "ffn.lin2", "vocab_transform", norm="output_layer_norm", settled="sa_layer_norm"
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
}


class LanguageModel:
    """A transformer with a language-model head, its tokenizer, and where its neurons are.

    Attributes:
        model, tokenizer: the Hugging Face objects, the model in evaluation mode without parameter gradients.
        n_layers, n_neurons: layers, and neurons per layer.
        device: where the weights lie.
        name, revision: its origin, as asked for.
        causal: whether it reads from left to right only.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, name: str = "in memory", revision: str | None = None
    ) -> None:
        kind = model.config.model_type
        if kind not in ARCHITECTURES:
            raise ModelError(
                f"architecture {kind!r} is not supported; known: {', '.join(ARCHITECTURES)}. To add it, give "
                "kn_utils.models.ARCHITECTURES a row: its blocks, the second linear map of a block's feed-forward part, its head."
            )
        self.architecture = ARCHITECTURES[kind]
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.revision = tokenizer, name, revision
        self.causal = self.architecture.causal
        if not self.causal and tokenizer.mask_token is None:
            raise ModelError(f"the tokenizer of {name!r} has no mask token; {kind} cannot be asked without one.")
        self.blocks = list(operator.attrgetter(self.architecture.blocks)(model))
        norm = self.architecture.norm
        if kind == "opt" and not model.config.do_layer_norm_before:  # OPT-350m alone normalises after adding
            norm = "final_layer_norm"
        self.norms = [operator.attrgetter(norm)(block) if norm else None for block in self.blocks]
        self.seconds = [operator.attrgetter(self.architecture.second)(block) for block in self.blocks]
        head = self.architecture.head
        self.head = operator.attrgetter(head)(model) if head else model.get_output_embeddings()
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.n_layers = len(self.blocks)
        self.n_neurons = _slots(self.seconds[0]).shape[0]

    @property
    def device(self) -> torch.device:
        return self.seconds[0].weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.seconds[0].weight.dtype

    def __repr__(self) -> str:
        kind = self.model.config.model_type
        return f"LanguageModel({self.name!r}, {kind}, {self.n_layers} layers x {self.n_neurons} neurons)"

    def value_slots(self, layer: int) -> torch.Tensor:
        """A view of the value slots of a layer, shape (neuron, hidden): writing to it edits the model."""
        return _slots(self.seconds[layer])

    @property
    def embeddings(self) -> torch.Tensor:
        """Input word embeddings, shape (token, hidden)."""
        return self.model.get_input_embeddings().weight

    def checksum(self) -> str:
        """A digest of all weights as they are now; an edit of a single one changes it."""
        digest = hashlib.sha256(str(self.dtype).encode())
        whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        for name, weight in self.model.state_dict().items():
            # Sums of bit patterns are exact, whatever order a device adds in.
            digest.update(f"{name} {weight.view(whole[weight.element_size()]).sum(dtype=torch.int64).item()}".encode())
        return digest.hexdigest()[:16]

    @property
    def max_length(self) -> int | None:
        """Tokens that a text may have; ``None`` where the model sets no limit."""
        config = self.model.config
        limit = getattr(config, "max_position_embeddings", None)
        return limit - config.pad_token_id - 1 if self.architecture.padded_positions else limit

    def encode(self, prompts: pd.DataFrame, unknown: str = "refuse") -> list[Row]:
        """Prompts as rows of token ids, one per piece of the answer; see :func:`kn_utils.facts.encode`."""
        return encode(self.tokenizer, prompts, causal=self.causal, unknown=unknown, max_length=self.max_length)

    def batch(self, rows: list[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Rows padded on the right: the model's inputs, the blanks' positions, the wanted ids (all on the device)."""
        pad = self.tokenizer.pad_token_id
        pad = 0 if pad is None else pad
        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
        inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        at, wanted = (
            torch.tensor(x, device=self.device) for x in zip(*((r.position, r.target) for r in rows), strict=True)
        )
        return inputs, at, wanted

    def logits(self, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        """Logits at one position of each row, shape (row, token); the head sees nothing else."""
        with self.head_at(positions):
            keep = {"use_cache": False} if self.causal else {}
            return self.model(**inputs, **keep).logits[:, 0]

    @contextmanager
    def head_at(self, positions: torch.Tensor) -> Iterator[None]:
        """Inside, the output head receives only each row's position: hidden states (row, 1, hidden)."""

        def narrow(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            rows = torch.arange(len(args[0]), device=args[0].device)
            return (args[0][rows, positions].unsqueeze(1), *args[1:])

        handle = self.head.register_forward_pre_hook(narrow)
        try:
            yield
        finally:
            handle.remove()


def _slots(second: nn.Module) -> torch.Tensor:
    """(neuron, hidden) view of a second linear map; GPT-2's Conv1D stores it so, ``nn.Linear`` transposed."""
    return second.weight.T if isinstance(second, nn.Linear) else second.weight


def by_row(neurons: torch.Tensor, rows: int) -> torch.Tensor:
    """Neurons as (row, token, neuron); OPT hands its second linear map rows and tokens folded into one."""
    return neurons if neurons.ndim == 3 else neurons.view(rows, -1, neurons.shape[-1])


def load_model(
    name: str = "mini", revision: str | None = None, *, device: str = "auto", dtype: str = "float32"
) -> LanguageModel:
    """A model by registered name, local folder, or Hub id and revision.

    Only safetensors weights are read, and never a model's own code. The Hub's cache and switches apply
    (``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE=1``).

    Raises:
        ModelError: nothing of that name; not reachable; no safetensors; weights that are not finite.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}.")
    target = choose_device(device)
    place = str(Path(REGISTERED.get(name, name)).expanduser()) if name.startswith("~") else REGISTERED.get(name, name)
    if not Path(place).is_dir():
        if name in REGISTERED and Path(place).is_absolute():
            raise ModelError(
                f"the bundled model is missing from {place}; bring it back with `git checkout data/mini/model`."
            )
        if place.count("/") != 1 or place.startswith((".", "/", "~")):
            known = ", ".join(REGISTERED)
            raise ModelError(
                f"unknown model {name!r}: neither a registered name ({known}), nor a folder, nor a Hub id owner/name."
            )
    try:
        model, tokenizer = _read(name, place, revision, DTYPES[dtype])
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, StudyError):
            raise
        raise ModelError(_missing(name, place, revision, error)) from error
    check_finite(model, name)
    return LanguageModel(model.to(target), tokenizer, name=name, revision=revision)


def _read(name: str, place: str, revision: str | None, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    # Imported here: transformers takes seconds, and tables need none of it.
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    if Path(place).is_dir():  # reading weights takes a second; a download keeps its bar
        disable_progress_bar()
    # Without it, a Hub model that has no safetensors is sent to an outside service for conversion.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    safe = {"revision": revision, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(place, **safe)
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"{name}: architecture {config.model_type!r} is not supported; known: {', '.join(ARCHITECTURES)}."
        )
    tokenizer = AutoTokenizer.from_pretrained(place, **safe)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError("it has no vocabulary")
    auto = AutoModelForCausalLM if ARCHITECTURES[config.model_type].causal else AutoModelForMaskedLM
    model, info = auto.from_pretrained(place, dtype=dtype, use_safetensors=True, output_loading_info=True, **safe)
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would fill them with random numbers
        raise ModelError(
            f"{name}: the weights lack {missing[0]} ({len(missing)} in all); it is no whole language model."
        )
    return model, tokenizer


def at_hand() -> pd.DataFrame:
    """Registered models and whether they can be loaded without a network: ``model, from, at hand``."""
    from huggingface_hub import try_to_load_from_cache

    rows = []
    for name, place in REGISTERED.items():
        local = (Path(place) / "model.safetensors").is_file()
        hub = "/" in place and not Path(place).is_absolute()
        there = local or (hub and isinstance(try_to_load_from_cache(place, "model.safetensors"), str))
        rows.append({"model": name, "from": place if hub else "data/mini/model", "at hand": there})
    return pd.DataFrame(rows)


def choose_device(device: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; MPS is used when asked for by name; ``cuda:all`` is the first one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise ModelError(f"unknown device {device!r}; known: auto, cpu, cuda, mps.")
    if not there[kind]:
        raise ModelError(f"device {device!r} was asked for, and torch sees none; use device='auto' or 'cpu'.")
    return torch.device("cuda:0" if device == "cuda:all" else device)


def check_finite(model: nn.Module, name: str = "the model") -> None:
    """Raise :class:`ModelError` when a weight is NaN or infinite: every score would be meaningless."""
    for parameter, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(f"{name}: weight {parameter} holds NaN or infinite values; load or train it again.")


def _missing(name: str, place: str, revision: str | None, error: Exception) -> str:
    what = " ".join(str(error).split())
    if Path(place).is_dir():
        return f"model {name!r} in {place} cannot be read ({what}); it needs config.json, tokenizer files and *.safetensors."
    at = f" at revision {revision}" if revision else ""
    extra = f" --revision {revision}" if revision else ""
    return (
        f"model {name!r}{at} is not in the local cache and could not be fetched ({what}). With a network, run "
        f"`hf download {place}{extra}`; without one, copy its folder here and pass the folder's path as the model."
    )
