"""Many edits and many questions: what an edit does to its fact, to other facts and to other languages.

A table of *questions* says for every edited fact what is asked (:func:`questions_around`: its wordings held
out, other facts; :func:`questions_abroad`: other languages). :func:`ask_edited` puts all of them after each
of several edits, over the whole vocabulary and among the candidates of the relation, and gives a row each.
What the rows say together is :mod:`kn_utils.statistics.forces`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..model.answers import answer_probability, questions_of
from ..model.edits import PUBLISHED, Edit, FineTune, ValueEdit, length_of_move
from ..model.hooks import SlotChange
from ..model.language_model import LanguageModel
from ..model.typed import candidates_of, typed_answers
from ..neurons.choose import pairs_by_fact
from .effects import EvaluationError
from .update_choice import questions
from .updating import BYSTANDERS, Bystanders, requests_of

#: Small enough for models that the published force destroys, up to the published one.
FORCES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
PAPERS, SIGNED, TUNED = "as published", "signed", "fine-tuned"
#: Which questions are about what.
HELD, FOUND, EDITED = "wordings held out", "wordings that found the neurons", "the edited prompt"
SAME, OTHER = "same relation", "other relations"
FACT, ANOTHER, ANOTHER_RIGHT = "the fact", "another fact", "another fact, its answer"


def judged(
    model: LanguageModel,
    prompts: pd.DataFrame,
    every: pd.DataFrame,
    *,
    given: pd.DataFrame | None = None,
    least: int = 2,
) -> pd.DataFrame:
    """Which prompts count as answered, by the measure that suits the model.

    A masked model answers a prompt if its first choice is right. A left-to-right base model goes on with
    "the": it answers if it chooses rightly among the candidates, for a fact known in several wordings.

    Args:
        model: which to ask.
        prompts: the questions.
        every: prompts that candidates are taken from, such as those of all facts.
        given: :func:`kn_utils.model.typed.typed_answers` of some of them (for a masked model
            :func:`kn_utils.answer_probability` will do), which are not asked again.
        least: a left-to-right model knows facts that it answers in at least so many wordings, or in all where
            there are fewer.

    Returns:
        a row per prompt: ``prompt, probability, correct``; ``correct``: it counts as answered.
    """
    measure = "typed_correct" if model.causal else "correct"
    columns = ["prompt", "probability", measure]
    has = given if given is not None else pd.DataFrame({name: [] for name in columns})
    rest = prompts[~prompts["prompt"].isin(has["prompt"])].reset_index(drop=True)
    if model.causal:
        more = typed_answers(model, rest, candidates_of(rest, every), label="known", progress=False)
    else:
        more = answer_probability(model, rest, progress=False)
    told = pd.concat([part[columns] for part in (has, more) if len(part)]).drop_duplicates("prompt")
    told = told.set_index("prompt").loc[prompts["prompt"]].reset_index()
    told = told.rename(columns={measure: "correct"}).astype({"probability": float, "correct": bool})
    if model.causal:
        bags = told["correct"].groupby(prompts["fact"].to_numpy()).agg(["sum", "size"])
        enough = bags["sum"] >= np.minimum(least, bags["size"])
        told["correct"] &= enough[prompts["fact"]].to_numpy()
    return told


def force_edits(
    published: ValueEdit = PUBLISHED, forces: Sequence[float] = FORCES, *, tuned: bool = True
) -> dict[tuple[str, float], Edit]:
    """The published edit with other forces, as it is and signed; and fine-tuning.

    The force f is the length added along the new answer in units of each slot's own length: l2 = f, and l1
    keeps its ratio to l2, so that f = ``published.l2`` is the published edit itself.

    Args:
        published: whose ratio is kept.
        forces: the values of f.
        tuned: whether the same slots fine-tuned are among the edits; their force is missing.

    Returns:
        (``as published``, ``signed`` or ``fine-tuned``; force) -> edit.
    """
    ratio = published.l1 / published.l2
    rules = {PAPERS: False, SIGNED: True}
    edits: dict[tuple[str, float], Edit] = {
        (name, float(force)): ValueEdit(ratio * force, force, signed)
        for name, signed in rules.items()
        for force in forces
    }
    return edits | ({(TUNED, np.nan): FineTune()} if tuned else {})


def questions_around(
    updates: pd.DataFrame,
    own: Mapping[str, pd.DataFrame],
    others: pd.DataFrame,
    bystanders: Bystanders = BYSTANDERS,
) -> pd.DataFrame:
    """Questions about edited facts, and about facts that an edit should leave alone.

    Args:
        updates: ``fact, relation, prompt, language, new``
            (:func:`kn_utils.experiments.update_choice.sample_updates`).
        own: prompts of the edited facts by name, such as ``wordings held out`` from choosing the neurons.
        others: prompts that bystanders are drawn from, such as those that the model answers.
        bystanders: how many facts of the relation and of other relations, in how many wordings.

    Returns:
        the prompts' columns and ``edited`` (the fact that is edited), ``where`` (a name of ``own``; of the
        prompt in whose view the edit is made ``the edited prompt``; ``same relation``, ``other relations``),
        ``right`` (the right answer); ``answer`` is the one asked for: of the fact the new one, of others
        their own.
    """
    mine = questions(updates, own)
    mine = mine.assign(edited=mine["fact"], right=mine["answer"], answer=mine["new"])
    by_name = others.drop_duplicates("prompt").set_index("prompt", drop=False)
    parts = [mine.drop(columns="new")]
    for update, sides in zip(updates.itertuples(), bystanders.drawn(others, updates), strict=True):
        for where, side in ((SAME, "within"), (OTHER, "between")):
            asked = by_name.loc[sides[side]]
            parts.append(asked.assign(edited=update.fact, where=where, right=asked["answer"]))
    return pd.concat(parts, ignore_index=True)


def questions_abroad(updates: pd.DataFrame, prompts: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Questions in other languages than an edit was made in: about its fact, and about another one.

    What an edit does to the new answer's probability wherever it might stand is not knowledge that changed:
    so another fact of the relation, with another right answer, is asked for the same new answer.

    Args:
        updates: ``fact, relation, language, old, new``.
        prompts: of the relations' facts, one per fact and language, the updates' language among them: there
            the new answer is looked up, to say it in other languages.
        seed: of the other fact.

    Returns:
        as :func:`questions_around`, and ``alike``: the new answer is spelled as in the edit's language;
        ``where``: ``the fact``, ``another fact`` (both asked for the new answer), ``another fact, its
        answer``. A language is left out where one of the questions, or a name, is missing.
    """
    table = prompts[prompts["masked"] == "object"].drop_duplicates(["fact", "language"])
    rows = table.set_index(["fact", "language"], drop=False)
    parts = []
    for update in updates.itertuples():
        random = np.random.default_rng([seed, *update.fact.encode()])
        at_home = table[(table["relation"] == update.relation) & (table["language"] == update.language)]
        donors = at_home.loc[at_home["answer"] == update.new, "fact"]
        free = at_home.loc[~at_home["answer"].isin([update.old, update.new]), "fact"].to_numpy()
        if donors.empty or not len(free):
            continue
        donor, other = donors.iloc[0], random.choice(free)
        for language in table["language"].unique():
            asked = [(fact, language) for fact in (update.fact, other, donor)]
            if language == update.language or not all(place in rows.index for place in asked):
                continue
            own, another = (rows.loc[[place]] for place in asked[:2])
            new, right = rows.loc[asked[2], "answer"], another["answer"].iloc[0]
            named = {"edited": update.fact, "alike": new == update.new}
            if new in (own["answer"].iloc[0], right):  # two answers that this language calls the same
                continue
            three = ((own, FACT, new), (another, ANOTHER, new), (another, ANOTHER_RIGHT, right))
            parts += [
                row.assign(where=where, right=row["answer"], answer=answer, **named)
                for row, where, answer in three
            ]
    extra = {"edited": "", "where": "", "right": "", "alike": False}
    return pd.concat([table.iloc[:0].assign(**extra), *parts], ignore_index=True)


def ask_edited(
    model: LanguageModel,
    updates: pd.DataFrame,
    asked: pd.DataFrame,
    neurons: pd.DataFrame,
    edits: Mapping[tuple[str, float], Edit],
    *,
    every: pd.DataFrame | None = None,
    kind: str = "knowledge",
    progress: bool = False,
) -> pd.DataFrame:
    """Put every question after every edit, all in shared forward passes.

    Args:
        model: which to edit.
        updates: ``fact, old, new`` and the columns of the prompt in whose view the edit is made; facts
            without neurons are passed over.
        asked: :func:`questions_around` or :func:`questions_abroad`.
        neurons: ``fact, layer, neuron``; those to edit.
        edits: :func:`force_edits`.
        every: prompts that candidates are taken from; without it nothing is asked among candidates, which
            saves passes where names have many pieces.
        kind: what the neurons are, for the table.
        progress: whether bars are shown.

    Returns:
        a row per question and edit: the questions' columns and ``neurons, edit, force, moved`` (how far the
        slots went, in units of their length) and, of the ``answer``, ``before, after`` (P), ``typed_before,
        typed_after`` (P among the candidates), ``right_before, right_after, typed_right_before,
        typed_right_after`` (whether it is the first choice); the typed ones with ``every`` only.

    Raises:
        EvaluationError: no question about a fact that has neurons.
    """
    sets = pairs_by_fact(neurons)
    updates = updates[updates["fact"].isin(list(sets)) & updates["fact"].isin(asked["edited"])]
    asked = asked[asked["edited"].isin(updates["fact"])].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError(f"no question about a fact that has neurons ({kind}); ask for more facts.")
    rows = questions_of(model, updates.assign(answer=updates["new"]))
    requests = requests_of(updates, sets, rows)
    candidates = [[answer] for answer in asked["answer"]]
    if every is not None:
        others = candidates_of(asked.assign(answer=asked["right"]), every)
        candidates = [sorted({*own, *names}) for own, names in zip(candidates, others, strict=True)]
    first = np.flatnonzero(~asked.duplicated(["prompt", "answer"]).to_numpy())
    acting: list[SlotChange | None] = [None] * len(first)
    parts = []
    for (name, force), edit in edits.items():
        change = dict(zip(updates["fact"], edit.changes(model, requests), strict=True))
        moved = {fact: length_of_move(model, one) for fact, one in change.items()}
        acting += [change[fact] for fact in asked["edited"]]
        parts.append(asked.assign(neurons=kind, edit=name, force=force, moved=asked["edited"].map(moved)))
    table = pd.concat(parts, ignore_index=True)
    # Before the edits and after them in one call, so that each question is written in pieces once.
    both = pd.concat([asked.iloc[first], table], ignore_index=True)
    choices = [candidates[i] for i in first] + candidates * len(edits)
    label = f"edited, {kind}"
    told = typed_answers(model, both, choices, acting, label=label, progress=progress)
    after = told.iloc[len(first) :]
    once = told.iloc[: len(first)].assign(answer=asked["answer"].iloc[first].to_numpy())
    before = table[["prompt", "answer"]].merge(once, on=["prompt", "answer"], how="left")
    said = {"": "probability", "right_": "correct"}
    if every is not None:
        said |= {"typed_": "typed_probability", "typed_right_": "typed_correct"}
    columns = {
        f"{name}{when}": answers[column].to_numpy()
        for name, column in said.items()
        for when, answers in (("before", before), ("after", after))
    }
    return table.assign(**columns)
