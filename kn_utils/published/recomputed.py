"""Our own reading of the outputs that the multilingual study released, computed or as stored.

:func:`recomputed` is what our statistics and our refinement make of the released files; where those are not
at hand it gives the figures stored when they were (``data/published/released_recomputed.json``).
``python -m kn_utils.published.recomputed`` computes and stores them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import DATA, VERSION, StudyError
from ..data.downloads.catalogue import COLLECTIONS, COMMITS, index
from ..data.downloads.fetch import at_hand, fetch
from ..store.files import save_json, written
from ..store.tables import save_table
from . import released
from .reanalysis import RELEASED_REFINEMENT, compute

STORED = DATA / "published" / "released_recomputed.json"

#: Whose numbers these are, where they stand beside those of models that were run here.
RELEASED = {
    "model": "bert-base-multilingual-uncased, as released",
    "dataset": "PARAREL_en, T-REx_multilingual",
    "language": "all",
    "relation": "all",
}


@dataclass(frozen=True)
class Recomputed:
    """Tables by name, where they come from, and a line that says so."""

    tables: Mapping[str, pd.DataFrame]
    origin: Mapping[str, Any]
    source: str

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    def save(self, folder: str | Path, *names: str) -> None:
        """Store tables with their origin, as ``released_<name>.parquet``."""
        for name in names:
            save_table(self[name], Path(folder) / f"released_{name}.parquet", dict(self.origin))

    def save_summary(self, path: str | Path, title: str, rows: pd.DataFrame) -> Path:
        """Named numbers (``measure, where, value, low, high, n``) as a model's run leaves its own."""
        numbers = rows.assign(neurons="")[["measure", "neurons", "where", "value", "low", "high", "n"]]
        numbers = numbers.astype(object).where(numbers.notna(), None)
        content = {"title": title, "rows": numbers.to_dict("records"), "origin": dict(self.origin)}
        content |= {"parameters": dict(RELEASED), "code": self.origin["code"]}
        return save_json(content, path)


def recomputed(*, download: bool = False) -> Recomputed:
    """Our tables of the released outputs: computed now if the files are in the cache, else as stored.

    Args:
        download: bring missing files (5 MB in all) into the cache; without it the network is never asked.

    Returns:
        ``table_2, coverage, layers, most_shared, refinement, unknown, target, capitals, editing``; see the
        functions that make them.
    """
    wanted = files()
    if download:
        for name, missing in wanted.items():
            fetch(COLLECTIONS[name], missing)
    if all(at_hand(listed) for listed in wanted.values()):
        return Recomputed(compute(), origin(), "Computed now, from the released files in the cache.")
    return load()


def files() -> dict[str, list[Any]]:
    """The published files that :func:`compute` reads, by collection.

    P108's refined neurons are computed, not read.
    """
    paths = [released.place("T-REx_multilingual", "edit.txt")]
    paths.append(released.place("T-REx_multilingual", "TREx-all-P108.rlt.jsonl"))
    for dataset, release in released.RELEASES.items():
        paths.append(released.place(dataset, "TREx-all.args.json"))
        for relation in release.relations:
            computed = (dataset, relation) == ("T-REx_multilingual", "P108")
            kinds = ["base_kn_bag"] if computed else ["base_kn_bag", "kn_bag"]
            paths += [released.place(dataset, f"kn/{kind}-{relation}.json") for kind in kinds]
    return {
        "released": [index("released")[path] for path in paths],
        "pararel": [index("pararel")[released.QUERY_PAIRS]],
    }


def origin() -> dict[str, Any]:
    """From which files at which commits, and how."""
    repositories = (released.REPOSITORY, "Hunter-DDM/knowledge-neurons")
    refinement = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in RELEASED_REFINEMENT.items()
    }
    return {
        "files": [file.path for listed in files().values() for file in listed],
        "commits": {name: COMMITS[name] for name in repositories},
        "refinement": refinement,
        "code": f"python -m kn_utils.published.recomputed, kn_utils {VERSION}",
        "note": (
            "our own numbers, from these files (editing quotes edit.txt); layers from 0; 95 % intervals "
            "resample facts"
        ),
    }


def load(path: str | Path = STORED) -> Recomputed:
    """The stored tables.

    Raises:
        StudyError: the file cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        tables = {
            name: pd.DataFrame(table["rows"], columns=table["columns"])
            for name, table in content["tables"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path} cannot be read ({error}); python -m kn_utils.published.recomputed makes it."
        ) from None
    note = "Stored figures: the released files are not in the cache here (download=True brings them)."
    return Recomputed(tables, content["origin"], note)


def store(tables: Mapping[str, pd.DataFrame], origin: Mapping[str, Any], path: str | Path = STORED) -> Path:
    """Write the tables as JSON, one row a line, rounded to six digits."""
    path = Path(path)
    blocks = []
    for name, table in tables.items():
        rows = json.loads(table.round(6).to_json(orient="values", double_precision=10, force_ascii=False))
        lines = ",\n   ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        columns = json.dumps(list(table.columns))
        blocks.append(f'  {json.dumps(name)}: {{"columns": {columns}, "rows": [\n   {lines}\n  ]}}')
    head = json.dumps(origin, indent=1, ensure_ascii=False).replace("\n", "\n ")
    with written(path) as place:
        place.write_text(
            f'{{\n "origin": {head},\n "tables": {{\n' + ",\n".join(blocks) + "\n }\n}\n", encoding="utf-8"
        )
    return path


if __name__ == "__main__":
    again = recomputed(download=True)
    print("stored in", store(again.tables, again.origin))
