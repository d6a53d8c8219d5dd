"""Numbers beside numbers: ours and the papers', a paper's and what its released files give."""

from __future__ import annotations

import pandas as pd

from .printed import printed

#: What Table II asks.
TABLE_2 = ["neurons per fact", "shared within a relation", "shared between relations"]


def table_2_printed() -> pd.DataFrame:
    """The multilingual paper's Table II: ``status, model, dataset, bag, measure, value``."""
    rows = printed("Cai").query("table == 'Table II'")
    rows = rows.rename(columns={"quantity": "measure", "language": "bag"})
    return rows[["status", "model", "dataset", "bag", "measure", "value"]].reset_index(drop=True)


def table_2_beside(numbers: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    """Our numbers and the multilingual paper's Table II, one below the other.

    Args:
        numbers: ``bag, measure, value`` of :func:`kn_utils.statistics.sharing.table_2`, one row per bag and
            measure.
        model: ours.
        dataset: ours.

    Returns:
        ``status`` (ours, printed), ``model, dataset, bag, measure, value``, for the paper's measures.
    """
    ours = numbers[numbers["measure"].isin(TABLE_2)]
    ours = ours.assign(status="ours", model=model, dataset=dataset)
    said = table_2_printed()
    return pd.concat([ours[said.columns], said], ignore_index=True)


def by_relation(table_2: pd.DataFrame) -> pd.DataFrame:
    """The released neurons' Table II per relation, to be read.

    Args:
        table_2: ``dataset, relation, measure, value, n``.

    Returns:
        a row per data set and relation: ``facts``, the paper's three measures, and ``part shared``: of a
        fact's neurons, those that another fact of its relation holds.
    """
    own = table_2[table_2["measure"].isin(TABLE_2)]
    index = ["dataset", "relation"]
    facts = own.drop_duplicates(index).set_index(index)["n"].rename("facts")
    table = facts.to_frame().join(own.pivot(index=index, columns="measure", values="value")[TABLE_2])
    part = table["shared within a relation"] / table["neurons per fact"]
    return table.assign(**{"part shared": part})


def coverage_beside(coverage: pd.DataFrame) -> pd.DataFrame:
    """What the released files hold of what the paper counts, a column per data set.

    Args:
        coverage: of :func:`kn_utils.published.reanalysis.coverage`.

    Returns:
        relations, facts and neurons, and the settings of the runs, as rows.
    """
    said = printed("Cai").query("table == 'not recorded'")
    said = said.pivot(index="dataset", columns="quantity", values="value")
    rows = coverage.set_index("dataset")
    rows["of relations"], rows["of facts"] = (said[name].astype(int) for name in ("relations", "facts"))
    counts = ["relations", "of relations", "facts", "of facts", "without a neuron", "neurons"]
    runs = ["different ones", "model", "lower-cased", "baseline facts", "baseline neurons"]
    return rows[counts + runs].T
