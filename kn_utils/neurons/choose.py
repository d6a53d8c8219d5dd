"""Sets of neurons: those of a relation, random, strongest, uncommon ones; and whose neurons act on whom."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import ParameterError, check_numbers, check_prompts, check_table
from .refine import facts_of


def relation_neurons(neurons: pd.DataFrame, k: int = 20) -> pd.DataFrame:
    """The ``k`` neurons that most facts of a relation share.

    Returns:
        ``relation, layer, neuron, facts``; of neurons that as many facts hold the lower layer and neuron
        first.
    """
    check_table("neurons", neurons, "relation layer neuron")
    check_numbers(k=k)
    count = neurons.groupby(["relation", "layer", "neuron"], sort=False).size().rename("facts").reset_index()
    count = count.sort_values(["relation", "facts", "layer", "neuron"], ascending=[True, False, True, True])
    return count.groupby("relation", sort=False).head(k).reset_index(drop=True)


def random_neurons(
    neurons: pd.DataFrame, shape: tuple[int, int], *, same_layers: bool = False, seed: int = 0
) -> pd.DataFrame:
    """As many neurons for every fact, drawn at random without repeats: the control.

    Args:
        neurons: ``fact, layer, neuron``; other columns are kept.
        shape: (layers, neurons per layer) of the model.
        same_layers: draw each from the layer of the neuron that it stands for.
    """
    check_table("neurons", neurons, "fact layer neuron")
    check_numbers(seed=seed)
    layers, width = check_shape(shape)
    most = neurons.groupby(["fact", "layer"] if same_layers else "fact").size().max()
    room = width if same_layers else layers * width
    if len(neurons) and most > room:
        raise ChoiceError(f"{most} different neurons cannot be drawn from {room}; is the shape the model's?")
    random = np.random.default_rng(seed)
    layer = neurons["layer"].to_numpy(int)
    chosen = np.zeros(len(neurons), int)  # layer * width + neuron
    for rows in neurons.groupby("fact", sort=False).indices.values():
        if same_layers:
            for own in np.unique(layer[rows]):
                here = rows[layer[rows] == own]
                chosen[here] = own * width + np.sort(random.choice(width, size=len(here), replace=False))
        else:
            chosen[rows] = np.sort(random.choice(layers * width, size=len(rows), replace=False))
    return neurons.assign(layer=chosen // width, neuron=chosen % width)


def best_neurons(scores: np.ndarray, k: int = 3) -> pd.DataFrame:
    """The neurons with the highest scores.

    Args:
        scores: of one prompt, (layer, neuron).
        k: so many.

    Returns:
        ``layer, neuron, score``, from high to low; of equals the lower one first.

    Example:
        >>> best_neurons(np.array([[0.1, 0.0], [0.0, 0.4]]), k=1).to_dict("records")
        [{'layer': 1, 'neuron': 1, 'score': 0.4}]
    """
    check_numbers(k=k)
    scores = np.asarray(scores)
    order = np.argsort(-scores, axis=None, kind="stable")[:k]
    layer, neuron = np.unravel_index(order, scores.shape)
    return pd.DataFrame({"layer": layer, "neuron": neuron, "score": scores[layer, neuron]})


def check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """The same, or an error where it is no pair of layers and neurons per layer."""
    pair = list(shape) if isinstance(shape, Iterable) else []
    if len(pair) != 2 or not all(isinstance(n, Integral) and n > 0 for n in pair):
        raise ParameterError(f"shape={shape!r}; it is (layers, neurons per layer), such as (12, 3072).")
    return int(pair[0]), int(pair[1])


class ChoiceError(StudyError):
    """A choice that cannot be made as asked."""


def as_pairs(neurons: pd.DataFrame | Iterable[tuple[int, int]]) -> np.ndarray:
    """Any table or list with layer and neuron as unique (layer, neuron) pairs, shape (n, 2)."""
    if isinstance(neurons, pd.DataFrame):
        check_table("neurons", neurons, "layer neuron")
        pairs = neurons[["layer", "neuron"]].to_numpy()
    else:
        listed = list(neurons)
        if not all(_is_pair(one) for one in listed):
            raise ParameterError(f"neurons={listed[:3]!r}; they are pairs (layer, neuron) of whole numbers.")
        pairs = np.array(listed)
    return np.unique(pairs.astype(int).reshape(-1, 2), axis=0)


def _is_pair(one: Any) -> bool:
    if isinstance(one, str) or not isinstance(one, Iterable) or len(parts := list(one)) != 2:
        return False
    return all(isinstance(part, Real) and math.isfinite(part) and part % 1 == 0 for part in parts)


def pairs_by_fact(neurons: pd.DataFrame) -> dict[str, np.ndarray]:
    """Every fact's (layer, neuron) pairs, shape (n, 2)."""
    check_table("neurons", neurons, "fact layer neuron")
    pairs = neurons[["layer", "neuron"]].to_numpy(int)
    return {fact: pairs[rows] for fact, rows in neurons.groupby("fact").indices.items()}


def uncommon(neurons: pd.DataFrame, bags: pd.DataFrame, common: float = 0.1) -> pd.DataFrame:
    """The neurons that occur in at most ``common`` of their relation's facts, or in one fact only.

    Args:
        neurons, bags: of :func:`kn_utils.neurons.refine.refine_bags`. A relation's facts are those of
            ``bags``, with or without neurons; a fact's own bag counts once.
        common: share of the facts.

    Raises:
        RefinementError: neurons of facts that are not among the bags.
    """
    check_table("neurons", neurons, "fact relation layer neuron")
    check_numbers(common=common)
    return neurons[_uncommon(neurons, bags, common)]


def _uncommon(neurons: pd.DataFrame, bags: pd.DataFrame, common: float) -> pd.Series:
    number = facts_of(neurons, bags).value_counts()
    holders = neurons.groupby(["relation", "layer", "neuron"])["fact"].transform("nunique")
    return holders <= np.maximum(common * neurons["relation"].map(number), 1)


def strongest(
    scores: pd.DataFrame,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame | None,
    bags: pd.DataFrame | None,
    k: int,
    common: float = 0.1,
) -> pd.DataFrame:
    """The ``k`` neurons with the highest mean score over a fact's prompts.

    Args:
        scores: ``prompt, layer, neuron, score``; those that were too small to be kept count as 0.
        prompts: the prompts that they belong to.
        neurons, bags, common: those that are common among these refined neurons of these bags are left out
            (:func:`uncommon`); ``None``: none is.
        k: so many for each fact.

    Returns:
        ``fact, relation, layer, neuron, score``.
    """
    check_numbers(k=k, common=common)
    check_table("scores", scores, "prompt layer neuron score", unique="prompt layer neuron")
    check_prompts(prompts, "prompt fact relation")
    if neurons is not None:
        check_table("neurons", neurons, "fact relation layer neuron")
    held = scores.merge(prompts[["prompt", "fact", "relation"]], on="prompt")
    table = held.groupby(["fact", "relation", "layer", "neuron"], sort=False)["score"].sum().reset_index()
    table["score"] /= table["fact"].map(prompts.groupby("fact").size())
    where = ["relation", "layer", "neuron"]
    if neurons is not None and bags is not None:
        common_ones = pd.MultiIndex.from_frame(neurons.loc[~_uncommon(neurons, bags, common), where])
        table = table[~pd.MultiIndex.from_frame(table[where]).isin(common_ones)]
    table = table.sort_values(["score", "layer", "neuron"], ascending=[False, True, True])
    best = table.groupby("fact", sort=False).head(k)
    return best.sort_values(["fact", "layer", "neuron"]).reset_index(drop=True)


def other_fact(
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    relation: str = "other",
    answer: str = "any",
    seed: int = 0,
) -> np.ndarray | None:
    """Draw for each prompt another fact, whose neurons shall act on it.

    The prompts of one fact get the same one.

    Args:
        neurons: only facts that have some are drawn.
        relation: ``"same"`` or ``"other"`` than the prompt's.
        answer: ``"same"``, ``"other"`` or ``"any"``. With ``"other"`` no fact is taken whose prompts ask for
            the same answer (a neighbour in the relation may have it: then it is hardly another fact). Answers
            are compared as they are written in ``prompts``, language by language.
        prompts: those to act on.
        seed: of the draw.

    Returns:
        facts in the order of ``prompts``, None where there is no such fact; None if there is none for any of
        them.

    Raises:
        ChoiceError: another word for ``relation`` or ``answer``.
    """
    if relation not in ("same", "other") or answer not in ("same", "other", "any"):
        words = "relation is 'same' or 'other', answer 'same', 'other' or 'any'"
        raise ChoiceError(f"relation={relation!r}, answer={answer!r}; {words}.")
    random = np.random.default_rng(seed)
    owner = neurons.drop_duplicates("fact").set_index("fact")["relation"]
    alike: dict[str, set[str]] = {fact: set() for fact in prompts["fact"]}
    for _, facts in prompts.groupby(["language", "answer"])["fact"]:
        for fact in (members := set(facts)):
            alike[fact] |= members
    pools: dict[str, pd.Index] = {}
    drawn: dict[str, str | None] = {}
    for fact, own in prompts.drop_duplicates("fact")[["fact", "relation"]].itertuples(index=False):
        if own not in pools:
            pools[own] = owner.index[(owner == own) == (relation == "same")]
        pool = pools[own][pools[own] != fact]
        if answer != "any":
            pool = pool[pool.isin(alike[fact]) == (answer == "same")]
        drawn[fact] = pool[random.integers(len(pool))] if len(pool) else None
    if not any(drawn.values()):
        return None
    return np.array([drawn[fact] for fact in prompts["fact"]], dtype=object)


def lent(
    neurons: pd.DataFrame, prompts: pd.DataFrame, *, relation: str, answer: str = "other", seed: int = 0
) -> pd.DataFrame:
    """Give every fact the neurons of another one, chosen by :func:`other_fact`.

    Returns:
        ``neurons`` under the names (``fact, relation``) of those that they are lent to. A fact for which
        there is no other one has no row.
    """
    source = other_fact(prompts, neurons, relation=relation, answer=answer, seed=seed)
    if source is None:
        return neurons.iloc[:0]
    pairs = prompts[["fact", "relation"]].assign(source=source).drop_duplicates("fact")
    pairs = pairs[pairs["source"].notna() & pairs["fact"].isin(neurons["fact"])]
    held = neurons.drop(columns="relation").rename(columns={"fact": "source"})
    table = pairs.merge(held, on="source").drop(columns="source")
    return table[neurons.columns.tolist()]
