"""What a study keeps beside its shared tables: cases of long steps, results, the summary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import StudyError
from ..store.code import code_version
from ..store.files import file_name, save_json
from ..store.origin import described, full_origin, git_commit
from ..store.tables import load_current, load_table, save_table
from .numbers import named_numbers
from .parameters import StudyParameters


class KeepsResults(ABC):
    """Stores what notebooks compute, with its origin, under :meth:`folder`.

    Attributes:
        parameters: the study's.
        model: what functions are called with.
        made_by: functions whose code every case depends on.
    """

    parameters: StudyParameters
    model: Any
    made_by: tuple[Callable[..., object], ...] = ()

    @abstractmethod
    def folder(self, language: str | None = None) -> Path:
        """Where tables lie."""

    @abstractmethod
    def origin(self) -> dict[str, Any]:
        """Where the numbers come from."""

    def save(self, table: pd.DataFrame, name: str) -> Path:
        """Store a notebook's result as ``tables/<name>.parquet`` with its origin."""
        origin = {
            **self.origin(),
            "parameters": self.parameters.model_dump(),
            "code": code_version(),
            "commit": git_commit(),
        }
        return save_table(table, self.folder() / "tables" / f"{name}.parquet", origin)

    def kept(
        self, name: str, function: Callable[..., pd.DataFrame], *given: Any, **options: Any
    ) -> pd.DataFrame:
        """What ``function(model, *given, **options)`` gives, stored.

        It is computed once, however often the notebook runs.

        The table lies in ``tables/cases/<name>.parquet`` with what it was made from: the model, digests of
        the tables given, the options, and the code of ``function``. A changed case alone is computed again.

        Args:
            name: begins with the notebook's number: notebooks of one study share the folder.
            function: whose first argument is the model.
            given: its other arguments.
            options: its keywords.

        ::

            study.kept("07 random", evaluate_updates, prompts, known, updates, neurons, kind="random")
        """
        made_from = {"given": [described(value) for value in given]}
        made_from |= {key: described(value) for key, value in options.items() if key != "progress"}
        origin = full_origin(self.origin() | made_from, function, *self.made_by)
        path = self.folder() / "tables" / "cases" / f"{file_name(name)}.parquet"
        table = load_current(path, origin)
        if table is None:
            table = function(self.model, *given, **options)
            save_table(table, path, origin)
            table = load_table(path)[0]  # as the next run will read it
        return table

    def kept_cases(
        self,
        name: str,
        function: Callable[..., pd.DataFrame],
        *given: Any,
        cases: Mapping[Any, Mapping[str, Any]],
        columns: str | Sequence[str] = (),
        **options: Any,
    ) -> pd.DataFrame:
        """:meth:`kept` for every case, one table below the other.

        So an interrupted notebook goes on with the next case.

        Args:
            name: what all cases have in common; begins with the notebook's number.
            function: whose first argument is the model.
            given: its other arguments.
            cases: a case's name (a text, or a tuple of its parts) -> the options that are its own.
            columns: columns that say of each row which case it is of: one per part of the name, or none.
            options: those of every case.

        Raises:
            StudyError: no cases.

        ::

            ways = {to: {"to": to} for to in ("zero", "unknown")}
            study.kept_cases("08 erased", erase_relations, sets, own, others, cases=ways)
        """
        if not cases:
            raise StudyError(f"{name}: there is no case to compute.")
        heads = [columns] if isinstance(columns, str) else list(columns)
        tables = []
        for case, its_own in cases.items():
            parts = case if isinstance(case, tuple) else (case,)
            title = ", ".join(str(part) for part in (name, *parts))
            table = self.kept(title, function, *given, **options, **its_own)
            tables.append(table.assign(**dict(zip(heads, parts, strict=True))) if heads else table)
        return pd.concat(tables, ignore_index=True)

    def summarise(self, notebook: str, title: str, rows: pd.DataFrame) -> Path:
        """Named numbers for the end of a run and for README (:func:`kn_utils.run.numbers.named_numbers`)."""
        numbers = named_numbers(rows).astype(object)
        content = {
            "title": title,
            "rows": numbers.where(numbers.notna(), None).to_dict("records"),
            "origin": self.origin(),
            "parameters": self.parameters.model_dump(),
            "code": code_version(),
        }
        return save_json(content, self.folder() / "tables" / f"summary_{notebook}.json")
