"""The named numbers of all runs in a folder as one table: ``python -m kn_utils.run.joined runs/numbers.csv``.

The study's last rule calls it, so that relations, languages and models that ran as jobs of their own, on
whatever machine, are one table in the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..store.files import ArtifactError
from ..store.tables import save_csv
from .numbers import NAME, VALUES

#: The table's file in a folder of runs.
NUMBERS = "numbers.csv"
COLUMNS = ["model", "dataset", "language", "relation", "notebook", *NAME, *VALUES, "code", "folder"]


def joined(runs: Path) -> pd.DataFrame:
    """The named numbers that the notebooks of all runs left.

    Args:
        runs: the folder of runs.

    Returns:
        ``model, dataset, language, relation, notebook``, the number (``measure, neurons, where, value, low,
        high, n``), ``code`` version and ``folder`` of the run, sorted by these.

    Raises:
        ArtifactError: a summary that cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(runs.rglob("tables/summary_*.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            asked = told["parameters"]
            run = {name: asked[name] for name in ("model", "dataset", "language", "relation")}
            run |= {"notebook": path.stem.removeprefix("summary_"), "code": told["code"]}
            run["folder"] = path.parent.parent.relative_to(runs).as_posix()
            rows += [{**run, **number} for number in told["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} cannot be read ({error}); delete it and run its notebook."
            ) from error
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["folder", "notebook"], kind="stable", ignore_index=True)


def main(arguments: Sequence[str]) -> int:
    """Write the table beside the runs."""
    out = Path(arguments[0])
    try:
        table = joined(out.parent)
    except ArtifactError as error:
        print(error, file=sys.stderr)
        return 1
    save_csv(table, out)
    print(f"{out}: {len(table)} numbers of {table['folder'].nunique()} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
