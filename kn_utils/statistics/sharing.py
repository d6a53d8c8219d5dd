"""How many neurons two facts share, what chance would give, and how that depends on the settings.

Facts without neurons share none, and count: ``bags`` names every fact asked about
(:func:`kn_utils.neurons.refine.refine_bags`).
*Chance* is as in :mod:`kn_utils.statistics.held`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError
from ..neurons.refine import Refined, facts_of, refine_bags
from . import intervals as statistics
from .counts import counts_per_fact
from .held import expected_by_chance, held_neurons
from .intervals import interval, resample, with_percentiles


class SharingError(StudyError):
    """Pairs of facts that there are not."""


def intersections(
    neurons: pd.DataFrame,
    bags: pd.DataFrame | None = None,
    *,
    within: str = "relation",
    pool: str = "pairs",
    width: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean number of neurons that two facts share, over all pairs of facts (exact, no sampling of pairs).

    Args:
        neurons: ``fact, relation, layer, neuron``.
        bags: every fact asked about. Without it only facts that have a neuron are compared, and a warning
            says so.
        within: ``"relation"``: pairs of facts of one relation; ``"other"``: pairs of facts of different
            relations.
        pool: ``"pairs"``: every pair counts alike; ``"relations"``: for a fact, every other relation counts
            alike, however many facts it has. The papers' Table II pools pairs within relations, and between
            relations draws the other relation first: there its number is that of ``"relations"``.
        width: neurons per layer; with it a column ``chance``: the same mean if neurons were drawn, as many in
            each layer.
        seed: of the resamples.

    Returns:
        ``relation, value, low, high, n`` per relation and for ``all``; n facts, intervals from resampling
        facts.

    Raises:
        SharingError: another word for ``within`` or ``pool``.
        RefinementError: neurons of a fact that is not among the bags, or a fact that is there twice.

    Example:
        >>> import pandas as pd
        >>> from kn_utils import intersections
        >>> bags = pd.DataFrame({"fact": ["a", "b", "c"], "relation": "P36"})
        >>> neurons = pd.DataFrame({"fact": ["a", "b"], "relation": "P36", "layer": 3, "neuron": 7})
        >>> intersections(neurons, bags)[["relation", "value", "n"]].round(2).values.tolist()
        [['all', 0.33, 3], ['P36', 0.33, 3]]
    """
    if within not in ("relation", "other"):
        raise SharingError(f"within={within!r}; it is 'relation' or 'other'.")
    if pool not in ("pairs", "relations"):
        raise SharingError(f"pool={pool!r}; it is 'pairs' or 'relations'.")
    facts = facts_of(neurons, bags)
    shared, same = _shared(neurons, facts.index), _same_relation(facts)
    drawn = None if width is None else expected_by_chance(neurons, neurons, facts.index, width)
    chance = np.zeros_like(shared) if drawn is None else drawn
    pairs = ((same if within == "relation" else ~same) & ~np.eye(len(facts), dtype=bool)).astype(float)
    if pool == "relations":
        pairs /= facts.groupby(facts).transform("size").to_numpy()
    groups = {"all": np.ones(len(facts), bool)}
    groups |= {relation: (facts == relation).to_numpy() for relation in dict.fromkeys(facts)}
    weights, rows = resample(len(facts), seed), []
    for relation, member in groups.items():
        left = np.flatnonzero(member)
        right = np.flatnonzero(member | (within == "other"))
        block = np.ix_(left, right)
        mask, n = pairs[block], int(member.sum())
        if mask.sum() == 0:  # one relation only, or one fact of it: nothing to compare with
            if relation == "all":
                nothing = with_percentiles(np.nan, np.array([]), n)
                rows.append({"relation": relation, **nothing, "chance": np.nan})
            continue
        mean = _mean_of_pairs(shared[block], mask, weights[:, left], weights[:, right], n)
        rows.append({"relation": relation, **mean, "chance": (chance[block] * mask).sum() / mask.sum()})
    table = pd.DataFrame(rows)
    return table.drop(columns="chance") if width is None else table


def table_2(
    found: Mapping[Any, Refined],
    *,
    name: str | Sequence[str] = "bag",
    width: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The paper's Table II, for all relations together and for each.

    Between relations a fact's other relations count alike, as the released code draws them; "every pair
    alike" does not.

    Args:
        found: neurons and bags by the name of their bag or data set, or by several names (a tuple).
        name: what the names are called: the columns that hold them.
        width: neurons per layer; adds ``chance`` (:func:`intersections`).
        seed: of the resamples.

    Returns:
        ``*name, measure, relation, value, low, high, n``, relation ``all`` first.
    """
    parts = []
    for key, (neurons, bags, _) in found.items():
        counts = counts_per_fact(neurons, bags)
        groups = {"all": counts} | dict(list(counts.groupby("relation", sort=False)))
        own = [
            {"relation": relation, **interval(part["neurons"], seed=seed)}
            for relation, part in groups.items()
        ]
        options: dict[str, Any] = {"width": width, "seed": seed}
        between = options | {"within": "other"}
        measures = {
            "neurons per fact": pd.DataFrame(own),
            "shared within a relation": intersections(neurons, bags, **options),
            "shared between relations": intersections(neurons, bags, pool="relations", **between),
            "shared between, every pair alike": intersections(neurons, bags, **between),
        }
        heads = _heads(key, name)
        parts += [table.assign(**heads, measure=measure) for measure, table in measures.items()]
    columns = [*heads, "measure", "relation", "value", "low", "high", "n"] + ["chance"] * (width is not None)
    return pd.concat(parts, ignore_index=True)[columns]


def difference_of_sharing(neurons: pd.DataFrame, bags: pd.DataFrame, *, seed: int = 0) -> dict[str, float]:
    """Does a fact share more neurons with facts of its own relation than with others?

    Returns:
        mean over facts of (mean shared within its relation) - (mean shared with other relations): ``value,
        low, high, n``; and ``p``: the share of permutations of the facts' relations with as large a mean
        (one-sided, at least 1 / (RESAMPLES + 1)). Signs of single facts are not permuted: facts share pairs,
        so they are not independent.
    """
    facts = facts_of(neurons, bags)
    shared = _shared(neurons, facts.index)
    np.fill_diagonal(shared, 0)
    relation, names = pd.factorize(facts)
    size = np.bincount(relation, minlength=len(names))
    comparable = (size[relation] > 1) & (size[relation] < len(facts))
    if not comparable.any():
        return {**interval(np.array([])), "p": np.nan}
    total, members = shared.sum(1), size[relation]
    own = (shared @ np.eye(len(names))[relation])[np.arange(len(facts)), relation]
    own, others, members = own[comparable], (total - own)[comparable], members[comparable]
    excess = own / (members - 1) - others / (len(facts) - members)
    random, as_large = np.random.default_rng(seed), 1  # the names as they are
    pairs = np.triu(shared).nonzero()
    for number in statistics.in_parts(statistics.RESAMPLES, max(len(pairs[0]), len(facts))):
        labels = np.array([random.permutation(relation) for _ in range(number)])
        means = _excess_of_own(labels, size, shared[pairs], pairs, total) / len(excess)
        as_large += (means >= excess.mean() - 1e-12).sum()
    return {**interval(excess, seed=seed), "p": float(as_large / (1 + statistics.RESAMPLES))}


def _excess_of_own(
    labels: np.ndarray, size: np.ndarray, shared: np.ndarray, pairs: tuple[np.ndarray, ...], total: np.ndarray
) -> np.ndarray:
    """Per naming of facts the sum over them of (mean shared within the relation) - (with other relations).

    Only facts that have both count.

    Args:
        labels: the relation of every fact, (naming, fact).
        size: facts of each relation, in every naming.
        shared: neurons that the facts of a pair have in common.
        pairs: first and second fact of each pair that has any.
        total: neurons that a fact shares with all others.
    """
    counts, others = (size > 1) & (size < labels.shape[1]), np.maximum(labels.shape[1] - size, 1)
    away = counts / others
    first, second = (labels[:, side] for side in pairs)
    within = np.where(first == second, (counts / np.maximum(size - 1, 1) + away)[first], 0.0)
    return 2 * within @ shared - away[labels] @ total


def differences_of_sharing(
    found: Mapping[Any, Refined], *, name: str | Sequence[str] = "bag", seed: int = 0
) -> pd.DataFrame:
    """:func:`difference_of_sharing` of several refinements, a row each.

    Args:
        found: neurons and bags by name, or by several names (a tuple).
        name: what the names are called: the columns that hold them.
        seed: of the resamples and permutations.

    Returns:
        ``*name, value, low, high, n, p``.
    """
    rows = [
        {**_heads(key, name), **difference_of_sharing(one.neurons, one.bags, seed=seed)}
        for key, one in found.items()
    ]
    return pd.DataFrame(rows)


def shared_by_keys(
    found: Mapping[str, Refined], keys: Mapping[str, pd.Series], *, name: str = "bag", seed: int = 0
) -> pd.DataFrame:
    """:func:`shared_by` of several refinements and several keys.

    Args:
        found: neurons and bags by name.
        keys: what facts may have in common (such as ``answer``) -> fact -> value.
        name: what the refinements' name is called in the table.
        seed: of the resamples.

    Returns:
        ``<name>, by, pairs, key, value, low, high, n``.
    """
    parts = [
        shared_by(one.neurons, one.bags, values, seed=seed).assign(**{name: bag}, by=by)
        for bag, one in found.items()
        for by, values in keys.items()
    ]
    return pd.concat(parts, ignore_index=True)[[name, "by", "pairs", "key", "value", "low", "high", "n"]]


def _heads(key: Any, name: str | Sequence[str]) -> dict[str, Any]:
    """The columns that say which refinement a row is of: one per part of its key."""
    names, parts = [name] if isinstance(name, str) else name, key if isinstance(key, tuple) else (key,)
    return dict(zip(names, parts, strict=True))


def shared_by(neurons: pd.DataFrame, bags: pd.DataFrame, key: pd.Series, *, seed: int = 0) -> pd.DataFrame:
    """Neurons that two facts share, for pairs with the same ``key`` and with another one.

    Args:
        neurons: ``fact, relation, layer, neuron``.
        bags: every fact asked about.
        key: fact -> value, such as its answer or its subject.
        seed: of the resamples.

    Returns:
        ``pairs`` (of one relation, of different relations), ``key`` (the same, another), ``value, low, high,
        n``: mean over these pairs, intervals from resampling facts, n facts that are in such a pair; a kind
        of pair that does not occur has no row.
    """
    facts = facts_of(neurons, bags)
    shared, relation = _shared(neurons, facts.index), _same_relation(facts)
    alike, weights = _same_relation(key.reindex(facts.index)), resample(len(facts), seed)
    rows = []
    for pairs, by_relation in (("one relation", relation), ("different relations", ~relation)):
        for name, by_key in (("the same", alike), ("another", ~alike)):
            mask = (by_relation & by_key & ~np.eye(len(facts), dtype=bool)).astype(float)
            if mask.any():
                mean = _mean_of_pairs(shared, mask, weights, weights, int(mask.any(1).sum()))
                rows.append({"pairs": pairs, "key": name, **mean})
    return pd.DataFrame(rows, columns=["pairs", "key", "value", "low", "high", "n"])


def settings_grid(
    scores: pd.DataFrame,
    prompts: pd.DataFrame,
    *,
    thresholds: Sequence[float],
    shares: Sequence[float],
    keep: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Neurons per fact and shared within a relation for each threshold and share, the share left where it is.

    Args:
        keep: the fraction of the prompt's maximum that the scores were stored with
            (:func:`kn_utils.neurons.refine.above_threshold`).

    Returns:
        ``threshold, share, measure, value, low, high, n``.

    Raises:
        RefinementError: a threshold below ``keep``.
    """
    rows = []
    for threshold in thresholds:
        for share in shares:
            neurons, bags, _ = refine_bags(
                scores, prompts, threshold=threshold, share=share, target=None, keep=keep
            )
            shared = intersections(neurons, bags, seed=seed).iloc[0]
            both = {
                "neurons per fact": interval(counts_per_fact(neurons, bags)["neurons"], seed=seed),
                "shared within a relation": shared.drop("relation").to_dict(),
            }
            rows += [
                {"threshold": threshold, "share": share, "measure": name, **values}
                for name, values in both.items()
            ]
    return pd.DataFrame(rows)


def _mean_of_pairs(
    shared: np.ndarray, mask: np.ndarray, left: np.ndarray, right: np.ndarray, n: int
) -> dict[str, float]:
    """Mean of ``shared`` over the pairs that ``mask`` weighs.

    Args:
        shared, mask: (fact on the left, fact on the right).
        left, right: how often each resample drew their facts, (resample, fact).
        n: number of facts.
    """
    total = np.einsum("rf,rf->r", left @ (shared * mask), right)
    number = np.einsum("rf,rf->r", left @ mask, right)
    drawn = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    return with_percentiles((shared * mask).sum() / mask.sum(), drawn, n)


def _same_relation(facts: pd.Series) -> np.ndarray:
    return facts.to_numpy()[:, None] == facts.to_numpy()[None]


def _shared(neurons: pd.DataFrame, facts: pd.Index) -> np.ndarray:
    """How many neurons each pair of facts has in common, shape (fact, fact)."""
    (held,) = held_neurons([neurons], facts)
    return (held @ held.T).toarray()
