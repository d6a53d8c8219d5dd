"""Long tables of numbers, made wide to be read; and means of several columns at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .changes import mean_table


def as_grid(
    numbers: pd.DataFrame,
    rows: str | Sequence[str],
    columns: str,
    *,
    value: str | Sequence[str] = "value",
    order: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A long table with one row per ``rows`` and one column per ``columns``, both in the order they come in.

    Args:
        numbers: every combination of rows and columns at most once.
        rows, columns: names of its columns.
        value: what stands in the cells; several names give each of ``columns`` as many columns.
        order: the columns to show, if not all as they come.

    Raises:
        ValueError: a combination that is there twice.

    Example:
        >>> import pandas as pd
        >>> numbers = pd.DataFrame({"relation": ["P36"] * 2, "language": ["nl", "en"], "value": [0.2, 0.1]})
        >>> as_grid(numbers, "relation", "language").to_dict("records")
        [{'nl': 0.2, 'en': 0.1}]
    """
    index, values = ([names] if isinstance(names, str) else list(names) for names in (rows, value))
    keys = list(dict.fromkeys(numbers[columns])) if order is None else list(order)
    table = numbers.pivot(index=index, columns=columns, values=values)
    seen = numbers[index].drop_duplicates()
    places = pd.Index(seen[index[0]]) if len(index) == 1 else pd.MultiIndex.from_frame(seen)
    table = table.reindex(places).swaplevel(axis=1)
    wanted = pd.MultiIndex.from_product([keys, values], names=[columns, None])
    table = table.reindex(columns=wanted)
    return table.droplevel(1, axis=1) if isinstance(value, str) else table


def means_of_columns(
    table: pd.DataFrame, measures: Mapping[str, str], by: Sequence[str] = (), *, seed: int = 0
) -> pd.DataFrame:
    """:func:`kn_utils.statistics.changes.mean_table` of several columns: ``measure, *by, value, low, high,
    n``.

    Args:
        measures: column -> what it is called as a measure.
    """
    parts = [
        mean_table(table.assign(measure=measure), column, ["measure", *by], seed=seed)
        for column, measure in measures.items()
    ]
    return pd.concat(parts, ignore_index=True)
