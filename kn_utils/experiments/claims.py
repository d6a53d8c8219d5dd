"""Claims to be checked: every fact with its own object, and with another fact's.

Who draws false objects at will gives the checker a hint: a rare object is more often false. So the false
objects are a *derangement* of the true ones: within a relation and half each object is claimed as often
falsely as truly, and whoever looks at the object alone is right half the time.

Facts are split in two halves twice: *by fact*, at random, and *by object*, so that no object of one half is
one of the other. What is fitted is fitted on the other half.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from ..base import StudyError
from ..checks import check_numbers, check_prompts
from ..data.facts import Facts
from ..data.prompts import make_prompts
from ..model.askable import askable
from ..model.language_model import LanguageModel


class ClaimsError(StudyError):
    """Facts of which no false claim can be made."""


def questions_for_claims(
    model: LanguageModel, facts: Facts, language: str, every: Facts | None = None
) -> pd.DataFrame:
    """The first wording of each fact that can be asked and does not spell the answer.

    Args:
        model: which is asked.
        facts: those to ask for.
        language: one.
        every: the data set they come from, where it holds more.
    """
    prompts = make_prompts(facts, language)
    told = askable(model, prompts, every or facts)
    free = (told["reason"] == "") & ~told["copied"].astype(bool)
    return prompts[free.to_numpy()].drop_duplicates("fact").reset_index(drop=True)


def claims_of(questions: pd.DataFrame, pool: pd.DataFrame | None = None, *, seed: int = 0) -> pd.DataFrame:
    """A true and a false claim of every fact, for each split in halves.

    Args:
        questions: one prompt of each fact, in one language.
        pool: prompts of more facts: what is right for the same text in any of them is no false object.
        seed: of halves and of the derangements.

    Returns:
        for each split the questions twice: ``split`` (``by fact``, ``by object``), ``half`` (0 or 1),
        ``question`` (the prompt's own name), ``answer`` (what is claimed), ``true``; ``prompt`` names
        question and object, so that what two splits have in common is asked once. False objects come from
        the same relation and half. A fact is left out where the others cannot take its object: of a relation
        with one object in a half, or with one too frequent.

    Raises:
        ClaimsError: several prompts of a fact; no relation with enough objects.
    """
    check_numbers(seed=seed)
    check_prompts(questions, "prompt fact relation language text answer")
    if questions["fact"].duplicated().any():
        raise ClaimsError("claims are made of one prompt of each fact; draw one.")
    both = questions if pool is None else pd.concat([questions, pool])
    right = both.groupby("text")["answer"].agg(lambda names: {name.casefold() for name in names}).to_dict()
    random, parts = np.random.default_rng(seed), []
    for split, halves in SPLITS.items():
        for _, relation in questions.groupby("relation", sort=False):
            half_of = halves(relation["answer"], random)
            for half in (0, 1):
                false = _deranged(relation[half_of == half], right, random)
                true = relation.loc[false.index].assign(split=split, half=half)
                parts += [true.assign(true=True), true.assign(true=False, answer=false)]
    claims = pd.concat(parts, ignore_index=True)
    if claims.empty:
        raise ClaimsError("no relation has facts whose objects can be exchanged; ask for more facts of each.")
    names = claims["prompt"] + " = " + claims["answer"]
    return claims.assign(question=claims["prompt"], prompt=names)


def _halves_by_object(answers: pd.Series, random: np.random.Generator) -> np.ndarray:
    """A half for every object: mixed, then always to the half with fewer facts."""
    sizes = answers.str.casefold().value_counts(sort=False)
    facts, half = np.zeros(2, int), {}
    for place in random.permutation(len(sizes)):
        half[sizes.index[place]] = int(np.argmin(facts))
        facts[half[sizes.index[place]]] += sizes.iloc[place]
    return answers.str.casefold().map(half).to_numpy(int)


def _halves_by_fact(answers: pd.Series, random: np.random.Generator) -> np.ndarray:
    """Every other fact of a mixed order; of an odd number either half has one more."""
    half = np.zeros(len(answers), int)
    half[random.permutation(len(answers))] = (np.arange(len(answers)) + random.integers(2)) % 2
    return half


#: How the facts of a relation are split in halves: name -> the half of each, by their answers.
SPLITS = {"by fact": _halves_by_fact, "by object": _halves_by_object}


def _deranged(half: pd.DataFrame, right: dict[str, set[str]], random: np.random.Generator) -> pd.Series:
    """Another fact's object for every fact, each as often as it is true; facts left out are missing."""
    while len(half):
        answers = half["answer"].to_numpy(dtype=object)
        names = [name.casefold() for name in answers]
        forbidden = np.array(
            [
                [name in right[text] or name in text.casefold() for name in names]
                for text in half["text"].to_numpy(dtype=object)
            ]
        )
        cost = random.random(forbidden.shape) + 1e3 * forbidden
        rows, columns = linear_sum_assignment(cost)
        wrong = forbidden[rows, columns]
        if not wrong.any():
            return pd.Series(answers[columns], half.index, dtype=object)
        # Of the objects that nobody can take the most frequent one leaves, with its fact.
        stuck = half.index[columns[wrong]]
        frequency = half["answer"].map(half["answer"].value_counts())
        half = half.drop(index=frequency[stuck].idxmax())
    return pd.Series(dtype=object)
