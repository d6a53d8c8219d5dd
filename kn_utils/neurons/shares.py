"""Scores as shares of their layers: equation 5 of Chen et al. 2024, and where it has no answer.

    share_i = score_i / sum over the layer's neurons of score

A threshold on shares lets weak layers have neurons, too. But a layer's scores add up to P(w) - P(b), and that
may be anything: near 0 the shares are as large as one likes, and below 0 every sign is turned round, so that
neurons that work against the answer come first. Scores that were not kept would be those: both are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import check_table

#: A layer whose scores add up to less has no shares.
LEAST = 1e-6


class RefinementError(StudyError):
    """Scores and prompts, or neurons and bags, that do not belong together; settings that select nothing."""


def layer_sums(notes: pd.DataFrame, layers: Sequence[int] | None = None) -> pd.DataFrame:
    """What each layer's scores add up to, a row per prompt and layer.

    Args:
        notes: the table per prompt of :func:`kn_utils.attribution.attribute.score_tables`.
        layers: those that were asked for, in their order; ``None``: all.

    Returns:
        ``prompt, layer, sum``.

    Raises:
        RefinementError: another number of layers than there are sums.

    Example:
        >>> import pandas as pd
        >>> layer_sums(pd.DataFrame({"prompt": ["a"], "sums": [[0.5, -0.1]]})).values.tolist()
        [['a', 0, 0.5], ['a', 1, -0.1]]
    """
    check_table("notes", notes, "prompt")
    if "sums" not in notes:
        raise RefinementError("this table per prompt holds no sums of layers; attribute the prompts again.")
    sums = np.stack([np.asarray(one, dtype=float) for one in notes["sums"]])
    named = range(sums.shape[1]) if layers is None else list(layers)
    if len(named) != sums.shape[1]:
        raise RefinementError(f"{len(named)} layers, and sums of {sums.shape[1]}; name those asked for.")
    prompts = np.repeat(notes["prompt"].to_numpy(dtype=object), sums.shape[1])
    return pd.DataFrame({"prompt": prompts, "layer": list(named) * len(notes), "sum": sums.ravel()})


def signs_of_sums(sums: pd.DataFrame) -> pd.DataFrame:
    """Of how many prompts a layer's scores add up to something that can be divided by.

    Returns:
        ``layer, positive, near_zero, negative``: shares of the prompts; and a last row ``all``, of the
        prompts in which every layer's sum is above :data:`LEAST` (``positive``), in which some layer's is
        near 0, and in which some layer's is below.
    """
    value = sums["sum"]
    kinds = pd.DataFrame(
        {"positive": value >= LEAST, "near_zero": value.abs() < LEAST, "negative": value <= -LEAST}
    )
    by_layer = kinds.groupby(sums["layer"]).mean().reset_index()
    each = kinds.groupby(sums["prompt"])
    every = {"layer": "all", "positive": each["positive"].all().mean()}
    every |= {name: each[name].any().mean() for name in ("near_zero", "negative")}
    by_layer["layer"] = by_layer["layer"].astype(object)
    return pd.concat([by_layer, pd.DataFrame([every])], ignore_index=True)


def shares_of_layers(
    scores: pd.DataFrame, sums: pd.DataFrame, threshold: float = 0.0, kept: float = 0.0
) -> pd.Series:
    """Every score over its layer's sum, in the order of ``scores``.

    Args:
        scores: ``prompt, layer, neuron, score``.
        sums: ``prompt, layer, sum``, of all layers of these prompts.
        threshold, kept: what shall be selected of a prompt's largest share, and what was kept of its largest
            score: a score that was not kept must not have so large a share.

    Raises:
        RefinementError: a layer of these prompts whose sum is missing, near zero or negative; scores that
            were not kept and might be selected.
    """
    check_table("sums", sums, "prompt layer", unique="prompt layer")
    here = sums[sums["prompt"].isin(scores["prompt"])]
    known = here.set_index(["prompt", "layer"])["sum"]
    places = pd.MultiIndex.from_frame(scores[["prompt", "layer"]])
    if len(lacking := places[~places.isin(known.index)]):
        raise RefinementError(f"prompt {lacking[0][0]}, layer {lacking[0][1]}: its sum is not there.")
    bad = here[~(here["sum"] >= LEAST)]
    if len(bad):
        near = int((bad["sum"].abs() < LEAST).sum())
        first = bad.iloc[0]
        raise RefinementError(
            f"equation 5 cannot be used: of {len(here)} layers' sums {near} are nearer to 0 than {LEAST:g} "
            f"and {len(bad) - near} negative, which would turn every sign round (such as {first['sum']:.2g} "
            f"in layer {first['layer']} of {first['prompt']}); leave these prompts out, or the sums."
        )
    share = scores["score"] / known.loc[places].to_numpy()
    most = share.groupby(scores["prompt"]).max()
    largest = scores.groupby("prompt")["score"].max()
    unseen = kept * largest / here.groupby("prompt")["sum"].min()
    if kept and (over := unseen >= threshold * most).any():
        least = float((kept * threshold * most / unseen).min())
        raise RefinementError(
            f"{int(over.sum())} prompts: scores below keep={kept:g} of the largest were not kept, and some "
            f"might be {threshold:g} of the largest share; attribute again with keep below {least:.2g}."
        )
    return share
