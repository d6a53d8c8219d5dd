"""Tables on disk with their origin inside: parquet files that say from which model, data, parameters and code they came.

:func:`stored` gives a table only if its origin equals the asked one, and says why otherwise.
Files are written beside their place and then moved, so that an interrupted run leaves no half a table.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .base import ROOT, StudyError

_KEY = b"kn_utils"


class ArtifactError(StudyError):
    """A stored table that cannot be read or written."""


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary place beside ``path`` that becomes ``path`` when the block ends well."""
    place = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield place
        os.replace(place, path)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another folder (out)."
        ) from error
    finally:
        with suppress(OSError):
            place.unlink()


def save_table(table: pd.DataFrame, path: str | Path, origin: dict[str, Any] | None = None) -> Path:
    """Write a table as parquet, its origin and ``table.attrs`` in the file's metadata."""
    path = Path(path)
    plain = table.copy(deep=False)
    plain.attrs = {}
    stored = pa.Table.from_pandas(plain, preserve_index=False)
    note = json.dumps({"origin": origin or {}, "attrs": table.attrs}, ensure_ascii=False, sort_keys=True)
    with written(path) as place:
        pq.write_table(stored.replace_schema_metadata({**(stored.schema.metadata or {}), _KEY: note.encode()}), place)
    return path


def load_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored table (with its attrs) and its origin."""
    try:
        stored = pq.read_table(path)
        note = json.loads((stored.schema.metadata or {}).get(_KEY, b"{}"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is not there; run the notebook that makes it.") from None
    except (pa.ArrowInvalid, OSError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run again.") from None
    table = stored.to_pandas()
    table.attrs = note.get("attrs", {})
    return table, note.get("origin", {})


def stored(path: str | Path, origin: dict[str, Any], room: str = "", *, quiet: bool = False) -> pd.DataFrame | None:
    """The table at ``path`` if it has this origin (and was made by this room's code); else ``None``, and a line that says why."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        table, found = load_table(path)
    except ArtifactError:
        why = "cannot be read"
    else:
        wanted = full_origin(origin, room)
        if found == wanted:
            return table
        why = (", ".join(key for key in wanted if found.get(key) != wanted[key]) or "its origin") + " changed"
    if not quiet:
        print(f"{path.name}: {why}, computing it again", file=sys.stderr)
    return None


def full_origin(origin: dict[str, Any], room: str = "") -> dict[str, Any]:
    """An origin as it is stored: with the version of the room's code, and as JSON gives it back."""
    return json.loads(json.dumps({**origin, "code": code_version(room)}))


def save_json(content: dict[str, Any], path: str | Path) -> Path:
    path = Path(path)
    with written(path) as place:
        place.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


#: Modules that say how results look, not what they are: changing them makes no table stale.
_PRESENTATION = {"study", "plan", "benchmark", "config", "base", "artifacts", "published", "reanalysis", "results"}


@cache
def code_version(room: str = "") -> str:
    """The package's version and a digest of the modules that compute; of one room: of those that it stands on."""
    folder = Path(__file__).parent
    every = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.py"))}
    names = _stands_on(room, every) if room else {name for name in every if not name.startswith("plots")}
    digest = hashlib.sha256()
    for name in sorted(names - _PRESENTATION):
        digest.update(every[name].read_bytes())
    return f"{package_version()}+{digest.hexdigest()[:12]}"


def _stands_on(room: str, every: dict[str, Path]) -> set[str]:
    """A room and the rooms that it imports, those that these import, and so on."""
    found, waiting = set(), [room]
    while waiting:
        name = waiting.pop()
        if name in every and name not in found:
            found.add(name)
            tree = ast.walk(ast.parse(every[name].read_text(encoding="utf-8")))
            waiting += [node.module for node in tree if isinstance(node, ast.ImportFrom) and node.level and node.module]
    return found


def package_version() -> str:
    try:
        return version("kn_utils")
    except PackageNotFoundError:  # a copy that is not installed, as on a borrowed machine
        return "0"


def git_commit() -> str | None:
    """The commit this code was checked out at, or None outside git."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def machine() -> pd.DataFrame:
    """What the numbers are computed with: versions, processor, memory, accelerator."""
    import platform

    import psutil
    import torch

    names = ("torch", "transformers", "numpy", "pandas", "scipy")
    facts = (
        {"python": platform.python_version()}
        | {name: version(name) for name in names}
        | {"kn_utils": package_version()}
    )
    facts["processor"] = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    facts["threads"] = str(torch.get_num_threads())
    facts["memory"] = (
        f"{psutil.virtual_memory().available / 2**30:.0f} of {psutil.virtual_memory().total / 2**30:.0f} GiB free"
    )
    facts["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return pd.DataFrame({"here": facts})


def fingerprint(*things: pd.DataFrame | Path) -> str:
    """Short digest of tables or files."""
    digest = hashlib.sha256()
    for thing in things:
        digest.update(
            thing.to_csv(index=False).encode() if isinstance(thing, pd.DataFrame) else Path(thing).read_bytes()
        )
    return digest.hexdigest()[:12]
