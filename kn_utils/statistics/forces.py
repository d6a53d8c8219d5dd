"""Edits of several forces: what they achieve, what they cost, and two kinds of them compared fairly.

All tables come from :func:`kn_utils.experiments.edited_answers.ask_edited`; all intervals are over edited
facts. A *cost* is in nats: by how much -ln P of right answers that should have stayed rises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .intervals import interval

EDIT = ["neurons", "edit", "force"]
#: Whom an edit should leave alone.
SIDES = ("same relation", "other relations")
HELD = "wordings held out"
NEW, TYPED, COST = "new answer first", "new answer first, typed", "cost, same relation"


def outcomes(answers: pd.DataFrame) -> pd.DataFrame:
    """What every edit achieved and cost, fact by fact.

    Args:
        answers: of questions around edited facts.

    Returns:
        ``neurons, edit, force, edited, measure, value``. Measures: ``new answer first`` and, among the
        candidates, ``new answer first, typed`` (shares of the fact's wordings held out), ``log P of the new
        answer, gain`` (nats), ``length of the move``; of ``same relation`` and ``other relations`` the
        ``cost, ...`` (nats) and ``first choice kept, ...`` (typed, of those that were right before).
    """
    table = answers.assign(_gain=_gain(answers))
    own = table[table["where"] == HELD]
    parts = {
        NEW: (own, "right_after"),
        TYPED: (own, "typed_right_after"),
        "log P of the new answer, gain": (own, "_gain"),
        "length of the move": (own, "moved"),
    }
    for where in SIDES:
        side = table[table["where"] == where]
        parts[f"cost, {where}"] = (side.assign(_cost=-side["_gain"]), "_cost")
        parts[f"first choice kept, {where}"] = (
            side[side["typed_right_before"].astype(bool)],
            "typed_right_after",
        )
    tables = [
        rows.astype({column: float})
        .groupby([*EDIT, "edited"], sort=False, dropna=False)[column]
        .mean()
        .rename("value")
        .reset_index()
        .assign(measure=measure)
        for measure, (rows, column) in parts.items()
        if len(rows)
    ]
    return pd.concat(tables, ignore_index=True)[[*EDIT, "edited", "measure", "value"]]


def before_edits(answers: pd.DataFrame) -> pd.Series:
    """Share of each edited fact's held-out wordings whose first choice was the new answer before; typed too.

    Returns:
        by (``measure``, ``edited``): what force 0 achieves.
    """
    own = answers[answers["where"] == HELD]
    columns = {NEW: "right_before", TYPED: "typed_right_before"}
    means = {m: own.astype({c: float}).groupby("edited")[c].mean() for m, c in columns.items()}
    return pd.concat(means, names=["measure", "edited"])


def by_force(table: pd.DataFrame) -> pd.DataFrame:
    """Means of :func:`outcomes` over facts: ``neurons, edit, force, measure, value, low, high, n``."""
    keys = [*EDIT, "measure"]
    rows = [
        {**dict(zip(keys, key, strict=True)), **interval(group["value"])}
        for key, group in table.groupby(keys, sort=False, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "n"])


def by_wording(answers: pd.DataFrame) -> pd.DataFrame:
    """How often the new answer comes first in each set of the fact's own wordings.

    Returns:
        ``neurons, edit, force, where, measure, value, low, high, n``; measures ``new answer first`` and ``new
        answer first, typed``; intervals over facts.
    """
    own = answers[answers["fact"] == answers["edited"]]
    keys = [*EDIT, "where"]
    rows = []
    for measure, column in ((NEW, "right_after"), (TYPED, "typed_right_after")):
        for key, group in own.groupby(keys, sort=False, dropna=False):
            shares = group.groupby("edited")[column].mean()
            rows.append({**dict(zip(keys, key, strict=True)), "measure": measure, **interval(shares)})
    return pd.DataFrame(rows, columns=[*keys, "measure", "value", "low", "high", "n"])


def affordable(table: pd.DataFrame, budget: float = 1.0, edit: str = "as published") -> float:
    """The greatest force whose mean cost to the relation's other facts is within a budget (nats).

    Args:
        table: :func:`by_force` of one kind of neurons.
        budget: the most that it may cost.
        edit: the kind of edit.

    Returns:
        the force; where none is within the budget, or no other fact was asked, the least.
    """
    own = table[table["edit"] == edit]
    within = own[(own["measure"] == COST) & (own["value"] <= budget)]["force"]
    return float(within.max() if len(within) else own["force"].min())


def at_same_force(table: pd.DataFrame, edits: tuple[str, str] = ("as published", "signed")) -> pd.DataFrame:
    """The second edit minus the first, paired by fact, at each force that both have.

    Args:
        table: :func:`outcomes`.
        edits: names of the two.

    Returns:
        ``neurons, force, measure, value, low, high, n``.
    """
    keys = ["neurons", "force", "measure"]
    wide = table[table["edit"].isin(edits)].pivot_table(
        index=[*keys, "edited"], columns="edit", values="value", sort=False
    )
    difference = (wide[edits[1]] - wide[edits[0]]).rename("value").reset_index()
    rows = [
        {**dict(zip(keys, key, strict=True)), **interval(group["value"])}
        for key, group in difference.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "n"])


def at_same_cost(
    table: pd.DataFrame,
    start: pd.Series,
    budgets: Sequence[float] = (0.3, 1.0),
    *,
    cost: str = COST,
    measures: Sequence[str] = (NEW, TYPED),
) -> pd.DataFrame:
    """What each kind of edit achieves at forces that cost others the same, fact by fact.

    For each fact the force is chosen by what edits of the *other* facts cost, so no fact chooses its own:
    with mean costs c at the forces f, from c = 0 at f = 0 on, the first force is taken that reaches the
    budget, and mixed with the force before it such that their mean cost is the budget: the fact's value is
    (1 - w) * value there + w * value here, with w = (budget - c there) / (c here - c there).

    Args:
        table: :func:`outcomes` of one kind of neurons.
        start: what force 0 gives (:func:`before_edits`).
        budgets: costs in nats.
        cost: the measure that is matched.
        measures: what is compared.

    Returns:
        ``edit, edited, budget, force`` (mixed alike), ``cost`` (the fact's own), ``reached`` (some force cost
        the budget; else the strongest is taken) and ``measure, value``; edits without a force are left out,
        and facts of which no wording held out was asked (in mixed bags the new answer may not fit any).
    """
    table = table[table["force"].notna()]
    rows = []
    for name, own in table.groupby("edit", sort=False):
        wide = {
            measure: own[own["measure"] == measure].pivot_table(
                index="edited", columns="force", values="value"
            )
            for measure in (cost, *measures)
        }
        if cost not in wide:  # no other fact was asked
            continue
        costs = wide[cost].dropna()
        forces = np.array([0.0, *costs.columns])
        held = [f for f in costs.index if all((m, f) in start and f in wide[m].index for m in measures)]
        for fact in held:
            path = np.array([0.0, *costs.drop(fact).mean()])
            if np.isnan(path).any():  # no other fact
                continue
            for budget in budgets:
                weights, reached = mixture(path, budget)
                said = {"edit": name, "edited": fact, "budget": budget, "reached": reached}
                said |= {
                    "force": float(weights @ forces),
                    "cost": float(weights @ np.array([0.0, *costs.loc[fact]])),
                }
                for measure in measures:
                    values = np.array([start[measure, fact], *wide[measure].loc[fact]])
                    rows.append({**said, "measure": measure, "value": float(weights @ values)})
    return pd.DataFrame(
        rows, columns=["edit", "edited", "budget", "reached", "force", "cost", "measure", "value"]
    )


def mixture(path: np.ndarray, budget: float) -> tuple[np.ndarray, bool]:
    """How much of each force gives a mean cost of the budget, and whether any force costs that much.

    Args:
        path: mean cost by force, from 0 at force 0 on.
        budget: the cost wanted.
    """
    weights = np.zeros(len(path))
    enough = np.flatnonzero(path >= budget)
    if not len(enough):
        weights[-1] = 1
        return weights, False
    here = int(enough[0])
    if here == 0:
        weights[0] = 1
        return weights, True
    part = (budget - path[here - 1]) / (path[here] - path[here - 1])
    weights[here - 1], weights[here] = 1 - part, part
    return weights, True


def cost_matched(matched: pd.DataFrame, edits: tuple[str, str] = ("as published", "signed")) -> pd.DataFrame:
    """Means of :func:`at_same_cost`, and the second edit minus the first, paired by fact.

    Returns:
        ``measure, budget, edit, force, cost, reached`` (means; share of facts) and ``value, low, high, n``;
        the difference is the row whose ``edit`` is ``signed - as published``.
    """
    rows = []
    for (measure, budget), group in matched.groupby(["measure", "budget"], sort=False):
        named = {"measure": measure, "budget": budget}
        for name in edits:
            own = group[group["edit"] == name]
            means = {column: own[column].astype(float).mean() for column in ("force", "cost", "reached")}
            rows.append({**named, "edit": name, **means, **interval(own["value"])})
        wide = group.pivot_table(index="edited", columns="edit", values="value").reindex(columns=list(edits))
        rows.append({**named, "edit": " - ".join(edits[::-1]), **interval(wide[edits[1]] - wide[edits[0]])})
    columns = ["measure", "budget", "edit", "force", "cost", "reached", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def reach_abroad(answers: pd.DataFrame) -> pd.DataFrame:
    """What an edit does to the new answer in other languages, beyond what it does to another fact's question.

    Args:
        answers: of questions abroad; where there were none the table is empty.

    Returns:
        ``neurons, edit, force, language`` (``all``: the mean over a fact's languages), ``spelled``
        (``alike``, ``differently``, ``either``), ``measure, value, low, high, n``, in nats: gain of ln P of
        the new answer in ``the fact``'s question and in ``another fact``'s, the ``excess`` of the first
        (paired by fact and language), and ``cost of another fact``, the loss of its right answer's ln P.
    """
    if "after" not in answers:  # nothing was asked
        return pd.DataFrame(columns=[*EDIT, "language", "spelled", "measure", "value", "low", "high", "n"])
    table = answers.assign(value=_gain(answers))
    keys = [*EDIT, "edited", "language", "alike"]
    wide = table.pivot_table(index=keys, columns="where", values="value", dropna=False, sort=False)
    wide = wide.dropna(how="all").reset_index()
    wide["excess"] = wide["the fact"] - wide["another fact"]
    wide["cost of another fact"] = -wide["another fact, its answer"]
    spelled = wide["alike"].map({True: "alike", False: "differently"})
    wide = pd.concat([wide.assign(spelled="either"), wide.assign(spelled=spelled)])
    wide = pd.concat([wide.assign(language="all"), wide])
    measures = ["the fact", "another fact", "excess", "cost of another fact"]
    rows = []
    keys = [*EDIT, "language", "spelled"]
    for key, group in wide.groupby(keys, sort=False, dropna=False):
        facts = group.groupby("edited")[measures].mean()
        rows += [
            {**dict(zip(keys, key, strict=True)), "measure": measure, **interval(facts[measure])}
            for measure in measures
        ]
    return pd.DataFrame(rows, columns=[*keys, "measure", "value", "low", "high", "n"])


def _gain(answers: pd.DataFrame) -> pd.Series:
    """By how much ln P of the answer rises; a probability of 0 has no logarithm and counts as 1e-300."""
    return np.log(answers["after"].clip(lower=1e-300)) - np.log(answers["before"].clip(lower=1e-300))
