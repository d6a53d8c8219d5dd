"""What an intervention does to the right answers, and to everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import ASKED, check_model, check_numbers, check_prompts, check_table
from ..model.acting import Scaling
from ..model.answers import answers, as_answered, questions_of
from ..model.language_model import LanguageModel
from ..model.typed import typed_answers
from ..neurons.choose import pairs_by_fact

#: What tables of effects call an answer's columns, before and after: prefix -> column of the answers.
TOLD = {"": "probability", "right_": "correct"}
TOLD_AMONG = {"typed_": "typed_probability", "typed_right_": "typed_correct"}
#: The two interventions of the papers, and what they multiply neurons by.
BOTH = {"suppress": 0.0, "amplify": 2.0}


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
    candidates: Sequence[Sequence[str]] | None = None,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Ask every prompt with and without its fact's neurons scaled; many facts share a batch.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`.
        neurons: ``fact, layer, neuron``, such as :func:`kn_utils.refine` gives: those that act on the fact's
            prompts (:func:`kn_utils.neurons.choose.lent` puts another fact's in their place).
        operation: ``suppress`` (factor 0) or ``amplify`` (factor 2 unless given).
        kind: what the neurons are (knowledge, activation, random), for the table.
        candidates: per prompt what its answer competes with (:func:`kn_utils.model.typed.candidates_of`), to
            read it among these as well.
        before: :func:`kn_utils.answer_probability` of the prompts, or with candidates
            :func:`kn_utils.model.typed.typed_answers`, where it is known already.

    Returns:
        ``prompt, fact, relation, language, operation, factor, neurons, before, after`` for the prompts whose
        fact has a neuron (before and after: P of the right answer); ``right_before, right_after``: whether
        the right answer is the first choice; ``predicted_before, predicted_after``: the first choice as text,
        and ``changed``: whether it is another one. With candidates also ``typed_before, typed_after`` (P
        among them) and ``typed_right_before, typed_right_after``.

    Raises:
        EvaluationError: no prompt whose fact has a neuron; ``before`` of other prompts.

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
    place = np.flatnonzero(prompts["fact"].isin(list(sets)))
    asked = prompts.iloc[place].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError("none of these prompts' facts has a neuron; lower the threshold or the share.")
    among = None if candidates is None else [candidates[int(i)] for i in place]
    acting = [Scaling(sets[fact], factor) for fact in asked["fact"]]
    known = _answered(model, asked, among, batch_size=batch_size) if before is None else before.iloc[place]
    label = f"{operation}, {kind}"
    after = _answered(model, asked, among, acting, batch_size=batch_size, label=label)
    table = asked[["prompt", "fact", "relation", "language"]]
    table = table.assign(operation=operation, factor=float(factor), neurons=kind)
    names = TOLD | {"predicted_": "predicted"}
    if among is not None:
        names |= TOLD_AMONG
    for name, column in names.items():
        for when, told in (("before", known), ("after", after)):
            table[f"{name}{when}"] = told[column].to_numpy()
    return table.assign(changed=table["predicted_before"] != table["predicted_after"])


def _answered(
    model: LanguageModel,
    prompts: pd.DataFrame,
    candidates: Sequence[Sequence[str]] | None,
    acting: Sequence[Scaling] | None = None,
    **asking: Any,
) -> pd.DataFrame:
    """Answers over the vocabulary, and among candidates where there are some."""
    if candidates is not None:
        return typed_answers(model, prompts, candidates, acting, **asking)
    return as_answered(model, prompts, answers(model, questions_of(model, prompts), acting, **asking))


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
    candidates: Sequence[Sequence[str]] | None = None,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """:func:`effects` of one kind of neurons under every operation (name -> factor), one below the other."""
    options: dict[str, Any] = {"kind": kind, "candidates": candidates, "batch_size": batch_size}
    if before is None:
        before = _answered(model, prompts, candidates, batch_size=batch_size)
    options["before"] = before
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
    candidates: Sequence[Sequence[str]] | None = None,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """:func:`effects_of_operations` of every kind of neurons, one below the other.

    Args:
        model, prompts, candidates, before, batch_size: as :func:`effects` takes them.
        kinds: name -> neurons. Those that :func:`cases_by_kind` leaves out are not there.
        operations: name -> factor.
    """
    cases = cases_by_kind(kinds, prompts)
    if before is None:
        before = _answered(model, prompts, candidates, batch_size=batch_size)
    options: dict[str, Any] = {"operations": operations, "candidates": candidates}
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
