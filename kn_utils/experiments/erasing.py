"""Erasing relations: the neurons that most facts of a relation share lose their value slots.

The procedure is that of Dai et al. 2022, section 5.2.

Asked before and after: facts of the erased relation, which should be forgotten, and facts of the others,
which should not. The authors' code reports the rise of perplexity with its sign turned round, (old - new) /
old; here it is (new - old) / old.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..base import StudyError
from ..data.facts import relation_number
from ..model.answers import answer_probability, answers, questions_of
from ..model.edits import Erasure, Request
from ..model.language_model import LanguageModel
from ..neurons.choose import as_pairs, random_neurons, relation_neurons
from ..statistics.intervals import column_means

#: What a summary calls the facts that it is about.
OWN, OTHERS = "erased relation", "other relations"
MEAN = "mean of relations"
LEAST = 1e-300  # a probability of 0 has no logarithm


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


def erase_relations(
    model: LanguageModel,
    sets: pd.DataFrame,
    own: pd.DataFrame,
    others: pd.DataFrame | None = None,
    *,
    to: str = "zero",
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

    Returns:
        effects ``erased, prompt, fact, relation, language, operation, neurons, to, before, after,
        right_before, right_after, predicted`` (the first choice after).
    """
    others = own.iloc[:0] if others is None else others
    every = pd.concat([own, others]).drop_duplicates("prompt").reset_index(drop=True)
    if every.empty:
        raise ErasingError("no prompts: there is nothing to ask before and after.")
    question = dict(zip(every["prompt"], questions_of(model, every), strict=True))
    before = answer_probability(model, every, batch_size=batch_size).set_index("prompt")
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


def log_rise(effects: pd.DataFrame) -> pd.Series:
    """ln P before - ln P after of every row, in nats.

    Its mean over prompts is ln(perplexity after / perplexity before).
    """
    before, after = (np.log(effects[name].clip(lower=LEAST)) for name in ("before", "after"))
    return before - after


def summarise_erasing(
    effects: pd.DataFrame, by: Sequence[str] = ("neurons", "to"), *, per: str = "erased", seed: int = 0
) -> pd.DataFrame:
    """The paper's table: perplexity and accuracy of the erased and of the other relations, before and after.

    Every fact counts alike (a fact's prompts are averaged first). Perplexity is exp of the mean of -ln P, its
    rise (after - before) / before. The last relation is the mean over relations: of perplexities and rises
    the geometric mean.

    Args:
        effects: from :func:`erase_relations`.
        by: columns that tell runs apart.
        per: ``erased``: a row per relation that was erased; ``relation``: a row per relation that was *asked*
            about. With ``relation``, the rows of other relations say what erasing any of the others does to
            this one.

    Returns:
        ``*by, asked, relation, measure, value, low, high, n``; intervals from resampling facts within their
        relation. Measures: ``perplexity before``, ``perplexity after``, ``perplexity rise`` (1 = doubled),
        ``accuracy before``, ``accuracy after``, ``accuracy change``.
    """
    if per not in ("erased", "relation"):
        raise ErasingError(f"per={per!r}; it is 'erased' or 'relation'.")
    asked = np.where(effects["erased"] == effects["relation"], OWN, OTHERS)
    table = effects.assign(asked=asked, rise=log_rise(effects))
    table["surprise"] = -np.log(table["before"].clip(lower=LEAST))
    table["surprise_after"] = table["surprise"] + table["rise"]
    table["change"] = table["right_after"].astype(float) - table["right_before"].astype(float)
    relation = table.drop_duplicates("fact").set_index("fact")["relation"]
    measures = {
        "perplexity before": "surprise",
        "perplexity after": "surprise_after",
        "perplexity rise": "rise",
        "accuracy before": "right_before",
        "accuracy after": "right_after",
        "accuracy change": "change",
    }
    parts = []
    for key, group in table.groupby([*by, "asked"], sort=False):
        for measure, column in measures.items():
            values = group.assign(value=group[column].astype(float))
            each = values.groupby(["fact", per], sort=False)["value"].mean()
            means = column_means(each.unstack(sort=False), relation, mean=MEAN, seed=seed)
            means = means.rename(columns={"column": "relation"})
            if measure.startswith("perplexity"):
                ends = ["value", "low", "high"]
                means[ends] = np.exp(means[ends]) - (measure == "perplexity rise")
            means = means.assign(**dict(zip([*by, "asked"], key, strict=True)), measure=measure)
            parts.append(means[[*by, "asked", "relation", "measure", "value", "low", "high", "n"]])
    return pd.concat(parts, ignore_index=True)


def wide(summary: pd.DataFrame, measures: Sequence[str], *, digits: int = 2) -> pd.DataFrame:
    """A summary to look at: measures side by side as ``value [low, high]``.

    Columns that tell no rows apart are left out.
    """
    rows = summary[summary["measure"].isin(measures)]
    text = [
        f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]" for row in rows.itertuples()
    ]
    names = [name for name in rows.columns if name not in ("measure", "value", "low", "high", "n")]
    index = [name for name in names if rows[name].nunique() > 1] or names[-1:]
    cells = rows.assign(text=text)
    return cells.pivot_table(index=index, columns="measure", values="text", aggfunc="first", sort=False)


def languages_grid(effects: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """ln(perplexity after / before) of the erased relation, mean over relations, per source and language.

    Args:
        effects: of erased relations; ``neurons`` says where these were found (a language, or a control).

    Returns:
        ``source`` (what ``neurons`` said), ``language, value, low, high, n``; every fact counts alike within
        its relation.
    """
    table = effects.assign(rise=log_rise(effects))[effects["erased"] == effects["relation"]]
    rows = []
    for (source, language), group in table.groupby(["neurons", "language"], sort=False):
        each = group.groupby(["fact", "relation"], sort=False)["rise"].mean().unstack(sort=False)
        relation = group.drop_duplicates("fact").set_index("fact")["relation"]
        means = column_means(each, relation, mean=MEAN, seed=seed).drop(columns="column")
        rows.append({"source": source, "language": language, **means.to_dict("records")[-1]})
    return pd.DataFrame(rows)


def shared_sets(sets: pd.DataFrame) -> pd.DataFrame:
    """How many neurons the sets of two relations have in common, for every pair of relations.

    Returns:
        ``neurons, relation, other, size, shared``.
    """
    rows = []
    for kind, chosen in sets.groupby("neurons", sort=False):
        held = {
            name: set(zip(part["layer"], part["neuron"], strict=True))
            for name, part in chosen.groupby("relation", sort=False)
        }
        rows += [(kind, a, b, len(held[a]), len(held[a] & held[b])) for a in held for b in held if a != b]
    return pd.DataFrame(rows, columns=["neurons", "relation", "other", "size", "shared"])


def in_other_sets(sets: pd.DataFrame) -> pd.DataFrame:
    """Which share of a relation's set is in another relation's too.

    Returns:
        ``neurons, relation, size, share, closest, shared``: ``closest`` is the relation with which it has
        most in common, ``shared`` how many neurons that are.
    """
    held = sets.drop_duplicates(["neurons", "relation", "layer", "neuron"])
    number = held.groupby(["neurons", "layer", "neuron"])["relation"].transform("size")
    table = held.assign(share=(number > 1).astype(float)).groupby(["neurons", "relation"], sort=False)
    table = table.agg(size=("share", "size"), share=("share", "mean")).reset_index()
    pairs = shared_sets(held)
    closest = pairs.sort_values("shared", ascending=False, kind="stable")
    closest = closest.drop_duplicates(["neurons", "relation"])
    closest = closest.rename(columns={"other": "closest"})[["neurons", "relation", "closest", "shared"]]
    return table.merge(closest, how="left", on=["neurons", "relation"])


def damage_by_sharing(
    effects: pd.DataFrame, sets: pd.DataFrame, *, edges: Sequence[int] = (0, 1, 3, 5), seed: int = 0
) -> pd.DataFrame:
    """Do relations suffer that have neurons in common with the erased one?

    Args:
        edges: the least number of shared neurons of each row.

    Returns:
        ``shared, pairs, value, low, high, n``: number of pairs (erased, asked), mean of ln(perplexity after /
        before) over facts.
    """
    pairs = shared_sets(sets[sets["neurons"] == "knowledge"])
    damage = effects.assign(rise=log_rise(effects))[effects["neurons"] == "knowledge"]
    damage = damage.merge(
        pairs, left_on=["erased", "relation"], right_on=["relation", "other"], suffixes=("", "_erased")
    )
    rows = []
    for least, most in zip(edges, [*[edge - 1 for edge in edges[1:]], np.inf], strict=True):
        part = damage[damage["shared"].between(least, most)]
        if len(part):
            name = f"{least} or more" if most == np.inf else f"{least} to {most}"
            name = f"{least}" if least == most else name
            each = part.groupby("fact", sort=False)["rise"].mean().to_frame("all")
            relation = part.drop_duplicates("fact").set_index("fact")["relation"]
            (mean,) = column_means(each, relation, seed=seed).drop(columns="column").to_dict("records")
            rows.append({"shared": name, "pairs": len(part.drop_duplicates(["erased", "relation"])), **mean})
    return pd.DataFrame(rows, columns=["shared", "pairs", "value", "low", "high", "n"])
