"""Tables on disk with their origin inside.

They are parquet files that say from which model, data, parameters and code they came.

:func:`load_current` gives a table only if its origin equals the asked one, and says why otherwise. Files are
written beside their place and then moved, so that an interrupted run leaves no half a table.
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
    content = pa.Table.from_pandas(plain, preserve_index=False)
    note = json.dumps({"origin": origin or {}}, ensure_ascii=False, sort_keys=True)
    metadata = {**(content.schema.metadata or {}), _KEY: note.encode()}
    with written(path) as place:
        pq.write_table(content.replace_schema_metadata(metadata), place)
    return path


def save_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV for people and other programs: UTF-8, whole or not at all."""
    with written(path) as place:
        table.to_csv(place, index=False, encoding="utf-8", lineterminator="\n")
    return path


def load_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored table and its origin.

    Raises:
        ArtifactError: it is not there, or cannot be read.
    """
    try:
        content = pq.read_table(path)
        note = json.loads((content.schema.metadata or {}).get(_KEY, b"{}"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is not there; run the notebook that makes it.") from None
    except (pa.ArrowInvalid, OSError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run again.") from None
    return content.to_pandas(), note.get("origin", {})


def load_current(path: str | Path, origin: dict[str, Any], *, quiet: bool = False) -> pd.DataFrame | None:
    """The table at ``path`` if it has this origin (:func:`kn_utils.store.origin.full_origin`).

    Returns:
        the table; ``None`` if it is not there, cannot be read, or has another origin. Unless ``quiet``, a
        line on stderr says why it is computed again.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        table, stored = load_table(path)
    except ArtifactError:
        why = "cannot be read"
    else:
        if stored == origin:
            return table
        changed = [key for key in origin if stored.get(key) != origin[key]]
        why = f"{', '.join(changed) or 'its origin'} changed"
    if not quiet:
        print(f"{path.name}: {why}, computing it again", file=sys.stderr)
    return None
