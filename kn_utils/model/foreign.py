"""Models that cannot be read as they are: one line each that says how to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .architectures import ModelError

#: Packages that tokenizers are known to need.
PACKAGES = ("fugashi", "unidic", "ipadic", "sentencepiece", "tiktoken", "rhoknp", "jieba", "protobuf")


def check_folder(name: str, place: Path) -> None:
    """Refuse a folder that holds no whole model of safetensors, before anything of it is read.

    Raises:
        ModelError: an adapter alone; weights only as pickles; no weights.
    """
    there = {file.name for file in place.iterdir()} if place.is_dir() else set()
    safe = any(file.endswith(".safetensors") and not file.startswith("adapter_") for file in there)
    if "adapter_config.json" in there and not safe:
        base = _read(place / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise ModelError(
            f"{name} is an adapter (LoRA) for {base}, no whole model; merge it once with peft, "
            f"AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new), save "
            f"the tokenizer there too, and pass the new folder."
        )
    pickles = sorted(
        file for file in there if file.endswith((".bin", ".pt", ".pth")) and "training" not in file
    )
    if pickles and "config.json" in there and not safe:
        raise ModelError(
            f"{name} has its weights only as {pickles[0]}, a kind of file that can run code when it is "
            f"read; if you trust it, convert it once: AutoModelForMaskedLM (or AutoModelForCausalLM)"
            f".from_pretrained(folder).save_pretrained(folder) writes model.safetensors."
        )


def check_quantised(name: str, config: Any) -> None:
    """Refuse weights of a few bits: their neurons are not plain linear maps that can be read and edited."""
    quantised = getattr(config, "quantization_config", None)
    if not quantised:
        return
    told = quantised if isinstance(quantised, dict) else quantised.to_dict()
    kind = told.get("quant_method") or ("bitsandbytes" if told.get("load_in_4bit") else "unknown")
    raise ModelError(
        f"{name} is quantised ({kind}); pass the model that it was made from, or a GGUF file of it, whose "
        f"weights are turned back into numbers."
    )


def check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for: a text with one would end a run.

    Special tokens of no use here (a text model's token for images) may lie behind the table.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    roles = ("mask", "pad", "bos", "eos", "unk", "cls", "sep")
    used = {getattr(tokenizer, f"{role}_token_id", None) for role in roles}
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens = [(number, text) for text, number in tokenizer.get_vocab().items() if number not in added - used]
    largest, token = max(tokens)
    if largest >= rows:
        raise ModelError(
            f"{name}: the tokenizer has token {largest} ({token!r}), and the model {rows} embeddings; pass "
            f"the tokenizer that belongs to the model, or train it on after "
            f"model.resize_token_embeddings(len(tokenizer))."
        )


def without_package(name: str, error: ImportError) -> ModelError:
    """What to say where a tokenizer needs a package that is not there."""
    told = " ".join(str(error).split())
    missing = [package for package in PACKAGES if package in told.lower()] or [error.name or ""]
    package = missing[0].replace("_", "-")
    how = f"pip install {package}" if package else "install what it names"
    return ModelError(f"{name} cannot be read without a package that is not installed; {how} ({told[:120]}).")


def without_tokenizer(name: str, place: Path) -> str | None:
    """Why a folder's tokenizer cannot be read, where it has the SentencePiece file alone."""
    there = {file.name for file in place.iterdir()} if place.is_dir() else set()
    if "tokenizer.json" in there or not any(file.endswith((".model", ".spm")) for file in there):
        return None
    return (
        f"{name} has its tokenizer only as a SentencePiece file; write tokenizer.json once, where "
        f"sentencepiece is installed: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
