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
    """A long table, wide: a row per ``rows`` and a column per ``columns``, both in the order they come in.

    Args:
        numbers: every combination of rows and columns at most once.
        rows: names of its columns that become the index.
        columns: the column whose values become columns.
        value: what stands in the cells; several names give each of ``columns`` as many columns.
        order: the columns to show, if not all as they come.

    Returns:
        the grid, missing where there is no number.

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


def with_intervals(
    numbers: pd.DataFrame, rows: str | Sequence[str], columns: str | Sequence[str], digits: int = 2
) -> pd.DataFrame:
    """:func:`as_grid` with each number and its interval as text: ``value [low, high] (n)``.

    Args:
        numbers: ``value, low, high, n`` and the columns of ``rows`` and ``columns``.
        rows, columns: names of columns; of several columns their texts are joined by commas.
        digits: behind the point.

    Example:
        >>> import pandas as pd
        >>> numbers = pd.DataFrame({"relation": ["P36"], "language": ["nl"], "value": [0.2]})
        >>> with_intervals(numbers.assign(low=0.1, high=0.25, n=9), "relation", "language").iloc[0, 0]
        '0.20 [0.10, 0.25] (9)'
    """
    named = [columns] if isinstance(columns, str) else list(columns)
    if numbers.empty:
        return pd.DataFrame()
    text = [
        f"{row.value:.{digits}f}"
        + ("" if pd.isna(row.low) else f" [{row.low:.{digits}f}, {row.high:.{digits}f}]")
        + f" ({int(row.n)})"
        for row in numbers.itertuples()
    ]
    head = numbers[named].astype(str).agg(", ".join, axis=1)
    return as_grid(numbers.assign(_text=text, _head=head), rows, "_head", value="_text").rename_axis(
        columns=None
    )


def means_of_columns(
    table: pd.DataFrame, measures: Mapping[str, str], by: Sequence[str] = (), *, seed: int = 0
) -> pd.DataFrame:
    """Means of several columns per group: :func:`kn_utils.statistics.changes.mean_table` of each.

    Args:
        table: ``fact``, the columns of ``measures`` and of ``by``.
        measures: column -> what it is called as a measure.
        by: the columns that name the group.
        seed: of the resamples.

    Returns:
        ``measure, *by, value, low, high, n``.
    """
    parts = [
        mean_table(table.assign(measure=measure), column, ["measure", *by], seed=seed)
        for column, measure in measures.items()
    ]
    return pd.concat(parts, ignore_index=True)
