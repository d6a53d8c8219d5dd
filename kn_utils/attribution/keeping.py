"""From a batch's scores to rows of tables: what is kept is found where the scores are, and only that travels.

A score is kept that is positive and at least ``keep`` times its prompt's largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from .batching import Batch
from .kernel import PassResult, finite


@dataclass(frozen=True)
class Kept:
    """On the host, of a batch's prompts.

    Attributes:
        place: prompt of the batch, layer (its place among those asked for) and neuron of each kept score.
        scores: kept ones, in the order of prompt, layer, neuron.
        maximum, largest: of each prompt's scores, and of their sizes.
        probability: of its answer.
        gap, error, points: the largest over layers; ``None`` where they were not asked for.
        sums: of a prompt's scores in each layer, (prompt, layer), what :mod:`kn_utils.neurons.shares` needs.
    """

    place: tuple[np.ndarray, np.ndarray, np.ndarray]
    scores: np.ndarray
    maximum: np.ndarray
    largest: np.ndarray
    probability: np.ndarray
    gap: np.ndarray | None
    error: np.ndarray | None
    points: np.ndarray | None
    sums: np.ndarray


def kept(
    scores: torch.Tensor,
    probability: torch.Tensor,
    gap: torch.Tensor | None,
    error: torch.Tensor | None,
    points: torch.Tensor | None,
    *,
    keep: float,
) -> Kept:
    """What the tables hold of a batch, by a few steps on the device and small copies to the host.

    Args:
        scores: (prompt, layer, neuron).
        probability: (prompt,).
        gap, error, points: (prompt, layer).
        keep: the part of a prompt's largest score.

    Raises:
        AttributionError: scores that are not finite.
    """
    finite(PassResult(scores, probability, gap))
    if scores.device.type == "mps":  # it has no float64
        scores = scores.cpu()
    whole = scores.double()  # so that "at least keep x maximum" is the same decision in every batch
    top = whole.amax((1, 2))
    places = torch.nonzero((whole >= keep * top[:, None, None]) & (whole > 0), as_tuple=True)
    place = tuple(one.cpu().numpy() for one in places)
    assert len(place) == 3

    def worst(values: torch.Tensor | None) -> np.ndarray | None:
        return None if values is None else values.abs().amax(1).cpu().double().numpy()

    return Kept(
        place,
        scores[places].float().cpu().numpy(),
        top.cpu().numpy(),
        whole.abs().amax((1, 2)).cpu().numpy(),
        probability.cpu().double().numpy(),
        worst(gap),
        worst(error),
        worst(points),
        whole.sum(2).cpu().numpy(),
    )


def as_tables(batch: Batch, found: Kept, layers: list[int], steps: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the scores' table and of the table per prompt; prompts by their number.

    Args:
        batch: whose scores they are.
        found: what was kept of them.
        layers: those asked for.
        steps: points of every prompt, where they were not counted.
    """
    numbers, (prompt, layer, neuron) = np.asarray(batch.prompts), found.place
    unknown = np.full(len(numbers), np.nan)
    rows = {
        "number": numbers[prompt],
        "layer": np.asarray(layers)[layer].astype("int16"),
        "neuron": neuron.astype("int32"),
        "score": found.scores,
    }
    error = unknown if found.error is None else found.error
    points = np.full(len(numbers), steps) if found.points is None else found.points
    notes = {
        "number": numbers,
        "probability": found.probability,
        "maximum": found.maximum,
        "gap": unknown if found.gap is None else found.gap,
        "error": error / np.where(found.largest > 0, found.largest, np.nan),
        "points": points.astype("int32"),
        "sums": list(found.sums),
    }
    return pd.DataFrame(rows), pd.DataFrame(notes)
