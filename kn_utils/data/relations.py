"""What relations are called: ``P36`` is ``capital``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from ..base import DATA

NAMES = DATA / "relations.csv"


@cache
def relation_names(path: Path = NAMES) -> dict[str, str]:
    """Relation -> its English name, of the relations in the bundled and the published data sets."""
    table = pd.read_csv(path, dtype=str, encoding="utf-8")
    return dict(zip(table["relation"], table["name"], strict=True))


def title(relation: str) -> str:
    """``P36 capital``; a relation without a known name as it is.

    Example:
        >>> title("P36"), title("P0")
        ('P36 capital', 'P0')
    """
    return f"{relation} {relation_names().get(relation, '')}".rstrip()


def with_names(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A table to be read: the relations in its column or index ``relation`` by :func:`title`.

    Args:
        table: what is shown.
        columns: others that hold relations.
    """
    names = [name for name in ("relation", *columns) if name in table]
    if names:
        return table.assign(**{name: table[name].map(title) for name in names})
    level = table.index.names.index("relation")
    if table.index.nlevels == 1:
        return table.set_axis(table.index.map(title).rename("relation"))
    titles = table.index.levels[level].map(title)
    return table.set_axis(table.index.set_levels(titles, level=level))
