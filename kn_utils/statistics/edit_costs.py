"""Edits from other languages, compared at one cost to the relation's other facts.

For every source of neurons the force is chosen for each fact by what the edits of the *other* facts cost,
such that the perplexity of the relation's other right answers becomes so many times what it was: 1.25 is a
cost of ln 1.25 nats. So no fact chooses its own force, and success can be compared in every language.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .changes import mean_table
from .forces import mixture
from .intervals import interval

SUCCESS, GAIN, EXCESS = "new answer first", "gain of ln P(new answer)", "gain beyond another fact"
COST = "cost"
#: Columns of a difference between two sources.
DIFFERENCE = ["measure", "source", "value", "low", "high", "n"]


def outcomes(edits: pd.DataFrame) -> pd.DataFrame:
    """What every edit achieved and cost.

    Args:
        edits: of :func:`kn_utils.experiments.edits_across.edited_across`.

    Returns:
        ``fact, language, source, force, measure, value``: ``new answer first`` (among the relation's
        answers), the gain of its ln P (nats), that gain beyond another fact's question, and ``cost``, the
        loss of ln P of other facts' right answers (nats).
    """
    table = edits.assign(
        gain=np.log(edits["after"].clip(lower=1e-300)) - np.log(edits["before"].clip(lower=1e-300))
    )
    keys = ["fact", "language", "source", "force"]
    own, another, others = (
        table[table["where"] == where].astype({"typed_right_after": float}).groupby(keys, sort=False)
        for where in ("the fact", "another fact", "same relation")
    )
    gain = own["gain"].mean()
    parts = {
        SUCCESS: own["typed_right_after"].mean(),
        GAIN: gain,
        EXCESS: gain - another["gain"].mean().reindex(gain.index),
        COST: -others["gain"].mean(),
    }
    tables = [values.rename("value").reset_index().assign(measure=name) for name, values in parts.items()]
    return pd.concat(tables, ignore_index=True)[[*keys, "measure", "value"]]


def at_one_cost_each(edits: pd.DataFrame, by: str, ratio: float = 1.25) -> pd.DataFrame:
    """:func:`at_one_cost` of each group that the column ``by`` names, which the table keeps."""
    tables = [at_one_cost(part, ratio).assign(**{by: key}) for key, part in edits.groupby(by, sort=False)]
    return pd.concat(tables, ignore_index=True)


def at_one_cost(edits: pd.DataFrame, ratio: float = 1.25) -> pd.DataFrame:
    """Each fact's outcomes at forces that cost the relation's other facts the same.

    With the mean costs of all *other* facts' edits (a fact's languages averaged) at each force, from 0 at
    force 0 on, two neighbouring forces are mixed such that the mean cost is ln ``ratio``
    (:func:`kn_utils.statistics.forces.mixture`).

    Args:
        edits: of :func:`kn_utils.experiments.edits_across.edited_across`.
        ratio: perplexity of the other facts, after over before.

    Returns:
        ``source, fact, language, measure, value, force`` (mixed alike), ``cost`` (the fact's own there),
        ``reached`` (some force costs so much; else the strongest is taken).
    """
    table = outcomes(edits)
    asked = edits[edits["where"] == "the fact"].drop_duplicates(["fact", "language"])
    right = asked.set_index(["fact", "language"])["typed_right_before"].astype(float)
    rows = []
    for source, own in table.groupby("source", sort=False):
        wide = own.pivot_table(index=["measure", "fact", "language"], columns="force", values="value")
        if COST not in wide.index:  # no other fact was asked
            continue
        costs = wide.loc[COST].groupby("fact").mean()
        forces = np.array([0.0, *costs.columns])
        for fact in costs.index:
            path = np.array([0.0, *costs.drop(fact).mean()])
            if np.isnan(path).any():  # no other fact is edited
                continue
            weights, reached = mixture(path, np.log(ratio))
            for measure, language in wide.xs(fact, level="fact").index:
                start = right[fact, language] if measure == SUCCESS else 0.0
                value = weights @ np.array([start, *wide.loc[(measure, fact, language)]])
                named = {"source": source, "fact": fact, "language": language, "measure": measure}
                rows.append(named | {"value": value, "force": weights @ forces, "reached": reached})
    columns = ["source", "fact", "language", "measure", "value", "force", "reached"]
    matched = pd.DataFrame(rows, columns=columns)
    keys = ["source", "fact", "language"]
    cost = matched[matched["measure"] == COST].rename(columns={"value": "cost"})[[*keys, "cost"]]
    return matched[matched["measure"] != COST].merge(cost, on=keys, how="left")


def cost_matched(matched: pd.DataFrame, by: tuple[str, ...] = (), *, seed: int = 0) -> pd.DataFrame:
    """Means of :func:`at_one_cost` over facts (a fact's languages averaged first).

    Returns:
        ``measure, source, *by, value, low, high, n, force, cost, reached`` (means of the last three).
    """
    keys = ["measure", "source", *by]
    table = matched.dropna(subset=["value"]).astype({"reached": float})
    means = mean_table(table, "value", keys, seed=seed)
    more = table.groupby(keys, sort=False)[["force", "cost", "reached"]].mean().reset_index()
    return means.merge(more, on=keys)


def matched_differences(
    matched: pd.DataFrame, first: str, others: Sequence[str], by: str, *, seed: int = 0
) -> pd.DataFrame:
    """:func:`matched_difference` of one source and each of others, for each group (maybe none)."""
    tables = [
        matched_difference(part, first, other, seed=seed).assign(**{by: key})
        for key, part in matched.groupby(by, sort=False)
        for other in others
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*DIFFERENCE, by])


def matched_difference(matched: pd.DataFrame, first: str, second: str, *, seed: int = 0) -> pd.DataFrame:
    """One source less another at one cost, paired by fact and language.

    Returns:
        ``measure, source`` (first - second), ``value, low, high, n``; a fact's languages averaged first.
    """
    keys = ["measure", "fact", "language"]
    wide = matched.pivot_table(index=keys, columns="source", values="value", sort=False)
    wide = wide.reindex(columns=[first, second]).dropna()
    per_fact = (wide[first] - wide[second]).groupby(["measure", "fact"], sort=False).mean()
    rows = [
        {"measure": measure, "source": f"{first} - {second}", **interval(values, seed=seed)}
        for measure, values in per_fact.groupby("measure", sort=False)
    ]
    return pd.DataFrame(rows, columns=DIFFERENCE)
