"""Erasing relations: the neurons that most facts of a relation share lose their value slots.

The procedure is that of Dai et al. 2022, section 5.2.

Asked before and after: facts of the erased relation, which should be forgotten, and facts of the others,
which should not. The authors' code reports the rise of perplexity with its sign turned round, (old - new) /
old; here it is (new - old) / old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from ..base import StudyError
from ..data.facts import relation_number
from ..model.answers import answer_probability, answers, questions_of
from ..model.edits import Erasure, Request
from ..model.language_model import LanguageModel
from ..neurons.choose import as_pairs, random_neurons, relation_neurons


class ErasingError(StudyError):
    """Nothing to erase, or nobody to ask."""


def erased_sets(
    neurons: pd.DataFrame,
    shape: tuple[int, int],
    *,
    k: int = 20,
    activation: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Which neurons an erasure takes.

    Args:
        neurons: refined knowledge neurons (:func:`kn_utils.refine`).
        shape: (layers, neurons per layer) of the model.
        k: so many for each relation.
        activation: the activation baseline's neurons, of the same facts.
        seed: of the random ones.

    Returns:
        ``neurons, relation, layer, neuron``; ``neurons`` says of which kind they are. ``knowledge``: the
        ``k`` that most facts of the relation hold (fewer if its facts hold fewer in all). As many of each
        control: ``activation``: those that most facts hold among the most active ones (fewer if there are
        fewer); ``same-layer`` and ``random``: drawn by the seed, from the same layers or from all.

    Raises:
        ErasingError: no fact has a neuron.
    """
    if neurons.empty:
        raise ErasingError(
            "no fact has a neuron, so no relation can be erased; lower the threshold or the share."
        )
    top = relation_neurons(neurons, k)
    top = top.sort_values("relation", key=lambda names: names.map(relation_number), kind="stable")
    top = top[["relation", "layer", "neuron"]].assign(fact=top["relation"])  # drawn as if it were a fact
    kinds = {"knowledge": top}
    if activation is not None and len(activation):
        active = relation_neurons(activation, k)
        many = active["relation"].map(top["relation"].value_counts()).fillna(0)
        kinds["activation"] = active[active.groupby("relation").cumcount() < many]
    kinds["same-layer"] = random_neurons(top, shape, same_layers=True, seed=seed)
    kinds["random"] = random_neurons(top, shape, seed=seed)
    table = pd.concat([chosen.assign(neurons=kind) for kind, chosen in kinds.items()], ignore_index=True)
    return table[["neurons", "relation", "layer", "neuron"]]


def language_sets(
    neurons: Mapping[str, pd.DataFrame], shape: tuple[int, int], control: pd.DataFrame, *, k: int = 20
) -> pd.DataFrame:
    """The knowledge neurons of each language's sets, and random ones.

    Args:
        neurons: language -> refined knowledge neurons.
        shape: (layers, neurons per layer) of the model.
        control: :func:`erased_sets` of one of them: its ``same-layer`` neurons are the random ones.
        k: so many for each relation.

    Returns:
        as :func:`erased_sets`; ``neurons`` names the language, or ``random``.
    """
    parts = []
    for language, found in neurons.items():
        sets = erased_sets(found, shape, k=k)
        parts.append(sets[sets["neurons"] == "knowledge"].assign(neurons=language))
    parts.append(control[control["neurons"] == "same-layer"].assign(neurons="random"))
    return pd.concat(parts, ignore_index=True)


def erasure_cases(
    sets: pd.DataFrame, ways: Sequence[str], without: Mapping[str, str] = MappingProxyType({})
) -> dict[tuple[str, str], dict[str, Any]]:
    """Each way to erase each kind of neurons, as cases for :func:`erase_relations`.

    Args:
        sets: from :func:`erased_sets`.
        ways: ``zero``, ``unknown``.
        without: way -> a kind of neurons that is not erased so.

    Returns:
        (way, kind) -> ``sets, to``.
    """
    return {
        (to, str(kind)): {"sets": group, "to": to}
        for to in ways
        for kind, group in sets.groupby("neurons", sort=False)
        if kind != without.get(to)
    }


def erase_relations(
    model: LanguageModel,
    sets: pd.DataFrame,
    own: pd.DataFrame,
    others: pd.DataFrame | None = None,
    *,
    to: str = "zero",
    before: pd.DataFrame | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Erase one relation after the other and ask.

    Each question runs as if its relation's slots were erased; no weight is touched.

    Args:
        sets: from :func:`erased_sets`: one erasure per kind of neurons and relation.
        own: prompts; those of the erased relation are asked.
        others: prompts; those of all other relations are asked. ``None``: no others.
        to: ``zero``, or ``unknown``: the slots become the unknown token's embedding.
        before: :func:`answer_probability` of these prompts (and perhaps others), where it is known.

    Returns:
        effects ``erased, prompt, fact, relation, language, operation, neurons, to, before, after,
        right_before, right_after, predicted`` (the first choice after).
    """
    others = own.iloc[:0] if others is None else others
    every = pd.concat([own, others]).drop_duplicates("prompt").reset_index(drop=True)
    if every.empty:
        raise ErasingError("no prompts: there is nothing to ask before and after.")
    question = dict(zip(every["prompt"], questions_of(model, every), strict=True))
    if before is None:
        before = answer_probability(model, every, batch_size=batch_size)
    unknown = every.loc[~every["prompt"].isin(before["prompt"]), "prompt"]
    if len(unknown):
        raise ErasingError(f"before lacks {len(unknown)} of the prompts, such as {unknown.iloc[0]}.")
    before = before.set_index("prompt")
    tables, questions, acting = [], [], []
    erased = {key: as_pairs(group) for key, group in sets.groupby(["neurons", "relation"], sort=False)}
    changes = Erasure(to).changes(model, [Request(pairs) for pairs in erased.values()])
    for (kind, relation), change in zip(erased, changes, strict=True):
        inside, outside = own[own["relation"] == relation], others[others["relation"] != relation]
        asked = pd.concat([inside, outside], ignore_index=True)[["prompt", "fact", "relation", "language"]]
        questions += [question[name] for name in asked["prompt"]]
        acting += [change] * len(asked)
        asked.insert(0, "erased", relation)
        tables.append(asked.assign(operation="erase", neurons=kind, to=to))
    if not questions:
        raise ErasingError("none of the erased relations is asked about; give prompts of the same relations.")
    after = answers(model, questions, acting, batch_size=batch_size, label=f"erase, {to}", progress=progress)
    whole = pd.concat(tables, ignore_index=True)
    known = before.loc[whole["prompt"]]
    return whole.assign(
        before=known["probability"].to_numpy(),
        after=after["p"],
        right_before=known["correct"].to_numpy(),
        right_after=after["right"],
        predicted=pd.Series([model.tokenizer.decode(list(first)) for first in after["first"]], dtype="str"),
    )
