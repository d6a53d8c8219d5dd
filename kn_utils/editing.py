"""Editing: rewriting facts through their value slots, and what that costs (Dai et al. 2022, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from .base import QUIET
from .evaluation import EvaluationError, answer_probability
from .facts import answer_pieces
from .interventions import update_fact
from .models import LanguageModel
from .statistics import interval


def sample_updates(
    model: LanguageModel, prompts: pd.DataFrame, probabilities: pd.DataFrame, neurons: pd.DataFrame, *, per_relation: int = 10,
    common: float = 0.1, seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Facts to change: known ones, each with a prompt that the model answers and another answer of its relation.

    As published (Dai et al.'s code) but seeded and finite. A fact is eligible if the model answers one of its prompts, if a neuron
    is left when those that occur in more than ``common`` of the relation's facts are taken away, and if the relation has another
    answer in that prompt's language with as many pieces (or else the number of blanks would tell the answers apart).

    Returns:
        updates ``fact, relation, prompt, old, new``, and the neurons to edit (rows of ``neurons``).
    """
    random = np.random.default_rng(seed)
    facts = pd.Series(neurons.attrs["facts"]).value_counts()
    holders = neurons.groupby(["relation", "layer", "neuron"])["fact"].transform("nunique")
    own = neurons[holders <= np.maximum(common * neurons["relation"].map(facts), 1)]
    known = prompts[probabilities["correct"].to_numpy() & prompts["fact"].isin(own["fact"]).to_numpy()]
    pieces = {answer: len(answer_pieces(model.tokenizer, answer)) for answer in prompts["answer"].unique()}
    answers = prompts.groupby(["relation", "language"])["answer"].unique()
    updates = []
    for relation, group in known.groupby("relation", sort=False):
        taken = 0
        for fact in random.permutation(group["fact"].unique()):
            bag = group[group["fact"] == fact]
            row = bag.iloc[random.integers(len(bag))]
            possible = answers[relation, row["language"]]
            possible = [new for new in possible if new != row["answer"] and pieces[new] == pieces[row["answer"]]]
            if taken < per_relation and possible:
                taken += 1
                new = possible[random.integers(len(possible))]
                updates.append((fact, relation, row["prompt"], row["answer"], new))
    if not updates:
        raise EvaluationError(
            "no fact can be updated: none is known, has a neuron of its own and another answer to take."
        )
    table = pd.DataFrame(updates, columns=["fact", "relation", "prompt", "old", "new"])
    return table, own[own["fact"].isin(table["fact"])].reset_index(drop=True)


def evaluate_updates(
    model: LanguageModel, prompts: pd.DataFrame, probabilities: pd.DataFrame, updates: pd.DataFrame, neurons: pd.DataFrame, *,
    kind: str = "knowledge", l1: float = 1.0, l2: float = 8.0, others: int = 5, seed: int = 0, progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Edit each fact through its neurons, ask again, and put the weights back.

    Returns, a row per update: ``fact, relation, neurons, l1, l2, n_neurons``; ``changed`` (the prompt's first choice is another
    than before) and ``success`` (it is the new answer); ``new_before, new_after`` (probability of the new answer);
    ``within_before, within_after, between_before, between_after``: mean -ln P of the right answers of ``others`` other facts of
    the relation and of ``others`` facts of other relations (the same facts for every kind of neurons).
    """
    random = np.random.default_rng(seed)
    sets = {fact: group for fact, group in neurons.groupby("fact")}
    table = prompts.set_index("prompt")
    nll = -np.log(pd.Series(probabilities["probability"].to_numpy(), index=prompts["prompt"]))
    relation_of = prompts.drop_duplicates("fact").set_index("fact")["relation"]
    rows: list[dict[str, Any]] = []
    for update in tqdm(
        updates.itertuples(), total=len(updates), disable=not progress or QUIET, desc=f"update, {kind}", unit="edit"
    ):
        inside = relation_of.index[(relation_of == update.relation) & (relation_of.index != update.fact)]
        outside = relation_of.index[relation_of != update.relation]
        groups = {
            name: prompts[prompts["fact"].isin(random.choice(pool, size=min(others, len(pool)), replace=False))]
            for name, pool in (("within", inside), ("between", outside))
        }
        old = table.loc[[update.prompt]].reset_index()
        new = old.assign(answer=update.new)
        first = answer_probability(model, pd.concat([old, new]))
        own = sets[update.fact]
        with update_fact(model, own, old=update.old, new=update.new, l1=l1, l2=l2):
            asked = pd.concat([old, new, *groups.values()])
            after = answer_probability(model, asked)
        row = {
            "fact": update.fact, "relation": update.relation, "neurons": kind, "l1": l1, "l2": l2, "n_neurons": len(own),
            "changed": after["predicted"].iloc[0] != first["predicted"].iloc[0], "success": bool(after["correct"].iloc[1]),
            "new_before": first["probability"].iloc[1], "new_after": after["probability"].iloc[1],
        }  # fmt: skip
        start = 2
        for name, group in groups.items():
            part = after["probability"].iloc[start : start + len(group)]
            row[f"{name}_before"] = nll[group["prompt"]].mean() if len(group) else np.nan
            row[f"{name}_after"] = -np.log(part.clip(lower=1e-300)).mean() if len(group) else np.nan
            start += len(group)
        rows.append(row)
    return pd.DataFrame(rows)


def summarise_updates(edits: pd.DataFrame, by: Sequence[str] = ("neurons",)) -> pd.DataFrame:
    """The paper's Table IV from :func:`evaluate_updates`: ``*by, measure, value, low, high, n`` with intervals over edits.

    Measures: change rate, success rate, P(new answer) after, perplexity within and between relations before and after (exp of
    the mean -ln P) and, per edit, their ratio (geometric mean of after / before).
    """
    rows = []
    for key, group in edits.groupby(list(by), sort=False):
        measures = {
            "change rate": group["changed"],
            "success rate": group["success"],
            "P(new answer)": group["new_after"],
        }
        found = {name: interval(values) for name, values in measures.items()}
        for side in ("within", "between"):
            before, after = group[f"{side}_before"], group[f"{side}_after"]
            logs = {"before": before, "after": after, "ratio": after - before}
            for name, values in logs.items():
                one = interval(values)
                found[f"perplexity {side}, {name}"] = {k: v if k == "n" else float(np.exp(v)) for k, v in one.items()}
        rows += [{**dict(zip(by, key, strict=True)), "measure": name, **one} for name, one in found.items()]
    return pd.DataFrame(rows)
