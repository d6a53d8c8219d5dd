"""What a fact's own neurons do beyond those of others: changes by set of neurons, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .changes import mean_table, relative_change
from .intervals import resample, with_percentiles

PLAIN, TYPED = "P(answer)", "P among the relation's answers"
#: Measure -> the column before, that after.
PROBABILITIES = {PLAIN: ("before", "after"), TYPED: ("typed_before", "typed_after")}
#: Measure -> whether the right answer is the first choice, before and after.
CHOICES = {
    "first choice kept": ("right_before", "right_after"),
    "first choice among them kept": ("typed_right_before", "typed_right_after"),
}
COLUMNS = ["value", "low", "high", "n"]


def changes_by_set(effects: pd.DataFrame, by: list[str], *, seed: int = 0) -> pd.DataFrame:
    """What happens to answers, over the vocabulary and among their candidates.

    Args:
        effects: of :func:`kn_utils.effects` with candidates.
        by: columns that tell groups apart, such as ``["neurons"]``.
        seed: of the intervals.

    Returns:
        ``measure, *by, value, low, high, n``: of the two probabilities the change as a ratio of means
        (:func:`kn_utils.statistics.changes.relative_change`), of first choices the share of right ones that
        stay. Intervals resample facts; n facts. A group without a right first choice has no row of it.
    """
    tables = []
    for measure, (before, after) in PROBABILITIES.items():
        pair = effects.assign(before=effects[before], after=effects[after])
        tables.append(relative_change(pair, by, seed=seed).assign(measure=measure))
    for measure, (before, after) in CHOICES.items():
        right = effects[effects[before].astype(bool)]
        stays = right.assign(stays=right[after].astype(float))
        tables.append(mean_table(stays, "stays", by, seed=seed).assign(measure=measure))
    return pd.concat(tables, ignore_index=True)[["measure", *by, *COLUMNS]]


def excess(
    effects: pd.DataFrame, by: list[str], *, over: str = "another answer", own: str = "own", seed: int = 0
) -> pd.DataFrame:
    """How much more a fact's own neurons change its answer than another set does, fact by fact.

    ``(sum after, own - sum after, other) / sum before``, over the prompts that both acted on; -0.1: own
    neurons take a tenth of the probability more away.

    Args:
        effects: of :func:`kn_utils.effects` with candidates, ``neurons`` own and others.
        by: columns that tell groups apart.
        over: the set that is compared with.
        own: what the fact's own is called.
        seed: of the intervals, which resample facts with both of their sets.

    Returns:
        ``measure, *by, value, low, high, n``; groups in which no prompt has both are not there.
    """
    keys = [*by, "prompt", "fact"]
    mine, other = (effects[effects["neurons"] == name] for name in (own, over))
    rows = []
    for measure, (before, after) in PROBABILITIES.items():
        pairs = mine[[*keys, before, after]].merge(other[[*keys, after]], on=keys, suffixes=("", "_other"))
        for key, group in pairs.groupby(by, sort=False):
            sums = group.groupby("fact", sort=False)[[before, after, f"{after}_other"]].sum().to_numpy()
            drawn = resample(len(sums), seed) @ sums
            value = _excess(sums.sum(0))
            rows.append([measure, *key, *with_percentiles(float(value), _excess(drawn), len(sums)).values()])
    return pd.DataFrame(rows, columns=["measure", *by, *COLUMNS])


def _excess(sums: np.ndarray) -> np.ndarray:
    """Of sums (..., 3) before, after one, after the other: how much more the first changed."""
    return (sums[..., 1] - sums[..., 2]) / sums[..., 0]


def mark_spelling(effects: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """How the language that neurons were found in writes the answer that is asked for in another.

    Args:
        effects: with a column ``found`` beside ``language``.
        prompts: hold the answers as they are written in each language.

    Returns:
        effects with ``spelled``: ``alike``, with ``shared characters`` (Chinese ones, each of which is a word
        or a part of one), or ``differently``; rows whose fact has no answer in ``found`` are left out.
    """
    answer = prompts.drop_duplicates(["fact", "language"]).set_index(["fact", "language"])["answer"]
    here, there = (
        answer.reindex(pd.MultiIndex.from_frame(effects[["fact", side]])) for side in ("language", "found")
    )
    told = effects.assign(
        spelled=[
            spelling(*pair) if pd.notna(pair[1]) else None
            for pair in zip(here.to_numpy(), there.to_numpy(), strict=True)
        ]
    )
    return told[told["spelled"].notna()]


#: How two languages may write an answer, the nearest first.
SPELLINGS = ("alike", "shared characters", "differently")


def spelling(here: str, there: str) -> str:
    """How two languages write an answer: ``alike``, with ``shared characters`` (Chinese), ``differently``."""
    if here.casefold() == there.casefold():
        return SPELLINGS[0]
    shared = {character for character in here if "\u4e00" <= character <= "\u9fff"} & set(there)
    return SPELLINGS[1 if shared else 2]


def nearest_spelling(ways: Iterable[str]) -> str:
    """Of several pairs of languages the one that writes an answer most alike (:func:`spelling`)."""
    return min(ways, key=SPELLINGS.index)
