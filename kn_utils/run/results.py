"""The named numbers of the default run: gathered from summaries, stored in git, shown in README.

``python -m kn_utils.run.results`` stores them in ``figures/results.json``; ``--check`` compares what a run
gave with what is stored.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ..base import ROOT, RUNS, StudyError
from ..store.files import save_json
from .parameters import run_folder
from .plan import GRID, cells, parameter_cell

STORED = ROOT / "figures" / "results.json"
#: What README shows: notebook, name of the number, what it is called there, and its unit.
HEADLINES = (
    ("02", "recall at 1, taught: all", "Prompts answered right, of facts taught in all languages", "%"),
    ("02", "recall at 1, taught: never", "... of facts never taught", "%"),
    ("05", "en, neurons per fact", "Knowledge neurons per fact, English wordings", ""),
    ("05", "all, neurons per fact", "... one wording in each of six languages", ""),
    (
        "05",
        "en, shared, one relation, the same answer",
        "Shared by two facts of a relation with the same answer",
        "",
    ),
    ("05", "en, shared, one relation, another answer", "... with another answer", ""),
    (
        "05",
        "two languages share, answer spelled alike",
        "Shared by a fact's bags in two languages, answer spelled alike",
        "",
    ),
    ("05", "two languages share, answer spelled differently", "... answer spelled differently", ""),
    ("06", "silenced, knowledge neurons", "Change of P(right answer), knowledge neurons silenced", "%"),
    ("06", "doubled, knowledge neurons", "... doubled", "%"),
    ("06", "silenced, activation baseline", "... the most active neurons silenced instead", "%"),
    (
        "06",
        "silenced, random neurons of the same layers",
        "... random neurons of the same layers silenced",
        "%",
    ),
    ("06", "silenced, wordings held out", "... silenced, in wordings that did not find them", "%"),
    (
        "06",
        "silenced, another fact: same relation, other answer",
        "... silenced, on a fact with another answer",
        "%",
    ),
    (
        "06",
        "silenced, another fact: same relation, same answer",
        "... silenced, on a fact with the same answer",
        "%",
    ),
    ("06", "silenced, prompts in another language", "... silenced, in another language", "%"),
    (
        "06",
        "silenced, knowledge neurons: stays right",
        "Right first choices that stay, neurons silenced",
        "%",
    ),
    (
        "07",
        "success rate, knowledge neurons",
        "Edits whose new answer becomes the first choice, knowledge neurons",
        "%",
    ),
    ("07", "success rate, same-layer neurons", "... random neurons of the same layers", "%"),
    ("07", "success rate, 3 strongest, any known fact", "... any known fact's 3 strongest neurons", "%"),
    ("07", "success rate, 3 most active, any known fact", "... any known fact's 3 most active neurons", "%"),
    ("07", "success rate, fine-tuning", "... the same value slots, fine-tuned", "%"),
    ("07", "success, knowledge neurons, wordings held out", "... in wordings held out", "%"),
    ("07", "success, knowledge neurons, asked in another language", "... asked in another language", "%"),
    (
        "07",
        "perplexity within, ratio, knowledge neurons",
        "Perplexity of the relation's other facts, after / before an edit",
        "",
    ),
    (
        "07",
        "perplexity within, ratio, 3 strongest, any known fact",
        "... any known fact's 3 strongest neurons",
        "",
    ),
    (
        "07",
        "perplexity within, ratio, 3 most active, any known fact",
        "... any known fact's 3 most active neurons",
        "",
    ),
    ("07", "perplexity within, ratio, fine-tuning", "... fine-tuned", ""),
    (
        "08",
        "slots zero, knowledge neurons: erased relation",
        "Rise of perplexity, a relation's 20 neurons erased (zero)",
        "%",
    ),
    ("08", "slots zero, knowledge neurons: other relations", "... of the other relations", "%"),
    (
        "09",
        "knowledge neurons, sentences: both",
        "Mean activation in sentences with subject and object, object hidden",
        "",
    ),
    ("09", "knowledge neurons, sentences: other word", "... another word of the same sentences hidden", ""),
    ("09", "another fact's neurons, sentences: both", "... object hidden, another fact's neurons", ""),
)


def gather(runs: Path = RUNS, notebooks: Path = ROOT / "notebooks") -> dict[str, Any]:
    """The summaries that the notebooks wrote when they ran with their own defaults.

    Returns:
        ``origin`` (model, weights, facts), ``code`` and ``notebooks``: per number its ``title, language,
        parameters, rows`` (``name, value, low, high, n``).

    Raises:
        StudyError: a notebook that has not run, or notebooks that ran on different weights or facts.
    """
    found: dict[str, Any] = {}
    origins, codes = [], set()
    for name in GRID:
        number, notebook = name.partition("_")[0], notebooks / f"{name}.ipynb"
        if not any(
            re.search(rf'summarise\(\s*"{number}"', "".join(cell["source"])) for cell in cells(notebook)
        ):  # it asks no model
            continue
        language = parameter_cell(notebook).get("language", "en")
        path = default_folder(notebook, runs) / "tables" / f"summary_{number}.json"
        if not path.is_file():
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
        raise StudyError(f"no notebook has run in {runs}; ./run_all.sh runs them.")
    if any(
        origin["weights"] != origins[0]["weights"] or origin["data"] != origins[0]["data"]
        for origin in origins
    ):
        raise StudyError(
            f"the summaries in {runs} come from different weights or facts; run the notebooks again."
        )
    origin = {key: origins[0][key] for key in ("model", "weights", "dtype", "dataset", "data")}
    return {"origin": origin, "code": sorted(codes), "notebooks": found}


def stored_results(path: Path = STORED) -> dict[str, Any]:
    """What was stored, as :func:`gather` gives it."""
    return json.loads(path.read_text(encoding="utf-8"))


def differences(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 2e-3) -> list[str]:
    """Where two gathered results differ by more than rounding: a line each."""
    lines = []
    for number in sorted({*found["notebooks"], *wanted["notebooks"]}):
        here, there = (
            {row["name"]: row for row in one["notebooks"].get(number, {"rows": []})["rows"]}
            for one in (found, wanted)
        )
        for name in sorted({*here, *there}):
            if name not in here or name not in there:
                lines.append(
                    f"{number}: {name!r} is only in the {'run' if name in here else 'stored results'}"
                )
                continue
            for key in ("value", "low", "high", "n"):
                a, b = (math.nan if one[name][key] is None else one[name][key] for one in (here, there))
                if not (
                    math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
                ):
                    lines.append(f"{number}: {name!r}: {key} {a:.6g}, stored {b:.6g}")
    return lines


def markdown(content: dict[str, Any]) -> str:
    """The headlines as README shows them."""
    lines = ["| | value | 95 % interval | n | from |", "|---|---|---|---|---|"]
    for number, name, label, unit in HEADLINES:
        row = next((row for row in content["notebooks"][number]["rows"] if row["name"] == name), None)
        if row is None:
            raise StudyError(f"the summary of notebook {number} has no number {name!r}.")
        value, low, high = (
            None if row[key] is None else shown(row[key], unit) for key in ("value", "low", "high")
        )
        between = "" if low is None else f"{low} to {high}"
        lines.append(
            f"| {label} | {value}{' %' * (unit == '%')} | {between} | {int(row['n'])} | `{number}` |"
        )
    return "\n".join(lines)


def shown(value: float, unit: str) -> str:
    """A number as README shows it."""
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.2f}"


def copy_pictures(
    runs: Path = RUNS, notebooks: Path = ROOT / "notebooks", target: Path = STORED.parent
) -> int:
    """Copy the pictures that the notebooks drew with their own defaults; how many."""
    found = []
    for name in GRID:
        folder = default_folder(notebooks / f"{name}.ipynb", runs) / "figures"
        found += [path for end in ("png", "pdf") for path in folder.glob(f"{name.partition('_')[0]}_*.{end}")]
    for path in found:
        shutil.copyfile(path, target / path.name)
    return len(found)


def default_folder(notebook: Path, runs: Path) -> Path:
    """Where a notebook leaves its results when it runs with its own defaults."""
    defaults = parameter_cell(notebook)
    names = (
        defaults.get(name, other)
        for name, other in (("model", "mini"), ("dataset", "mini"), ("language", "en"))
    )
    return runs / run_folder(*names).relative_to(RUNS)


def main(arguments: list[str]) -> int:
    """Store the results, or check them; the exit status."""
    try:
        found = gather()
    except StudyError as error:
        print(f"results: {error}", file=sys.stderr)
        return 1
    if "--check" not in arguments:
        print(
            f"Stored in {save_json(found, STORED)}; {copy_pictures()} pictures beside it: look at them "
            f"before you commit."
        )
        return 0
    lines = differences(found, stored_results())
    print(
        "\n".join(lines)
        or f"{sum(len(one['rows']) for one in found['notebooks'].values())} numbers are as stored."
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
