"""The main numbers: those that README shows of every model side by side, and that the end of a run shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from .numbers import NAME
from .results import headlines, shown, stored_file, stored_results

#: So many of a run's numbers are shown where no page names one.
FEW = 5
#: What the table's rows are, in their order.
FRONT = Path(__file__).with_name("front.tsv")
#: Its columns: model -> what it is called.
MODELS = {"gemma3": "Gemma 3 270M", "smollm2": "SmolLM2 135M", "mini": "`mini`, our toy"}


def contents() -> dict[str, dict[str, Any]]:
    """The stored results of every model that has some."""
    return {name: stored_results(stored_file(name)) for name in MODELS if stored_file(name).is_file()}


def cell(content: dict[str, Any], line: Any) -> str:
    """A number with its interval and n; empty where the model has none of this name."""
    rows = content["notebooks"].get(line.notebook, {"rows": []})["rows"]
    wanted = tuple(getattr(line, part) for part in NAME)
    for row in rows:
        if tuple(row[part] for part in NAME) == wanted and row["value"] is not None:
            value = shown(row["value"], line.unit) + " %" * (line.unit == "%")
            if row["low"] is None:
                return f"{value} (n {row['n']:.0f})"
            ends = (shown(row[end], line.unit) for end in ("low", "high"))
            return f"{value} [{', '.join(ends)}] ({row['n']:.0f})"
    return ""


def front_table(content: dict[str, dict[str, Any]], rows: Path = FRONT) -> str:
    """The table as README shows it: value [95 % interval] (facts).

    Args:
        content: model -> its results (:func:`contents`).
        rows: ``notebook, measure, neurons, where, label, unit, published``.
    """
    table: pd.DataFrame = headlines(rows)
    lines = ["| | " + " | ".join(MODELS[name] for name in content) + " | printed |"]
    lines.append("|---" * (len(content) + 2) + "|")
    for line in table.itertuples():
        values = [cell(one, line) for one in content.values()]
        lines.append(f"| {line.label} | " + " | ".join([*values, str(line.published)]) + " |")
    return "\n".join(lines)


def main_rows(notebook: str, rows: list[dict[str, Any]], language: str = "en") -> list[dict[str, Any]]:
    """Of a run's named numbers those that README or the page of results shows; else the first few.

    Args:
        notebook: its number, such as ``06``.
        rows: ``measure, neurons, where, value, low, high, n``.
        language: the run's; it stands where the pages, which are of English, name theirs.
    """
    listed = pd.concat([headlines(FRONT), headlines()])
    listed = listed[listed["notebook"] == notebook]
    names = set(map(tuple, listed[NAME].to_numpy()))
    names |= {(m, n, language + w[2:]) for m, n, w in names if w == "en" or w.startswith("en,")}
    found = [row for row in rows if tuple(row[part] for part in NAME) in names]
    return found or rows[:FEW]
