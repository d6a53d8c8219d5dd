"""Which neurons must be there, and which suffice: P(answer) against how many of the strongest there are.

A *selection* orders a model's neurons for a fact, the strongest first; where it cuts the order off says
nothing about how well it localises. So P is read with the k strongest *silenced* at the blank, and with all
others silenced and these *kept*, k = 0, 1, 2, 4, ... 1024 (Mueller et al. 2025 call areas under such curves
integrated faithfulness). The order is that of one half of a fact's wordings, P that of the other half.

A model whose feed-forward output is normalised before it is added is scored by its gradient: there AMIG's
baselines are a difference of activations times that gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..attribution.attribute import attribution_map
from ..attribution.reading import CONTENT, RELATION_MEAN, relation_means
from ..base import StudyError
from ..checks import ASKED, check_model, check_numbers, check_prompts, check_table
from ..model.acting import Intervention, Scaling
from ..model.answers import answers, questions_of
from ..model.language_model import LanguageModel
from ..model.typed import typed_answers
from ..neurons.choose import best_neurons, check_shape, lent, pairs_by_fact
from ..statistics.localisation import OWN, UNRELATED
from .effects import effects_of_operations

#: How many of the strongest neurons are silenced or kept.
SIZES = (0, *(2**n for n in range(11)))
#: The same in steps of four.
FEWER = (0, *SIZES[1::2])
DEFAULT, RANDOM, ACTIVE, ANOTHER = "default", "random, same layers", "most active", "another answer"
#: Selections that are read with neurons set to a mean as well.
BY_MEAN = (DEFAULT, "replacement", RELATION_MEAN, "AMIG as released", RANDOM)
#: Points of each path where there is one for every token.
EACH = 2
#: Prompts whose whole maps are held at once.
AT_ONCE = 64


class LocalisationError(StudyError):
    """An order of neurons that the curves cannot be read with."""


def selections(model: LanguageModel, **default: Any) -> dict[str, dict[str, Any]]:
    """Ways to order neurons by name, as :func:`kn_utils.attribute` takes them.

    ``default``, and from there AMIG's baselines (Chen et al. 2024): the mean over every replaced token
    (``replacement``, their code), a path for each (``replacement-each``, their text; of :data:`EACH` points,
    since there are as many paths as tokens), content tokens only, and the relation's mean; ``AMIG as
    released`` (their multiplier, rule and number of points); the gradient; the activation. Those that are the
    same where the default is a gradient, along no path, are not there.

    Args:
        model: whose.
        default: arguments of the default rule.
    """
    ways: dict[str, dict[str, Any]] = {
        DEFAULT: default,
        "replacement": {**default, "baseline": "replacement"},
        "replacement-each": {"steps": EACH, **default, "baseline": "replacement-each"},
        CONTENT: {**default, "baseline": CONTENT},
        RELATION_MEAN: {**default, "baseline": RELATION_MEAN},
        "AMIG as released": {
            "baseline": "replacement",
            "multiplier": "activation",
            "rule": "left",
            "steps": 10,
        },
        "gradient": {"rule": "gradient"},
        ACTIVE: {"method": "activation"},
    }
    rule = default.get("rule", "auto")
    along_no_path = rule == "gradient" or rule == "auto" and model.norms_output
    same = ("replacement-each", "gradient") if along_no_path else ()
    return {name: rule for name, rule in ways.items() if name not in same}


def strongest_first(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    depth: int = SIZES[-1],
    candidates: Sequence[Sequence[str]] | None = None,
    **rule: Any,
) -> pd.DataFrame:
    """Every fact's neurons by their mean score over its prompts, the strongest first.

    Args:
        model: whose.
        prompts: :func:`kn_utils.make_prompts`; those that find the neurons.
        depth: so many of each fact.
        candidates: per prompt, for the target ``typed``.
        rule: arguments of :func:`kn_utils.attribution_map`.

    Returns:
        ``fact, relation, layer, neuron, score``, facts in their order; of equal scores the lower layer and
        neuron first.
    """
    check_model(model)
    check_numbers(k=depth)
    check_prompts(prompts, f"{ASKED} fact relation")
    if rule.get("baseline") == RELATION_MEAN:  # it looks at all prompts of a relation
        parts = [part for _, part in prompts.groupby("relation", sort=False).indices.items()]
    else:
        parts = [
            np.arange(start, min(start + AT_ONCE, len(prompts))) for start in range(0, len(prompts), AT_ONCE)
        ]
    total: dict[str, torch.Tensor] = {}
    for places in parts:
        some = prompts.iloc[places].reset_index(drop=True)
        among = None if candidates is None else [candidates[int(i)] for i in places]
        maps = attribution_map(model, some, candidates=among, **rule).double()
        for fact, scores in zip(some["fact"], maps, strict=True):
            total[fact] = total[fact] + scores if fact in total else scores
    number, relation = prompts["fact"].value_counts(), prompts.drop_duplicates("fact").set_index("fact")
    tables = []
    for fact, scores in total.items():
        best = best_neurons(scores.numpy(), depth)
        best["score"] /= number[fact]
        best.insert(0, "relation", relation.at[fact, "relation"])
        best.insert(0, "fact", fact)
        tables.append(best)
    return pd.concat(tables, ignore_index=True)


def random_order(order: pd.DataFrame, shape: tuple[int, int], *, seed: int = 0) -> pd.DataFrame:
    """A random neuron of the same layer in every place, so that any number of the first has the same layers.

    Args:
        order: ``fact, layer, neuron``; no fact with more neurons of a layer than there are.
        shape: (layers, neurons per layer).
        seed: of the draw, which depends on nothing but it and the fact.
    """
    check_table("order", order, "fact layer neuron")
    check_numbers(seed=seed)
    _, width = check_shape(shape)
    neuron, layers = order["neuron"].to_numpy(int).copy(), order["layer"].to_numpy(int)
    for fact, rows in order.groupby("fact", sort=False).indices.items():
        random = np.random.default_rng([seed, *str(fact).encode()])
        for layer in np.unique(layers[rows]):
            here = rows[layers[rows] == layer]
            if len(here) > width:
                raise LocalisationError(f"{len(here)} neurons of layer {layer}, which has {width}.")
            neuron[here] = random.permutation(width)[: len(here)]
    return order.assign(neuron=neuron)


def orders_compared(
    found: dict[str, pd.DataFrame], asked: pd.DataFrame, shape: tuple[int, int], *, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Selections by name, with their controls behind them.

    Args:
        found: name -> :func:`strongest_first`; the default among them.
        asked: the prompts that curves are read in; they say which facts have the same answer.
        shape: (layers, neurons per layer).
        seed: of what is drawn.

    Returns:
        ``found`` of the facts asked about; ``random, same layers``; ``another answer``, the default order of
        another fact of the relation, where there is one.
    """
    own = {name: order[order["fact"].isin(asked["fact"])] for name, order in found.items()}
    own[RANDOM] = random_order(own[DEFAULT], shape, seed=seed)
    own[ANOTHER] = lent(own[DEFAULT], asked, relation="same", answer="other", seed=seed)
    return {name: order.reset_index(drop=True) for name, order in own.items() if len(order)}


def curves(
    model: LanguageModel,
    prompts: pd.DataFrame,
    order: pd.DataFrame,
    *,
    sizes: Sequence[int] | None = None,
    candidates: Sequence[Sequence[str]] | None = None,
    set_to: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """P(answer) with the first neurons of an order silenced, and with these alone kept.

    Every number of neurons is a row of its own in the batch, so all facts go together.

    Args:
        model: which to ask.
        prompts: those to ask; facts without an order are left out.
        order: ``fact, layer, neuron``, the strongest first.
        sizes: numbers of neurons, growing, each at most an order's length; ``None``: :data:`SIZES` as far as
            every order reaches.
        candidates: per prompt, to read P among these as well.
        set_to: prompts of more facts of the relations: *silenced* neurons are set to their mean activation at
            the blanks of the relation's other facts instead of 0, which is the zero baseline's own question.
        batch_size: texts per pass; ``None`` suits the device.

    Returns:
        ``prompt, fact, relation, language, way, k, p`` (``way``: silenced, kept; of several pieces P is the
        product, each asked at its own blank) and with candidates ``typed``.

    Raises:
        LocalisationError: sizes that do not grow from 0, a fact with fewer neurons than the largest, one
            neuron twice; no prompt whose fact has an order.
    """
    check_model(model)
    check_prompts(prompts, f"{ASKED} fact relation language")
    check_table("order", order, "fact layer neuron")
    if sizes is None:
        sizes = [k for k in SIZES if k <= order.groupby("fact").size().min()]
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 0:
        raise LocalisationError(f"sizes={list(sizes)}; they are numbers of neurons that grow, from 0.")
    sets = pairs_by_fact(order)
    place = np.flatnonzero(prompts["fact"].isin(list(sets)))
    if not len(place):
        raise LocalisationError("none of these prompts' facts has an order of neurons.")
    asked = prompts.iloc[place].reset_index(drop=True)
    for fact in asked["fact"].unique():
        if len(sets[fact]) < sizes[-1]:
            raise LocalisationError(
                f"{fact} has an order of {len(sets[fact])} neurons, fewer than {sizes[-1]}; give fewer sizes."
            )
        if set_to is not None and fact not in set(set_to["fact"]):
            raise LocalisationError(f"{fact} is not among the prompts whose means neurons are set to.")
        if len(np.unique(sets[fact], axis=0)) < len(sets[fact]):
            raise LocalisationError(f"the order of {fact} holds a neuron twice.")
    ways = [(way, k) for way in ("silenced", "kept") for k in sizes]
    lines = [(i, way, k) for i in range(len(asked)) for way, k in ways]
    means: dict[str, np.ndarray] = {}
    if set_to is not None:
        means = _means(model, set_to[set_to["relation"].isin(asked["relation"])])
    facts = asked["fact"].tolist()
    acting = [_act(sets[facts[i]][:k], way, means.get(facts[i])) for i, way, k in lines]
    table = asked.loc[[i for i, _, _ in lines], ["prompt", "fact", "relation", "language"]]
    table = table.reset_index(drop=True).assign(way=[way for _, way, _ in lines], k=[k for *_, k in lines])
    asking: dict[str, Any] = {"batch_size": batch_size, "label": "silence and keep"}
    if candidates is None:
        questions = questions_of(model, asked)
        found = answers(model, [questions[i] for i, _, _ in lines], acting, **asking)
        return table.assign(p=found["p"].to_numpy())
    among = [candidates[int(place[i])] for i, _, _ in lines]
    many = asked.loc[[i for i, _, _ in lines]].reset_index(drop=True)
    told = typed_answers(model, many, among, acting, **asking)
    return table.assign(p=told["probability"].to_numpy(), typed=told["typed_probability"].to_numpy())


def _act(pairs: np.ndarray, way: str, mean: np.ndarray | None) -> Intervention | None:
    if way == "kept":
        return Scaling(pairs, 0.0, others=True, towards=mean)
    return Scaling(pairs, 0.0, towards=mean) if len(pairs) else None


def _means(model: LanguageModel, prompts: pd.DataFrame) -> dict[str, np.ndarray]:
    """fact -> mean activations of its relation's other facts, (layer, neuron)."""
    prompts = prompts.reset_index(drop=True)
    return {
        fact: values.numpy()
        for fact, values in relation_means(model, prompts, questions_of(model, prompts)).items()
    }


def own_and_unrelated(
    model: LanguageModel,
    prompts: pd.DataFrame,
    order: pd.DataFrame,
    *,
    k: int = 5,
    candidates: Sequence[Sequence[str]] | None = None,
    before: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Effects of the first ``k`` neurons of an order on their fact, and on one of another relation.

    AMIG divides the first by the second (:func:`kn_utils.statistics.localisation.success_rates`), and takes
    any other fact, of the same relation too.

    Args:
        model, prompts, candidates, before: as :func:`kn_utils.effects` takes them.
        order: ``fact, relation, layer, neuron``, the strongest first.
        k: neurons of each fact.
        seed: of the other facts.

    Returns:
        effects of both operations, ``neurons`` being ``own`` or ``another relation``. The prompts are the
        same: those of another fact act where its own have acted.
    """
    check_numbers(k=k)
    first = order.groupby("fact", sort=False).head(k)
    kinds = {OWN: first, UNRELATED: lent(first, prompts, relation="other", answer="other", seed=seed)}
    tables = [
        effects_of_operations(model, prompts, table, kind=kind, candidates=candidates, before=before)
        for kind, table in kinds.items()
        if len(table)
    ]
    return pd.concat(tables, ignore_index=True)
