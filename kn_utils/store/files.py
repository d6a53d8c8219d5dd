"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..base import StudyError


class ArtifactError(StudyError):
    """A stored table that cannot be read or written."""


def regular(path: Path) -> Path:
    """The same path; an error where something stands there that is no file, such as a folder or a device."""
    try:
        os.lstat(path.parent / path.name)
        other = not path.is_file() and (path.exists() or path.name == "")
    except (FileNotFoundError, NotADirectoryError):
        other = False
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise ArtifactError(f"cannot look at {str(path)!r}: {why}. Choose another (out).") from None
    if other:
        raise ArtifactError(f"{path} is there and is no regular file; give the name of a new one (out).")
    return path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary place beside ``path`` that becomes ``path`` when the block ends well."""
    regular(path)
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


def save_json(content: dict[str, Any], path: str | Path) -> Path:
    """Write a dictionary as JSON that people can read; gives its path."""
    path = Path(path)
    with written(path) as place:
        place.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def file_name(title: str) -> str:
    """A title as the name of a file: what is no letter, digit, point or underscore becomes a hyphen."""
    return re.sub(r"[^\w.-]+", "-", title).strip("-")
