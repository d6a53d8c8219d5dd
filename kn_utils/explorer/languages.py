"""One fact in all languages side by side: answers, neurons, which of them languages share."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from ..base import StudyError
from ..model.typed import typed_answers
from ..neurons.choose import strongest
from ..neurons.language_independent import language_independent
from .question import QuestionError
from .state import EACH_LANGUAGE, Explorer, Progress, silent

WHERE = ["layer", "neuron"]


class SideBySide(NamedTuple):
    """A fact in several languages.

    Attributes:
        answers: ``language, text, answer, probability, typed_probability, typed_predicted``: the first
            wording of each language in which the model can be asked.
        grid: a row per neuron that some language has among its k strongest: ``layer, neuron``, a column per
            language (the score; missing where it is not among them), ``languages`` (how many have it),
            ``common`` (the share of other relations' answers that have it too, where that is much; else 0).
            Those of most languages first.
        absent: language -> why the model cannot be asked in it.
    """

    answers: pd.DataFrame
    grid: pd.DataFrame
    absent: dict[str, str]


def side_by_side(
    explorer: Explorer, fact: str, k: int = 5, progress: Progress = silent, *, compare: bool = True
) -> SideBySide:
    """Ask for a fact in every language of its data set, and find its neurons there.

    Args:
        explorer: of which model.
        fact: one of its data set.
        k: so many neurons in each language.
        progress: is told how far it is.
        compare: whether neurons are looked for that other facts have too, which takes longest.

    Raises:
        QuestionError: the fact is none of the data set, or can be asked in no language.
    """
    if fact not in set(explorer.facts.facts["fact"]):
        raise QuestionError("only facts of the data set have other languages; pick one by the search.")
    rows, sets = [], {}
    spoken = explorer.languages
    absent = {name: f"{name} is no language of this model" for name in explorer.facts.languages}
    for number, language in enumerate(spoken):
        del absent[language]
        progress(number, len(spoken), f"asking in {language}")
        try:
            question = explorer.ask_fact(fact, language)
        except StudyError as error:
            absent[language] = str(error)
            continue
        bag = question.prompts.head(EACH_LANGUAGE)
        with explorer.lock:
            told = typed_answers(explorer.model, question.asked, [question.candidates], progress=False)
        rows.append({"language": language, "text": question.text, "answer": question.answer, **told.iloc[0]})
        sets[language] = strongest(explorer.scores(bag), bag, None, None, k)
    if not sets:
        raise QuestionError("; ".join(absent.values()))
    held = language_independent(sets, at_least=1)
    scores = pd.concat([table.assign(language=name) for name, table in sets.items()])
    wide = scores.pivot(index=WHERE, columns="language", values="score").reindex(columns=list(sets))
    grid = held[[*WHERE, "languages"]].merge(wide.reset_index(), on=WHERE)
    common = explorer.common(list(sets), k, progress) if compare else None
    grid["common"] = 0.0
    if common is not None:
        own = common[common["relation"] == fact.partition(":")[0]].set_index(WHERE)["share"]
        grid["common"] = own.reindex(pd.MultiIndex.from_frame(grid[WHERE])).fillna(0).to_numpy()
    grid = grid.sort_values(["languages", "layer", "neuron"], ascending=[False, True, True])
    columns = ["language", "text", "answer", "probability", "typed_probability", "typed_predicted"]
    order = [*WHERE, *sets, "languages", "common"]
    return SideBySide(pd.DataFrame(rows)[columns], grid[order].reset_index(drop=True), absent)
