"""Edits of a fact in one language through the neurons, and with the names, of others.

The papers call scaling activations in two languages "cross-lingual editing". Here value slots are edited
(:class:`kn_utils.model.edits.ValueEdit`, following the sign of the activation), in view of the source
languages' prompts and with their names of the old and the new answer, and the new answer is asked for in a
language that had no part in it. For reference the same slots are trained in view of the same prompts
(:class:`kn_utils.model.edits.FineTune`). What it costs is read there, too; comparisons at one cost are
:mod:`kn_utils.statistics.edit_costs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..model.answers import questions_of
from ..model.edits import PUBLISHED, FineTune, Request, ValueEdit, length_of_move
from ..model.hooks import SlotChange
from ..model.language_model import LanguageModel
from ..model.typed import candidates_of, typed_answers
from ..neurons.language_independent import best_first, most_held
from ..statistics.controls import spelling
from .controls import RANDOM
from .cross_lingual import CrossLingualError, OtherFacts, drawn_like
from .effects import TOLD, TOLD_AMONG
from .language_sources import lists_of

OWN_LANGUAGE, ONE_OTHER, SEVERAL = "the same language", "one other language", "several other languages"
LENT, CHANCE = f"{SEVERAL}, another answer's", f"{SEVERAL}, {RANDOM}"
#: The same slots trained on the same questions: the best that they can do.
TRAINED = {OWN_LANGUAGE: f"{OWN_LANGUAGE}, trained", SEVERAL: f"{SEVERAL}, trained"}
LEARNT = set(TRAINED.values())
#: Whose neurons are edited.
EDITED = (OWN_LANGUAGE, TRAINED[OWN_LANGUAGE], ONE_OTHER, SEVERAL, TRAINED[SEVERAL], LENT, CHANCE)
#: What is asked: the fact for its new answer, another fact for the same one, other facts for their own.
FACT, ANOTHER_FACT, SAME_RELATION = "the fact", "another fact", "same relation"
#: How many facts of the relation are asked for their own answer.
AROUND = 3


@dataclass(frozen=True)
class _Way:
    """An edit to make: which neurons, seen in which prompts (a row each, with old and new answer)."""

    source: str
    neurons: np.ndarray
    seen: pd.DataFrame


def edited_across(
    model: LanguageModel,
    changes: pd.DataFrame,
    found: pd.DataFrame,
    facts: pd.DataFrame,
    asked: pd.DataFrame,
    every: pd.DataFrame,
    *,
    forces: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    k: int = 5,
    trained: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Edit each fact for each of its languages in several ways and with several forces, and ask there.

    Args:
        model: which to edit.
        changes: a row per fact and language, the columns of a prompt with its right ``answer`` and ``new``,
            the answer that it is to get there
            (:func:`kn_utils.experiments.update_choice.translate_updates`).
        found: ``language, fact, relation, layer, neuron, score``, as
            :func:`kn_utils.experiments.cross_lingual.silenced_across` takes it.
        facts: ``fact, relation, answer``.
        asked: prompts of all facts, one per fact and language: who is asked what an edit costs.
        every: prompts that candidates are taken from.
        forces: lengths added along the new answer, in units of each slot's length; an eighth of that is
            taken away along the old one, as published. A trained move is drawn out or cut to as many lengths.
        k: neurons that are edited.
        trained: so many facts' slots are also trained, drawn; ``None``: all. Each step of each question
            costs a pass forward and one back, over the whole vocabulary.
        seed: of other facts, other languages and random neurons.

    Returns:
        a row per question, way and force: ``fact, relation, language`` (of the question), ``source``
        (:data:`EDITED`), ``force, where`` (:data:`FACT`, ...), ``prompt, answer, before, after, typed_before,
        typed_after, typed_right_before, typed_right_after``.

    Raises:
        CrossLingualError: no fact can be edited from another language.
    """
    planned: list[tuple[pd.DataFrame, str, _Way]] = []
    lent = OtherFacts(facts, seed)
    drawn = np.random.default_rng([seed, 5]).permutation(changes["fact"].unique())
    also_trained = set(drawn if trained is None else drawn[:trained])
    by_language = {str(name): best_first(own) for name, own in found.groupby("language", sort=False)}
    for language in changes["language"].unique():
        here = changes[changes["language"] == language]
        around = asked[asked["language"] == language].drop_duplicates("fact")
        for row in here.itertuples():
            ways = list(_ways(row, changes, by_language, lent, model.n_neurons, k, seed))
            if not any(way.source == SEVERAL for way in ways):
                continue
            put = _questions(row, around, seed)
            learning = row.fact in also_trained
            planned += [(put, row.fact, way) for way in ways if learning or way.source not in LEARNT]
    if not planned:
        raise CrossLingualError("no fact can be edited from two other languages; ask for more facts.")
    questions, acting, labels = [], [], []
    for (put, fact, way), move in zip(planned, _moves(model, [way for *_, way in planned]), strict=True):
        if move is None:
            continue
        for force in forces:
            questions.append(put)
            acting += [SlotChange(move.neurons, force * move.added)] * len(put)
            labels += [(fact, way.source, float(force))] * len(put)
    table = pd.concat(questions, ignore_index=True)
    head = pd.DataFrame(labels, columns=["edited", "source", "force"])
    return _asked(model, table, head, acting, every)


def _ways(
    row: object,
    changes: pd.DataFrame,
    by_language: dict[str, pd.DataFrame],
    lent: OtherFacts,
    width: int,
    k: int,
    seed: int,
) -> Iterator[_Way]:
    """The edits of one fact for one language."""
    fact, language = str(row.fact), str(row.language)  # type: ignore[attr-defined]
    mine = changes[changes["fact"] == fact]
    unlike = [
        other.language
        for other in mine.itertuples()
        if other.language in by_language
        and other.language != language
        and spelling(other.answer, row.answer) == spelling(other.new, row.new) == "differently"  # type: ignore[attr-defined]
    ]
    random = np.random.default_rng([seed, 3, *f"{fact} {language}".encode()])
    nothing = np.zeros((0, 2), int)
    lists = {name: lists_of(own[own["fact"] == fact]).get(fact, nothing) for name, own in by_language.items()}
    fits = [name for name in unlike if len(lists[name]) >= k]
    own = lists.get(language, nothing)
    if len(own) >= k:
        yield from _both(OWN_LANGUAGE, own[:k], mine[mine["language"] == language])
    if fits:
        one = fits[random.integers(len(fits))]
        yield _Way(ONE_OTHER, lists[one][:k], mine[mine["language"] == one])
    if len(fits) > 1:
        seen = mine[mine["language"].isin(fits)]
        tables = {name: by_language[name] for name in fits}
        several = lists_of(most_held({n: t[t["fact"] == fact] for n, t in tables.items()}, k))[fact][:k]
        yield from _both(SEVERAL, several, seen)
        for other in lent.of(fact, "same", "other"):
            theirs = {n: t[t["fact"] == other] for n, t in tables.items()}
            theirs = {n: t for n, t in theirs.items() if len(t)}
            held = lists_of(most_held(theirs, k)).get(other) if theirs else None
            if held is not None and len(held) >= k:
                yield _Way(LENT, held[:k], seen)
                break
        yield _Way(CHANCE, drawn_like(several, width, random), seen)


def _both(source: str, neurons: np.ndarray, seen: pd.DataFrame) -> Iterator[_Way]:
    """The published edit, and the trained one, of the same slots."""
    yield _Way(source, neurons, seen)
    yield _Way(TRAINED[source], neurons, seen)


def _moves(model: LanguageModel, ways: Sequence[_Way]) -> list[SlotChange | None]:
    """What each way adds to its slots at force 1; names of several languages count as their mean.

    Training that has nothing to teach moves nothing, and is none.
    """
    requests = []
    for way in ways:
        rows = [row for one in questions_of(model, way.seen.assign(answer=way.seen["new"])) for row in one]
        old, new = (way.seen[name].tolist() for name in ("answer", "new"))
        requests.append(Request(way.neurons, old, new, rows))
    published = ValueEdit(PUBLISHED.l1 / PUBLISHED.l2, 1.0, signed=True)
    learnt = [way.source in LEARNT for way in ways]
    moves: dict[int, SlotChange | None] = {}
    for edit, trained in ((published, False), (FineTune(), True)):
        at = [i for i, one in enumerate(learnt) if one == trained]
        made = edit.changes(model, [requests[i] for i in at])
        moves |= zip(at, [_of_one_length(model, move) for move in made] if trained else made, strict=True)
    return [moves[i] for i in range(len(ways))]


def _of_one_length(model: LanguageModel, move: SlotChange) -> SlotChange | None:
    """A move drawn out or cut to one slot's length, the mean over its slots."""
    length = length_of_move(model, move)
    return SlotChange(move.neurons, move.added / length) if length > 0 else None


def _questions(row: object, around: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What is asked after each edit of one fact, in the language it is made for."""
    fact, relation = str(row.fact), str(row.relation)  # type: ignore[attr-defined]
    answer, new = row.answer, row.new  # type: ignore[attr-defined]
    own = around[around["fact"] == fact]
    pool = around[(around["relation"] == relation) & ~around["answer"].isin([answer, new])]
    pool = pool.iloc[np.random.default_rng([seed, 4, *fact.encode()]).permutation(len(pool))].head(AROUND)
    parts = [own.assign(where=FACT, right=own["answer"], answer=new)]
    parts.append(pool.head(1).assign(where=ANOTHER_FACT, right=pool["answer"].head(1), answer=new))
    parts.append(pool.assign(where=SAME_RELATION, right=pool["answer"]))
    return pd.concat(parts, ignore_index=True)


def _asked(
    model: LanguageModel,
    table: pd.DataFrame,
    head: pd.DataFrame,
    acting: Sequence[SlotChange],
    every: pd.DataFrame,
) -> pd.DataFrame:
    """All questions before and after the edits, in one call, so that each is written in pieces once."""
    first = np.flatnonzero(~table.duplicated(["prompt", "answer"]).to_numpy())
    once = table.iloc[first]
    others = candidates_of(once.assign(answer=once["right"]), every)
    choices = [sorted({answer, *names}) for answer, names in zip(once["answer"], others, strict=True)]
    keys = list(zip(once["prompt"], once["answer"], strict=True))
    among = dict(zip(keys, choices, strict=True))
    both = pd.concat([once, table], ignore_index=True)
    given = [among[key] for key in zip(both["prompt"], both["answer"], strict=True)]
    told = typed_answers(
        model, both, given, [*([None] * len(once)), *acting], label="edited across languages"
    )
    after = told.iloc[len(once) :].reset_index(drop=True)
    known = told.iloc[: len(once)].assign(answer=once["answer"].to_numpy())
    before = table[["prompt", "answer"]].merge(known, on=["prompt", "answer"], how="left")
    found = pd.DataFrame(
        {
            f"{short}{when}": part[name].to_numpy()
            for short, name in (TOLD | TOLD_AMONG).items()
            for when, part in (("before", before), ("after", after))
        }
    )
    kept = table[["relation", "language", "where", "prompt", "answer"]]
    return pd.concat([head.rename(columns={"edited": "fact"}), kept, found], axis=1)
