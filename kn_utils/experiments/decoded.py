"""Does the decoded answer change, or only its probability, when neurons are scaled or facts edited?

Answers are decoded with nothing acting and under every operation, the same prompts each time, so that a
choice of the number of blanks that looks at other prompts looks at the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..model.acting import Intervention, Scaling
from ..model.answers import questions_of
from ..model.decoding import decode
from ..model.decoding_choice import CHOICES, choose
from ..model.edits import PUBLISHED, Edit
from ..model.language_model import LanguageModel
from ..neurons.choose import pairs_by_fact
from ..statistics.decoded import Named, decode_report
from .effects import BOTH, EvaluationError
from .updating import requests_of


@dataclass(frozen=True)
class Decodings:
    """Which ways of decoding are compared.

    Attributes:
        first: name -> keywords of :func:`kn_utils.decode`, without refinement.
        more: the same with refinement or a beam, which cost more.
        choices: of the number of blanks.
        masks: blanks, or pieces, at most.
        ranking: how candidates are read (:func:`kn_utils.model.ranking.rank_candidates`).
        candidates: of a relation at most; ``None``: all.
    """

    first: dict[str, dict[str, Any]]
    more: dict[str, dict[str, Any]]
    choices: tuple[str, ...]
    masks: int
    ranking: str
    candidates: int | None = None


def decodings_of(model: LanguageModel, masks: int | None = None) -> Decodings:
    """The ways that suit a model: fillings and refinements of blanks, or greedy and beams.

    ``masks`` is 5 blanks for a masked model and 12 pieces for a left-to-right one, unless told otherwise.
    """
    if model.causal:
        first: dict[str, dict[str, Any]] = {"greedy": {"beam": 1}}
        return Decodings(first, {"beam of 3": {"beam": 3}}, ("mean",), masks or 12, "in order", 10)
    first = {init: {"init": init} for init in ("independent", "order", "confidence")}
    pairs = [("independent", refine) for refine in ("order", "confidence", "mask-predict")]
    pairs.append(("confidence", "confidence"))
    more: dict[str, dict[str, Any]] = {"order, beam of 3": {"init": "order", "beam": 3}}
    more |= {f"{init}, then {refine}": {"init": init, "refine": refine} for init, refine in pairs}
    # pll needs a pass per blank besides, and is left out.
    choices = tuple(name for name in CHOICES if name != "pll")
    return Decodings(first, more, choices, masks or 5, "parallel")


def reports_by_choice(
    decoded: pd.DataFrame,
    prompts: pd.DataFrame,
    facts: Named,
    choices: Sequence[str],
    lengths: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """:func:`kn_utils.statistics.decoded.decode_report` of every decoding and choice.

    Args:
        decoded: of several decodings, named in its column ``decoding``.
        prompts, facts: as ``decode_report`` takes them.
        choices: of the number of blanks.
        lengths: for the choice ``prior``.

    Returns:
        the report with ``decoding, choose`` in front.
    """
    tables = []
    for by in choices:
        for name, part in choose(decoded, by, lengths).groupby("decoding", sort=False):
            report = decode_report(part, prompts, facts)
            report.insert(0, "decoding", name)
            report.insert(1, "choose", by)
            tables.append(report)
    return pd.concat(tables, ignore_index=True)


def costs(decoded: pd.DataFrame) -> pd.DataFrame:
    """What decodings cost.

    Returns:
        ``decoding, passes, settled``: forward passes per prompt, over all numbers of blanks, and the share of
        prompts and numbers of blanks that came to rest.
    """
    table = decoded.groupby("decoding", sort=False).agg(
        passes=("rounds", "sum"), prompts=("prompt", "nunique"), settled=("settled", "mean")
    )
    return table.assign(passes=table["passes"] / table.pop("prompts")).reset_index()


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
    requests = requests_of(asked, sets, questions_of(model, wanted))
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
