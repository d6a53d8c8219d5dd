"""A fact edited through its neurons: what becomes of it, of its other wordings, and of its neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ..experiments.updating import LEAST, Bystanders
from ..model.answers import questions_of
from ..model.askable import askable
from ..model.edits import PUBLISHED, Request, ValueEdit
from ..model.typed import typed_answers
from ..neurons.choose import as_pairs
from .question import Question, QuestionError, competitors
from .state import Explorer

OLD, NEW, WORDINGS = "the question, old answer", "the question, new answer", "its other wordings"
SAME, OTHER = "same relation", "other relations"
MOST = 3  # other wordings asked


class Edited(NamedTuple):
    """What an edit does.

    Attributes:
        rows: ``where`` (one of :data:`OLD`, :data:`NEW`, :data:`WORDINGS`, :data:`SAME`, :data:`OTHER`),
            ``fact`` (in words), ``text, answer, before, after`` (P), ``typed_before, typed_after`` (among the
            candidates), ``first`` (what is first among them after the edit).
        costs: ``where, facts, nats``: how much larger the mean -ln P of neighbours' right answers is after
            the edit. Few facts: an impression, no estimate; 07 has the study.
    """

    rows: pd.DataFrame
    costs: pd.DataFrame


def edit_of(force: float, *, signed: bool = False) -> ValueEdit:
    """The published edit with another force: l2 is the force, l1 keeps its ratio to it.

    Raises:
        ParameterError: a force that is none.
    """
    return ValueEdit(PUBLISHED.l1 / PUBLISHED.l2 * force, force, signed)


def edited(
    explorer: Explorer, question: Question, neurons: pd.DataFrame, new: str, edit: ValueEdit = PUBLISHED
) -> Edited:
    """Write a new answer into the value slots of some neurons, and ask again.

    No weight is touched: it is as if they stood inside :func:`kn_utils.update_fact` (with ``signed``, as
    notebook 07 edits, which that call does not).

    Args:
        explorer: of which model.
        question: the fact to edit.
        neurons: ``layer, neuron``.
        new: the new answer.
        edit: how slots change.

    Raises:
        QuestionError: no new answer, or the old one.
        DataError: an answer that the tokenizer cannot write.
    """
    new = " ".join(new.split())
    if not new or new == question.answer:
        raise QuestionError("choose a new answer that is not the old one.")
    if neurons.empty:
        raise QuestionError("choose neurons to edit.")
    with explorer.lock:
        model, asked = explorer.model, question.asked
        wanted = asked.assign(answer=new)
        request = Request(as_pairs(neurons), question.answer, new, questions_of(model, wanted)[0])
        (change,) = edit.changes(model, [request])
        parts = {OLD: asked, NEW: wanted, **_around(explorer, question)}
        prompts = pd.concat([part.assign(where=where) for where, part in parts.items()], ignore_index=True)
        mine = prompts["where"].isin([OLD, NEW, WORDINGS])
        right = prompts["answer"].mask(prompts["where"] == NEW, question.answer)
        rivals = [
            competitors(prompts.assign(answer=right).iloc[[row]], explorer.every) for row in range(len(right))
        ]
        names = [sorted({*own, new}) if asks else own for own, asks in zip(rivals, mine, strict=True)]
        before = typed_answers(model, prompts, names, progress=False)
        after = typed_answers(model, prompts, names, [change] * len(prompts), progress=False)
    rows = pd.DataFrame(
        {
            "where": prompts["where"],
            "fact": explorer.named(prompts["fact"].tolist(), question.language),
            "text": prompts["text"],
            "answer": prompts["answer"],
            "before": before["probability"],
            "after": after["probability"],
            "typed_before": before["typed_probability"],
            "typed_after": after["typed_probability"],
            "first": after["typed_predicted"],
        }
    )
    return Edited(rows, _costs(rows))


def _around(explorer: Explorer, question: Question) -> dict[str, pd.DataFrame]:
    """Other wordings of the fact, and neighbours: facts of its relation and of others, drawn by the seed."""
    every, language = explorer.every, question.language
    here = every[every["language"] == language].drop_duplicates("fact")
    here = here[(askable(explorer.model, here, explorer.facts)["reason"] == "").to_numpy()]
    update = question.asked[["fact", "relation"]]
    seed = explorer.study.parameters.seed
    (sides,) = Bystanders(wordings=1, seed=seed).drawn(here, update)
    by_name = here.set_index("prompt", drop=False)
    own = question.prompts.drop(question.number).head(MOST)
    return {WORDINGS: own, SAME: by_name.loc[sides["within"]], OTHER: by_name.loc[sides["between"]]}


def _costs(rows: pd.DataFrame) -> pd.DataFrame:
    table = []
    for where in (SAME, OTHER):
        own = rows[rows["where"] == where]
        lost = np.log(own["before"].clip(lower=LEAST)) - np.log(own["after"].clip(lower=LEAST))
        table.append({"where": where, "facts": len(own), "nats": lost.mean() if len(own) else np.nan})
    return pd.DataFrame(table)
