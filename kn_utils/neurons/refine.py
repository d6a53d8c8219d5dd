"""From scores to knowledge neurons: the threshold, the refinement over a bag, and sets to compare them with.

A *bag* is the set of prompts that ask for one fact. A prompt keeps the neurons whose score is at least
``threshold`` times its maximum; a bag keeps those that at least ``share`` of its prompts hold (both ``>=``).
The share then moves, relation by relation, until the mean number of neurons per fact lies in ``target`` (Dai
et al. 2022, section 3.3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError

COLUMNS = ["fact", "relation", "language", "layer", "neuron", "share"]
_EDGE = 1e-6  # 0.7 of 10 prompts is 7 of them, whatever a float says


class RefinementError(StudyError):
    """Scores and prompts that do not belong together, or settings that select nothing."""


def above_threshold(scores: pd.DataFrame, threshold: float = 0.2) -> pd.DataFrame:
    """The scores that are at least ``threshold`` times their prompt's largest one."""
    kept = float(scores.attrs.get("keep", 0))
    if kept > threshold:
        raise RefinementError(
            f"threshold {threshold} is below the stored scores' keep={kept}; attribute again with a smaller "
            f"keep."
        )
    top = scores.groupby("prompt", sort=False)["score"].transform("max")
    return scores[scores["score"] >= threshold * top * (1 - _EDGE)]


def refine(
    scores: pd.DataFrame,
    prompts: pd.DataFrame,
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    step: float = 0.05,
    target: tuple[float, float] = (2, 5),
    floor: int | None = None,
    rounds: int | None = None,
) -> pd.DataFrame:
    """Knowledge neurons of every fact.

    Args:
        scores, prompts: as :func:`kn_utils.attribute` and :func:`kn_utils.make_prompts` give them.
        threshold: fraction of the prompt's maximum.
        share: where the share of a bag's prompts starts; it moves by ``step`` per round.
        target: the mean number of neurons per fact at which it stops. ``None`` leaves the share as it is.
        floor: also ask for this many prompts (the released code: 3; then bags of fewer can never have
            neurons).
        rounds: stop after so many moves and take where it stands (Dai et al.'s code makes 6 passes, so 5
            moves; the multilingual study's 8, so 7). Without it the share moves until
            it settles or comes back to where it was; then the share whose mean lies nearest to the target is
            taken.

    Returns:
        neurons ``fact, relation, language, layer, neuron, share`` (language ``all`` where a bag mixes
        several), sorted. ``neurons.attrs["refinement"]``: per relation the share taken, the mean, the facts,
        whether it settled and all shares tried; ``neurons.attrs["facts"]``: every fact asked about, with its
        relation (a fact may have no neuron).
    """
    if prompts.empty:
        raise RefinementError("an empty bag: there are no prompts to refine over.")
    bag = prompts.groupby("fact", sort=False).agg(relation=("relation", "first"), size=("prompt", "size"))
    languages = prompts["language"].unique()
    language = languages[0] if len(languages) == 1 else "all"
    names = prompts[["prompt", "fact"]]
    held = above_threshold(scores, threshold).merge(names, on="prompt", how="left")
    if held["fact"].isna().any():
        raise RefinementError(
            "some scores belong to no prompt of the table; pass the prompts they were computed for."
        )
    count = held.groupby(["fact", "layer", "neuron"], sort=False).size().rename("count").reset_index()
    count = count.merge(bag, left_on="fact", right_index=True)
    count["share"] = count["count"] / count["size"]
    if floor is not None:
        count = count[count["count"] >= floor]
    parts, report = [], []
    for relation, group in bag.groupby("relation", sort=False):
        own = count[count["relation"] == relation]
        taken = _settle(own["share"].to_numpy(), len(group), share, step, target, rounds)
        parts.append(own[own["share"] >= taken["share"] - _EDGE])
        report.append({"relation": relation, "facts": len(group), **taken})
    neurons = pd.concat(parts).assign(language=language)[COLUMNS]
    order = {fact: i for i, fact in enumerate(bag.index)}
    neurons = neurons.sort_values(
        ["fact", "layer", "neuron"], key=lambda c: c.map(order) if c.name == "fact" else c
    )
    neurons = neurons.reset_index(drop=True)
    neurons.attrs = {"refinement": report, "facts": bag["relation"].to_dict()}
    return neurons


def _settle(
    shares: np.ndarray,
    facts: int,
    start: float,
    step: float,
    target: tuple[float, float] | None,
    rounds: int | None,
) -> dict[str, Any]:
    """Move the share until the mean number of neurons per fact lies in the target, or say that it did not
    settle."""
    share, tried = start, []
    while True:
        mean = float((shares >= share - _EDGE).sum() / facts)
        tried.append((round(share, 6), round(mean, 6)))
        if target is None or target[0] <= mean <= target[1]:
            return {"share": tried[-1][0], "mean": mean, "settled": True, "tried": tried}
        share = round(share + (step if mean > target[1] else -step), 6)
        again = share in [s for s, _ in tried] or not 0 < share <= 1
        if rounds is not None and len(tried) > rounds:
            return {"share": tried[-1][0], "mean": mean, "settled": False, "tried": tried}
        if not 0 < share <= 1 or (rounds is None and again):
            break
    best = min(tried, key=lambda one: (max(target[0] - one[1], one[1] - target[1]), -one[0]))
    return {"share": best[0], "mean": best[1], "settled": False, "tried": tried}


def refinement_report(neurons: pd.DataFrame) -> pd.DataFrame:
    """How the share settled, a row per relation: ``relation, facts, share, mean, rounds, settled``."""
    report = pd.DataFrame(neurons.attrs["refinement"])
    report["rounds"] = report["tried"].map(len) - 1
    return report[["relation", "facts", "share", "mean", "rounds", "settled"]]
