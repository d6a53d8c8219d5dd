"""Parameters: what a run of the study may be told, and the folder that its files go to.

Notebooks hand their ``parameters`` cell to :meth:`StudyParameters.from_notebook`, which refuses
unknown names (papermill only warns about them) and wrong values with one line.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base import RUNS
from ..checks import ParameterError, bounds
from ..data.downloads.identity import digits, files_digest, model_label
from ..data.sources import parse
from ..data.sources.own import is_place, own_files
from ..store.files import file_name


def _within(name: str) -> Any:
    """The range that the library's functions check the same name by."""
    return Field(**bounds(name))


class StudyParameters(BaseModel):
    """Everything a notebook or a batch run may set; unknown names are refused.

    Defaults are the bundled study: the model and the facts in ``data/mini``.

    Example:
        >>> from kn_utils import StudyParameters
        >>> StudyParameters(language="ja", relation="P36").folder.parts[-3:]
        ('mini', 'ja', 'P36')
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    model: str = Field("mini", min_length=1)
    revision: str | None = None
    dataset: str = Field("mini", min_length=1)
    language: str = Field("en", pattern=r"^[a-z][a-z-]*$")
    languages: str | None = Field(None, pattern=r"^[a-z][a-z-]*(,[a-z][a-z-]*)*$")
    relation: str = Field("all", pattern=r"^[^\W\d][\w.-]*$")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]+|:all)?)$")
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = "auto"
    seed: Annotated[int, _within("seed")] = 0
    out: str | None = None
    facts_per_relation: Annotated[int | None, _within("facts_per_relation")] = 16
    wordings: Annotated[int | None, _within("wordings")] = None
    batch_size: Annotated[int | None, _within("batch_size")] = None

    known: Annotated[int | None, _within("known")] = None

    target: Literal["answer", "typed"] = "answer"
    rule: Literal["auto", "gradient", "right", "left", "midpoint", "gauss-legendre", "clenshaw-curtis"] = (
        "auto"
    )
    steps: Annotated[int | None, _within("steps")] = None
    baseline: Literal["zero", "replacement", "replacement-each"] = "zero"
    multiplier: Literal["difference", "activation"] = "difference"
    precision: Literal["float32", "tf32", "bfloat16"] | None = None
    keep: Annotated[float, _within("keep")] = 0.1
    checked_prompts: Annotated[int, _within("checked_prompts")] = 12

    threshold: Annotated[float, _within("threshold")] = 0.2
    share: Annotated[float, _within("share")] = 0.7

    factor: Annotated[float, _within("factor")] = 2.0
    l1: Annotated[float, _within("l1")] = 1.0
    l2: Annotated[float, _within("l2")] = 8.0
    edits_per_relation: Annotated[int, _within("edits_per_relation")] = 10
    erased: Annotated[int, _within("erased")] = 20
    masks: Annotated[int | None, _within("masks")] = None
    located: Annotated[int, _within("located")] = 10
    claims_per_relation: Annotated[int | None, _within("claims_per_relation")] = 16

    download: bool = False

    @classmethod
    def check(cls, **values: Any) -> StudyParameters:
        """The parameters, or a :class:`ParameterError` of one line that names what is wrong."""
        try:
            made = cls(**values)
            if made.out and (place := Path(made.out).expanduser()).exists() and not place.is_dir():
                raise ParameterError(f"parameter out={made.out!r}: something stands there that is no folder.")
            return made
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise ParameterError(_unknown([name], sorted(cls.model_fields))) from None
            raise ParameterError(f"parameter {name}={first['input']!r}: {first['msg']}.") from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> StudyParameters:
        """Check the parameters of the notebook whose ``globals()`` are given.

        Known names are those that the ``parameters`` cell annotates; names that papermill's injected cell
        sets beside them are refused, which papermill itself does not do.
        """
        annotated = namespace.get("__annotations__", cls.model_fields)
        known = [name for name in annotated if name in cls.model_fields]
        unknown = sorted(_injected(namespace.get("In", [])) - set(known))
        if unknown:
            raise ParameterError(_unknown(unknown, known))
        return cls.check(**{name: namespace[name] for name in known if name in namespace})

    @property
    def among(self) -> list[str] | None:
        """The languages that there are, ``None``: all of the data set's."""
        return self.languages.split(",") if self.languages else None

    @property
    def folder(self) -> Path:
        """Where this run's tables and figures go: ``out``, else its place under ``runs/``."""
        place = Path(self.out).expanduser() if self.out else None
        return place or run_folder(
            self.model, self.dataset, self.language, self.relation, revision=self.revision
        )

    def beside(self, language: str) -> Path:
        """Where another language's tables of this run lie: beside it under ``runs/``, else inside ``out``."""
        tail = (self.language,) if self.relation == "all" else (self.language, self.relation)
        place, runs = self.folder.resolve(), RUNS.resolve()
        parts = place.relative_to(runs).parts if place.is_relative_to(runs) else ()
        if len(parts) == 2 + len(tail) and parts[2:] == tail:
            return RUNS.joinpath(*parts[:2], language, *tail[1:])
        return self.folder / language


def run_folder(
    model: str,
    dataset: str,
    language: str,
    relation: str = "all",
    *,
    revision: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Where results go: ``runs/<model>/<dataset>/<language>[/<relation>]``.

    Whatever is neither bundled nor packaged has some digits of what it is behind its name, so that two models
    (or data sets) of one name share no folder; and so have ``settings``, those of a run that differ from the
    notebooks' own. A Hub id's slash and a data set's colon are written ``--``.
    """
    data = data_label(dataset)
    if settings:
        told = ",".join(f"{name}={value}" for name, value in sorted(settings.items()))
        data += f"--{file_name(told.replace('=', '-'))[:40]}-{digits(told)}"
    folder = RUNS / model_label(model, revision) / data / language
    return folder if relation == "all" else folder / relation


def data_label(dataset: str) -> str:
    """A data set as its folder of results is called; facts of one's own with digits of what is in them."""
    name, options = parse(dataset) if is_place(dataset) else ("", {})
    if name != "own":
        return dataset.replace("/", "--").replace(":", "--")
    place = Path(options["place"]).expanduser().resolve()
    files = [file for file in own_files(place) if file.is_file()]
    return f"{file_name(place.stem if place.is_file() else place.name)}-{files_digest(files)[:6]}"


def _injected(cells: list[str]) -> set[str]:
    """Names set by cells that papermill injected (it begins them with ``# Parameters``)."""
    names: set[str] = set()
    for source in cells:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _unknown(names: list[str], known: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names)
    return f"unknown parameter {listed}; this notebook knows: {', '.join(known)}."
