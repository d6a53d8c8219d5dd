"""Tables on disk with their origin inside: parquet files that say from which model, data, parameters and code
they came.

:func:`load_current` gives a table only if its origin equals the asked one, and says why otherwise.
Files are written beside their place and then moved, so that an interrupted run leaves no half a table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .files import ArtifactError, written

_KEY = b"kn_utils"


def save_table(table: pd.DataFrame, path: str | Path, origin: dict[str, Any] | None = None) -> Path:
    """Write a table as parquet, its origin in the file's metadata; ``table.attrs`` is not stored."""
    path = Path(path)
    plain = table.copy(deep=False)
    plain.attrs = {}
    stored = pa.Table.from_pandas(plain, preserve_index=False)
    note = json.dumps({"origin": origin or {}}, ensure_ascii=False, sort_keys=True)
    with written(path) as place:
        pq.write_table(
            stored.replace_schema_metadata({**(stored.schema.metadata or {}), _KEY: note.encode()}), place
        )
    return path


def load_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored table and its origin."""
    try:
        stored = pq.read_table(path)
        note = json.loads((stored.schema.metadata or {}).get(_KEY, b"{}"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is not there; run the notebook that makes it.") from None
    except (pa.ArrowInvalid, OSError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run again.") from None
    return stored.to_pandas(), note.get("origin", {})


def load_current(path: str | Path, origin: dict[str, Any], *, quiet: bool = False) -> pd.DataFrame | None:
    """The table at ``path`` if it has this origin (``full_origin``); else ``None``, and a line that says
    why."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        table, found = load_table(path)
    except ArtifactError:
        why = "cannot be read"
    else:
        if found == origin:
            return table
        why = (", ".join(key for key in origin if found.get(key) != origin[key]) or "its origin") + " changed"
    if not quiet:
        print(f"{path.name}: {why}, computing it again", file=sys.stderr)
    return None
