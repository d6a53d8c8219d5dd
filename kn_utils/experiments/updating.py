"""Editing facts through their neurons, and what that costs (Dai et al. 2022, section 5.1).

:func:`evaluate_updates` gives a row per update: did the answer change, to what, at what cost to others.
:func:`ask_after` gives a row per update and question put after it, in other wordings, names or languages.

How slots change is an *edit*, an object of :mod:`kn_utils.model.edits`: ``ValueEdit(l1, l2)``,
``FineTune()``. All questions of all edits go through the model together, each under its own edit; no weight
is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..model.answers import answers, questions_of
from ..model.edits import PUBLISHED, Edit, Request, length_of_move
from ..model.hooks import SlotChange
from ..model.language_model import LanguageModel
from ..model.rows import Row
from ..neurons.choose import pairs_by_fact
from .effects import EvaluationError

FIRST = 5  # a wider success: the new answer is among so many first choices
LEAST = 1e-300  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class Bystanders:
    """Who is asked what an edit costs: facts of the relation, and of other relations.

    They are drawn by the ``seed`` for each update alone, so they are the same ones whatever the neurons.

    Attributes:
        facts: so many of the relation, and so many of others.
        wordings: of each of them at most so many.
        seed: of the draw.
    """

    facts: int = 5
    wordings: int = 2
    seed: int = 0

    def drawn(self, prompts: pd.DataFrame, updates: pd.DataFrame) -> list[dict[str, list[str]]]:
        """For each update the prompts of other facts, ``within`` its relation and ``between`` relations."""
        relation_of = prompts.drop_duplicates("fact").set_index("fact")["relation"]
        bags = prompts.groupby("fact")["prompt"].agg(list).to_dict()
        drawn = []
        for update in updates.itertuples():
            random = np.random.default_rng([self.seed, *update.fact.encode()])
            inside = relation_of == update.relation
            pools = {
                "within": relation_of.index[inside].drop(update.fact, errors="ignore"),
                "between": relation_of.index[~inside],
            }
            sides: dict[str, list[str]] = {}
            for name, pool in pools.items():
                chosen = random.choice(pool, size=min(self.facts, len(pool)), replace=False)
                sides[name] = [
                    str(prompt)
                    for fact in chosen
                    for prompt in random.choice(
                        bags[fact], size=min(self.wordings, len(bags[fact])), replace=False
                    )
                ]
            drawn.append(sides)
        return drawn


BYSTANDERS = Bystanders()


def evaluate_updates(
    model: LanguageModel,
    prompts: pd.DataFrame,
    probabilities: pd.DataFrame,
    updates: pd.DataFrame,
    neurons: pd.DataFrame,
    edit: Edit = PUBLISHED,
    *,
    kind: str = "knowledge",
    bystanders: Bystanders = BYSTANDERS,
    progress: bool = False,
) -> pd.DataFrame:
    """Edit each fact through its neurons and ask again; facts without neurons are passed over.

    Args:
        model: which to edit.
        prompts, probabilities: of all facts; from these the bystanders are drawn.
        updates: ``fact, relation, prompt, old, new``
            (:func:`kn_utils.experiments.update_choice.sample_updates`).
        neurons: ``fact, layer, neuron``; those that may be edited.
        edit: how slots change; one that learns is taught the update's prompt with the new answer.
        kind: what the neurons are, for the table.
        bystanders: who is asked what an edit costs.
        progress: whether bars are shown.

    Returns:
        a row per update:

        - ``fact, relation, neurons``, the edit's settings (such as ``l1, l2, signed``), ``n_neurons``;
        - ``moved``: how far the slots went, in units of their own length;
        - ``changed``: the prompt's first choice is another than before; ``success``: it is the new answer;
        - ``old_before, old_after, new_before, new_after``: P of the old and of the new answer;
        - ``rank_before, rank_after``: the new answer's rank (1 = top; of several pieces the worst, each given
          those before); ``first_before, first_after``: whether that is at most 5;
        - ``within_before, within_after, between_before, between_after``: mean -ln P (nats) of the right
          answers of other facts, of the same relation and of other relations.

    Raises:
        EvaluationError: none of the updated facts has a neuron.
    """
    sets = pairs_by_fact(neurons)
    updates = updates[updates["fact"].isin(list(sets))].reset_index(drop=True)
    if updates.empty:
        raise EvaluationError(
            f"none of these updates' facts has a neuron ({kind}); lower the threshold or the share."
        )
    by_name = prompts.set_index("prompt")
    asked_old = by_name.loc[updates["prompt"]].reset_index()
    old, new = (questions_of(model, table) for table in (asked_old, asked_old.assign(answer=updates["new"])))
    changes = edit.changes(model, requests_of(updates, sets, new))
    sides = bystanders.drawn(prompts, updates)
    named = list(dict.fromkeys(name for drawn in sides for side in drawn.values() for name in side))
    rows = dict(zip(named, questions_of(model, by_name.loc[named].reset_index()), strict=True))
    before = answers(model, [*old, *new], progress=progress, label=f"before, {kind}")
    questions = [
        [old[i], new[i], *(rows[name] for side in sides[i].values() for name in side)]
        for i in range(len(old))
    ]
    after = _answers_after(model, questions, changes, progress=progress, label=f"update, {kind}")
    known = pd.Series(probabilities["probability"].to_numpy(), index=prompts["prompt"])
    nll = -np.log(known.clip(lower=LEAST))
    table = []
    for i, update in enumerate(updates.itertuples()):
        fact = {"fact": update.fact, "relation": update.relation, "neurons": kind, **edit.settings}
        fact |= {"n_neurons": len(sets[update.fact]), "moved": length_of_move(model, changes[i])}
        was, wanted = before.iloc[i], before.iloc[len(old) + i]
        table.append(
            fact | _success(was, wanted, *after[i].iloc[:2].itertuples()) | _cost(sides[i], nll, after[i])
        )
    return pd.DataFrame(table)


def _success(was: Any, wanted: Any, now: Any, got: Any) -> dict[str, Any]:
    """The update's prompt, asked for the old and the new answer.

    Before the edit the two gave ``was`` and ``wanted``, after it ``now`` and ``got``.
    """
    return {
        "changed": now.first != was["first"],
        "success": got.right,
        "old_before": was["p"],
        "old_after": now.p,
        "new_before": wanted["p"],
        "new_after": got.p,
        "rank_before": wanted["rank"],
        "rank_after": got.rank,
        "first_before": wanted["rank"] <= FIRST,
        "first_after": got.rank <= FIRST,
    }


def _cost(sides: dict[str, list[str]], nll: pd.Series, after: pd.DataFrame) -> dict[str, float]:
    """Mean -ln P of the bystanders' answers, before and after; NaN where there are none."""
    costs: dict[str, float] = {}
    start = 2  # behind the questions for the old and for the new answer
    for name, asked in sides.items():
        p = after["p"].iloc[start : start + len(asked)].clip(lower=LEAST)
        costs |= {f"{name}_before": nll[asked].mean(), f"{name}_after": -np.log(p).mean()}
        start += len(asked)
    return costs


def _answers_after(
    model: LanguageModel,
    questions: Sequence[list[list[Row]]],
    changes: Sequence[SlotChange],
    *,
    progress: bool = False,
    label: str = "after edits",
) -> list[pd.DataFrame]:
    """The answers to each edit's questions, asked all together."""
    every = [question for asked in questions for question in asked]
    acting = [change for asked, change in zip(questions, changes, strict=True) for _ in asked]
    table = answers(model, every, acting, progress=progress, label=label)
    ends = np.cumsum([len(asked) for asked in questions])
    return [table.iloc[end - len(asked) : end] for end, asked in zip(ends, questions, strict=True)]


def requests_of(
    updates: pd.DataFrame, neurons: Mapping[str, np.ndarray], new: Sequence[list[Row]]
) -> list[Request]:
    """What an edit is told of each update.

    Args:
        updates: ``fact, old, new``.
        neurons: fact -> its (layer, neuron) pairs.
        new: per update the rows that ask for the new answer; empty for an edit that does not look at them.
    """
    return [
        Request(neurons[update.fact], update.old, update.new, rows)
        for update, rows in zip(updates.itertuples(), new, strict=True)
    ]


def ask_after(
    model: LanguageModel,
    updates: pd.DataFrame,
    neurons: pd.DataFrame,
    asked: pd.DataFrame,
    edit: Edit = PUBLISHED,
    *,
    kind: str = "knowledge",
) -> pd.DataFrame:
    """Edit each fact and put other questions about it: in other wordings, by other names, in other languages.

    Args:
        updates: ``fact, old, new``, answers or lists of them; for an edit that looks at the question (one
            that learns, or is signed) also the prompt's columns.
        asked: prompts with a column ``new``, the changed answer in that prompt's language.
        model, neurons, edit, kind: as :func:`evaluate_updates` takes them.

    Returns:
        a row per prompt of ``asked`` whose fact is updated and has neurons: its columns and ``neurons,
        known`` (its first choice was the old answer), ``changed, success, new_before, new_after``.
    """
    sets = pairs_by_fact(neurons)
    updates = updates[updates["fact"].isin(list(sets)) & updates["fact"].isin(asked["fact"])]
    asked = asked[asked["fact"].isin(updates["fact"])].reset_index(drop=True)
    pairs = list(
        zip(questions_of(model, asked), questions_of(model, asked.assign(answer=asked["new"])), strict=True)
    )
    taught: list[list[Row]] = [[]] * len(updates)
    if "text" in updates and not any(isinstance(new, list) for new in updates["new"]):
        taught = questions_of(model, updates.assign(answer=updates["new"]))
    change = dict(zip(updates["fact"], edit.changes(model, requests_of(updates, sets, taught)), strict=True))
    before = _old_and_new(model, pairs)
    after = _old_and_new(model, pairs, [change[fact] for fact in asked["fact"]])
    return asked.assign(
        neurons=kind,
        known=before["old"],
        changed=before["first"] != after["first"],
        success=after["new"],
        new_before=before["p"],
        new_after=after["p"],
    )


def across_languages(
    model: LanguageModel, table: pd.DataFrame, neurons: Mapping[str, pd.DataFrame], edit: Edit = PUBLISHED
) -> pd.DataFrame:
    """Edit each fact through one language's neurons and answers, ask for it in all languages.

    Args:
        table: :func:`kn_utils.experiments.update_choice.translate_updates`; a fact is edited through a
            language that it has a row in, and asked in all those.
        neurons: by language; under ``all`` the bag of all languages, with the answers of all of the fact's
            rows.

    Returns:
        :func:`ask_after` with two columns more: ``through``, the language edited through, and ``same``: the
        new answer is written as where the edit was made (``all``: missing, for its answers include it).
    """
    parts = []
    for through, held in neurons.items():
        if through == "all":
            edits = table.groupby(["fact", "relation"], sort=False).agg(
                old=("answer", list), new=("new", list)
            )
            edits = edits.reset_index()
        else:
            edits = table[table["language"] == through].rename(columns={"answer": "old"})
        part = ask_after(model, edits, held, table, edit)
        same = (part["new"] == part["fact"].map(edits.set_index("fact")["new"])).astype("boolean")
        parts.append(part.assign(through=through, same=same if through != "all" else pd.NA))
    return pd.concat(parts, ignore_index=True).astype({"same": "boolean"})


def _old_and_new(
    model: LanguageModel,
    pairs: Sequence[tuple[list[Row], list[Row]]],
    changes: Sequence[SlotChange] | None = None,
) -> pd.DataFrame:
    """What each question gives when asked for its old and for its new answer.

    Columns: the ``first`` choices with the old answer's pieces filled in, whether they are the ``old``
    answer, whether the ``new`` one is given, and ``p`` of that.

    Where both have one piece they are asked once: only from the second piece on does the text depend on the
    answer.
    """
    apart = [len(old) > 1 or len(new) > 1 for old, new in pairs]
    twice = [i for i, both in enumerate(apart) if both]
    questions = [new for _, new in pairs] + [pairs[i][0] for i in twice]
    acting = None if changes is None else [*changes, *(changes[i] for i in twice)]
    table = answers(model, questions, acting, progress=False)
    new, more = table.iloc[: len(pairs)], iter(table["first"].iloc[len(pairs) :])
    first = [next(more) if both else same for both, same in zip(apart, new["first"], strict=True)]
    wanted = [tuple(row.target for row in old) for old, _ in pairs]
    right = [choice == old for choice, old in zip(first, wanted, strict=True)]
    return pd.DataFrame(
        {"first": first, "old": right, "new": new["right"].to_numpy(), "p": new["p"].to_numpy()}
    )
