"""GGUF files as models: found, read through transformers once, kept as safetensors in the cache.

A model that comes in Python packages, a ``.gguf`` file, or a folder with one. Reading a GGUF file takes up to
two minutes, so what comes out (weights in float32, configuration, tokenizer) is kept in
``<cache folder>/models/<file>-<first digits of its sha256>/`` and loaded from there in seconds. A note in it,
``conversion.json``, has the checksums of the source and of every file; what does not agree with it is made
again. The folder appears whole or not at all, and of several processes one converts while the others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..base import StudyError
from ..data.downloads.packaged import PACKAGED, Packaged
from ..store.cache import cache_folder
from ..store.locks import alone
from .architectures import ARCHITECTURES, ModelError
from .gguf_header import Header, read_header

NOTE = "conversion.json"
FORMAT = 1  # raised when conversions made before are to be made again
LETTERS = 12  # of the source's sha256, in a conversion's name


@dataclass(frozen=True)
class Source:
    """A GGUF file: what it is called, its sha256, and where it is: a file, or packages with its pieces."""

    file: str
    sha256: str
    place: Path | Packaged

    @property
    def folder(self) -> Path:
        """Where its conversion is kept, made or not."""
        return cache_folder() / "models" / f"{Path(self.file).stem}-{self.sha256[:LETTERS]}"

    def pieces(self) -> list[Path]:
        """The files that, joined, are the GGUF file."""
        return [self.place] if isinstance(self.place, Path) else self.place.pieces()


def find(name: str) -> Source | None:
    """The GGUF file that a model's name stands for; ``None`` where it stands for something else.

    Args:
        name: a name of :data:`~kn_utils.data.downloads.packaged.PACKAGED`, the path of a ``.gguf`` file, or
            of a folder that holds one and is not a model's safetensors folder.

    Raises:
        ModelError: no such file; several in the folder; it cannot be read.

    Example:
        >>> find("smollm2").file
        'SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    if name in PACKAGED:
        packaged = PACKAGED[name]
        return Source(packaged.file, packaged.sha256, packaged)
    place = Path(name).expanduser()
    if place.is_dir() and not (place / "config.json").exists():
        files = sorted(file for file in place.iterdir() if _is_gguf(file))
        if len(files) > 1:
            raise ModelError(
                f"{place} holds {len(files)} GGUF files; pass the path of one, such as {files[0]}."
            )
        if not files:
            return None
        (place,) = files
    if not _is_gguf(place) or place.is_dir():
        return None
    try:
        return Source(place.name, _sha256(place), place.resolve())
    except FileNotFoundError:
        raise ModelError(f"there is no file {place}.") from None
    except OSError as error:
        raise ModelError(f"{place} cannot be read: {error.strerror or error}.") from error


def converted(source: Source) -> Path:
    """The safetensors folder of a GGUF file, made if it is not there yet or not as it was made.

    Raises:
        ModelError: a package or piece is missing; the file is broken, not the one it should be, or of an
            architecture that is not supported; the cache folder cannot be written.
    """
    folder = source.folder
    if is_whole(source):
        return folder
    if isinstance(source.place, Packaged) and (missing := source.place.missing):
        raise ModelError(
            f"{source.place.title} is not here: its package is not installed ({', '.join(missing)}). Install "
            f"it with `{source.place.command}`, or pass the Hub id {source.place.hub} as the model."
        )
    try:
        waiting = f"another process is converting {source.file}; waiting for it"
        with alone(folder.with_name(f".{folder.name}.lock"), waiting):
            if not is_whole(source):
                _convert(source)
    except (OSError, SafetensorError) as error:
        why = " ".join(str(error).split())
        raise ModelError(
            f"{source.file} cannot be converted into {folder.parent}: {why}. Free space or mend its "
            "permissions, or set KN_DATA to another folder."
        ) from error
    return folder


def is_whole(source: Source) -> bool:
    """Whether its conversion is there, from this source, every file as it was written and no other beside.

    A file whose size and time of change are those noted is taken as unchanged; any other is hashed.
    """
    folder = source.folder
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if (note["format"], note["source"]["sha256"]) != (FORMAT, source.sha256):
            return False
        files = note["files"]
        if {file.name for file in folder.iterdir()} != {NOTE, *files}:
            return False
        for name, (checksum, *state) in files.items():
            if _state(folder / name) != state and _sha256(folder / name) != checksum:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a broken note is no note
        return False
    return True


def _convert(source: Source) -> None:
    """Only one process at a time is here, so what lies in the way was left by one that was killed."""
    folder = source.folder
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    print(f"Reading {source.file} for the first time (up to two minutes); kept in {folder}", file=sys.stderr)
    try:
        with _one_file(source, part) as file:
            header = read_header(file)
            header.check(source.file)
            with _one_line(source.file):
                model, tokenizer = _read(file, header)
            _write(model, tokenizer, part)
        _save_note(source, part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _one_file(source: Source, part: Path) -> Iterator[Path]:
    """The GGUF file, checked: itself where it is one, else its pieces joined for as long as it is needed."""
    if isinstance(source.place, Path):
        yield source.place
        return
    joined = part / source.file
    digest = hashlib.sha256()
    with joined.open("wb") as file:
        for piece in source.pieces():
            with piece.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
                    file.write(block)
    if digest.hexdigest() != source.sha256:
        raise ModelError(
            f"{source.file}: its packages' files are not the published ones (sha256 "
            f"{digest.hexdigest()[:12]} instead of {source.sha256[:12]}); install them again: "
            f"`{source.place.command} --force-reinstall`."
        )
    yield joined
    joined.unlink()


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Whatever transformers meets in a broken file becomes one line."""
    try:
        yield
    except (StudyError, MemoryError):
        raise
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{name} cannot be read as a GGUF model: {what}") from error


def _read(file: Path, header: Header) -> tuple[Any, Any]:
    """Model and tokenizer through transformers, which needs the packages gguf and accelerate."""
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise ModelError(
                f"{file.name}: GGUF files are read with the package {package}, which is not here; "
                'pip install "kn_utils[models]".'
            )
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    here = {"gguf_file": file.name, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(file.parent, **here)
    kind = config.model_type
    if kind not in ARCHITECTURES or not ARCHITECTURES[kind].causal:
        known = ", ".join(name for name, row in ARCHITECTURES.items() if row.causal)
        raise ModelError(f"{file.name}: architecture {kind!r} is not supported; from GGUF files: {known}.")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, config=config, **here)
    auto: Any = AutoModelForCausalLM
    model, info = auto.from_pretrained(
        file.parent, config=config, dtype=torch.float32, output_loading_info=True, **here
    )
    missing = sorted(info["missing_keys"])
    if missing:  # transformers fills them with random numbers
        raise ModelError(f"{file.name} lacks {missing[0]} ({len(missing)} weights in all).")
    read = len(list(model.parameters()))
    if read != len(header.tensors):  # and it passes over those that it does not know
        raise ModelError(
            f"{file.name} holds {len(header.tensors)} weights, of which transformers reads {read}; use the "
            "model's safetensors folder or Hub id."
        )
    _begin_as_told(tokenizer, header)
    return model, tokenizer


def _begin_as_told(tokenizer: Any, header: Header) -> None:
    """Let texts begin with the token that begins texts exactly where the file says that they do."""
    told = header.values.get("tokenizer.ggml.add_bos_token")
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if told is None or told == begins or tokenizer.bos_token_id is None:
        return
    from tokenizers.processors import TemplateProcessing

    token = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A" if told else "$A",
        pair=f"{token} $A {token} $B" if told else "$A $B",
        special_tokens=[(token, tokenizer.bos_token_id)],
    )


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save as a safetensors folder.

    What was read from GGUF calls itself quantised and does not let itself be saved, so a model of the same
    shape without weights of its own takes them; shared ones stay shared.
    """
    settings = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):
        plain = type(model)(type(model.config).from_dict(settings))
    plain.save_pretrained(folder, state_dict=model.state_dict(), max_shard_size="1000GB")
    # safetensors lets nobody but the owner read what it wrote; a cache may be shared.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    tokenizer.save_pretrained(folder)


def _save_note(source: Source, folder: Path) -> None:
    """Write down what the folder was made from, and how its files are."""
    files = sorted(folder.iterdir())
    note = {
        "format": FORMAT,
        "source": {"file": source.file, "sha256": source.sha256},
        "made by": {name: version(name) for name in ("transformers", "gguf", "torch")},
        "files": {file.name: [_sha256(file), *_state(file)] for file in files},
    }
    (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def _sha256(place: Path) -> str:
    return _hashed(place, *_state(place))


@cache  # in one process a file that keeps its size and time of change is hashed once
def _hashed(place: Path, size: int, changed: int) -> str:
    with place.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _state(place: Path) -> list[int]:
    found = place.stat()
    return [found.st_size, found.st_mtime_ns]


def _is_gguf(place: Path) -> bool:
    return place.suffix.lower() == ".gguf"
