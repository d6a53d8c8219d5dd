"""What a model is, as opposed to what it is called: a digest of weights, configuration and tokenizer.

Stored tables, the runs of a study and their folders go by it, so that a model that changed under the same
name is another one, and the same model under another spelling of its path is not.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from ...base import DATA
from ...checks import ParameterError
from ...store.files import file_name
from .packaged import PACKAGED

#: Models that lie in git, taught the same facts: one sees both sides of the blank, one reads left to right.
BUNDLED = {"mini": DATA / "mini" / "model", "mini-causal": DATA / "mini" / "model-causal"}
#: Short names of models of the Hub.
HUB_NAMES = {
    "mbert-uncased": "google-bert/bert-base-multilingual-uncased",
    "mbert-cased": "google-bert/bert-base-multilingual-cased",
}
#: Bundled or packaged at a fixed version: their folders of results need no digits.
FIXED = (*BUNDLED, *PACKAGED)
#: Files of a model's folder that decide what it says.
PARTS = (".safetensors", ".json", ".model", ".txt", ".gguf", ".tiktoken", ".bin", ".jinja")
#: Of these those that do not: notes of a training, and what is said about the model.
NOTES = re.compile(
    r"(trainer_state|all_results|train_results|eval_results|recipe|README|training_args|optimizer|scheduler"
    r"|rng_state).*"
)
LETTERS = 12


def local_place(name: str) -> Path | None:
    """The folder or file that a model's name stands for, ``None`` where it stands for one of the Hub."""
    if name in PACKAGED or name in HUB_NAMES:
        return None
    place = BUNDLED.get(name) or Path(name).expanduser()
    return place.resolve() if place.exists() else None


def model_digest(name: str, revision: str | None = None) -> str | None:
    """A short digest of a model; of one of the Hub the commit in the local cache.

    Args:
        name, revision: as :func:`kn_utils.load_model` takes them.

    Returns:
        the digest; ``None`` for a model of the Hub that is not in the cache.

    Example:
        >>> len(model_digest("mini"))
        12
    """
    if name in PACKAGED:
        return PACKAGED[name].sha256[:LETTERS]
    place = local_place(name)
    if place is None:
        return cached_commit(name, revision)
    if place.is_file():
        return _file_digest(place, *_stamp(place))[:LETTERS]
    return files_digest(sorted(filter(_counts, place.iterdir())))


def _counts(file: Path) -> bool:
    return file.is_file() and file.suffix in PARTS and not NOTES.fullmatch(file.name)


def files_digest(files: list[Path]) -> str:
    """A short digest of files, by their names and what is in them."""
    lines = [f"{file.name} {_file_digest(file, *_stamp(file))}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:LETTERS]


def _stamp(file: Path) -> tuple[int, int]:
    told = file.stat()
    return told.st_mtime_ns, told.st_size


@cache
def _file_digest(file: Path, changed: int, size: int) -> str:
    """A digest of a file's content, read again when it was written to."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def cached_commit(name: str, revision: str | None = None) -> str | None:
    """The commit at which the local cache holds a model of the Hub; ``None`` if it does not."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(HUB_NAMES.get(name, name), "config.json", revision=revision)
    except HFValidationError:  # no such name can be
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def pinned(name: str, revision: str | None = None) -> str | None:
    """The revision to load: the one asked for, else of a model of the Hub the commit that is in the cache."""
    local = name in FIXED or local_place(name) is not None
    return revision if revision or local else cached_commit(name)


def resolved(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """A model's name as other programs need it (paths absolute), and the commit that is meant.

    Raises:
        ParameterError: nothing of that name is here or on the Hub, in one line.
    """
    if name in FIXED:
        return name, revision
    if place := local_place(name):
        whole = place.suffix == ".gguf" or (place / "config.json").is_file() or any(place.glob("*.gguf"))
        if not whole:
            raise ParameterError(f"model {name!r}: {place} holds no config.json and no GGUF file.")
        return str(Path(name).expanduser().absolute()), revision
    hub = HUB_NAMES.get(name, name)
    if hub.count("/") != 1 or hub.startswith((".", "/", "~")) or hub.endswith(("/", ".gguf")):
        known = ", ".join([*FIXED, *HUB_NAMES])
        raise ParameterError(
            f"unknown model {name!r}: neither a known name ({known}), nor a folder or GGUF file (looked for "
            f"in {Path.cwd()}), nor a Hub id owner/name."
        )
    commit = hub_commit(hub, revision) or cached_commit(hub, revision)
    if commit is None:
        at = f" at revision {revision}" if revision else ""
        raise ParameterError(
            f"model {name!r}{at} is neither in the local cache nor can the Hub be asked for it; check its "
            f"name, or without a network copy its folder here and pass the folder's path."
        )
    return name, commit


def hub_commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision of a model on the Hub means; ``None`` where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, revision=revision, timeout=10).sha
    except Exception:  # no network, no such model, no access: whatever is in the cache is used
        return None


def model_label(name: str, revision: str | None = None) -> str:
    """A model as its folder of results is called: readable, and with a few digits of what it is."""
    if name in FIXED:
        return name
    if place := local_place(name):
        return f"{file_name(place.stem if place.is_file() else place.name)}-{(model_digest(name) or '')[:6]}"
    readable = file_name(name.replace("/", "--"))
    if revision is None:
        return readable
    hexadecimal = re.fullmatch(r"[0-9a-f]{7,40}", revision)
    return f"{readable}-{revision[:8] if hexadecimal else digits(revision)}"


def digits(text: str) -> str:
    """A few digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]
