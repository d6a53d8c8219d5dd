"""Editing: rewriting facts through their value slots, and what that costs (Dai et al. 2022, section 5.1).

edits     a row per update: did the answer change, to what, at what cost to others
:func:`evaluate_updates`
answers   a row per update and question put after it: other wordings, names, languages  :func:`ask_after`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tqdm.auto import tqdm

from ..base import QUIET
from ..model.answers import ask
from ..model.interventions import fine_tune, update_fact
from ..model.language_model import LanguageModel
from ..model.rows import Row
from ..neurons.choose import as_pairs, pairs_by_fact
from ..statistics.intervals import LEVEL, RESAMPLES, interval
from .effects import EvaluationError

FIRST = 5  # a wider success: the new answer is among so many first choices


def evaluate_updates(
    model: LanguageModel,
    prompts: pd.DataFrame,
    probabilities: pd.DataFrame,
    updates: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    kind: str = "knowledge",
    l1: float = 1.0,
    l2: float = 8.0,
    tune: Mapping[str, Any] | None = None,
    others: int = 5,
    wordings: int = 2,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Edit each fact through its neurons, ask again, and put the weights back; facts without neurons are
    passed over.

    Args:
        tune: options of :func:`kn_utils.interventions.fine_tune`, to train the slots on the update's prompt
            instead.
        others, wordings: so many other facts of the relation, and of other relations, in at most so many
            prompts each; drawn for each update alone, so that they are the same whatever the neurons.

    Returns:
        edits ``fact, relation, neurons, l1, l2, n_neurons``; ``moved`` (how far the slots went, in their own
        length); ``changed`` (the prompt's first choice is another than before), ``success`` (it is the new
        answer); ``old_*, new_*, rank_*, first_*``
        before and after: P(old), P(new), the new answer's rank (1 = top; of several pieces the worst, each
            given those before) and
        whether that is at most 5; ``within_*, between_*``: mean -ln P of the right answers of the other
        facts.
    """
    sets = pairs_by_fact(neurons)
    updates = updates[updates["fact"].isin(list(sets))].reset_index(drop=True)
    if updates.empty:
        raise EvaluationError(
            f"none of these updates' facts has a neuron ({kind}); lower the threshold or the share."
        )
    costs = _bystanders(prompts, updates, others, wordings, seed)
    by_name = prompts.set_index("prompt")
    bystanders = by_name.loc[
        list(dict.fromkeys(name for sides in costs for one in sides.values() for name in one))
    ]
    rows = dict(zip(bystanders.index, _rows(model, bystanders.reset_index()), strict=True))
    nll = -np.log(
        pd.Series(probabilities["probability"].to_numpy(), index=prompts["prompt"]).clip(lower=1e-300)
    )
    old = by_name.loc[updates["prompt"]].reset_index()
    new = old.assign(answer=updates["new"])
    own = list(zip(_rows(model, old), _rows(model, new), strict=True))
    before = _answers(model, [question for both in own for question in both])
    table: list[dict[str, Any]] = []
    watch = {
        "disable": not progress or QUIET,
        "desc": f"update, {kind}",
        "unit": "edit",
        "total": len(updates),
    }
    for i, update in enumerate(tqdm(updates.itertuples(), **watch)):
        sides = costs[i]
        with _edit(model, sets[update.fact], update.old, update.new, l1, l2, new.iloc[[i]], tune) as moved:
            after = _answers(model, [*own[i], *(rows[name] for names in sides.values() for name in names)])
        (was, wanted), (now, got) = before.iloc[2 * i : 2 * i + 2].itertuples(), after.iloc[:2].itertuples()
        row = {
            "fact": update.fact,
            "relation": update.relation,
            "neurons": kind,
            "l1": l1,
            "l2": l2,
            "n_neurons": len(sets[update.fact]),
            "moved": moved,
            "changed": now.first != was.first,
            "success": got.right,
            "old_before": was.p,
            "old_after": now.p,
            "new_before": wanted.p,
            "new_after": got.p,
            "rank_before": wanted.rank,
            "rank_after": got.rank,
            "first_before": wanted.rank <= FIRST,
            "first_after": got.rank <= FIRST,
        }
        start = 2
        for name, asked in sides.items():
            p = after["p"].iloc[start : start + len(asked)].clip(lower=1e-300)
            row |= {
                f"{name}_before": nll[asked].mean(),
                f"{name}_after": -np.log(p).mean(),
            }  # NaN where there are none
            start += len(asked)
        table.append(row)
    return pd.DataFrame(table)


def ask_after(
    model: LanguageModel,
    updates: pd.DataFrame,
    neurons: pd.DataFrame,
    asked: pd.DataFrame,
    *,
    kind: str = "knowledge",
    l1: float = 1.0,
    l2: float = 8.0,
    tune: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Edit each fact and put other questions about it: in other wordings, by other names, in other languages.

    Args:
        updates: ``fact, old, new``, answers or lists of them; with ``tune`` also the prompt's columns.
        asked: prompts with a column ``new``, the changed answer in that prompt's language.

    Returns:
        a row per prompt of ``asked`` whose fact is updated and has neurons: its columns and ``neurons,
        known`` (its first choice was the old answer), ``changed, success, new_before, new_after``.
    """
    sets = pairs_by_fact(neurons)
    updates = updates[updates["fact"].isin(list(sets)) & updates["fact"].isin(asked["fact"])]
    asked = asked[asked["fact"].isin(updates["fact"])].reset_index(drop=True)
    pairs = list(zip(_rows(model, asked), _rows(model, asked.assign(answer=asked["new"])), strict=True))
    before, parts = _old_and_new(model, pairs), []
    places = asked.groupby("fact").indices
    for i, update in enumerate(updates.itertuples()):
        here = places[update.fact]
        row = updates.iloc[[i]].assign(answer=update.new) if tune is not None else None
        with _edit(model, sets[update.fact], update.old, update.new, l1, l2, row, tune):
            parts.append(_old_and_new(model, [pairs[place] for place in here]).set_axis(here))
    after = pd.concat(parts).sort_index() if parts else before
    return asked.assign(
        neurons=kind,
        known=before["old"],
        changed=before["first"] != after["first"],
        success=after["new"],
        new_before=before["p"],
        new_after=after["p"],
    )


def across_languages(
    model: LanguageModel,
    table: pd.DataFrame,
    neurons: Mapping[str, pd.DataFrame],
    *,
    l1: float = 1.0,
    l2: float = 8.0,
) -> pd.DataFrame:
    """Edit each fact through one language's neurons and answers, ask for it in all: :func:`ask_after` with
    ``through``.

    Args:
        table: :func:`translate_updates`; a fact is edited through a language that it has a row in, and asked
            in all those.
        neurons: by language; under ``all`` the bag of all languages, with the answers of all of the fact's
            rows.

    Returns:
        also ``same``: the new answer is written as where the edit was made (``all``: missing, for its answers
        include it).
    """
    parts = []
    for through, some in neurons.items():
        if through == "all":
            edits = table.groupby(["fact", "relation"], sort=False).agg(
                old=("answer", list), new=("new", list)
            )
            edits = edits.reset_index()
        else:
            edits = table[table["language"] == through].rename(columns={"answer": "old"})
        part = ask_after(model, edits, some, table, l1=l1, l2=l2)
        same = (part["new"] == part["fact"].map(edits.set_index("fact")["new"])).astype("boolean")
        parts.append(part.assign(through=through, same=same if through != "all" else pd.NA))
    return pd.concat(parts, ignore_index=True).astype({"same": "boolean"})


def summarise_updates(edits: pd.DataFrame, by: Sequence[str] = ("neurons",)) -> pd.DataFrame:
    """The paper's Table IV from :func:`evaluate_updates`: ``*by, measure, value, low, high, n`` with
    intervals over edits.

    Of perplexities (exp of the mean -ln P) the *rise* is as published, exp(mean after) - exp(mean before)
    over all edits; the *ratio* is, per edit, after / before (geometric mean over edits).
    """
    shares = {
        "change rate": "changed",
        "success rate": "success",
        "new among the first 5, before": "first_before",
        "new among the first 5, after": "first_after",
        "P(new answer), before": "new_before",
        "P(new answer), after": "new_after",
        "P(old answer), before": "old_before",
        "P(old answer), after": "old_after",
        "length of the move": "moved",
    }
    rows = []
    for key, group in edits.groupby(list(by), sort=False):
        found = {name: interval(group[column]) for name, column in shares.items()}
        for when in ("before", "after"):
            found[f"reciprocal rank of the new answer, {when}"] = interval(1 / group[f"rank_{when}"])
        for side in ("within", "between"):
            before, after = group[f"{side}_before"], group[f"{side}_after"]
            logs = {"before": before, "after": after, "ratio": after - before}
            for name, values in logs.items():
                one = interval(values)
                found[f"perplexity {side}, {name}"] = {
                    k: v if k == "n" else float(np.exp(v)) for k, v in one.items()
                }
            found[f"perplexity {side}, rise"] = _rise(before, after)
        rows += [{**dict(zip(by, key, strict=True)), "measure": name, **one} for name, one in found.items()]
    return pd.DataFrame(rows)


def _rise(before: pd.Series, after: pd.Series) -> dict[str, float]:
    """exp(mean after) - exp(mean before) of mean -ln P, with an interval over edits."""
    there = before.notna() & after.notna()
    pair = (before[there].to_numpy(), after[there].to_numpy())
    if len(pair[0]) < 2:
        value = float(np.exp(pair[1][0]) - np.exp(pair[0][0])) if len(pair[0]) else np.nan
        return {"value": value, "low": np.nan, "high": np.nan, "n": len(pair[0])}
    found = stats.bootstrap(
        pair,
        _difference_of_perplexities,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        rng=np.random.default_rng(0),
        vectorized=True,
    ).confidence_interval
    value = float(_difference_of_perplexities(*pair))
    return {"value": value, "low": float(found.low), "high": float(found.high), "n": len(pair[0])}


def _difference_of_perplexities(before: np.ndarray, after: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.exp(after.mean(axis=axis)) - np.exp(before.mean(axis=axis))


@contextmanager
def _edit(
    model: LanguageModel,
    neurons: np.ndarray,
    old: Any,
    new: Any,
    l1: float,
    l2: float,
    prompt: pd.DataFrame | None,
    tune: Mapping[str, Any] | None,
) -> Iterator[float]:
    """The formula, or fine-tuning on the prompt; gives how far the slots went, in units of their own
    length."""
    layers, columns = as_pairs(neurons).T
    before = [model.value_slots(layer)[column].clone() for layer, column in zip(layers, columns, strict=True)]
    formula = update_fact(model, neurons, old=old, new=new, l1=l1, l2=l2) if tune is None else None
    with formula or fine_tune(model, neurons, prompt, **tune):
        now = [model.value_slots(layer)[column] for layer, column in zip(layers, columns, strict=True)]
        moves = [float((b - a).norm() / a.norm()) for a, b in zip(before, now, strict=True)]
        yield float(np.mean(moves))


def _bystanders(
    prompts: pd.DataFrame, updates: pd.DataFrame, others: int, wordings: int, seed: int
) -> list[dict[str, list[str]]]:
    """For each update the prompts of other facts, ``within`` its relation and ``between`` relations."""
    relation_of = prompts.drop_duplicates("fact").set_index("fact")["relation"]
    bags = prompts.groupby("fact")["prompt"].agg(list).to_dict()
    drawn = []
    for update in updates.itertuples():
        random = np.random.default_rng(
            [seed, *update.fact.encode()]
        )  # the update's own, whatever the others are
        inside = relation_of == update.relation
        pools = {"within": relation_of.index[inside].drop(update.fact), "between": relation_of.index[~inside]}
        sides: dict[str, list[str]] = {}
        for name, pool in pools.items():
            chosen = [bags[fact] for fact in random.choice(pool, size=min(others, len(pool)), replace=False)]
            sides[name] = [
                str(one)
                for bag in chosen
                for one in random.choice(bag, size=min(wordings, len(bag)), replace=False)
            ]
        drawn.append(sides)
    return drawn


def _rows(model: LanguageModel, prompts: pd.DataFrame) -> list[list[Row]]:
    """Each prompt's rows, one per piece of its answer."""
    questions: list[list[Row]] = [[] for _ in range(len(prompts))]
    for row in model.encode(prompts):
        questions[row.prompt].append(row)
    return questions


def _answers(model: LanguageModel, questions: list[list[Row]]) -> pd.DataFrame:
    """Of each question ``p`` (product over pieces), ``rank`` (the worst), ``first`` (choices) and ``right``
    (all of them)."""
    if not questions:
        return pd.DataFrame({"p": [], "rank": [], "first": [], "right": []})
    rows = [row for question in questions for row in question]
    p, rank, top = ask(model, rows)
    ends = np.cumsum([len(question) for question in questions], dtype=int)
    starts = np.r_[0, ends[:-1]]
    first = [tuple(top[a:b].tolist()) for a, b in zip(starts, ends, strict=True)]
    right = [
        one == tuple(row.target for row in question) for one, question in zip(first, questions, strict=True)
    ]
    return pd.DataFrame(
        {
            "p": np.multiply.reduceat(p, starts),
            "rank": np.maximum.reduceat(rank, starts),
            "first": first,
            "right": right,
        }
    )


def _old_and_new(model: LanguageModel, pairs: list[tuple[list[Row], list[Row]]]) -> pd.DataFrame:
    """Of each question, asked for its old and its new answer: ``first`` choices with the old one's pieces
    filled in, whether they are the ``old`` answer, whether the ``new`` one is given, and ``p`` of that.

    Where both have one piece they are asked once: only from the second piece on does the text depend on the
    answer.
    """
    apart = [len(old) > 1 or len(new) > 1 for old, new in pairs]
    found = _answers(
        model, [new for _, new in pairs] + [old for (old, _), one in zip(pairs, apart, strict=True) if one]
    )
    new, more = found.iloc[: len(pairs)], iter(found["first"].iloc[len(pairs) :])
    first = [next(more) if one else same for one, same in zip(apart, new["first"], strict=True)]
    wanted = [tuple(row.target for row in old) for old, _ in pairs]
    right = [one == other for one, other in zip(first, wanted, strict=True)]
    return pd.DataFrame(
        {"first": first, "old": right, "new": new["right"].to_numpy(), "p": new["p"].to_numpy()}
    )
