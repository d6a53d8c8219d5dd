"""How many neurons two facts share, or one fact in two languages; what chance would give; how it depends
on the settings.

Facts without neurons share none, and count: ``bags`` names every fact asked about
(:func:`kn_utils.neurons.refine.refine_bags`).

*Chance*: if each fact's neurons were drawn again, as many in each layer, two facts with n_l and m_l neurons
in layer l of ``width`` neurons would share ``sum_l n_l m_l / width`` on average (exact, no drawing). *Other
facts*: neurons that serve a relation, a language or every answer are shared by different facts too, so
permutations of facts are the stricter comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, combinations_with_replacement

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control

from ..neurons.refine import Refined, facts_of, refine_bags
from . import intervals as statistics
from .counts import counts_per_fact
from .intervals import interval, resample, with_percentiles

#: The names that the shared neurons of all pairs of languages go by in :func:`shared_between_languages`.
ALL_PAIRS = "all pairs"


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
        bags: every fact asked about. Without it only facts that have a neuron are compared, and a warning
            says so.
        within: ``"relation"``: pairs of facts of one relation; ``"other"``: pairs of facts of different
            relations.
        pool: ``"pairs"``: every pair counts alike; ``"relations"``: for a fact, every other relation counts
            alike, however many facts it has. The papers' Table II pools pairs within relations, and between
            relations draws
            the other relation first: there its number is that of ``"relations"``.
        width: neurons per layer; with it a column ``chance``: the same mean if neurons were drawn, as many in
            each layer.

    Returns:
        ``relation, value, low, high, n`` per relation and for ``all``; n facts, intervals from resampling
        facts.

    Example:
        >>> import pandas as pd
        >>> from kn_utils import intersections
        >>> bags = pd.DataFrame({"fact": ["a", "b", "c"], "relation": "P36"})
        >>> neurons = pd.DataFrame({"fact": ["a", "b"], "relation": "P36", "layer": 3, "neuron": 7})
        >>> intersections(neurons, bags)[["relation", "value", "n"]].round(2).values.tolist()
        [['all', 0.33, 3], ['P36', 0.33, 3]]
    """
    if within not in ("relation", "other"):
        raise ValueError(f"within={within!r}; it is 'relation' or 'other'.")
    if pool not in ("pairs", "relations"):
        raise ValueError(f"pool={pool!r}; it is 'pairs' or 'relations'.")
    facts = facts_of(neurons, bags)
    shared, same = _shared(neurons, facts.index), _same_relation(facts)
    chance = np.zeros_like(shared) if width is None else _chance(neurons, neurons, facts.index, width)
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
                rows.append(
                    {"relation": relation, **with_percentiles(np.nan, np.array([]), n), "chance": np.nan}
                )
            continue
        found = _mean_of_pairs(shared[block], mask, weights[:, left], weights[:, right], n)
        rows.append({"relation": relation, **found, "chance": (chance[block] * mask).sum() / mask.sum()})
    table = pd.DataFrame(rows)
    return table.drop(columns="chance") if width is None else table


def table_2(
    found: Mapping[str, Refined], *, name: str = "bag", width: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """The paper's Table II, for all relations together and for each: ``<name>, measure, relation, value, low,
    high, n``.

    Between relations a fact's other relations count alike, as the released code draws them; "every pair
    alike" does not.

    Args:
        found: neurons and bags by the name of their bag or data set.
        width: neurons per layer; adds ``chance`` (:func:`intersections`).
    """
    parts = []
    for bag, (neurons, bags, _) in found.items():
        counts = counts_per_fact(neurons, bags)
        groups = {"all": counts} | dict(list(counts.groupby("relation", sort=False)))
        own = [
            {"relation": relation, **interval(part["neurons"], seed=seed)}
            for relation, part in groups.items()
        ]
        options = {"width": width, "seed": seed}
        measures = {
            "neurons per fact": pd.DataFrame(own),
            "shared within a relation": intersections(neurons, bags, **options),
            "shared between relations": intersections(
                neurons, bags, within="other", pool="relations", **options
            ),
            "shared between, every pair alike": intersections(neurons, bags, within="other", **options),
        }
        parts += [table.assign(**{name: bag}, measure=measure) for measure, table in measures.items()]
    columns = [name, "measure", "relation", "value", "low", "high", "n"] + ["chance"] * (width is not None)
    return pd.concat(parts, ignore_index=True)[columns]


def difference_of_sharing(neurons: pd.DataFrame, bags: pd.DataFrame, *, seed: int = 0) -> dict[str, float]:
    """Does a fact share more neurons with facts of its own relation than with others?

    Returns:
        mean over facts of (mean shared within its relation) - (mean shared with other relations): ``value,
        low, high, n``; and
        ``p``: the share of permutations of the facts' relations with as large a mean (one-sided, at least
        1 / (RESAMPLES + 1)). Signs of single facts are not permuted: facts share pairs, so they are not
        independent.
    """
    facts = facts_of(neurons, bags)
    shared = _shared(neurons, facts.index)
    np.fill_diagonal(shared, 0)
    relation, names = pd.factorize(facts)
    size = np.bincount(relation, minlength=len(names))
    comparable = (size[relation] > 1) & (size[relation] < len(facts))
    if not comparable.any():
        return {**interval(np.array([])), "p": np.nan}
    random, total = np.random.default_rng(seed), shared.sum(1)
    differences = []
    for label in (relation, *(random.permutation(relation) for _ in range(statistics.RESAMPLES))):
        own = (shared @ np.eye(len(names))[label])[np.arange(len(facts)), label]
        counts = (size[label] > 1) & (size[label] < len(facts))
        within, between = (
            (own / (size[label] - 1))[counts],
            ((total - own) / (len(facts) - size[label]))[counts],
        )
        differences.append(within - between)
    means = np.array([one.mean() for one in differences])
    return {**interval(differences[0], seed=seed), "p": float((means >= means[0] - 1e-12).mean())}


def shared_by(neurons: pd.DataFrame, bags: pd.DataFrame, key: pd.Series, *, seed: int = 0) -> pd.DataFrame:
    """Neurons that two facts share, for pairs with the same ``key`` (such as the answer, or the subject) and
    with another one.

    Args:
        key: fact -> value.

    Returns:
        ``pairs`` (of one relation, of different relations), ``key`` (the same, another), ``value, low, high,
        n``: mean over these pairs, intervals from resampling facts, n facts that are in such a pair; a kind
        of pair that does not occur has no row.
    """
    facts = facts_of(neurons, bags)
    shared, relation = _shared(neurons, facts.index), _same_relation(facts)
    alike, weights = _same_relation(key.reindex(facts.index)), resample(len(facts), seed)
    rows = []
    for pairs, one in (("one relation", relation), ("different relations", ~relation)):
        for name, other in (("the same", alike), ("another", ~alike)):
            mask = (one & other & ~np.eye(len(facts), dtype=bool)).astype(float)
            if mask.any():
                found = _mean_of_pairs(shared, mask, weights, weights, int(mask.any(1).sum()))
                rows.append({"pairs": pairs, "key": name, **found})
    return pd.DataFrame(rows, columns=["pairs", "key", "value", "low", "high", "n"])


def shared_between_languages(
    by_language: Mapping[str, Refined],
    shape: tuple[int, int],
    *,
    without: pd.DataFrame | None = None,
    groups: pd.Series | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How many neurons the same fact's bags of two languages share, and whether that is more than other facts
    share.

    Args:
        by_language: language -> its neurons and bags (``refine_bags``).
        shape: (layers, neurons per layer) of the model.
        without: ``first, second, fact`` to leave out, such as facts whose answer two languages spell alike. A
            fact that is left out for one pair does not count for the mean of all pairs.
        groups: fact -> group, in place of its relation (such as facts with the same answer). Facts alone in
            theirs do not count.

    Returns:
        a row per pair of languages (``first, second``), and one for the mean of all pairs (``all pairs``):
        ``value, low, high, n``: shared by the same fact, mean over the n facts asked about in both (in all)
        languages, intervals over these; ``jaccard``: all shared over all held by either; ``chance``: the same
        fact's, if neurons were drawn, as many in each layer; ``other_fact``: by a fact in one language and
        each *other* fact of its relation in the other; ``p``: share of permutations of the facts within
        relations in which as many are shared; ``any_fact, p_any``: the same with other facts of whatever
        relation. p is one-sided and at least 1 / (RESAMPLES + 1). ``q``: p adjusted for the number of pairs
        of languages (false discovery rate, Benjamini and Hochberg 1995). Where ``first`` is ``second``, value
        is the number of neurons per fact; chance and p are missing.
    """
    rows, left_out = (
        [],
        {} if without is None else without.groupby(["first", "second"])["fact"].agg(set).to_dict(),
    )
    for first, second in combinations_with_replacement(by_language, 2):
        gone = left_out.get((first, second), set()) | left_out.get((second, first), set())
        row = _same_fact([by_language[first], by_language[second]], shape[1], gone, groups, seed)
        if first == second:
            row |= {"jaccard": np.nan, "chance": np.nan, "p": np.nan, "p_any": np.nan}
        rows.append({"first": first, "second": second, **row})
    if len(by_language) > 1:
        both = {"first": ALL_PAIRS, "second": ALL_PAIRS}
        rows.append(
            {
                **both,
                **_same_fact(
                    list(by_language.values()), shape[1], set().union(*left_out.values()), groups, seed
                ),
            }
        )
    table = pd.DataFrame(rows)
    pairs = table["p"].notna() & (table["first"] != ALL_PAIRS)
    table.insert(table.columns.get_loc("p") + 1, "q", np.nan)
    table.loc[pairs, "q"] = false_discovery_control(table.loc[pairs, "p"])
    return table


def shared_per_fact(by_language: Mapping[str, Refined]) -> pd.DataFrame:
    """The same, fact by fact, to be averaged over groups of facts: ``first, second, fact, relation, shared,
    either``.

    ``shared``: neurons that the fact's bags of both languages hold; ``either``: those that at least one of
    them holds.
    """
    parts = []
    for first, second in combinations(by_language, 2):
        pair = [by_language[first], by_language[second]]
        facts = _asked_in_all(pair)
        a, b = _held([one.neurons for one in pair], facts.index)
        shared = (a * b).sum(axis=1)
        columns = {"shared": shared, "either": a.sum(axis=1) + b.sum(axis=1) - shared}
        parts.append(pd.DataFrame({"fact": facts.index, "relation": facts.to_numpy(), **columns}))
        parts[-1] = parts[-1].assign(first=first, second=second)
    columns = ["first", "second", "fact", "relation", "shared", "either"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


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


def _same_fact(
    languages: list[Refined], width: int, without: set[str], groups: pd.Series | None, seed: int
) -> dict[str, float]:
    """The row of :func:`shared_between_languages` for these languages: mean over their pairs, of the facts
    asked about in all."""
    tables = [one.neurons for one in languages]
    facts = _asked_in_all(languages)
    facts = facts[~facts.index.isin(without)]
    if groups is not None:
        facts = groups.reindex(facts.index)
        facts = facts[facts.groupby(facts).transform("size") > 1]
    pairs = list(combinations(range(len(tables)), 2))
    held = _held(tables, facts.index)
    shared = [(held[a] @ held[b].T).toarray() for a, b in pairs]  # each (fact in a, fact in b)
    mean = sum(shared) / len(pairs)
    either = sum((held[a].sum() + held[b].sum()) / len(pairs) for a, b in pairs) - np.trace(mean)
    chance = [
        np.trace(_chance(tables[a], tables[b], facts.index, width)) / max(len(facts), 1) for a, b in pairs
    ]
    found = {
        **interval(np.diagonal(mean), seed=seed),
        "jaccard": np.trace(mean) / either if either else np.nan,
    }
    found["chance"] = float(np.mean(chance)) if len(facts) else np.nan
    other = ~np.eye(len(facts), dtype=bool)
    for name, p, group in (
        ("other_fact", "p", pd.factorize(facts)[0]),
        ("any_fact", "p_any", np.zeros(len(facts), dtype=int)),
    ):
        exchangeable = (group[:, None] == group) & other
        per_fact = exchangeable.sum(1)
        has = per_fact > 0
        found[name] = (
            float(((mean * exchangeable).sum(1)[has] / per_fact[has]).mean()) if has.any() else np.nan
        )
        found[p] = _permutation_p(shared, pairs, group, seed) if has.any() else np.nan
    return found


def _asked_in_all(languages: list[Refined]) -> pd.Series:
    """fact -> relation of the facts that all of them were asked about, in the order of the first."""
    facts, *others = (facts_of(one.neurons, one.bags) for one in languages)
    for other in others:
        facts = facts[facts.index.isin(other.index)]
    return facts


def _permutation_p(
    shared: list[np.ndarray], pairs: list[tuple[int, int]], group: np.ndarray, seed: int
) -> float:
    """Share of permutations, each language's facts within groups on their own, whose traces sum to at least
    the observed one."""
    random = np.random.default_rng(seed)
    observed = sum(np.trace(one) for one in shared)
    count = 1  # the order as it is
    for _ in range(statistics.RESAMPLES):
        order = dict(enumerate(_orders(group, len(set().union(*pairs)), random)))
        count += (
            sum(one[order[a], order[b]].sum() for one, (a, b) in zip(shared, pairs, strict=True))
            >= observed - 1e-9
        )
    return float(count / (1 + statistics.RESAMPLES))


def _orders(group: np.ndarray, languages: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """The first language's facts as they are, then permutations within the groups."""
    start = np.argsort(group, kind="stable")
    yield np.arange(len(group))
    for _ in range(languages - 1):
        order = np.empty(len(group), dtype=int)
        order[start] = np.lexsort((random.random(len(group)), group))
        yield order


def _mean_of_pairs(
    shared: np.ndarray, mask: np.ndarray, left: np.ndarray, right: np.ndarray, n: int
) -> dict[str, float]:
    """Mean of ``shared`` over the pairs that ``mask`` weighs; left and right: how often each resample drew
    their facts."""
    total = np.einsum("rf,rf->r", left @ (shared * mask), right)
    number = np.einsum("rf,rf->r", left @ mask, right)
    drawn = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    return with_percentiles((shared * mask).sum() / mask.sum(), drawn, n)


def _same_relation(facts: pd.Series) -> np.ndarray:
    return facts.to_numpy()[:, None] == facts.to_numpy()[None]


def _shared(neurons: pd.DataFrame, facts: pd.Index) -> np.ndarray:
    """How many neurons each pair of facts has in common, shape (fact, fact)."""
    (held,) = _held([neurons], facts)
    return (held @ held.T).toarray()


def _held(tables: Sequence[pd.DataFrame], facts: pd.Index) -> list[sparse.csr_array]:
    """Which neurons each fact has, one (fact, neuron) matrix of zeros and ones per table; the same columns in
    all."""
    kept = [_neurons_of(facts, table) for table in tables]
    place = pd.concat([table["layer"].astype(np.int64) * 10**6 + table["neuron"] for table in kept])
    column, names = pd.factorize(place)
    ends = np.cumsum([len(table) for table in kept])[:-1]
    return [
        sparse.csr_array(
            (np.ones(len(table)), (facts.get_indexer(table["fact"]), own)),
            shape=(len(facts), max(len(names), 1)),
        )
        for table, own in zip(kept, np.split(column, ends), strict=True)
    ]


def _neurons_of(facts: pd.Index, table: pd.DataFrame) -> pd.DataFrame:
    """Their neurons, each once."""
    return table.loc[table["fact"].isin(facts), ["fact", "layer", "neuron"]].drop_duplicates()


def _chance(first: pd.DataFrame, second: pd.DataFrame, facts: pd.Index, width: int) -> np.ndarray:
    """Expected number shared by each fact of the first and each of the second, if neurons were drawn within
    layers."""
    layers = 1 + max((int(table["layer"].max()) for table in (first, second) if len(table)), default=0)
    counts = []
    for table in (first, second):
        table = _neurons_of(facts, table)
        count = np.zeros((len(facts), layers))
        np.add.at(count, (facts.get_indexer(table["fact"]), table["layer"].to_numpy(int)), 1)
        counts.append(count)
    return counts[0] @ counts[1].T / width
