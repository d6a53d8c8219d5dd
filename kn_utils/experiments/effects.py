"""What an intervention does to the right answers, and to everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import ASKED, check_model, check_numbers, check_prompts, check_table
from ..model.answers import Scaling, answer_probability, answers, questions_of
from ..model.language_model import LanguageModel
from ..neurons.choose import other_fact, pairs_by_fact

#: The two interventions of the papers, and what they multiply neurons by.
BOTH = {"suppress": 0.0, "amplify": 2.0}

#: Columns of a table of effects.
EFFECTS = [
    "prompt",
    "fact",
    "relation",
    "language",
    "operation",
    "factor",
    "neurons",
    "before",
    "after",
    "right_before",
    "right_after",
    "predicted_before",
    "predicted_after",
    "changed",
]


class EvaluationError(StudyError):
    """An evaluation that has nothing to measure."""


def perplexity(probability: Sequence[float]) -> float:
    """Perplexity of right answers: exp of the mean of -ln P(answer)."""
    return float(np.exp(-np.log(np.asarray(probability, dtype=float)).mean()))


def effects(
    model: LanguageModel,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    operation: str = "suppress",
    factor: float | None = None,
    kind: str = "knowledge",
    source: Sequence[str | None] | None = None,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Ask every prompt with and without its fact's neurons scaled; many facts share a batch.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`.
        neurons: ``fact, layer, neuron``, such as :func:`kn_utils.refine` gives.
        operation: ``suppress`` (factor 0) or ``amplify`` (factor 2 unless given).
        kind: what the neurons are (knowledge, activation, random), for the table.
        source: the fact whose neurons act on each prompt (:func:`other_fact`); its own when left out.
        before: :func:`answer_probability` of the prompts, where it is known already.

    Returns:
        ``prompt, fact, relation, language, operation, factor, neurons, before, after`` for the prompts whose
        source has a neuron (before and after: P of the right answer); ``right_before, right_after``: whether
        the right answer is the first choice; ``predicted_before, predicted_after``: the first choice as text,
        and ``changed``: whether it is another one.

    Raises:
        EvaluationError: no prompt whose source has a neuron; ``before`` or ``source`` of other prompts.

    Example:
        >>> import pandas as pd
        >>> from kn_utils import effects, load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(2)
        >>> neurons = pd.DataFrame({"fact": prompts["fact"][0], "layer": [4, 5], "neuron": [7, 9]})
        >>> changed = effects(load_model("mini"), prompts, neurons)
        >>> changed[["operation", "factor"]].drop_duplicates().values.tolist()
        [['suppress', 0.0]]
    """
    if operation not in BOTH:
        raise EvaluationError(f"operation={operation!r}; it is 'suppress' or 'amplify'.")
    check_model(model)
    check_prompts(prompts, f"{ASKED} fact relation language")
    factor = BOTH[operation] if factor is None else factor
    check_numbers(factor=factor, batch_size=batch_size)
    if operation == "suppress" and factor != 0:
        raise EvaluationError(f"suppress multiplies by 0, not by {factor}; for that say operation='amplify'.")
    if before is not None:
        check_table("before", before, "prompt probability correct predicted")
    if before is not None and before["prompt"].tolist() != prompts["prompt"].tolist():
        raise EvaluationError(
            "before is not of these prompts in this order; pass answer_probability(model, prompts)."
        )
    sets = pairs_by_fact(neurons)
    sources = prompts["fact"].to_numpy() if source is None else np.asarray(source, dtype=object)
    if len(sources) != len(prompts):
        raise EvaluationError(f"{len(sources)} sources for {len(prompts)} prompts; each prompt needs one.")
    has = np.array([fact in sets for fact in sources], dtype=bool)
    asked = prompts[has].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError("none of these prompts' facts has a neuron; lower the threshold or the share.")
    known = answer_probability(model, asked, batch_size=batch_size) if before is None else before[has]
    acting = [Scaling(sets[fact], factor) for fact in sources[has]]
    after = answers(
        model, questions_of(model, asked), acting, batch_size=batch_size, label=f"{operation}, {kind}"
    )
    table = pd.DataFrame(
        {
            **{name: asked[name] for name in ("prompt", "fact", "relation", "language")},
            "operation": operation,
            "factor": float(factor),
            "neurons": kind,
            "before": known["probability"].to_numpy(),
            "after": after["p"],
            "right_before": known["correct"].to_numpy(),
            "right_after": after["right"],
            "predicted_before": known["predicted"].to_numpy(),
            "predicted_after": [model.tokenizer.decode(list(pieces)) for pieces in after["first"]],
        }
    )
    return table.assign(changed=table["predicted_before"] != table["predicted_after"])


def cases_by_kind(kinds: Mapping[str, pd.DataFrame], asked: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A case for each kind of neurons, for :func:`effects_of_operations` and other experiments.

    Args:
        kinds: name -> neurons.
        asked: prompts, or facts to change (``fact``); a kind without a neuron for any of them is no case (the
            activation baseline may be empty).

    Returns:
        name -> ``neurons`` and ``kind``, their name.

    Raises:
        EvaluationError: no kind has a neuron.
    """
    cases = {
        kind: {"neurons": neurons, "kind": kind}
        for kind, neurons in kinds.items()
        if neurons["fact"].isin(asked["fact"]).any()
    }
    if not cases:
        raise EvaluationError(
            "no kind of neurons has one for these prompts' facts; lower the threshold or the share."
        )
    return cases


def effects_of_operations(
    model: LanguageModel,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    kind: str = "knowledge",
    operations: Mapping[str, float] = BOTH,
    source: Sequence[str | None] | None = None,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """:func:`effects` of one kind of neurons under every operation (name -> factor), one below the other."""
    before = answer_probability(model, prompts, batch_size=batch_size) if before is None else before
    options: dict[str, Any] = {"kind": kind, "source": source, "before": before, "batch_size": batch_size}
    return pd.concat(
        [
            effects(model, prompts, neurons, operation=operation, factor=factor, **options)
            for operation, factor in operations.items()
        ],
        ignore_index=True,
    )


def effects_by_kind(
    model: LanguageModel,
    prompts: pd.DataFrame,
    kinds: Mapping[str, pd.DataFrame],
    *,
    operations: Mapping[str, float] = BOTH,
    source: Sequence[str | None] | None = None,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """:func:`effects_of_operations` of every kind of neurons, one below the other.

    Args:
        model, prompts, source, before, batch_size: as :func:`effects` takes them.
        kinds: name -> neurons. Those that :func:`cases_by_kind` leaves out are not there.
        operations: name -> factor.
    """
    acting = pd.DataFrame({"fact": prompts["fact"].to_numpy() if source is None else source})
    cases = cases_by_kind(kinds, acting)
    before = answer_probability(model, prompts, batch_size=batch_size) if before is None else before
    options: dict[str, Any] = {"operations": operations, "source": source}
    options |= {"before": before, "batch_size": batch_size}
    tables = [effects_of_operations(model, prompts, **case, **options) for case in cases.values()]
    return pd.concat(tables, ignore_index=True)


def effects_in_held_out(
    model: LanguageModel,
    prompts: pd.DataFrame,
    kinds: Mapping[str, pd.DataFrame],
    found: pd.DataFrame,
    *,
    operations: Mapping[str, float] = BOTH,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Do neurons act in prompts that had no say in choosing them?

    Args:
        model, operations, before, batch_size: as :func:`effects_by_kind` takes them.
        prompts: some of those that found the neurons, and others.
        kinds: name -> neurons.
        found: the prompts that these were found with.

    Returns:
        effects with ``where``: ``wordings that found the neurons`` or ``wordings held out``.
    """
    table = effects_by_kind(
        model, prompts, kinds, operations=operations, before=before, batch_size=batch_size
    )
    inside = table["prompt"].isin(found["prompt"])
    return table.assign(where=np.where(inside, "wordings that found the neurons", "wordings held out"))


def effects_of_other_facts(
    model: LanguageModel,
    prompts: pd.DataFrame,
    kinds: Mapping[str, pd.DataFrame],
    own: pd.DataFrame | None = None,
    *,
    operations: Mapping[str, float] = BOTH,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Is it the fact, its relation or its answer that neurons carry?

    Prompts are asked under the neurons of one other fact each.

    Args:
        kinds: name -> neurons; the other facts are drawn (:func:`other_fact`) among those of the first kind.
        own: effects of the facts' own neurons: those of the first kind on the same prompts are put beside, as
            kind ``its own``.

    Returns:
        effects with ``relation_is, answer_is``: ``same`` or ``other`` than the prompt's. Combinations without
        a pair of facts are not there (one relation only, or every answer another); with none at all the table
        is empty.
    """
    first = next(iter(kinds))
    tables = [pd.DataFrame(columns=["relation_is", "answer_is", *EFFECTS])]
    for relation, answer in (("same", "other"), ("other", "other"), ("same", "same"), ("other", "same")):
        source = other_fact(prompts, kinds[first], relation=relation, answer=answer, seed=seed)
        if source is None:
            continue
        asked: dict[str, Any] = {"source": source, "before": before, "batch_size": batch_size}
        parts = [effects_by_kind(model, prompts, kinds, operations=operations, **asked)]
        if own is not None:
            beside = own[own["prompt"].isin(parts[0]["prompt"]) & (own["neurons"] == first)]
            parts.append(beside.assign(neurons="its own"))
        tables.append(pd.concat(parts).assign(relation_is=relation, answer_is=answer))
    return pd.concat(tables[1:] or tables, ignore_index=True)
