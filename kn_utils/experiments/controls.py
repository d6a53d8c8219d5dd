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

import pandas as pd

from ..base import StudyError
from ..neurons.choose import lent, random_neurons

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


def sets_abroad(strongest: pd.DataFrame, prompts: pd.DataFrame, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Whose neurons are compared in other languages than the one that found them.

    Args:
        strongest: every fact's k strongest neurons, found in one language.
        prompts: that are asked, of any languages. Another fact is one whose answer none of them spells like
            the fact's own.
        seed: of other facts.

    Returns:
        name -> ``fact, relation, layer, neuron``: own, another answer, another relation, as far as there are
        such facts.
    """
    sets = {OWN: strongest[["fact", "relation", "layer", "neuron"]]}
    for name in ("another answer", "another relation"):
        relation, answer = OTHERS[name]
        sets[name] = lent(sets[OWN], prompts, relation=relation, answer=answer, seed=seed)
    return {name: neurons for name, neurons in sets.items() if len(neurons)}
