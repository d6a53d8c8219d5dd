"""Language neurons: active in one language's texts and hardly in others' (LAPE, Tang et al. 2024).

With p_ik the share of language k's tokens at which neuron i is active, q_ik = p_ik / sum_k p_ik and the
entropy of q_i over languages, they are the neurons of lowest entropy among those that are active often
somewhere. They say which language a text is in, not what it says: taking them out of sets of neurons shows
whether these served the language.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..base import StudyError


class ActivityError(StudyError):
    """Shares of activity that cannot be compared."""


def language_neurons(
    active: Mapping[str, np.ndarray], *, share: float = 0.01, percentile: float = 95
) -> pd.DataFrame:
    """The language neurons of a model.

    Args:
        active: language -> share of its tokens at which each neuron is active, (layer, neuron).
        share: so large a part of all neurons is taken, those of lowest entropy.
        percentile: of all shares of all languages; a neuron that exceeds it in no language is no candidate,
            and a language owns the neurons taken that exceed it there.

    Returns:
        ``layer, neuron, entropy`` (nats), ``languages`` (its owners, by spaces), lowest entropy first.

    Raises:
        ActivityError: fewer than two languages; languages of different models.

    Example:
        >>> import numpy as np
        >>> active = {"en": np.array([[0.9, 0.5]]), "zh": np.array([[0.1, 0.5]])}
        >>> language_neurons(active, share=0.5, percentile=50)[["neuron", "languages"]].values.tolist()
        [[0, 'en']]
    """
    shapes = {np.asarray(p).shape for p in active.values()}
    if len(active) < 2 or len(shapes) > 1:
        raise ActivityError(f"{len(active)} languages of {len(shapes)} shapes; two of one model are needed.")
    p = np.stack([np.asarray(one, dtype=float) for one in active.values()])
    edge = np.percentile(p, percentile)
    total = p.sum(0)
    q = np.divide(p, total, out=np.full_like(p, 1 / len(p)), where=total > 0)
    logs = np.log(q, out=np.zeros_like(q), where=q > 0)
    entropy = -(q * logs).sum(0)
    entropy[(p <= edge).all(0)] = np.inf
    number = int(round(share * entropy.size))
    order = np.argsort(entropy, axis=None, kind="stable")[:number]
    layer, neuron = np.unravel_index(order[np.isfinite(entropy.flat[order])], entropy.shape)
    names = np.array(list(active))
    owners = [" ".join(names[p[:, a, b] > edge]) for a, b in zip(layer, neuron, strict=True)]
    columns = {"layer": layer, "neuron": neuron, "entropy": entropy[layer, neuron], "languages": owners}
    return pd.DataFrame(columns)
