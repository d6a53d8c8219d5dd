"""What an intervention changed: means and ratios per group, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from .intervals import RESAMPLES, interval, ratio_interval, resample, with_percentiles


def mean_table(
    table: pd.DataFrame, value: str, by: list[str], *, unit: str = "fact", seed: int = 0
) -> pd.DataFrame:
    """Means of a column per group, with intervals over units.

    A unit's rows are averaged first.

    Returns:
        ``*by, value, low, high, n``.
    """
    unit_means = table.groupby([*by, unit], sort=False)[value].mean().reset_index()
    rows = []
    for key, group in unit_means.groupby(by, sort=False):
        rows.append({**dict(zip(by, key, strict=True)), **interval(group[value], seed=seed)})
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])  # also where there is no row


def relative_change(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Change of the right answer's probability per group.

    As published it is a ratio of means, ``(sum after - sum before) / sum before``.

    Returns:
        ``*by, value, low, high, n`` (value -0.1 = 10 % lower, n facts) and ``mean_of_ratios, ratios_low,
        ratios_high``: the mean of the prompts' own ``after / before - 1``. All intervals resample facts, with
        all their prompts.
    """
    effects = effects.assign(_prompts=1.0, _ratio=effects["after"] / effects["before"])
    rows = []
    for key, group in effects.groupby(by, sort=False):
        sums = group.groupby("fact", sort=False)[["before", "after", "_prompts", "_ratio"]].sum()
        per_fact = sums.to_numpy()
        weights = resample(len(per_fact), seed)
        means, ratios = (ratio_interval(per_fact[:, pair], weights=weights) for pair in ([0, 1], [2, 3]))
        rows.append([*key, *means.values(), *list(ratios.values())[:3]])
    names = ["value", "low", "high", "n", "mean_of_ratios", "ratios_low", "ratios_high"]
    return pd.DataFrame(rows, columns=[*by, *names])


def mean_over_relations(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """The papers' headline number: each relation's ratio of means, then the mean over relations.

    The ratio is that of :func:`relative_change`.

    Returns:
        ``*by, value, low, high, n, relations``; n facts. Intervals resample facts within each relation; the
        relations stay. With one fact of each there is nothing to resample: no interval.
    """
    rows = []
    for key, group in effects.groupby(by, sort=False):
        values, drawn = [], []
        for i, (_, part) in enumerate(group.groupby("relation", sort=False)):
            pairs = part.groupby("fact", sort=False)[["before", "after"]].sum().to_numpy()
            sums = resample(len(pairs), [seed, i]) @ pairs
            values.append(pairs[:, 1].sum() / pairs[:, 0].sum() - 1)
            drawn.append(sums[:, 1] / sums[:, 0] - 1)
        facts = group["fact"].nunique()
        mean = np.mean(drawn, axis=0) if facts > len(values) else np.full(RESAMPLES, np.nan)
        middle = with_percentiles(float(np.mean(values)), mean, facts)
        rows.append({**dict(zip(by, key, strict=True)), **middle, "relations": len(values)})
    return pd.DataFrame(rows)


def answer_changes(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Does the first choice change, or only its probability?

    The question is that of Niu et al. 2024.

    Returns:
        ``measure, *by, value, low, high, n``, means over facts. Measures: ``stays right`` (of prompts
        answered rightly before, those that still are), ``becomes right`` (of those answered wrongly), ``first
        choice changes`` (of all, to whatever answer).
    """
    right = effects["right_before"].astype(bool)
    after = effects.assign(_is=effects["right_after"].astype(float))
    parts = {
        "stays right": after[right],
        "becomes right": after[~right],
        "first choice changes": effects.assign(_is=effects["changed"].astype(float)),
    }
    tables = [
        mean_table(part, "_is", by, seed=seed).assign(measure=name)
        for name, part in parts.items()
        if len(part)
    ]
    return pd.concat(tables, ignore_index=True)[["measure", *by, "value", "low", "high", "n"]]


def mark_pairs(
    effects: pd.DataFrame, found: Mapping[str, pd.DataFrame], prompts: pd.DataFrame
) -> pd.DataFrame:
    """What a fact's neurons from one language have in common with those of the language it is asked in.

    Args:
        effects: with a column ``found``, the language that the acting neurons come from, beside ``language``,
            the prompt's.
        found: language -> neurons, as :func:`kn_utils.refine` gives them; of every language in ``effects``.
        prompts: hold the answers as they are written in each language.

    Returns:
        effects with ``shared``, how many neurons the fact has in both languages, and ``spelled``: ``alike``
        or ``differently``, the answer in the two.
    """
    every = pd.concat([table.assign(found=name) for name, table in found.items()])
    every = every[["fact", "layer", "neuron", "found"]]
    both = every.merge(every.rename(columns={"found": "language"}), on=["fact", "layer", "neuron"])
    shared = both.groupby(["fact", "found", "language"]).size()
    answer = prompts.drop_duplicates(["fact", "language"]).set_index(["fact", "language"])["answer"]
    here = answer.reindex(pd.MultiIndex.from_frame(effects[["fact", "language"]]))
    there = answer.reindex(pd.MultiIndex.from_frame(effects[["fact", "found"]]))
    pairs = pd.MultiIndex.from_frame(effects[["fact", "found", "language"]])
    return effects.assign(
        shared=shared.reindex(pairs, fill_value=0).to_numpy(),
        spelled=np.where(here.to_numpy() == there.to_numpy(), "alike", "differently"),
    )


class LanguageChanges(NamedTuple):
    """What neurons of one language change in prompts of another.

    Attributes:
        by_place: ``operation, neurons, where``: prompts in ``the language of the neurons`` or in ``another
            language``.
        by_shared: of the latter ``operation, spelled, shared``: is the answer spelled alike in the two, and
            how many neurons has the fact in both (``0``, ``1``, ``2 or more``).
    """

    by_place: pd.DataFrame
    by_shared: pd.DataFrame


def changes_between_languages(
    effects: pd.DataFrame, found: Mapping[str, pd.DataFrame], prompts: pd.DataFrame, *, seed: int = 0
) -> LanguageChanges:
    """:func:`relative_change` by what the language of the neurons and that of the prompt have in common.

    Args:
        effects, found, prompts: as :func:`mark_pairs` takes them; neurons of mixed bags (``all``) are left
            out.
        seed: of the intervals.
    """
    pairs = mark_pairs(effects[effects["found"] != "all"], found, prompts)
    home = pairs["found"] == pairs["language"]
    pairs["where"] = np.where(home, "the language of the neurons", "another language")
    by_place = relative_change(pairs, ["operation", "neurons", "where"], seed=seed)
    number = pairs["shared"].clip(upper=2).map({0: "0", 1: "1", 2: "2 or more"})
    keys = ["operation", "spelled", "shared"]
    by_shared = relative_change(pairs.assign(shared=number)[~home], keys, seed=seed)
    return LanguageChanges(by_place, by_shared.sort_values(keys, ignore_index=True))
