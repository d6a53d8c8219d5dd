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

import numpy as np
import pandas as pd

from ..base import StudyError
from ..model.answers import Scaling
from ..model.language_model import LanguageModel
from ..model.typed import typed_answers
from ..neurons.choose import lent, pairs_by_fact, random_neurons
from .effects import BOTH

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


def controlled_effects(
    model: LanguageModel,
    prompts: pd.DataFrame,
    candidates: Sequence[Sequence[str]],
    sets: Mapping[str, pd.DataFrame],
    *,
    operations: Mapping[str, float] = BOTH,
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ask every prompt with each set of neurons scaled.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`.
        candidates: per prompt (:func:`kn_utils.model.typed.candidates_of`).
        sets: name -> neurons by the fact that they act on.
        operations: name -> factor.
        before: :func:`kn_utils.model.typed.typed_answers` of the prompts, where it is known already.
        batch_size: texts per pass; ``None`` suits the device.
        progress: whether bars are shown.

    Returns:
        ``prompt, fact, relation, language, operation, neurons`` and, of the answer, ``before, after`` (P),
        ``typed_before, typed_after`` (P among its candidates), ``right_before, right_after,
        typed_right_before, typed_right_after`` (whether it is the first choice).

    Raises:
        ControlsError: no sets.
    """
    prompts = prompts.reset_index(drop=True)
    if before is None:
        before = typed_answers(model, prompts, candidates, batch_size=batch_size, progress=progress)
    tables = []
    for name, neurons in sets.items():
        pairs = pairs_by_fact(neurons)
        place = np.flatnonzero(prompts["fact"].isin(list(pairs)))
        asked = prompts.iloc[place].reset_index(drop=True)
        chosen, known = [candidates[int(i)] for i in place], before.iloc[place].reset_index(drop=True)
        for operation, factor in operations.items():
            acting = [Scaling(pairs[fact], factor) for fact in asked["fact"]]
            after = typed_answers(
                model,
                asked,
                chosen,
                acting,
                batch_size=batch_size,
                label=f"{operation}, {name}",
                progress=progress,
            )
            table = asked[["prompt", "fact", "relation", "language"]]
            table = table.assign(operation=operation, neurons=name)
            for when, answers in (("before", known), ("after", after)):
                table[when] = answers["probability"]
                table[f"typed_{when}"] = answers["typed_probability"]
                table[f"right_{when}"] = answers["correct"]
                table[f"typed_right_{when}"] = answers["typed_correct"]
            tables.append(table)
    if not tables:
        raise ControlsError("no sets of neurons; lower the threshold or ask for more facts.")
    return pd.concat(tables, ignore_index=True)
