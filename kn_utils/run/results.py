"""The named numbers of the default run: gathered from summaries, stored in git, shown in README.

``python -m kn_utils.run.results`` stores the bundled model's in ``figures/results.json``, and with a model's
name (``gemma3``) that one's in ``figures/results_<name>.json``; ``--check`` compares what a run gave with
what is stored.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import ROOT, RUNS, StudyError
from ..store.files import save_json
from .numbers import NAME, VALUES, spelt
from .parameters import StudyParameters, run_folder
from .plan import GRID, cells, parameter_cell

STORED = ROOT / "figures" / "results.json"
#: What README shows, in its order.
HEADLINES = Path(__file__).with_name("headlines.tsv")
#: Numbers of no model.
NOTHING = pd.DataFrame(columns=["model", "notebook", *NAME, *VALUES])


def headlines(path: Path = HEADLINES) -> pd.DataFrame:
    """``notebook``, a number's name (``measure, neurons, where``), its ``label`` in README, ``unit``."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def gather(
    runs: Path = RUNS, notebooks: Path = ROOT / "notebooks", model: str = "mini", *, whole: bool | None = None
) -> dict[str, Any]:
    """The summaries that the notebooks wrote when they ran with their own defaults, or those of the model.

    Args:
        runs, notebooks: folders.
        model: whose.
        whole: refuse if a notebook has not run; ``None``: of the bundled model, of others a part may be
            studied.

    Returns:
        ``origin`` (model, weights, facts), ``code`` and ``notebooks``: per number its ``title, language,
        parameters, rows`` (``measure, neurons, where, value, low, high, n``).

    Raises:
        StudyError: a notebook that has not run, or notebooks that ran on different weights or facts.
    """
    found: dict[str, Any] = {}
    origins, codes = [], set()
    whole = model == "mini" if whole is None else whole
    for name in GRID:
        number, notebook = name.partition("_")[0], notebooks / f"{name}.ipynb"
        if not any(
            re.search(rf'summarise\(\s*"{number}"', "".join(cell["source"])) for cell in cells(notebook)
        ):  # it asks no model
            continue
        language = parameter_cell(notebook).get("language", "en")
        path = default_folder(notebook, runs, model) / "tables" / f"summary_{number}.json"
        if not path.is_file():
            if not whole:
                continue
            raise StudyError(f"{path} is not there; run notebook {number} with its own defaults.")
        content = json.loads(path.read_text(encoding="utf-8"))
        origins.append(content["origin"])
        codes.add(content["code"])
        parameters = {
            key: value for key, value in content["parameters"].items() if key not in ("out", "device")
        }
        found[number] = {
            "title": content["title"],
            "language": language,
            "parameters": parameters,
            "rows": content["rows"],
        }
    if not found:
        raise StudyError(f"no notebook has run with {model} in {runs}; ./run_all.sh runs them.")
    if any(
        origin["identity"] != origins[0]["identity"] or origin["data"] != origins[0]["data"]
        for origin in origins
    ):
        raise StudyError(
            f"the summaries in {runs} come from different weights or facts; run the notebooks again."
        )
    origin = {key: origins[0][key] for key in ("model", "identity", "dtype", "dataset", "data")}
    return {"origin": origin, "code": sorted(codes), "notebooks": found}


def stored_file(model: str = "mini") -> Path:
    """Where a model's named numbers are stored."""
    return STORED if model == "mini" else STORED.with_name(f"results_{model}.json")


def stored_results(path: Path = STORED) -> dict[str, Any]:
    """What was stored, as :func:`gather` gives it."""
    return json.loads(path.read_text(encoding="utf-8"))


def stored_numbers(models: Iterable[str]) -> pd.DataFrame:
    """The stored named numbers of several models, one below the other; of a model without, none.

    Returns:
        ``model, notebook, measure, neurons, where, value, low, high, n``.
    """
    files = {model: stored_file(model) for model in models}
    contents = {model: stored_results(path) for model, path in files.items() if path.is_file()}
    return pd.concat([_as_numbers(model, one["notebooks"]) for model, one in contents.items()] or [NOTHING])


def run_numbers(params: StudyParameters, notebooks: Path = ROOT / "notebooks") -> pd.DataFrame:
    """The named numbers that a run left, as :func:`stored_numbers` gives them; none is no error.

    Args:
        params: of one notebook of the run. The others' numbers lie beside it, each in its own language.
    """
    found = {}
    for name in GRID:
        number, path = name.partition("_")[0], notebooks / f"{name}.ipynb"
        language = parameter_cell(path).get("language", "en") if path.is_file() else "en"
        folder = params.folder if language == params.language else params.beside(language)
        told = folder / "tables" / f"summary_{number}.json"
        if number != "10" and told.is_file():  # 10 asks no model
            found[number] = json.loads(told.read_text(encoding="utf-8"))
    return _as_numbers(params.model, found)


def _as_numbers(model: str, notebooks: dict[str, Any]) -> pd.DataFrame:
    rows = [
        {"model": model, "notebook": number, **row}
        for number, one in notebooks.items()
        for row in one["rows"]
    ]
    return pd.DataFrame(rows, columns=[*NOTHING.columns])


def with_stored(found: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """What a run gave, and what is stored of notebooks that it left out.

    Raises:
        StudyError: what is stored is of other weights or facts, and would be lost.
    """
    kept = {number: one for number, one in stored["notebooks"].items() if number not in found["notebooks"]}
    if not kept:
        return found
    if found["origin"] != stored["origin"]:
        raise StudyError(
            f"what is stored is of other weights or facts; run the notebooks that it has and this run lacks, "
            f"too: {', '.join(kept)}."
        )
    codes = sorted({*found["code"], *stored["code"]})
    return {**found, "code": codes, "notebooks": dict(sorted((kept | found["notebooks"]).items()))}


def differences(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 2e-3) -> list[str]:
    """Where two gathered results differ by more than rounding: a line each."""
    lines = []
    for number in sorted({*found["notebooks"], *wanted["notebooks"]}):
        here, there = (_by_name(results, number) for results in (found, wanted))
        for name in sorted({*here, *there}):
            if name not in here or name not in there:
                place = "run" if name in here else "stored results"
                lines.append(f"{number}: {spelt(name)!r} is only in the {place}")
                continue
            for key in VALUES:
                a, b = (math.nan if rows[name][key] is None else rows[name][key] for rows in (here, there))
                near = math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-6)
                if not near and not (math.isnan(a) and math.isnan(b)):
                    lines.append(f"{number}: {spelt(name)!r}: {key} {a:.6g}, stored {b:.6g}")
    return lines


def _by_name(results: dict[str, Any], number: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """A notebook's numbers by ``(measure, neurons, where)``; none where it has not run."""
    rows = results["notebooks"].get(number, {"rows": []})["rows"]
    return {tuple(row[part] for part in NAME): row for row in rows}


def markdown(content: dict[str, Any], chosen: pd.DataFrame | None = None) -> str:
    """The headlines (or other ones) as README shows them."""
    lines = ["| | value | 95 % interval | n | from |", "|---|---|---|---|---|"]
    for line in (headlines() if chosen is None else chosen).itertuples():
        name = tuple(getattr(line, part) for part in NAME)
        row = _by_name(content, line.notebook).get(name)
        if row is None:
            raise StudyError(f"the summary of notebook {line.notebook} has no number {spelt(name)!r}.")
        value, low, high = (
            None if row[key] is None else shown(row[key], line.unit) for key in ("value", "low", "high")
        )
        between = "" if low is None else f"{low} to {high}"
        sign = " %" * (line.unit == "%")
        lines.append(f"| {line.label} | {value}{sign} | {between} | {int(row['n'])} | `{line.notebook}` |")
    return "\n".join(lines)


def shown(value: float, unit: str) -> str:
    """A number as README shows it."""
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.2f}"


def copy_pictures(
    runs: Path = RUNS, notebooks: Path = ROOT / "notebooks", target: Path = STORED.parent, model: str = "mini"
) -> int:
    """Copy the pictures that the notebooks drew with their own defaults; how many.

    Those of other models than the bundled one go to a folder of their name.
    """
    found = []
    for name in GRID:
        folder = default_folder(notebooks / f"{name}.ipynb", runs, model) / "figures"
        found += [path for end in ("png", "pdf") for path in folder.glob(f"{name.partition('_')[0]}_*.{end}")]
    place = target if model == "mini" else target / model
    for path in found:
        place.mkdir(exist_ok=True)
        shutil.copyfile(path, place / path.name)
    return len(found)


def default_folder(notebook: Path, runs: Path, model: str = "mini") -> Path:
    """Where a notebook leaves its results when a model runs with the notebook's own data and language."""
    defaults = parameter_cell(notebook)
    names = (defaults.get(name, other) for name, other in (("dataset", "mini"), ("language", "en")))
    return runs / run_folder(model, *names).relative_to(RUNS)


def main(arguments: list[str]) -> int:
    """Store the results, or check them; the exit status."""
    models = [name for name in arguments if not name.startswith("--")] or ["mini"]
    try:
        return max([_one("--check" in arguments, model) for model in models])
    except StudyError as error:
        print(f"results: {error}", file=sys.stderr)
        return 1


def _one(check: bool, model: str) -> int:
    place = stored_file(model)
    if not check:
        found = gather(RUNS, model=model, whole=False if place.is_file() else None)
        whole = with_stored(found, stored_results(place)) if place.is_file() else found
        if left := sorted({*whole["notebooks"]} - {*found["notebooks"]}):
            print("Not run again, kept as stored:", *left)
        pictures = copy_pictures(RUNS, model=model)
        save_json(whole, place)
        print(f"Stored in {place}; {pictures} pictures beside it: look at them before you commit.")
        return 0
    found = gather(RUNS, model=model)
    lines = differences(found, stored_results(place))
    number = sum(len(one["rows"]) for one in found["notebooks"].values())
    print("\n".join(lines) or f"{number} numbers are as stored.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
