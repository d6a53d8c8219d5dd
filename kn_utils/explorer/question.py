"""From what a person types or picks to what a model is asked: search over facts, questions, candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..base import StudyError
from ..data.facts import COLUMNS, OBJECT, SUBJECT, Facts
from ..data.relations import title
from ..model.askable import askable
from ..model.language_model import LanguageModel
from ..model.typed import candidates_of

#: What people write for a blank; without one it stands at the end.
BLANKS = ("[Y]", "[MASK]", "<mask>", "___")
OWN = "own"


class QuestionError(StudyError):
    """Something typed that cannot be asked."""


@dataclass(frozen=True)
class Question:
    """A question, the other wordings of its fact, and what its answer competes with.

    Attributes:
        prompts: the fact's wordings in one language that the model can be asked; of a text of one's own one.
        number: which of them is shown.
        candidates: the answers that compete in it, its own among them.
        note: what was made of what was typed; empty where nothing was.
    """

    prompts: pd.DataFrame
    number: int
    candidates: list[str]
    note: str = ""

    @property
    def asked(self) -> pd.DataFrame:
        """The prompt that is shown, a table of one row."""
        return self.prompts.iloc[[self.number]].reset_index(drop=True)

    @property
    def text(self) -> str:
        """Its text, the blank written ``[Y]``."""
        return str(self.prompts["text"].iloc[self.number])

    @property
    def answer(self) -> str:
        """The answer that neurons are found for."""
        return str(self.prompts["answer"].iloc[self.number])

    @property
    def fact(self) -> str:
        """The fact; of a text of one's own the text with its answer."""
        return str(self.prompts["fact"].iloc[self.number])

    @property
    def relation(self) -> str:
        """The relation, or ``own``."""
        return str(self.prompts["relation"].iloc[self.number])

    @property
    def language(self) -> str:
        """In which it is asked."""
        return str(self.prompts["language"].iloc[self.number])


def search_index(facts: Facts) -> pd.DataFrame:
    """What facts can be found by: names and other names of both sides in all languages.

    Returns:
        ``fact, relation, subject, object, names`` (the subject's, each between bars), ``words`` (everything
        that may be typed), in small letters.
    """
    other = facts.entities["aliases"].where(facts.entities["aliases"] != "", "")
    named = facts.entities.assign(all=facts.entities["label"] + "|" + other)
    names = named.groupby("entity")["all"].agg("|".join).str.casefold()
    table = facts.facts[["fact", "relation", "subject", "object"]].copy()
    sides = [table[side].map(names).fillna(table[side].str.casefold()) for side in ("subject", "object")]
    relation = table["relation"].map(title).str.casefold()
    return table.assign(names="|" + sides[0] + "|", words=relation + "|" + sides[0] + "|" + sides[1])


def search(index: pd.DataFrame, typed: str, relation: str | None = None) -> pd.DataFrame:
    """The facts that hold every word typed, in whatever language.

    Args:
        index: :func:`search_index`.
        typed: words; a fact holds one if it stands anywhere in its names or its relation's.
        relation: facts of this one only.

    Returns:
        rows of ``index``: first those whose subject is called so, then those whose subject begins so, then
        the others, each in the data set's order.
    """
    found = index if relation is None else index[index["relation"] == relation]
    whole = typed.strip().casefold()
    for word in whole.split():
        found = found[found["words"].str.contains(word, regex=False)]
    if not whole:
        return found
    exact = found["names"].str.contains(f"|{whole}|", regex=False)
    begins = found["names"].str.contains(f"|{whole}", regex=False)
    order = (2 - exact.astype(int) - begins.astype(int)).sort_values(kind="stable").index
    return found.loc[order]


def of_fact(
    model: LanguageModel, facts: Facts, every: pd.DataFrame, fact: str, language: str, number: int = 0
) -> Question:
    """A fact of the data set, in the wordings of a language that the model can be asked.

    Args:
        model: which to ask.
        facts: the data set.
        every: all its prompts, of all languages.
        fact: the fact's id.
        language: in which to ask.
        number: which wording is shown; the last one where there are fewer.

    Raises:
        QuestionError: there is none; the message says why.
    """
    own = every[(every["fact"] == fact) & (every["language"] == language)].reset_index(drop=True)
    if own.empty:
        raise QuestionError(f"{fact} has no wording in {language}; choose another language or fact.")
    told = askable(model, own, facts)["reason"]
    can = own[(told == "").to_numpy()].reset_index(drop=True)
    if can.empty:
        raise QuestionError(f"{model.name} cannot be asked for {fact} in {language}: {told.iloc[0]}.")
    number = min(number, len(can) - 1)
    return Question(can, number, competitors(can.iloc[[number]], every))


def of_text(
    every: pd.DataFrame, text: str, answer: str, language: str, relation: str | None = None, *, end: str = ""
) -> Question:
    """A text of one's own.

    Args:
        every: all prompts of the data set.
        text: with its blank written as one of :data:`BLANKS`, or at the end.
        answer: what stands there.
        language: which candidates are taken.
        relation: whose answers it competes with; ``None``: of the relations that have this answer in this
            language the one with the wording that is most like the text; or none.
        end: what is put behind a blank that was not written.

    Raises:
        QuestionError: no text, no answer, or several blanks.
    """
    text, answer = " ".join(text.split()), " ".join(answer.split())
    if not text or not answer:
        raise QuestionError(f"type {'a text' if not text else 'its answer'} first.")
    blank = next((mark for mark in BLANKS if mark in text), None)
    note = "" if blank else "The blank is taken to stand at the end. "
    text = text.replace(blank, OBJECT) if blank else f"{text} {OBJECT}{end}"
    if text.count(OBJECT) != 1 or SUBJECT in text:
        raise QuestionError(f"the text should hold one blank {OBJECT}; this one is {text!r}.")
    if relation is None:
        here = every[(every["language"] == language) & (every["answer"] == answer)]
        relation = str(here["relation"].iloc[_most_like(text, here["text"])]) if len(here) else OWN
        told = f"Typed answers are those of {title(relation)}." if len(here) else ""
        note += told or "No relation has this answer in this language, so it competes with none."
    whole = text.replace(OBJECT, answer)
    row = [whole, whole, relation, language, "own", text, answer, "object"]
    prompt = pd.DataFrame([row], columns=COLUMNS["prompts"])
    return Question(prompt, 0, competitors(prompt, every), note)


def _most_like(text: str, others: pd.Series) -> int:
    """Which of some texts has most pairs of letters in common with this one, for their number; any script."""

    def pairs(one: str) -> set[str]:
        return {one[i : i + 2].casefold() for i in range(len(one) - 1)}

    own = pairs(text)
    return int(np.argmax([len(own & pairs(one)) / max(len(own | pairs(one)), 1) for one in others]))


def competitors(prompt: pd.DataFrame, every: pd.DataFrame) -> list[str]:
    """The candidates of one prompt (:func:`kn_utils.model.typed.candidates_of`), of all a data set's prompts.

    Only those that can matter are looked at: of its relation and language, and those of the same text.
    """
    row = prompt.iloc[0]
    near = (every["relation"] == row["relation"]) & (every["language"] == row["language"])
    return candidates_of(prompt, every[near | (every["text"] == row["text"])])[0]
