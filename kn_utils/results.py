"""The named numbers of the default run: gathered from the notebooks' summaries, stored in git, shown in README.

``python -m kn_utils.results`` stores them in ``figures/results.json``; ``--check`` compares what a run gave with what is stored.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from .artifacts import save_json
from .base import ROOT, RUNS, StudyError
from .config import run_folder
from .plan import GRID, parameter_cell

STORED = ROOT / "figures" / "results.json"
#: What README shows: notebook, name of the number, what it is called there (``{}`` is its title in the summary).
HEADLINES: tuple[tuple[str, str, str], ...] = ()


def gather(runs: Path = RUNS, notebooks: Path = ROOT / "notebooks") -> dict[str, Any]:
    """The summaries that the notebooks wrote when they ran with their own defaults.

    Returns:
        ``model, dataset, origin, code`` and ``notebooks``: per number its ``title, language, parameters, rows``
        (``name, value, low, high, n``).

    Raises:
        StudyError: a notebook that has not run, or notebooks that ran on different weights or facts.
    """
    found: dict[str, Any] = {}
    origins, codes = [], set()
    for name in GRID:
        defaults = parameter_cell(notebooks / f"{name}.ipynb")
        model, dataset, language = (defaults.get(key, "mini") for key in ("model", "dataset", "language"))
        folder = runs / run_folder(model, dataset, language).relative_to(RUNS)
        number = name.partition("_")[0]
        path = folder / "tables" / f"summary_{number}.json"
        if not path.is_file():
            if f'summarise("{number}"' in (notebooks / f"{name}.ipynb").read_text(encoding="utf-8").replace("\\", ""):
                raise StudyError(f"{path} is not there; run notebook {number} with its own defaults.")
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        origins.append(content["origin"])
        codes.add(content["code"])
        parameters = {key: value for key, value in content["parameters"].items() if key not in ("out", "device")}
        found[number] = {
            "title": content["title"],
            "language": language,
            "parameters": parameters,
            "rows": content["rows"],
        }
    if not found:
        raise StudyError(f"no notebook has run in {runs}; ./run_all.sh runs them.")
    if any(origin["weights"] != origins[0]["weights"] or origin["data"] != origins[0]["data"] for origin in origins):
        raise StudyError(f"the summaries in {runs} come from different weights or facts; run the notebooks again.")
    origin = {key: origins[0][key] for key in ("model", "weights", "dtype", "dataset", "data")}
    return {"origin": origin, "code": sorted(codes), "notebooks": found}


def stored(path: Path = STORED) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def differences(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 2e-3) -> list[str]:
    """Where two gathered results differ by more than rounding: a line each."""
    lines = []
    for number in sorted({*found["notebooks"], *wanted["notebooks"]}):
        here, there = (
            {row["name"]: row for row in one["notebooks"].get(number, {"rows": []})["rows"]} for one in (found, wanted)
        )
        for name in sorted({*here, *there}):
            if name not in here or name not in there:
                lines.append(f"{number}: {name!r} is only in the {'run' if name in here else 'stored results'}")
                continue
            for key in ("value", "low", "high", "n"):
                a, b = (math.nan if one[name][key] is None else one[name][key] for one in (here, there))
                if not (math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))):
                    lines.append(f"{number}: {name!r}: {key} {a:.6g}, stored {b:.6g}")
    return lines


def markdown(content: dict[str, Any]) -> str:
    """The headlines as README shows them."""
    lines = ["| | value | 95 % interval | n | notebook |", "|---|---|---|---|---|"]
    for number, name, label in HEADLINES:
        row = next((row for row in content["notebooks"][number]["rows"] if row["name"] == name), None)
        if row is None:
            raise StudyError(f"the summary of notebook {number} has no number {name!r}.")
        between = "" if row["low"] is None else f"{shown(row['low'])} to {shown(row['high'])}"
        lines.append(f"| {label} | {shown(row['value'])} | {between} | {int(row['n'])} | `{number}` |")
    return "\n".join(lines)


def shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def main(arguments: list[str]) -> int:
    try:
        found = gather()
    except StudyError as error:
        print(f"results: {error}", file=sys.stderr)
        return 1
    if "--check" not in arguments:
        print("stored in", save_json(found, STORED))
        return 0
    lines = differences(found, stored())
    print("\n".join(lines) or f"{sum(len(one['rows']) for one in found['notebooks'].values())} numbers are as stored.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
