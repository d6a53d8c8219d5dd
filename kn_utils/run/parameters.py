"""Parameters: what a run of the study may be told, and the folder that its files go to.

Notebooks hand their ``parameters`` cell to :meth:`StudyParameters.from_notebook`, which refuses
unknown names (papermill only warns about them) and wrong values with one line.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base import RUNS, StudyError


class ParameterError(StudyError):
    """An unknown parameter name, or a value that a parameter cannot have.

    Example:
        >>> from kn_utils import ParameterError, StudyParameters
        >>> try:
        ...     StudyParameters.check(seed=-1)
        ... except ParameterError as error:
        ...     print(error)
        parameter seed=-1: Input should be greater than or equal to 0.
    """


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
    relation: str = Field("all", pattern=r"^(all|P[0-9]+)$")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]+|:all)?)$")
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = "auto"
    seed: int = Field(0, ge=0)
    out: str | None = None
    facts_per_relation: int | None = Field(16, ge=1)
    wordings: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)

    rule: Literal["auto", "gradient", "right", "left", "midpoint", "gauss-legendre", "clenshaw-curtis"] = (
        "gauss-legendre"
    )
    steps: int = Field(4, ge=1, le=1000)
    baseline: Literal["zero", "replacement", "replacement-each"] = "zero"
    multiplier: Literal["difference", "activation"] = "difference"
    precision: Literal["float32", "tf32", "bfloat16"] | None = None
    keep: float = Field(0.1, gt=0, le=1)
    checked_prompts: int = Field(12, ge=1)

    threshold: float = Field(0.2, gt=0, le=1)
    share: float = Field(0.7, gt=0, le=1)

    factor: float = Field(2.0, ge=0)
    l1: float = Field(1.0, ge=0)
    l2: float = Field(8.0, ge=0)
    edits_per_relation: int = Field(10, ge=1)
    erased: int = Field(20, ge=1)
    masks: int | None = Field(None, ge=1)

    download: bool = False

    @classmethod
    def check(cls, **values: Any) -> StudyParameters:
        """The parameters, or a :class:`ParameterError` of one line that names what is wrong."""
        try:
            return cls(**values)
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
    def folder(self) -> Path:
        """Where this run's tables and figures go: ``out``, else its place under ``runs/``."""
        place = Path(self.out).expanduser() if self.out else None
        return place or run_folder(self.model, self.dataset, self.language, self.relation)


def run_folder(model: str, dataset: str, language: str, relation: str = "all") -> Path:
    """Where results go: ``runs/<model>/<dataset>/<language>[/<relation>]``.

    A Hub id's slash and a data set's colon are written ``--``.
    """
    name = Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model
    folder = RUNS / name.replace("/", "--") / dataset.replace("/", "--").replace(":", "--") / language
    return folder if relation == "all" else folder / relation


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
