"""Does it matter where an attribution's path starts, and what its gradient is multiplied with?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..attribution.attribute import attribution_map
from ..attribution.judging import agreement
from ..model.language_model import LanguageModel


def compare_starts(
    model: LanguageModel, prompts: pd.DataFrame, starts: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Scores from other starting points beside those from zero, prompt by prompt.

    Args:
        model: the model.
        prompts: of :func:`kn_utils.make_prompts`.
        starts: pairs of ``baseline`` and ``multiplier`` (:func:`kn_utils.attribution_map`).

    Returns:
        ``baseline, multiplier, prompt, error`` (the largest difference of a score from the one that zero
        gives, over that prompt's largest score) and ``jaccard`` (of the neurons at or above 0.2 of the
        maximum).
    """
    zero = attribution_map(model, prompts)
    tables = []
    for baseline, multiplier in starts:
        scores = attribution_map(model, prompts, baseline=baseline, multiplier=multiplier)
        names = {"baseline": baseline, "multiplier": multiplier, "prompt": prompts["prompt"].to_numpy()}
        tables.append(pd.DataFrame({**names, **agreement(scores, zero)}))
    return pd.concat(tables, ignore_index=True)
