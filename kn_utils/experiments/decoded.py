"""Does the decoded answer change, or only its probability, when neurons are scaled or facts edited?

Answers are decoded with nothing acting and under every operation, the same prompts each time, so that a
choice of the number of blanks that looks at other prompts looks at the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..model.answers import Intervention, Scaling
from ..model.decoding import decode
from ..model.edits import PUBLISHED, Edit, Request
from ..model.language_model import LanguageModel
from ..neurons.choose import pairs_by_fact
from .effects import BOTH, EvaluationError

#: What the operation is called under which nothing acts.
NOTHING = "none"


def decoded_effects(
    model: LanguageModel,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    operations: Mapping[str, float] = BOTH,
    kind: str = "knowledge",
    **how: Any,
) -> pd.DataFrame:
    """Decode every prompt with and without its fact's neurons scaled at each blank that is read.

    Args:
        model: which to ask.
        prompts: those whose fact has no neuron are left out.
        neurons: ``fact, layer, neuron``.
        operations: name -> factor.
        kind: what the neurons are, for the table.
        how: keywords of :func:`kn_utils.decode`.

    Returns:
        ``operation, neurons`` and the columns of :func:`kn_utils.decode`; ``operation`` is ``none`` where
        nothing acts.

    Raises:
        EvaluationError: no prompt whose fact has a neuron.
    """
    sets = pairs_by_fact(neurons)
    asked = prompts[prompts["fact"].isin(list(sets))].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError("none of these prompts' facts has a neuron; lower the threshold or the share.")
    acting: dict[str, Sequence[Intervention | None] | None] = {NOTHING: None}
    acting |= {name: [Scaling(sets[fact], f) for fact in asked["fact"]] for name, f in operations.items()}
    return _under(model, asked, acting, kind, how)


def decoded_edits(
    model: LanguageModel,
    updates: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    edit: Edit = PUBLISHED,
    kind: str = "knowledge",
    **how: Any,
) -> pd.DataFrame:
    """Decode the prompts of edits before and after, each under its own edit.

    Args:
        model: which to edit; its weights are not touched.
        updates: of :func:`kn_utils.experiments.update_choice.sample_updates`.
        neurons: ``fact, layer, neuron``; an update whose fact has none is left out.
        edit: how slots change.
        kind: what the neurons are, for the table.
        how: keywords of :func:`kn_utils.decode`.

    Returns:
        as :func:`decoded_effects`, the operations ``none`` and ``update``, with ``new``: the answer wanted.

    Raises:
        EvaluationError: no update whose fact has a neuron.
    """
    sets = pairs_by_fact(neurons)
    asked = updates[updates["fact"].isin(list(sets))].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError("no fact to be edited has a neuron; lower the threshold or the share.")
    prompts = asked.rename(columns={"old": "answer"})
    wanted = prompts.assign(answer=asked["new"])
    requests = [
        Request(sets[row.fact], row.old, row.new, model.encode(wanted.iloc[[i]]))
        for i, row in enumerate(asked.itertuples())
    ]
    acting: dict[str, Sequence[Intervention | None] | None] = {NOTHING: None}
    acting["update"] = edit.changes(model, requests)
    table = _under(model, prompts, acting, kind, how)
    return table.assign(new=table["prompt"].map(asked.set_index("prompt")["new"]))


def _under(
    model: LanguageModel,
    prompts: pd.DataFrame,
    acting: Mapping[str, Sequence[Intervention | None] | None],
    kind: str,
    how: Mapping[str, Any],
) -> pd.DataFrame:
    """Decoded answers of the same prompts under each of these."""
    parts = []
    for name, acts in acting.items():
        part = decode(model, prompts, acting=acts, **how)
        part.insert(0, "operation", name)
        part.insert(1, "neurons", kind)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
