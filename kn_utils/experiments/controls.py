"""Fact, answer, relation or form? Whose neurons take an answer away, compared at equal sizes.

A fact's own neurons are silenced (or doubled), and beside them as many of

    same answer       another fact with the same answer
    another answer    another fact of the relation with another answer
    another relation  a fact of another relation, with another answer
    generic           those in most facts' sets, the fact's own relation left out: "a name belongs here"
    most active       the fact's most active ones
    random            as many of the same layers

and every prompt is asked for its answer over the whole vocabulary and among its candidates
(:mod:`kn_utils.model.typed`). What own neurons do beyond those of another answer is the fact's; what all of
them do is the form's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..base import StudyError
from ..model.language_model import LanguageModel
from ..neurons.choose import lent, random_neurons
from .effects import BOTH, effects_by_kind

OWN, GENERIC, ACTIVE, RANDOM = "own", "generic", "most active", "random, same layers"
#: The neurons of another fact: name -> (its relation, its answer), both the same or other than the prompt's.
OTHERS = {
    "same answer": ("same", "same"),
    "another answer": ("same", "other"),
    "another relation": ("other", "other"),
}
#: In the order of tables and figures.
CONTROLS = (OWN, *OTHERS, GENERIC, ACTIVE, RANDOM)


class ControlsError(StudyError):
    """Sets that cannot be compared."""


def control_sets(
    strongest: pd.DataFrame,
    prompts: pd.DataFrame,
    shape: tuple[int, int],
    *,
    active: pd.DataFrame | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The sets of neurons to compare, all of one size, by name (:data:`CONTROLS`).

    Args:
        strongest: every fact's k strongest neurons (:func:`kn_utils.neurons.choose.strongest`).
        prompts: that ask for these facts; they say which facts have the same answer.
        shape: (layers, neurons per layer) of the model.
        active: every fact's k most active neurons; without it that control is not there.
        seed: of other facts and of random neurons.

    Returns:
        name -> ``fact, relation, layer, neuron``. Facts for which there is none of a kind (no other fact has
        the same answer) are not in that kind's table.

    Raises:
        ControlsError: facts with different numbers of neurons.
    """
    sizes = strongest.groupby("fact").size()
    if sizes.nunique() > 1:
        raise ControlsError(
            f"facts have {sizes.min()} to {sizes.max()} neurons; sets are compared at one size: take the k "
            f"strongest."
        )
    columns = ["fact", "relation", "layer", "neuron"]
    own = strongest[columns].reset_index(drop=True)
    sets = {OWN: own}
    for name, (relation, answer) in OTHERS.items():
        sets[name] = lent(own, prompts, relation=relation, answer=answer, seed=seed)
    sets[GENERIC] = generic_neurons(own, int(sizes.iloc[0]) if len(sizes) else 0)
    if active is not None:
        sets[ACTIVE] = active[active["fact"].isin(own["fact"])][columns]
    sets[RANDOM] = random_neurons(own, shape, same_layers=True, seed=seed)
    return {name: sets[name] for name in CONTROLS if name in sets and len(sets[name])}


def generic_neurons(neurons: pd.DataFrame, k: int) -> pd.DataFrame:
    """For every fact the ``k`` neurons that most facts of *other* relations hold.

    Returns:
        ``fact, relation, layer, neuron``; ties go to the lower layer and neuron. With one relation only the
        table is empty.
    """
    facts = neurons[["fact", "relation"]].drop_duplicates()
    parts = [neurons.iloc[:0][["fact", "relation", "layer", "neuron"]]]
    for relation, members in facts.groupby("relation", sort=False):
        others = neurons[neurons["relation"] != relation]
        count = others.groupby(["layer", "neuron"]).size().rename("facts").reset_index()
        count = count.sort_values(["facts", "layer", "neuron"], ascending=[False, True, True]).head(k)
        parts.append(members.merge(count[["layer", "neuron"]], how="cross"))
    return pd.concat(parts, ignore_index=True)


def effects_of_controls(
    model: LanguageModel,
    prompts: pd.DataFrame,
    candidates: Sequence[Sequence[str]],
    strongest: pd.DataFrame,
    *,
    active: pd.DataFrame | None = None,
    operations: Mapping[str, float] = BOTH,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask every prompt with each of the :func:`control_sets` of its fact scaled.

    Args:
        model, prompts, candidates, before, batch_size: as :func:`kn_utils.effects` takes them.
        strongest, active, seed: as :func:`control_sets` takes them.
        operations: name -> factor.

    Returns:
        :func:`kn_utils.effects` with candidates, by ``neurons`` (:data:`CONTROLS`).
    """
    shape = (model.n_layers, model.n_neurons)
    sets = control_sets(strongest, prompts, shape, active=active, seed=seed)
    options: dict[str, Any] = {"operations": operations, "before": before, "batch_size": batch_size}
    return effects_by_kind(model, prompts, sets, candidates=candidates, **options)


def effects_between_languages(
    model: LanguageModel,
    prompts: pd.DataFrame,
    candidates: Sequence[Sequence[str]],
    strongest: pd.DataFrame,
    *,
    operations: Mapping[str, float] = BOTH,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask prompts of many languages with the neurons that one language found, for this fact and for others.

    Args:
        prompts: of any languages.
        strongest: every fact's k strongest neurons, found in one language.
        model, candidates, operations, before, batch_size, seed: as :func:`effects_of_controls` takes them.

    Returns:
        as :func:`effects_of_controls`; ``neurons`` is own, another answer or another relation. Another fact
        is one whose answer no language of ``prompts`` spells like the fact's own.
    """
    columns = ["fact", "relation", "layer", "neuron"]
    sets = {OWN: strongest[columns]}
    for name in ("another answer", "another relation"):
        relation, answer = OTHERS[name]
        sets[name] = lent(sets[OWN], prompts, relation=relation, answer=answer, seed=seed)
    sets = {name: neurons for name, neurons in sets.items() if len(neurons)}
    options: dict[str, Any] = {"operations": operations, "before": before, "batch_size": batch_size}
    return effects_by_kind(model, prompts, sets, candidates=candidates, **options)
