"""How far scores are from the exact integral, and from what the layers should add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from ..model.language_model import LanguageModel
from .attribute import attribution_map
from .settings import ScoreSettings
from .streaming import score_batch


def convergence(
    model: LanguageModel,
    prompts: pd.DataFrame,
    rules: Sequence[tuple[str, int]],
    *,
    reference: int = 32,
    threshold: float = 0.2,
    baseline: str = "zero",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Error of rules against a fine Gauss-Legendre rule, per rule and prompt.

    Returns:
        ``rule, steps, prompt, error`` (largest difference of a score over the prompt's largest score) and
        ``jaccard`` (of the neurons at or above ``threshold`` of the maximum, with the fine rule's).
    """
    path: dict[str, Any] = {"baseline": baseline, "batch_size": batch_size}
    fine = attribution_map(model, prompts, rule="gauss-legendre", steps=reference, **path)
    tables = []
    for rule, steps in rules:
        coarse = attribution_map(model, prompts, rule=rule, steps=steps, **path)
        table = {
            "rule": rule,
            "steps": steps,
            "prompt": prompts["prompt"],
            **agreement(coarse, fine, threshold),
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def agreement(maps: torch.Tensor, truth: torch.Tensor, threshold: float = 0.2) -> dict[str, torch.Tensor]:
    """How far two score maps (prompt, layer, neuron) agree, per prompt.

    ``error``: the largest difference over the truth's largest score; ``jaccard``: of the sets of neurons at
    or above ``threshold`` times each map's maximum.
    """
    kept, wanted = (scores >= threshold * scores.amax((1, 2), keepdim=True) for scores in (maps, truth))
    return {
        "error": (maps - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2)),
        "jaccard": (kept & wanted).sum((1, 2)) / (kept | wanted).sum((1, 2)),
    }


def completeness(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    rule: str = "gauss-legendre",
    steps: int = 4,
    baseline: str = "zero",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """What a layer's scores should add up to and by how much they miss it, per prompt and layer.

    Returns:
        ``prompt, layer, change`` (P(w) - P(b), in probability) and ``gap`` (sum of the scores minus that).
    """
    settings = ScoreSettings(rule=rule, steps=steps, baseline=baseline, batch_size=batch_size, gap=True)
    asked, room, tables = settings.asked(model, prompts), settings.scorer(model), []
    for batch in settings.batches(model, asked):
        part = score_batch(room, batch)
        for number, scores, gap in zip(batch.prompts, part.scores.cpu(), part.gap.cpu(), strict=True):
            change = scores.sum(1) - gap
            tables.append(
                pd.DataFrame({"number": number, "layer": range(len(gap)), "change": change, "gap": gap})
            )
    table = pd.concat(tables).sort_values(["number", "layer"], ignore_index=True)
    table.insert(0, "prompt", prompts["prompt"].to_numpy()[table.pop("number").to_numpy()])
    return table
