"""What facts share, summed up: keys to compare facts by, tables joined, and the numbers that keep a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..neurons.refine import Refined
from .tables import as_grid


def keys_of_facts(prompts: pd.DataFrame, facts: pd.DataFrame) -> dict[str, pd.Series]:
    """What two facts may have in common: ``answer`` (as first written) and ``subject``, each by fact.

    Args:
        prompts: ``fact, answer``.
        facts: ``fact, subject``.
    """
    first = prompts.drop_duplicates("fact").set_index("fact")
    return {"answer": first["answer"], "subject": facts.set_index("fact")["subject"]}


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables of numbers as one; what several of them hold stands there once."""
    whole = pd.concat(tables, ignore_index=True)
    return whole.drop_duplicates(["bag", "neurons", "measure", "relation"])


def shared_part(grid: pd.DataFrame) -> pd.DataFrame:
    """Neurons shared within a relation, as a part of the neurons per fact: threshold by share.

    Args:
        grid: :func:`kn_utils.statistics.sharing.settings_grid`.
    """
    means = as_grid(grid, ["threshold", "share"], "measure")
    return (means["shared within a relation"] / means["neurons per fact"]).unstack()


def last_layer(histograms: pd.DataFrame, refined: Mapping[str, Refined]) -> pd.DataFrame:
    """The share of a bag's knowledge neurons that lies in the last layer, with the number of its facts.

    Args:
        histograms: :func:`kn_utils.statistics.counts.layer_histograms`.
        refined: bag -> its neurons and bags.
    """
    top = histograms[histograms["layer"] == histograms["layer"].max()]
    return top.assign(n=top["bag"].map({bag: len(one.bags) for bag, one in refined.items()}))


def named_sharing(
    tables: pd.DataFrame,
    measures: Sequence[str],
    *,
    by_key: pd.DataFrame,
    against: pd.DataFrame,
    spelling: pd.DataFrame,
    taught: pd.DataFrame,
    top: pd.DataFrame,
) -> pd.DataFrame:
    """The numbers that keep a name, all of knowledge neurons.

    Args:
        tables: :func:`joined`; of all relations together, these ``measures`` of every bag.
        measures: their names.
        by_key: :func:`kn_utils.statistics.sharing.shared_by_keys` of one bag; facts with the same answer.
        against: :func:`kn_utils.statistics.languages.same_fact_against`; its first row.
        spelling: what two languages share of a fact, by how they spell its ``answer``.
        taught: neurons per fact, by ``group``.
        top: :func:`last_layer`.

    Returns:
        ``measure, neurons, where, value, low, high, n``.
    """
    whole = tables[(tables["relation"] == "all") & tables["measure"].isin(measures)]
    whole = whole[whole["neurons"] == "knowledge"].assign(where=whole["bag"])
    by_word = by_key[by_key["by"] == "answer"].assign(where=by_key["bag"])
    by_word["measure"] = "shared, " + by_word["pairs"] + ", " + by_word["key"] + " answer"
    in_two = pd.concat(
        [
            against.iloc[:1].assign(where="the same fact"),
            spelling.assign(where="answer " + spelling["answer"]),
        ]
    ).assign(measure="shared by two languages")
    by_group = taught.assign(measure="neurons per fact", where="taught: " + taught["group"])
    lowest = top.assign(measure="share in the last layer", where=top["bag"])
    rows = pd.concat([whole, by_word, in_two, by_group, lowest]).assign(neurons="knowledge")
    return rows[["measure", "neurons", "where", "value", "low", "high", "n"]]
