"""What neurons say of claims: mean attribution and activation of a relation's checker, claim by claim."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..attribution.attribute import attribution_map
from ..base import QUIET
from ..checks import ASKED, check_model, check_prompts, check_table
from ..model.answers import PATIENCE
from ..model.language_model import LanguageModel

#: Sets that are the same for every relation: the sum of all scores, which is what the answer's probability
#: gains in every layer together, and the largest score of any neuron.
ALL, LARGEST = "all neurons, summed", "any neuron, the largest"


def claim_attributions(
    model: LanguageModel,
    claims: pd.DataFrame,
    sets: pd.DataFrame,
    *,
    at_once: int = 64,
    activations: bool = True,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Attribution to every checker of the claimed object, whether it is true or not.

    Args:
        model: which is asked.
        claims: of :func:`kn_utils.experiments.claims.claims_of`.
        sets: of :func:`kn_utils.neurons.checkers.checkers`; a claim is checked by those of its relation.
        at_once: claims whose maps are held in memory together.
        activations: whether activations are read as well.
        progress: whether a bar is shown.
        settings: as :func:`kn_utils.attribution_map` takes them.

    Returns:
        ``prompt, set, split, half, attribution, activation``: means over a checker's neurons; of the sets
        :data:`ALL` and :data:`LARGEST` split is empty and half -1. An answer of several pieces has the mean
        of its pieces' maps.
    """
    check_model(model)
    check_prompts(claims, f"{ASKED} relation")
    check_table("sets", sets, "set split relation layer neuron")
    held = {
        relation: [
            (*key, torch.tensor(part["layer"].tolist()), torch.tensor(part["neuron"].tolist()))
            for key, part in own.groupby(["set", "split", "half"], sort=False)
        ]
        for relation, own in sets.groupby("relation", sort=False)
    }
    rows: list[tuple[Any, ...]] = []
    starts = range(0, len(claims), at_once)
    for start in tqdm(starts, desc="claims", delay=PATIENCE, disable=not progress or QUIET):
        some = claims.iloc[start : start + at_once].reset_index(drop=True)
        maps = attribution_map(model, some, **settings).double()
        active = attribution_map(model, some, method="activation").double() if activations else None
        for number, (name, relation) in enumerate(zip(some["prompt"], some["relation"], strict=True)):
            scores = maps[number]
            rows.append((name, ALL, "", -1, float(scores.sum()), float("nan")))
            rows.append((name, LARGEST, "", -1, float(scores.max()), float("nan")))
            for checker, split, half, layer, neuron in held.get(relation, []):
                activation = float("nan") if active is None else float(active[number][layer, neuron].mean())
                rows.append((name, checker, split, half, float(scores[layer, neuron].mean()), activation))
    return pd.DataFrame(rows, columns=["prompt", "set", "split", "half", "attribution", "activation"])
