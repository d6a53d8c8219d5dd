"""Stored tables that grow: what is there is read, and only prompts that are not there yet are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .locks import alone
from .tables import load_current, load_table, save_table

#: Computes what is missing and stores it: (the table so far or ``None``, the missing prompts).
Compute = Callable[[pd.DataFrame | None, pd.DataFrame], None]


@dataclass(frozen=True)
class GrowingTable:
    """A table at ``path`` with this (full) origin, by prompts.

    Attributes:
        notes: where the table with one row per prompt lies; ``None`` where the table itself is that.
        needed: a prompt without a value in one of these columns of ``notes`` is not held.
    """

    path: Path
    origin: dict[str, Any]
    notes: Path | None = None
    needed: Sequence[str] = ()

    def completed(self, prompts: pd.DataFrame, compute: Compute) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of these prompts, in their order, and the same of the notes.

        What is missing is computed first; one process at a time does so.
        """
        table, notes, missing = self._known(prompts, quiet=True)  # read without waiting for those who add
        if table is None or len(missing):
            with alone(self._lock, f"{self.path.name}: another process is computing it; waiting"):
                table, _, missing = self._known(prompts)
                if table is None or len(missing):
                    compute(table, missing)
                table, notes, _ = self._known(prompts)
        if table is None or notes is None:
            raise RuntimeError(f"{self.path} was computed, and is not there")
        return _of(prompts, table), _of(prompts, notes)

    def append(self, more: Path, more_notes: Path) -> None:
        """Put another run's rows behind those that are here, and remove its files."""
        if self.notes is None:
            raise ValueError("only a table with notes is appended to")
        origin = load_table(self.path)[1]
        for whole, part in (
            (self.path, more),
            (self.notes, more_notes),
        ):  # notes last: they say what is there
            held, new = (load_table(file)[0] for file in (whole, part))
            # There already: without what was needed, or from a run that was stopped between the two files.
            held = held[~held["prompt"].isin(new["prompt"])]
            save_table(pd.concat([held, new], ignore_index=True), whole, origin)
        more.unlink()
        more_notes.unlink()

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    def _known(
        self, prompts: pd.DataFrame, *, quiet: bool = False
    ) -> tuple[pd.DataFrame | None, pd.DataFrame | None, pd.DataFrame]:
        """Table and notes (``None``: there is none of this origin), and the prompts that they do not hold."""
        # Notes first: while a table grows, they are written last.
        notes = load_current(self.notes or self.path, self.origin, quiet=quiet)
        table = notes
        if self.notes is not None and notes is not None:
            table = load_current(self.path, self.origin, quiet=quiet)
        if table is None or notes is None:
            return None, None, prompts
        held = notes.dropna(subset=list(self.needed))["prompt"]
        return table, notes, prompts[~prompts["prompt"].isin(held)]


def _of(prompts: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of these prompts, in their order."""
    return prompts[["prompt"]].merge(table, on="prompt")
