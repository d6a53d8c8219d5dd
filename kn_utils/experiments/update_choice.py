"""Which facts to change, to what, with which force, and which questions to put afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..data.facts import SUBJECT, Facts
from ..data.prompts import make_prompts
from ..model.askable import askable
from ..model.edits import ValueEdit
from ..model.language_model import LanguageModel
from ..model.rows import answer_pieces
from ..neurons.choose import random_neurons, uncommon
from .effects import EvaluationError


class UpdateChoice(NamedTuple):
    """Facts to change, through which neurons, and how they were chosen.

    Attributes:
        updates: ``fact, relation, prompt, old, new, language, template, text, masked``; old and new answer.
        neurons: those to edit, rows of the table that was given.
        eligibility: how many facts each condition left: ``relation, facts, known, with_neurons, eligible,
            taken``.
    """

    updates: pd.DataFrame
    neurons: pd.DataFrame
    eligibility: pd.DataFrame


def sample_updates(
    model: LanguageModel,
    prompts: pd.DataFrame,
    probabilities: pd.DataFrame,
    neurons: pd.DataFrame,
    bags: pd.DataFrame,
    *,
    per_relation: int | None = 10,
    common: float = 0.1,
    seed: int = 0,
) -> UpdateChoice:
    """Choose facts to change: known ones, with a prompt that is answered and another answer of the relation.

    As published (Dai et al.'s code) but seeded and finite. A fact is eligible if the model answers one of its
    prompts, if a neuron of it is :func:`uncommon`, and if its relation has another answer in that prompt's
    language: one for the same side of the fact, that is not right too for the same question, and for a masked
    model with as many pieces (or else the number of blanks would tell them apart).

    Args:
        model: whose tokenizer counts pieces.
        prompts: the questions.
        probabilities: ``correct``, of each prompt: whether it counts as answered
            (:func:`kn_utils.answer_probability`, or :func:`kn_utils.experiments.edited_answers.judged`).
        neurons, bags: those that may be edited, and every fact asked about
            (:func:`kn_utils.neurons.refine.refine_bags`).
        per_relation: at most so many facts of each relation; ``None``: all.
        common: see :func:`uncommon`.
        seed: of the draws.

    Raises:
        EvaluationError: no fact is eligible.
    """
    random = np.random.default_rng(seed)
    own = uncommon(neurons, bags, common)
    right = probabilities["correct"].to_numpy()
    others = _OtherAnswers(model, prompts)
    updates, report = [], []
    for relation, group in prompts.assign(known=right).groupby("relation", sort=False):
        known = group[group["known"]]
        held = known[known["fact"].isin(own["fact"])]
        eligible = 0
        for fact in random.permutation(held["fact"].unique()):
            bag = [(row, others.of(row)) for row in held[held["fact"] == fact].itertuples()]
            bag = [(row, possible) for row, possible in bag if possible]
            eligible += bool(bag)
            if bag and (per_relation is None or eligible <= per_relation):
                row, possible = bag[random.integers(len(bag))]
                updates.append((row.prompt, possible[random.integers(len(possible))]))
        taken = eligible if per_relation is None else min(eligible, per_relation)
        counts = (int(table["fact"].nunique()) for table in (group, known, held))
        report.append((relation, *counts, eligible, taken))
    if not updates:
        raise EvaluationError(
            "no fact can be updated: none is known, has a neuron of its own and another answer to take."
        )
    table = pd.DataFrame(updates, columns=["prompt", "new"]).merge(
        prompts.rename(columns={"answer": "old"}), on="prompt"
    )
    table = table[["fact", "relation", "prompt", "old", "new", "language", "template", "text", "masked"]]
    columns = ["relation", "facts", "known", "with_neurons", "eligible", "taken"]
    edited = own[own["fact"].isin(table["fact"])].reset_index(drop=True)
    return UpdateChoice(table, edited, pd.DataFrame(report, columns=columns))


class TranslatedUpdates(NamedTuple):
    """Facts to change, the same change in every language.

    Attributes:
        updates: ``fact, relation, language, prompt, answer, new``, and the prompt's other columns.
        asked: how many rows there would be were none left out.
    """

    updates: pd.DataFrame
    asked: int


def translate_updates(
    model: LanguageModel,
    prompts: pd.DataFrame,
    probabilities: pd.DataFrame,
    *,
    per_relation: int = 3,
    seed: int = 0,
) -> TranslatedUpdates:
    """Choose facts to change, the same change in every language.

    The new answer is that of another fact of the relation, so it has a name in each language. A language's
    row is left out where the model does not give the old answer, or where old and new differ in their number
    of pieces there. Of each relation those facts are taken that have the most languages left (ties by the
    seed).

    Args:
        model, probabilities, seed: as :func:`sample_updates` takes them.
        prompts: one per fact and language.
        per_relation: at most so many facts of each relation.
    """
    random = np.random.default_rng(seed)
    known = prompts[probabilities["correct"].to_numpy()].drop_duplicates(["fact", "language"])
    others = _OtherAnswers(model, prompts)
    name = prompts.drop_duplicates(["fact", "language"]).set_index(["fact", "language"])["answer"].to_dict()
    parts = []
    for relation, group in known.groupby("relation", sort=False):
        members = prompts.loc[prompts["relation"] == relation, "fact"].unique()
        translated = []
        for fact in random.permutation(group["fact"].unique()):
            bag = group[group["fact"] == fact]
            possible = {row.language: set(others.of(row)) for row in bag.itertuples()}
            fits = {
                donor: [lang for lang, names in possible.items() if name.get((donor, lang)) in names]
                for donor in random.permutation(members)
            }
            # The first of the best, in the seed's order.
            donor, kept_in = max(fits.items(), key=lambda fit: len(fit[1]))
            kept = bag[bag["language"].isin(kept_in)]
            translated.append(kept.assign(new=[name[donor, lang] for lang in kept["language"]]))
        parts += sorted(translated, key=len, reverse=True)[:per_relation]  # a stable sort
    table = pd.concat(
        [known.iloc[:0].assign(new=""), *(part for part in parts if len(part))], ignore_index=True
    )
    return TranslatedUpdates(table, int(table["fact"].nunique() * prompts["language"].nunique()))


def questions(updates: pd.DataFrame, prompts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Prompts about updated facts, in the update's language.

    Args:
        updates: :attr:`UpdateChoice.updates`.
        prompts: tables of prompts by name.

    Returns:
        the prompts' columns, ``where`` (the name of the table they come from; ``the edited prompt`` for the
        update's own) and ``new``.
    """
    table = pd.concat([asked.assign(where=name) for name, asked in prompts.items()], ignore_index=True)
    table = table.merge(updates[["fact", "language", "new"]], on=["fact", "language"])
    edited = table["prompt"].isin(updates["prompt"])
    return table.assign(where=table["where"].mask(edited, "the edited prompt"))


def elsewhere(
    model: LanguageModel,
    facts: Facts,
    prompts: pd.DataFrame,
    language: str,
    *,
    per_relation: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Prompts about facts of relations that are not among these prompts: whom an edit should not touch.

    Args:
        model: which is asked; what it cannot be asked is left out.
        facts: the whole data set.
        prompts: those of the relations at hand.
        language: of the prompts; ``all``: one of each.
        per_relation: so many facts of each other relation, in one wording.
        seed: of the draw.
    """
    other = facts.facts[~facts.facts["relation"].isin(prompts["relation"])]
    few = replace(facts, facts=other).sample(per_relation, seed)
    made = make_prompts(few, language, wordings=1) if len(other) else prompts.iloc[:0]
    can = (askable(model, made, facts)["reason"] == "").to_numpy() if len(made) else np.zeros(0, bool)
    return made[can].reset_index(drop=True)


def sweep_cases(
    edit: ValueEdit,
    neurons: pd.DataFrame,
    by_number: Mapping[int, pd.DataFrame],
    shape: tuple[int, int],
    *,
    parts: Sequence[float] = (0, 0.125, 0.5, 1),
    seed: int = 0,
) -> dict[tuple[str, float, str], dict[str, Any]]:
    """One setting of an edit varied at a time: how much of the old answer is taken away, how many neurons.

    Args:
        edit: what the settings are varied from.
        neurons: those to edit with another ``l1``.
        by_number: how many neurons -> those to edit with ``edit``.
        shape: (layers, neurons per layer) of the model.
        parts: values of ``l1``, as parts of the edit's ``l2``.
        seed: of the random neurons.

    Returns:
        cases for :func:`kn_utils.experiments.updating.evaluate_updates`: (setting: ``l1 / l2`` or ``number of
        neurons``; its value; kind of neurons) -> ``neurons, edit, kind``; the kinds are ``knowledge`` and, as
        many random ones, ``same-layer``.
    """
    settings = [("l1 / l2", part, neurons, replace(edit, l1=part * edit.l2)) for part in parts]
    settings += [("number of neurons", number, chosen, edit) for number, chosen in by_number.items()]
    cases = {}
    for setting, value, chosen, force in settings:
        control = random_neurons(chosen, shape, same_layers=True, seed=seed)
        for kind, edited in (("knowledge", chosen), ("same-layer", control)):
            name = (setting, float(value), kind)
            cases[name] = {"neurons": edited, "edit": force, "kind": kind}
    return cases


class _OtherAnswers:
    """The other answers that a prompt could be given.

    They are its relation's, in its language, for the same side of the fact, and not right too; for a masked
    model, which sees how many blanks there are, as long.
    """

    def __init__(self, model: LanguageModel, prompts: pd.DataFrame) -> None:
        pools = prompts.groupby(["relation", "language", "masked"])["answer"].unique()
        self.pools, self.right = pools.to_dict(), prompts.groupby("text")["answer"].agg(set).to_dict()
        written = {name: answer_pieces(model.tokenizer, name) for name in prompts["answer"].unique()}
        self.pieces = {name: 0 if model.causal else len(pieces) for name, pieces in written.items()}

    def of(self, row: Any) -> list[str]:
        """The other answers of a row of prompts."""
        pool, n = self.pools[row.relation, row.language, row.masked], self.pieces[row.answer]
        return [name for name in pool if name not in self.right[row.text] and self.pieces[name] == n]


def alias_prompts(facts: Facts, prompts: pd.DataFrame) -> pd.DataFrame:
    """The prompts that ask for the object, with each other name of the subject.

    The other names are those of ``entities.aliases``, separated by ``|``.

    Columns as ``prompts``, ids end in ``/alias:name``; empty where the data set has no aliases.
    """
    names = facts.entities.loc[facts.entities["aliases"].fillna("") != "", ["entity", "language", "aliases"]]
    names = names.assign(alias=names["aliases"].str.split("|")).explode("alias")
    names["alias"] = names["alias"].str.strip()
    table = prompts[prompts["masked"] == "object"].merge(facts.facts[["fact", "subject"]], on="fact")
    table = table.merge(names.rename(columns={"entity": "subject"}), on=["subject", "language"])
    table = table.drop(columns="text").merge(facts.templates, on=["relation", "language", "template"])
    table["text"] = [
        text.replace(SUBJECT, alias) for text, alias in zip(table["text"], table["alias"], strict=True)
    ]
    table["prompt"] += "/alias:" + table["alias"]
    return table[prompts.columns]
