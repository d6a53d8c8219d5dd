"""Named numbers: what a notebook has found in the end, for the end of a run and for README.

A number is a row ``measure, neurons, where, value, low, high, n``. The first three are its name: what was
measured, through which neurons, and where (in which wordings, sentences, languages); empty where there is
nothing to say.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..base import StudyError

NAME = ["measure", "neurons", "where"]
VALUES = ["value", "low", "high", "n"]


class NumbersError(StudyError):
    """Numbers without a name, or two of the same name."""


def named_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """A table's rows as named numbers, in their order.

    Args:
        rows: ``measure, value, low, high, n``, and ``neurons, where`` where they say something; other columns
            are left out. A row with a ``name`` is a measure of that name, whatever else it says.

    Returns:
        ``measure, neurons, where, value, low, high, n``; the first three are texts, empty where missing.

    Raises:
        NumbersError: a column that is missing, a row without a measure, two rows of the same name.

    Example:
        >>> import pandas as pd
        >>> rows = pd.DataFrame([{"measure": "recall", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}])
        >>> named_numbers(rows).to_dict("records")[0]["neurons"]
        ''
    """
    table = rows.reset_index(drop=True)
    if "name" in table:
        whole = table["name"].notna()
        plain = pd.DataFrame({"measure": table["name"], "neurons": "", "where": ""})
        parts = table.reindex(columns=NAME).astype(object)
        table = table.drop(columns=NAME, errors="ignore").join(plain.where(whole, parts))
    missing = [column for column in ("measure", *VALUES) if column not in table]
    if missing:
        raise NumbersError(f"named numbers lack {', '.join(missing)}; give measure (or name) and a value.")
    table = table.reindex(columns=[*NAME, *VALUES])
    table[NAME] = table[NAME].astype(object).where(table[NAME].notna(), "").astype(str)
    if (table["measure"] == "").any():
        raise NumbersError(f"{(table['measure'] == '').sum()} numbers have no measure.")
    twice = table[table.duplicated(NAME)]
    if len(twice):
        name = spelt(twice[NAME].iloc[0])
        raise NumbersError(f"two numbers are called {name!r}; tell them apart by neurons or where.")
    return table


def spelt(name: pd.Series | tuple[str, ...]) -> str:
    """A number's name (measure, neurons, where) as one text."""
    return ", ".join(part for part in name if part)


def as_text(rows: list[dict[str, Any]]) -> str:
    """Stored numbers as lines to read; of their names the parts that say something."""
    table = named_numbers(pd.DataFrame(rows, columns=["name", *NAME, *VALUES], dtype=object))
    used = [part for part in NAME if (table[part] != "").any()]
    shown = table[[*used, *VALUES]].astype(object)
    shown = shown.where(shown.notna(), "").set_index(used)
    return shown.rename_axis([None] * len(used)).to_string(float_format="{:.4g}".format)
