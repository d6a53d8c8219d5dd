"""From scores to knowledge neurons: the threshold, and the refinement over a bag.

A *bag* is the set of prompts that ask for one fact. A prompt keeps the neurons whose score is at least
``threshold`` times its maximum; a bag keeps those that at least ``share`` of its prompts hold (both ``>=``).
The share then moves, relation by relation, until the mean number of neurons per fact lies in ``target`` (Dai
et al. 2022, section 3.3). A fact may end without a neuron, and counts and means must know of it: so beside
the neurons there is a table of the bags.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..checks import check_numbers, check_prompts, check_table, check_target
from .shares import RefinementError as RefinementError
from .shares import shares_of_layers

COLUMNS = ["fact", "relation", "language", "layer", "neuron", "share"]
BAGS = ["fact", "relation", "language", "prompts", "share", "settled"]
PASSES = ["relation", "pass", "share", "mean", "taken"]
_EDGE = 1e-6  # 0.7 of 10 prompts is 7 of them, whatever a float says


class Refined(NamedTuple):
    """What refinement gives.

    Attributes:
        neurons: ``fact, relation, language, layer, neuron, share`` (the share of the bag's prompts that hold
            the neuron).
        bags: every fact asked about, with or without neurons: ``fact, relation, language, prompts`` (how
            many), ``share`` (the one taken for its relation), ``settled`` (whether that brought the mean into
            the target).
        passes: how the share moved: ``relation, pass, share, mean`` (neurons per fact), ``taken``.
    """

    neurons: pd.DataFrame
    bags: pd.DataFrame
    passes: pd.DataFrame


def above_threshold(
    scores: pd.DataFrame,
    threshold: float = 0.2,
    *,
    keep: float | None = None,
    sums: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The scores that are at least ``threshold`` times their prompt's largest one.

    Args:
        scores: ``prompt, layer, neuron, score``.
        threshold: fraction of the prompt's maximum.
        keep: the fraction of each prompt's maximum that was kept when the scores were computed.
            :func:`kn_utils.attribute` notes it with its scores; pandas loses the note in a merge.
        sums: ``prompt, layer, sum`` (:func:`kn_utils.neurons.shares.layer_sums`): scores are first divided by
            their layer's, as equation 5 of Chen et al. 2024 says and their code does not.

    Raises:
        RefinementError: a threshold below ``keep``: scores that it asks for are not there; a layer whose sum
            cannot be divided by.
    """
    check_table("scores", scores, "prompt layer neuron score", unique="prompt layer neuron")
    check_numbers(threshold=threshold)
    if keep is not None:
        check_numbers(keep=keep)
    kept = max(keep or 0.0, float(scores.attrs.get("keep", 0)))
    if kept > threshold:
        raise RefinementError(
            f"threshold {threshold} is below the stored scores' keep={kept}; attribute again with a smaller "
            f"keep."
        )
    value = scores["score"] if sums is None else shares_of_layers(scores, sums, threshold, kept)
    top = value.groupby(scores["prompt"], sort=False).transform("max")
    return scores[(value >= threshold * top * (1 - _EDGE)) & (top > 0)]


def refine(
    scores: pd.DataFrame,
    prompts: pd.DataFrame,
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    step: float = 0.05,
    target: tuple[float, float] | None = (2, 5),
    floor: int | None = None,
    rounds: int | None = None,
    keep: float | None = None,
    sums: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Knowledge neurons of every fact.

    Args:
        scores, prompts: as :func:`kn_utils.attribute` and :func:`kn_utils.make_prompts` give them.
        threshold: fraction of the prompt's maximum.
        share: where the share of a bag's prompts starts.
        step: how far it moves per round.
        target: the mean number of neurons per fact at which it stops. ``None`` leaves the share as it is.
        floor: also ask for this many prompts (the released code: 3; then bags of fewer can never have
            neurons).
        rounds: stop after so many moves and take where it stands (Dai et al.'s code makes 6 passes, so 5
            moves; the multilingual study's 8, so 7). Without it the share moves until it settles or comes
            back to where it was; then the share whose mean lies nearest to the target is taken.
        keep: the fraction that the scores were stored with, where they do not say it themselves
            (:func:`above_threshold`).
        sums: of layers' scores, by which these are divided before the threshold (:func:`above_threshold`).

    Returns:
        neurons ``fact, relation, language, layer, neuron, share`` (language ``all`` where a bag mixes
        several), sorted. A fact without neurons has no row: :func:`refine_bags` also gives the bags.

    Raises:
        RefinementError: no prompts; scores of other prompts; a threshold below ``keep``.

    Example:
        >>> import pandas as pd
        >>> from kn_utils import refine
        >>> names = [("a1", "a"), ("a2", "a"), ("b1", "b")]
        >>> prompts = pd.DataFrame(names, columns=["prompt", "fact"]).assign(relation="P36", language="en")
        >>> rows = [("a1", 0, 7, 1.0), ("a2", 0, 7, 0.5), ("a2", 1, 3, 0.4)]
        >>> scores = pd.DataFrame(rows, columns=["prompt", "layer", "neuron", "score"])
        >>> refine(scores, prompts, target=None)[["fact", "layer", "neuron", "share"]].values.tolist()
        [['a', 0, 7, 1.0]]
    """
    return refine_bags(
        scores,
        prompts,
        threshold=threshold,
        share=share,
        step=step,
        target=target,
        floor=floor,
        rounds=rounds,
        keep=keep,
        sums=sums,
    ).neurons


def refine_bags(
    scores: pd.DataFrame,
    prompts: pd.DataFrame,
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    step: float = 0.05,
    target: tuple[float, float] | None = (2, 5),
    floor: int | None = None,
    rounds: int | None = None,
    keep: float | None = None,
    sums: pd.DataFrame | None = None,
) -> Refined:
    """Knowledge neurons, every fact asked about, and how the share moved.

    Arguments and errors are those of :func:`refine`.
    """
    check_prompts(prompts, "prompt fact relation language")
    check_numbers(share=share, step=step, floor=floor, rounds=rounds)
    check_target(target)
    if prompts.empty:
        raise RefinementError("an empty bag: there are no prompts to refine over.")
    by_fact = prompts.groupby("fact", sort=False)
    sizes = by_fact.agg(relation=("relation", "first"), prompts=("prompt", "size"))
    languages = prompts["language"].unique()
    language = languages[0] if len(languages) == 1 else "all"
    held = above_threshold(scores, threshold, keep=keep, sums=sums)
    if held.empty:
        raise RefinementError(
            "no prompt has a score above 0, so there is nothing to refine; were these prompts attributed?"
        )
    held = held.merge(prompts[["prompt", "fact"]], on="prompt", how="left")
    if held["fact"].isna().any():
        raise RefinementError(
            "some scores belong to no prompt of the table; pass the prompts they were computed for."
        )
    count = held.groupby(["fact", "layer", "neuron"], sort=False).size().rename("count").reset_index()
    count = count.merge(sizes, left_on="fact", right_index=True)
    count["share"] = count["count"] / count["prompts"]
    if floor is not None:
        count = count[count["count"] >= floor]
    kept, bags, passes = [], [], []
    for relation, bag in sizes.groupby("relation", sort=False):
        own = count[count["relation"] == relation]
        moves, settled = _settle(own["share"].to_numpy(), len(bag), share, step, target, rounds)
        (taken,) = moves.loc[moves["taken"], "share"]
        kept.append(own[own["share"] >= taken - _EDGE])
        bags.append(bag.assign(share=taken, settled=settled))
        passes.append(moves.assign(relation=relation))
    neurons = pd.concat(kept).assign(language=language)[COLUMNS]
    order = {fact: i for i, fact in enumerate(sizes.index)}
    in_order = neurons.assign(fact=neurons["fact"].map(order)).sort_values(["fact", "layer", "neuron"])
    neurons = neurons.loc[in_order.index]
    asked = pd.concat(bags).loc[sizes.index].rename_axis("fact").reset_index().assign(language=language)
    return Refined(neurons.reset_index(drop=True), asked[BAGS], pd.concat(passes, ignore_index=True)[PASSES])


def _settle(
    shares: np.ndarray,
    facts: int,
    start: float,
    step: float,
    target: tuple[float, float] | None,
    rounds: int | None,
) -> tuple[pd.DataFrame, bool]:
    """Move the share until the mean number of neurons per fact lies in the target.

    Args:
        shares: of the bag's prompts, of every neuron of every fact of the relation.

    Returns:
        ``pass, share, mean, taken``, and whether the share settled.
    """
    share, tried = start, []
    while True:
        mean = float((shares >= share - _EDGE).sum() / facts)
        tried.append((round(share, 6), round(mean, 6)))
        if target is None or target[0] <= mean <= target[1]:
            return _passes(tried, len(tried) - 1), True
        share = round(share + (step if mean > target[1] else -step), 6)
        again = share in [s for s, _ in tried] or not 0 < share <= 1
        if rounds is not None and len(tried) > rounds:
            return _passes(tried, len(tried) - 1), False
        if not 0 < share <= 1 or (rounds is None and again):
            break
    far = [(max(target[0] - mean, mean - target[1]), -share) for share, mean in tried]
    return _passes(tried, far.index(min(far))), False


def _passes(tried: list[tuple[float, float]], taken: int) -> pd.DataFrame:
    """The shares tried with their means as a table; ``taken`` is the number of the one taken."""
    table = pd.DataFrame(tried, columns=["share", "mean"])
    return table.assign(**{"pass": table.index + 1}, taken=table.index == taken)


def facts_of(neurons: pd.DataFrame, bags: pd.DataFrame | None) -> pd.Series:
    """fact -> relation for every fact asked about.

    Args:
        neurons: ``fact, relation, layer, neuron``.
        bags: ``fact, relation``, a row per fact. Without it the facts that have a neuron, and a warning.

    Raises:
        RefinementError: a fact that is there twice, such as in two languages; neurons of a fact that is not
            there.
    """
    if bags is None:
        warnings.warn(
            "without bags only facts that have a neuron are counted; pass those of "
            "kn_utils.neurons.refine.refine_bags or of Study.bags().",
            stacklevel=3,
        )
        bags = neurons.drop_duplicates("fact")
    facts = bags.set_index("fact")["relation"]
    if facts.index.has_duplicates:
        raise RefinementError(
            f"the fact {facts.index[facts.index.duplicated()][0]} is there twice among the bags; take one "
            f"language and one method at a time."
        )
    strangers = neurons.loc[~neurons["fact"].isin(facts.index), "fact"]
    if len(strangers):
        raise RefinementError(
            f"the bags lack facts that have neurons ({strangers.nunique()}, such as {strangers.iloc[0]}); "
            f"pass the bags of the same refinement."
        )
    return facts


def refinement_report(refined: Refined) -> pd.DataFrame:
    """How the share settled, a row per relation: ``relation, facts, share, mean, rounds, settled``.

    ``mean``: neurons per fact at the share taken; ``rounds``: how often the share moved.
    """
    report = refined.bags.groupby("relation", sort=False).agg(
        facts=("fact", "size"), share=("share", "first"), settled=("settled", "first")
    )
    passes = refined.passes
    report["mean"] = passes[passes["taken"]].set_index("relation")["mean"]
    report["rounds"] = passes.groupby("relation").size() - 1
    return report.reset_index()[["relation", "facts", "share", "mean", "rounds", "settled"]]
