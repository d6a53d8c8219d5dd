"""How many neurons facts hold in several languages, beside chance, other facts and facts of one answer.

For every s, T_s is the mean over facts of the number of neurons that the fact holds in at least s languages.
Facts without such a neuron count as 0. Three things could make it large without any being the fact's:

1. *chance*: if each fact's neurons were drawn again within their layers, as many in each;
2. *other facts of the relation*: the facts' names are permuted within relations, in each language on its own
   (but the first: else pairs among the others would stay true), so that what belongs to the relation or to
   every answer stays;
3. *other facts with the same answer*: the same within relation and answer: what T_s has beyond that is the
   fact's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..neurons.language_independent import WHERE, language_independent
from . import intervals as statistics
from .controls import nearest_spelling, spelling
from .intervals import interval

COLUMNS = [
    "languages",
    "at_least",
    "value",
    "low",
    "high",
    "n",
    "chance",
    "other_fact",
    "p_relation",
    "value_answer",
    "same_answer",
    "p_answer",
    "n_answer",
    "empty_share",
    "movable",
]


def independent_counts(
    sets: Mapping[str, pd.DataFrame],
    asked: pd.DataFrame,
    width: int,
    *,
    answer: pd.Series,
    leave_out: Iterable[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """T_s for s = 1 to the number of languages, and its three comparisons.

    Args:
        sets: language -> ``fact, relation, layer, neuron``.
        asked: ``fact, relation, language``: who was asked about where, with or without neurons (prompts will
            do).
        width: neurons per layer.
        answer: fact -> its answer, the same in all languages (such as the object's id).
        leave_out: facts that do not count.
        seed: of the resamples and permutations.

    Returns:
        a row per s: ``languages`` (names, by spaces), ``at_least`` (s); ``value, low, high, n``: T_s over the
        n facts asked about in at least s of the languages; ``chance`` (exact); ``other_fact``, the mean over
        permutations within relations, and ``p_relation``: the share of them with as large a T_s, at least 1 /
        (RESAMPLES + 1); of the ``n_answer`` facts that share their answer with another of the relation
        ``value_answer``, ``same_answer`` and ``p_answer`` likewise; ``empty_share``: facts with no such
        neuron; ``movable``: of the facts of the languages permuted, those that have another of the relation
        to change places with (where few have, ``other_fact`` is hardly another fact's).
    """
    languages = list(sets)
    here = asked[asked["language"].isin(languages) & ~asked["fact"].isin(set(leave_out))]
    here = here.drop_duplicates(["fact", "language"])
    facts = here.drop_duplicates("fact").set_index("fact")["relation"]
    there = np.stack([facts.index.isin(here.loc[here["language"] == name, "fact"]) for name in languages])
    held = _entries(sets, facts.index)
    per_fact = _held_in_at_least(held, len(facts), len(languages))
    chance = _by_chance(held, len(facts), width, len(languages))
    relation = pd.factorize(facts)[0]
    with_answer = facts + " " + answer.reindex(facts.index).astype(str)
    of_answer = pd.factorize(with_answer)[0]
    several = with_answer.map(with_answer.value_counts()).to_numpy() > 1
    drawn = _permuted(held, there, relation, seed)
    drawn_answer = _permuted([own[several[own[:, 0]]] for own in held], there, of_answer, seed)
    movable = _movable(there, relation)
    rows = []
    for s in range(1, len(languages) + 1):
        can = there.sum(0) >= s
        number, both = int(can.sum()), can & several
        own = per_fact[s - 1][can]
        row = {"languages": " ".join(languages), "at_least": s, **interval(own, seed=seed)}
        row |= {"chance": _mean(chance[s - 1][can].sum(), number), "n_answer": int(both.sum())}
        row |= _against(own.sum(), drawn[:, s - 1], number, "value", "other_fact", "p_relation")
        mine, names = per_fact[s - 1][both].sum(), ("value_answer", "same_answer", "p_answer")
        row |= _against(mine, drawn_answer[:, s - 1], int(both.sum()), *names)
        empty = float((own == 0).mean()) if number else np.nan
        rows.append(row | {"empty_share": empty, "movable": movable})
    return pd.DataFrame(rows)[COLUMNS]


def _movable(there: np.ndarray, group: np.ndarray) -> float:
    """Of the facts asked about in all languages but the first the share that is not alone in its group."""
    sizes = [np.bincount(group[own])[group[own]] for own in there[1:]]
    every = np.concatenate([np.zeros(0, int), *sizes])
    return float((every > 1).mean()) if len(every) else np.nan


def _mean(total: float, number: int) -> float:
    return float(total) / number if number else np.nan


def _against(
    observed: float, drawn: np.ndarray, number: int, value: str, other: str, p: str
) -> dict[str, float]:
    """A sum over facts and permuted sums, as means, and how often a permuted one is as large."""
    if not number:
        return {value: np.nan, other: np.nan, p: np.nan}
    as_large = (drawn >= observed - 1e-9).sum()
    return {
        value: float(observed) / number,
        other: float(drawn.mean()) / number,
        p: float((1 + as_large) / (1 + len(drawn))),
    }


def _entries(sets: Mapping[str, pd.DataFrame], facts: pd.Index) -> list[np.ndarray]:
    """Per language its (fact, layer, neuron) entries, each once, facts by number."""
    entries = []
    for table in sets.values():
        own = table.loc[table["fact"].isin(facts), ["fact", *WHERE]].drop_duplicates()
        entries.append(np.column_stack([facts.get_indexer(own["fact"]), own[WHERE].to_numpy(int)]))
    return entries


def _keys(held: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Neurons as numbers, per language, and how many different ones there are (at least one)."""
    place = np.concatenate([own[:, 1] * 10**6 + own[:, 2] for own in held])
    different, numbers = np.unique(place, return_inverse=True)
    return np.split(numbers, np.cumsum([len(own) for own in held])[:-1]), max(len(different), 1)


def _held_in_at_least(held: list[np.ndarray], facts: int, languages: int) -> np.ndarray:
    """For every s and fact the number of neurons held in at least s languages, (s, fact)."""
    numbers, size = _keys(held)
    keys = np.concatenate([own[:, 0] * size + number for own, number in zip(held, numbers, strict=True)])
    pair, count = np.unique(keys, return_counts=True)
    found = np.zeros((languages, facts))
    for s in range(1, languages + 1):
        np.add.at(found[s - 1], pair[count >= s] // size, 1)
    return found


def _by_chance(held: list[np.ndarray], facts: int, width: int, languages: int) -> np.ndarray:
    """What :func:`_held_in_at_least` expects of neurons drawn again within their layers, (s, fact).

    With n_k of a layer's ``width`` neurons in language k, each of them is held there with probability n_k /
    width, in every language on its own.
    """
    layers = 1 + max((int(own[:, 1].max()) for own in held if len(own)), default=0)
    exactly = np.zeros((languages + 1, facts, layers))  # the probability that j languages hold a neuron
    exactly[0] = 1
    for own in held:
        share = np.zeros((facts, layers))
        np.add.at(share, (own[:, 0], own[:, 1]), 1 / width)
        exactly[1:] = exactly[1:] * (1 - share) + exactly[:-1] * share
        exactly[0] *= 1 - share
    at_least = exactly[::-1].cumsum(0)[::-1]
    return width * at_least[1:].sum(2)


def _permuted(held: list[np.ndarray], there: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Number of (fact, neuron) pairs held in at least s languages, for permuted facts, (permutation, s).

    Args:
        held: per language its entries.
        there: who was asked about where, (language, fact): only these change places.
        group: of every fact; they change places within it.
        seed: of the permutations.
    """
    random, languages = np.random.default_rng(seed), len(held)
    numbers, size = _keys(held)
    total = sum(len(own) for own in held)
    found = []
    for some in statistics.in_parts(statistics.RESAMPLES, max(total, 1)):
        parts = []
        for k, (own, number) in enumerate(zip(held, numbers, strict=True)):
            names = np.arange(there.shape[1])[None].repeat(some, 0)
            if k:
                names[:, there[k]] = _shuffled(np.flatnonzero(there[k]), group, some, random)
            parts.append(names[:, own[:, 0]] * size + number)
        keys = np.sort(np.concatenate(parts, axis=1), axis=1)
        first = np.ones(keys.shape, dtype=bool)
        first[:, 1:] = keys[:, 1:] != keys[:, :-1]
        counts = np.zeros((some, languages), dtype=int)
        for s in range(1, min(languages, keys.shape[1]) + 1):
            end = keys.shape[1] - s + 1
            counts[:, s - 1] = (first[:, :end] & (keys[:, :end] == keys[:, s - 1 :])).sum(1)
        found.append(counts)
    return np.concatenate(found)


def _shuffled(facts: np.ndarray, group: np.ndarray, some: int, random: np.random.Generator) -> np.ndarray:
    """These facts, permuted within groups so many times, (permutation, fact)."""
    own = group[facts]
    order = np.argsort(own, kind="stable")
    mixed = np.argsort(own + random.random((some, len(facts))), axis=1)  # below 1: groups keep their order
    names = np.empty((some, len(facts)), dtype=int)
    names[:, order] = facts[mixed]
    return names


def written_in(names: pd.DataFrame, languages: Iterable[str]) -> pd.Series:
    """How these languages write each fact's answer, compared two by two: the nearest pair counts.

    Args:
        names: ``fact, language, answer``.
        languages: those compared.

    Returns:
        fact -> ``alike``, ``shared characters`` or ``differently``; facts named in fewer than two of them are
        not there.
    """
    own = names[names["language"].isin(list(languages))].drop_duplicates(["fact", "language"])
    told = {}
    for fact, answers in own.groupby("fact", sort=False)["answer"]:
        pairs = {spelling(a, b) for i, a in enumerate(answers) for b in answers.iloc[i + 1 :]}
        if pairs:
            told[fact] = nearest_spelling(pairs)
    return pd.Series(told, dtype=object, name="written")


def counts_of_cases(
    cases: Mapping[tuple[str, ...], Mapping[str, Any]], names: Sequence[str], width: int, **options: Any
) -> pd.DataFrame:
    """:func:`independent_counts` of several cases, one below the other.

    Args:
        cases: the parts of a case's name -> ``sets, asked`` and perhaps ``leave_out``.
        names: what the parts are called: the columns that hold them.
        width, options: of all cases.

    Returns:
        the counts with ``*names`` in front and ``per language``: neurons of a fact in one language.
    """
    tables = []
    for case, own in cases.items():
        sizes = [len(table) / max(table["fact"].nunique(), 1) for table in own["sets"].values()]
        table = independent_counts(
            own["sets"],
            own["asked"],
            width,
            answer=options["answer"],
            leave_out=own.get("leave_out", ()),
            seed=options.get("seed", 0),
        )
        head = dict(zip(names, case, strict=True)) | {"per language": float(np.mean(sizes))}
        tables.append(table.assign(**head)[[*head, *COLUMNS]])
    return pd.concat(tables, ignore_index=True)


def groups_of_facts(
    languages: Sequence[str], names: pd.DataFrame, right: pd.Series, latin: Sequence[str] = ("en", "nl", "vi")
) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    """Languages by their letters, facts by how names are written and by whether they are known.

    Args:
        languages: all of them.
        names: ``fact, language, answer``.
        right: fact -> whether it is answered rightly in every language.
        latin: the languages of Latin letters.

    Returns:
        (group of languages, group of facts) -> languages, and facts to leave out. Groups of one language are
        not there.
    """
    scripts = {
        "all": list(languages),
        "Latin letters": [name for name in languages if name in latin],
        "other scripts": [name for name in languages if name not in latin],
    }
    groups: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for group, chosen in scripts.items():
        written = written_in(names, chosen)
        near = written.index[written != "differently"].tolist()
        groups[group, "every fact"] = (chosen, [])
        groups[group, "written differently"] = (chosen, near)
    groups["all", "right in every language"] = (scripts["all"], right.index[~right].tolist())
    groups["all", "wrong in some language"] = (scripts["all"], right.index[right].tolist())
    return {key: own for key, own in groups.items() if len(own[0]) > 1}


def layer_shares(sets: Mapping[str, pd.DataFrame], n_layers: int) -> pd.DataFrame:
    """In which layers a fact's neurons lie: of all, and of those that two languages or more hold.

    Returns:
        a row per layer, columns ``in 1 or more`` and ``in 2 or more``: shares.
    """
    shares = {}
    for least in (1, min(2, len(sets))):
        held = language_independent(sets, at_least=least)["layer"]
        shares[f"in {least} or more"] = held.value_counts(normalize=True)
    return pd.DataFrame(shares).reindex(range(n_layers)).fillna(0.0)


def main_counts(by_group: pd.DataFrame, at_least: int = 2) -> pd.DataFrame:
    """Rows of all languages as named numbers (:func:`kn_utils.run.numbers.named_numbers`).

    Args:
        by_group: of :func:`counts_of_cases` with ``target, group, facts`` (:func:`groups_of_facts`).
        at_least: languages that hold a neuron.

    Returns:
        ``measure, neurons`` (the same fact, another fact of the relation), ``where, value, low, high, n``.
    """
    rows = by_group[(by_group["at_least"] == at_least) & (by_group["group"] == "all")]
    rows = rows[rows["facts"].isin(["every fact", "written differently"])]
    where = rows["facts"] + ", found for " + rows["target"]
    rows = rows.assign(measure=f"neurons held in {at_least} languages or more", where=where)
    kinds = {"value": "the same fact", "other_fact": "another fact"}
    tables = []
    for column, name in kinds.items():
        own = rows.assign(value=rows[column], neurons=name)
        tables.append(own if column == "value" else own.assign(low=np.nan, high=np.nan))
    return pd.concat(tables, ignore_index=True)[["measure", "neurons", "where", "value", "low", "high", "n"]]
