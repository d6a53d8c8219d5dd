"""What neurons of other languages do to a fact, beyond those of other facts; and what goes with it.

Tables come from :func:`kn_utils.experiments.cross_lingual.silenced_across`. The effect on a prompt is told
twice: as the relative change (a ratio of means, as published), and as the change of the logit,

    ln(p1 / (1 - p1)) - ln(p0 / (1 - p0)),

which adds up and can be compared between languages with different p0. Intervals draw facts again, with all
their prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from ..neurons.language_independent import graded, language_independent, strongest_of
from .changes import mean_table, relative_change
from .checking import beats
from .controls import PROBABILITIES, excess
from .intervals import RESAMPLES, with_percentiles

LOGIT, TYPED_LOGIT = "logit of P(answer)", "logit of P among the relation's answers"
#: Measure -> the column that holds it.
LOGITS = {LOGIT: "logit", TYPED_LOGIT: "typed_logit"}
COLUMNS = ["value", "low", "high", "n"]


def effects_beyond(
    effects: pd.DataFrame, by: Sequence[str], *, over: str = "another answer", seed: int = 0
) -> pd.DataFrame:
    """What a fact's own set does more than another fact's of the same source, prompt by prompt.

    Args:
        effects: ``prompt, fact, neurons`` (``own`` and others), the columns of ``by``, ``logit,
            typed_logit``, and P before and after.
        by: columns that tell groups apart, such as ``["source"]``.
        over: the set that is compared with.
        seed: of the intervals.

    Returns:
        ``measure, *by, value, low, high, n``: of the two probabilities as
        :func:`kn_utils.statistics.controls.excess` gives it, of their logits the mean over facts of the
        differences. Negative: own neurons take more away. n facts with both sets.
    """
    by = list(by)
    each = effects.assign(prompt=effects["source"] + " " + effects["prompt"])  # the sources are paired apart
    tables = [excess(each, by, over=over, seed=seed)]
    pairs = paired(effects, by, over=over)
    for measure, column in LOGITS.items():
        tables.append(mean_table(pairs, column, by, seed=seed).assign(measure=measure))
    return pd.concat(tables, ignore_index=True)[["measure", *by, *COLUMNS]]


def beyond_each(
    effects: pd.DataFrame, by: Sequence[str], others: Sequence[str], *, seed: int = 0
) -> pd.DataFrame:
    """The logit effects of :func:`effects_beyond` each of several sets: ``over, measure, *by, ...``.

    Sets that no prompt has are left out.
    """
    tables = [
        effects_beyond(effects, by, over=other, seed=seed).assign(over=other)
        for other in others
        if (effects["neurons"] == other).any()
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[table["measure"].isin(LOGITS)][["over", "measure", *by, *COLUMNS]]


def paired(effects: pd.DataFrame, by: Sequence[str], *, over: str = "another answer") -> pd.DataFrame:
    """Logit effects of own sets less those of another fact's, prompt by prompt.

    Returns:
        ``*by, prompt, fact, logit, typed_logit``; prompts that both acted on.
    """
    keys = list(dict.fromkeys([*by, "source", "prompt", "fact"]))
    columns = list(LOGITS.values())
    mine, other = (effects.loc[effects["neurons"] == name, [*keys, *columns]] for name in ("own", over))
    both = mine.merge(other, on=keys, suffixes=("", "_other"))
    return both[keys].assign(**{column: both[column] - both[f"{column}_other"] for column in columns})


def more_than(
    effects: pd.DataFrame,
    first: str,
    second: str,
    *,
    over: str | None = "another answer",
    by: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Does one source of neurons do more than another, in the prompts that both acted on?

    Args:
        effects: as :func:`effects_beyond` takes them.
        first, second: two sources.
        over: each source's effect is taken beyond this set of its own; ``None``: as it is.
        by: columns that tell groups apart.
        seed: of the intervals.

    Returns:
        ``measure, first, second, *by, value, low, high, n``: mean over facts of the difference of logit
        effects, first less second; negative: the first takes more away.
    """
    groups = list(by)
    if over is None:
        table = effects.loc[effects["neurons"] == "own"]
    else:
        table = paired(effects, groups, over=over)
    keys, columns = [*groups, "prompt", "fact"], list(LOGITS.values())
    a, b = (table.loc[table["source"] == name, [*keys, *columns]] for name in (first, second))
    both = a.merge(b, on=keys, suffixes=("", "_second"))
    tables = []
    for measure, column in LOGITS.items():
        difference = both.assign(value=both[column] - both[f"{column}_second"], measure=measure)
        tables.append(mean_table(difference, "value", ["measure", *groups], seed=seed))
    table = pd.concat(tables, ignore_index=True).assign(first=first, second=second)
    return table[["measure", "first", "second", *groups, *COLUMNS]]


def compare_sources(
    effects: pd.DataFrame, pairs: Mapping[str, str], by: Sequence[str] = (), *, seed: int = 0
) -> pd.DataFrame:
    """:func:`more_than` of several pairs of sources, one below the other."""
    tables = [more_than(effects, *pair, by=by, seed=seed) for pair in pairs.items()]
    return pd.concat(tables, ignore_index=True)


def with_empty(effects: pd.DataFrame, source: str, every: pd.DataFrame) -> pd.DataFrame:
    """A source's rows, and for prompts where it has no neuron rows without an effect.

    Args:
        effects: of several sources.
        source: the one that may be empty.
        every: effects of a set that every prompt has, from which the state before is taken.

    Returns:
        rows of ``own`` neurons of this source, one per prompt of ``every``.
    """
    own = effects[(effects["source"] == source) & (effects["neurons"] == "own")]
    rest = every[~every["prompt"].isin(own["prompt"])].drop_duplicates("prompt")
    unchanged = {"source": source, "neurons": "own", "size": 0, "logit": 0.0, "typed_logit": 0.0}
    unchanged |= {after: rest[before] for before, after in PROBABILITIES.values()}
    return pd.concat([own, rest.assign(**unchanged)], ignore_index=True)


def change_with_empty(effects: pd.DataFrame, source: str, by: str, *, seed: int = 0) -> pd.DataFrame:
    """:func:`change_of` a source over all prompts, those without such a neuron counted as unchanged.

    Args:
        effects: of several sources, one of which every prompt has.
        source: the one that may be empty.
        by: a column that tells groups apart.
        seed: of the intervals.

    Returns:
        ``measure, <by>, value, low, high, n, empty`` (share of prompts without such a neuron).
    """
    tables = []
    for key, part in effects.groupby(by, sort=False):
        filled = with_empty(part, source, part[part["neurons"] == "own"].drop_duplicates("prompt"))
        table = change_of(filled, ["source"], seed=seed).drop(columns="source")
        tables.append(table.assign(**{by: key}, empty=float((filled["size"] == 0).mean())))
    return pd.concat(tables, ignore_index=True)[["measure", by, *COLUMNS, "empty"]]


def together_with(
    matrix: pd.DataFrame, consistency: pd.DataFrame, *, value: str = "value"
) -> dict[str, float]:
    """Do pairs of languages that rank answers alike carry more over? A rank correlation of pairs.

    Pairs share languages and are not independent, so the test permutes languages (Mantel 1967): all
    orders of up to seven languages.

    Args:
        matrix: ``source, target, <value>``, the effect of source's neurons in target.
        consistency: ``first, second, value``, such as RankC.
        value: the column of ``matrix`` that is compared.

    Returns:
        ``value`` (Spearman's rho over ordered pairs), ``n`` (pairs), ``p`` (two-sided).
    """
    both = pd.concat([consistency, consistency.rename(columns={"first": "second", "second": "first"})])
    alike = both.set_index(["first", "second"])["value"]
    names = sorted(set(both["first"]))
    pairs = matrix[matrix["source"].isin(names) & matrix["target"].isin(names)]
    pairs = pairs[(pairs["source"] != pairs["target"]) & pairs[value].notna()]
    if len(pairs) < 3:
        return {"value": np.nan, "n": len(pairs), "p": np.nan}
    effect = pairs[value].to_numpy(float)

    def rho(order: Sequence[str]) -> float:
        other = dict(zip(names, order, strict=True))
        keys = [(other[a], other[b]) for a, b in zip(pairs["source"], pairs["target"], strict=True)]
        there = alike.reindex(pd.MultiIndex.from_tuples(keys)).to_numpy(float)
        known = ~np.isnan(there)
        return float(stats.spearmanr(effect[known], there[known]).statistic)

    drawn = np.abs([rho(order) for order in permutations(names)])
    observed = rho(names)
    return {"value": observed, "n": len(pairs), "p": float((drawn >= abs(observed) - 1e-12).mean())}


def together_with_each(matrix: pd.DataFrame, consistency: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """:func:`together_with` of each group: ``*by, value, n, p``."""
    rows = [
        dict(zip(by, key, strict=True)) | together_with(part, consistency)
        for key, part in matrix.groupby(list(by), sort=False)
    ]
    return pd.DataFrame(rows)


def as_named(table: pd.DataFrame, more: str = "") -> pd.DataFrame:
    """Rows per source as named numbers (:func:`kn_utils.run.numbers.named_numbers`).

    Args:
        table: ``measure, source, found_for, value, low, high, n``.
        more: is added to the measure.
    """
    where = "found for " + table["found_for"]
    named = table.assign(measure=table["measure"] + more, neurons=table["source"], where=where)
    return named[["measure", "neurons", "where", *COLUMNS]]


def told_apart(
    table: pd.DataFrame, score: str, first: str, second: str, *, group: str = "group", seed: int = 0
) -> dict[str, float]:
    """How well a score tells two groups of facts apart, within relations: the area under the ROC curve.

    The share of pairs, one fact of each group of the same relation, in which the one of ``first`` has the
    larger score; ties count half. 0.5: not at all.

    Args:
        table: a row per fact: ``relation, <group>, <score>``.
        score: the column.
        first, second: the groups.
        group: the column that holds them.
        seed: of the resamples, which draw facts of each relation and group again.

    Returns:
        ``value, low, high, n`` (facts of ``first`` in relations that have both), ``n_second``.
    """
    wins, weights, sizes = [], [], np.zeros(2, int)
    random = np.random.default_rng(seed)
    draws: list[np.ndarray] = []
    for _, part in table.dropna(subset=[score]).groupby("relation", sort=False):
        a, b = (part.loc[part[group] == name, score].to_numpy(float) for name in (first, second))
        if len(a) and len(b):
            better = beats(a, b)
            times_a, times_b = (
                random.multinomial(len(x), np.full(len(x), 1 / len(x)), size=RESAMPLES) for x in (a, b)
            )
            draws.append(np.einsum("da,ab,db->d", times_a, better, times_b))
            wins.append(better.sum())
            weights.append(better.size)
            sizes += len(a), len(b)
    if not weights:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": 0, "n_second": 0}
    value = with_percentiles(sum(wins) / sum(weights), np.sum(draws, axis=0) / sum(weights), int(sizes[0]))
    return {**value, "n_second": int(sizes[1])}


def change_of(effects: pd.DataFrame, by: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Relative change of both probabilities and mean change of their logits.

    Returns:
        ``measure, *by, value, low, high, n``.
    """
    by, tables = list(by), []
    for measure, (before, after) in PROBABILITIES.items():
        pair = effects.assign(before=effects[before], after=effects[after])
        tables.append(relative_change(pair, by, seed=seed).assign(measure=measure))
    for measure, column in LOGITS.items():
        tables.append(mean_table(effects, column, by, seed=seed).assign(measure=measure))
    return pd.concat(tables, ignore_index=True)[["measure", *by, *COLUMNS]]


def signs_of_sharing(
    found: pd.DataFrame, told: pd.DataFrame, taught: pd.DataFrame, *, k: int = 5
) -> pd.DataFrame:
    """What neurons, and probabilities, say of each fact; and what it was taught.

    Args:
        found: ``language, fact, relation, layer, neuron, score``.
        told: ``fact, language, probability, typed_correct``: the answers.
        taught: ``fact, relation, taught`` (``all``, a language, ``never``), ``group``
            (:func:`kn_utils.data.sources.mini.taught_apart`).
        k: a language holds a fact's k strongest neurons.

    Returns:
        ``fact, relation, group`` (``shared``: taught in all languages, right in two or more; ``transferred``:
        taught in one, right in another; ``not transferred``; ``never taught``), ``neurons in two languages``,
        ``graded score`` (the largest), ``mean ln P``.
    """
    by_language = strongest_of(found, k)
    held = language_independent(by_language, at_least=2).groupby("fact").size()
    best = graded({str(name): own for name, own in found.groupby("language")}).groupby("fact")["score"].max()
    log_p = np.log(told["probability"].clip(lower=1e-300)).groupby(told["fact"]).mean()
    where = told.merge(taught[["fact", "taught"]], on="fact")
    right = where[where["language"] != where["taught"]].groupby("fact")["typed_correct"].sum()
    table = taught[["fact", "relation", "group"]].assign(right=taught["fact"].map(right).fillna(0))
    names = {
        "all": np.where(table["right"] > 1, "shared", ""),
        "one": np.where(table["right"] > 0, "transferred", "not transferred"),
        "never": np.full(len(table), "never taught"),
    }
    table["group"] = np.select([table["group"] == name for name in names], list(names.values()), "")
    table["neurons in two languages"] = table["fact"].map(held).fillna(0).astype(float)
    table["graded score"], table["mean ln P"] = table["fact"].map(best), table["fact"].map(log_p)
    table = table[(table["group"] != "") & table["fact"].isin(told["fact"])].drop(columns="right")
    return table.reset_index(drop=True)


def told_apart_by(signs: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """:func:`told_apart` of shared facts from each other group, by every sign.

    Args:
        signs: of :func:`signs_of_sharing`.
        seed: of the resamples.

    Returns:
        ``first, second, score, value, low, high, n, n_second``.
    """
    scores = [name for name in signs if name not in ("fact", "relation", "group")]
    rows = [
        {"first": "shared", "second": other, "score": score}
        | told_apart(signs, score, "shared", other, seed=seed)
        for other in ("transferred", "not transferred", "never taught")
        for score in scores
    ]
    return pd.DataFrame(rows)
