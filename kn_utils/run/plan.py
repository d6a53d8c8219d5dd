"""What a study is made of: which notebooks run, in which order, and when one is out of date.

``GRID`` is the table; :class:`Plan` turns it and what was asked for into runs of notebooks. The Snakefile
runs them, :mod:`kn_utils.run.command` is the command line.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ..base import DATA, ROOT, RUNS, StudyError
from ..data.downloads.identity import model_digest
from ..data.sources import load_facts, parse
from ..store.code import source_version
from .parameters import StudyParameters, run_folder

#: A row is a notebook; the languages it runs for ("once" = language all, "each" = every language asked for,
#: "one" = each but all); and the notebooks it needs, of the same language or, "name:all", of all languages.
#: "name?" only comes first where it runs too: 05 leaves every language's scores, and of two notebooks that
#: need them one would wait.
GRID: dict[str, tuple[str, tuple[str, ...]]] = {
    "00_setup_check": ("once", ()),
    "01_data_build": ("once", ()),
    "02_model_recall": ("once", ("01_data_build",)),
    "03_attribution": ("each", ("01_data_build",)),
    "04_refinement": ("each", ("03_attribution",)),
    "05_statistics": ("one", ("04_refinement", "04_refinement:all")),
    "06_suppress_amplify": ("each", ("04_refinement", "05_statistics?")),
    "07_update_facts": ("each", ("04_refinement",)),
    "08_erase_relations": ("one", ("04_refinement", "05_statistics?")),
    "09_activating_prompts": ("one", ("04_refinement",)),
    "10_published_results": ("once", ()),
    "11_language_independent": ("once", ("02_model_recall",)),
    "12_degenerate_fact_check": ("one", ("04_refinement", "05_statistics?")),
    "13_several_words": ("once", ("02_model_recall",)),
}
# The claims are judged by the named numbers of all others: those that are stored, or that this run leaves.
GRID["14_claims"] = ("once", tuple(f"{name}:en?" for name in GRID))
#: Notebook -> the files, besides its data, that its results depend on.
READS = {"14_claims": "figures/results*.json"}
#: (notebook, language) -> the parameters that the study sets there where nothing else is asked for, each to
#: save minutes: how a rule converges is shown in full by the run of one language; mixed bags are edited for
#: the facts of 03 to 06, of which there are enough (07's own default is 20 of each relation).
STUDY_DEFAULTS = {
    ("03_attribution", "all"): {"checked_prompts": "6"},
    ("07_update_facts", "all"): {"facts_per_relation": "16"},
}
#: What takes longest (of more facts, where one language is asked for), or next to it where that is not run;
#: it begins as early as it can, and what it needs before it.
LONGEST = ("07_update_facts", "06_suppress_amplify")


class Refused(StudyError):
    """A run that cannot be had as asked; shown as one line."""


@dataclass(frozen=True)
class NotebookRun:
    """One notebook for one language and relation. Paths are relative to the folder of runs."""

    notebook: str
    language: str
    relation: str
    folder: str

    @property
    def path(self) -> str:
        """The executed notebook."""
        return f"{self.folder}/{self.notebook}.ipynb"

    @property
    def label(self) -> str:
        """What progress calls it, in columns."""
        relation = f" {self.relation}" * (self.relation != "all")
        model = self.folder.partition("/")[0]
        return f"{model:<11} {self.notebook:<21} {self.language:<4}{relation}"


@dataclass(frozen=True)
class Plan:
    """What is asked for. Written to a JSON file for the Snakefile, which builds the same object again.

    Attributes:
        settings: parameters of notebooks that were asked for; they are part of the folder's name.
        usual: those that the model has where nothing else is asked for.
    """

    model: str = "mini"
    revision: str | None = None
    dataset: str = "mini"
    languages: list[str] = field(default_factory=lambda: ["en", "all"])
    relations: list[str] = field(default_factory=lambda: ["all"])
    device: str = "auto"
    facts: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    usual: dict[str, str] = field(default_factory=dict)
    select: list[str] = field(default_factory=list)
    notebooks: str = str(ROOT / "notebooks")
    runs: str = str(RUNS.absolute())
    threads: int = 1

    @cached_property
    def jobs(self) -> dict[str, NotebookRun]:
        """What was asked for and what that needs, by output path, in the order of the grid."""
        wanted = [n for n in GRID if not self.select or n.split("_")[0] in self.select or n in self.select]
        planned: dict[str, NotebookRun] = {}
        for name, relation, language in product(wanted, self.relations, self.languages):
            when = GRID[name][0]
            if not (when == "one" and language == "all"):
                self._add(name, "all" if when == "once" else language, relation, planned)
        return dict(sorted(planned.items(), key=lambda item: item[1].notebook))

    def needs(self, job: NotebookRun) -> Iterator[NotebookRun]:
        """What must be there before a notebook runs."""
        for need, firm in self._needs(job):
            if firm or need.path in self.jobs:
                yield need

    def _needs(self, job: NotebookRun) -> Iterator[tuple[NotebookRun, bool]]:
        """What a run needs, and whether it must be there (or only comes first where it runs too)."""
        for need in GRID[job.notebook][1]:
            name, _, language = need.removesuffix("?").partition(":")
            language = "all" if GRID[name][0] == "once" else language or job.language
            yield self._job(name, language, job.relation), not need.endswith("?")

    def _job(self, notebook: str, language: str, relation: str) -> NotebookRun:
        own = run_folder(
            self.model, self.dataset, language, relation, revision=self.revision, settings=self.settings
        )
        folder = own.relative_to(RUNS)
        return NotebookRun(notebook, language, relation, folder.as_posix())

    def _add(self, notebook: str, language: str, relation: str, planned: dict[str, NotebookRun]) -> None:
        """Plan a run and what it needs."""
        job = self._job(notebook, language, relation)
        if job.path not in planned:
            planned[job.path] = job
            for need, firm in self._needs(job):
                if firm:
                    self._add(need.notebook, need.language, need.relation, planned)

    @property
    def gpus(self) -> int:
        """How many a notebook asks a cluster for; ``auto`` takes what is there and asks for none."""
        return int(self.device.startswith("cuda"))

    @property
    def first(self) -> list[str]:
        """The outputs that are wanted before others, lest the study's end waits for one notebook."""
        here = {job.notebook for job in self.jobs.values()}
        longest = next((name for name in LONGEST if name in here), None)
        return [path for path, job in self.jobs.items() if job.notebook == longest and job.language != "all"]

    def source(self, job: NotebookRun) -> Path:
        """The notebook that is run."""
        return Path(self.notebooks) / f"{job.notebook}.ipynb"

    def parameters(self, job: NotebookRun) -> dict[str, str]:
        """The notebook's parameters that decide its results (where they are written does not)."""
        asked = {name: getattr(self, name) for name in ("model", "revision", "dataset", "device")}
        asked |= {"language": job.language, "relation": job.relation, "facts_per_relation": self.facts}
        values = dict(STUDY_DEFAULTS.get((job.notebook, job.language), {}))
        values |= {name: value for name, value in asked.items() if value is not None}
        settings = self.usual | self.settings
        values |= {name: value for name, value in settings.items() if name in self.known(job)}
        return {name: str(value) for name, value in values.items()}

    def known(self, job: NotebookRun) -> set[str]:
        """The parameters that a run's notebook has."""
        return set(parameter_cell(self.source(job))) if job.notebook else set(self.usual | self.settings)

    def options(self, job: NotebookRun) -> str:
        """The same for papermill's command line. Strings go raw: a revision of digits is no number."""
        raw = self.parameters(job) | {"out": str(Path(self.runs) / job.folder)}
        facts = raw.pop("facts_per_relation", None)
        own = STUDY_DEFAULTS.get((job.notebook, job.language), {})
        typed = {name: raw.pop(name) for name in {**own, **self.usual, **self.settings} if name in raw}
        typed |= {"facts_per_relation": "None" if facts == "all" else facts} if facts else {}
        words = [word for name, value in raw.items() for word in ("-r", name, value)]
        words += [word for name, value in typed.items() for word in ("-p", name, value)]
        return shlex.join(words)

    def key(self, job: NotebookRun) -> str:
        """Changes when code cells, parameters, ``kn_utils``, the locked versions or the data change.

        Contents count, not times: a new clone, a touched file or other outputs in a notebook rerun nothing.
        """
        code = ["".join(cell["source"]) for cell in cells(self.source(job)) if cell["cell_type"] == "code"]
        inputs = [source_version("\n".join(code)), file_digest(ROOT / "requirements.lock")]
        inputs += [folder_digest(place) for place in self.inputs]
        if job.notebook in READS:
            inputs += [file_digest(place) for place in sorted(ROOT.glob(READS[job.notebook]))]
        inputs += [str(model_digest(self.model, self.revision))]
        return hashlib.sha256(json.dumps([self.parameters(job), inputs]).encode()).hexdigest()

    @property
    def inputs(self) -> list[Path]:
        """The files and folders here that the results depend on besides the model: facts and the like."""
        name, options = parse(self.dataset)
        values = (value for value in options.values() if isinstance(value, str))
        # Relative names are looked for in no folder: which one it would be depends on who asks.
        own = [place for value in values if (place := Path(value).expanduser()).is_absolute()]
        named = [DATA / name, DATA / "published", DATA / "relations.csv", *own]
        return sorted({place.resolve() for place in named if place.exists()})

    def check(self) -> None:
        """Refuse what cannot work before anything starts."""
        for job in (self._job("", *both) for both in product(self.languages, self.relations)):
            values: dict[str, Any] = {**self.parameters(job)}
            if self.facts in (None, "all"):
                values["facts_per_relation"] = None
            StudyParameters.check(**values)
        for name in self.settings:
            if not any(name in self.known(job) for job in self.jobs.values()):
                raise Refused(f"no notebook of this run has the parameter {name!r}.")
        for name in self.select:
            if name not in GRID and name not in {n.split("_")[0] for n in GRID}:
                raise Refused(f"unknown notebook {name!r}; known: {', '.join(GRID)}.")
        named = {"languages": set(self.languages) - {"all"}, "relations": set(self.relations) - {"all"}}
        load_facts(self.dataset, **{name: sorted(values) or None for name, values in named.items()})
        if not self.jobs:
            asked = " ".join(self.select)
            raise Refused(f"{asked} runs per language; name one besides all, such as --language en.")
        for job in self.jobs.values():
            if not self.source(job).is_file():
                raise Refused(f"{self.source(job)} is missing.")


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a notebook's file."""
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def parameter_cell(notebook: Path) -> dict[str, Any]:
    """The names that a notebook's ``parameters`` cell annotates, with their defaults."""
    for cell in cells(notebook):
        if "parameters" in cell["metadata"].get("tags", []):
            body = ast.parse("".join(cell["source"])).body
            return {
                line.target.id: ast.literal_eval(line.value)
                for line in body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value
            }
    return {}


def file_digest(path: Path) -> str:
    """A digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def folder_digest(place: Path) -> str:
    """A digest of a file, or of a folder's files but for notes and what programs leave in folders."""
    if place.is_file():
        return file_digest(place)
    lines = []
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place)
        ours = not {"__pycache__", ".ipynb_checkpoints"} & set(inside.parts[:-1])
        if ours and path.is_file() and path.suffix != ".md":
            lines.append(f"{inside.as_posix()} {file_digest(path)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
