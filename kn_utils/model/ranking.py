"""All names that could stand in a blank, ranked by the mean log-probability of their pieces.

This is the typed query of mLAMA (Kassner et al. 2021) and BMLAMA (Qi et al. 2023). Unlike
:mod:`kn_utils.model.typed` it compares names of different lengths also in masked models, each with as many
blanks as it has pieces, and it gives every candidate a score, so that languages' rankings can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ..base import StudyError
from ..data.facts import DataError, Facts
from .language_model import LanguageModel
from .rows import Row, answer_pieces
from .slots import Text, log_probabilities

WAYS = ("parallel", "in order")
COLUMNS = ["prompt", "fact", "relation", "language", "candidate", "pieces", "score"]


class RankingError(StudyError):
    """A ranking that cannot be had as asked."""


def objects_of(facts: Facts, most: int | None = None) -> pd.DataFrame:
    """The objects of every relation, by their names in every language.

    Args:
        facts: a data set.
        most: at most so many of each relation, the most frequent ones; BMLAMA has 10.

    Returns:
        ``relation, language, candidate, label``; of two objects that a language calls alike only the first.
    """
    number = facts.facts.groupby(["relation", "object"], sort=False).size()
    number = number.sort_values(ascending=False, kind="stable")
    objects = (
        number.groupby(level="relation", sort=False).head(most or len(number)).index.to_frame(index=False)
    )
    names = facts.entities[facts.entities["label"] != ""].drop_duplicates(["entity", "language"])
    table = objects.merge(names, left_on="object", right_on="entity")
    table = table.rename(columns={"object": "candidate"})[["relation", "language", "candidate", "label"]]
    return table.drop_duplicates(["relation", "language", "label"]).reset_index(drop=True)


def rank_candidates(
    model: LanguageModel,
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    *,
    way: str = "parallel",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Score every candidate of each prompt's relation.

    Args:
        model: which to ask.
        prompts: that ask for the object.
        candidates: ``relation, language, candidate, label`` (:func:`objects_of`).
        way: how a masked model reads a name's pieces: ``"parallel"``: all blanks open, in one pass (mLAMA);
            ``"in order"``: each given the pieces before it. A left-to-right model does the latter.
        batch_size: texts per pass.

    Returns:
        ``prompt, fact, relation, language, candidate, pieces, score``: the mean log-probability per piece.
        Candidates that the tokenizer cannot write are left out.

    Raises:
        RankingError: another way.
    """
    if way not in WAYS:
        raise RankingError(f"way={way!r}; known: {', '.join(WAYS)}.")
    known = candidates[[_can_write(model, label) for label in candidates["label"]]]
    table = prompts.assign(_number=range(len(prompts))).merge(known, on=["relation", "language"])
    table = table.sort_values("_number", kind="stable", ignore_index=True)
    rows: list[list[Row]] = [[] for _ in range(len(table))]
    asked = table.assign(answer=table["label"])
    for row in model.encode(asked):
        rows[row.prompt].append(row)
    texts: dict[tuple[int, ...], tuple[list[int], list[list[int]]]] = {}
    places: list[list[tuple[tuple[int, ...], int, int]]] = [[] for _ in rows]
    for number, own in enumerate(rows):
        for ids, position, piece in _read_in(own, model.causal, way):
            key = tuple(ids)
            slots, wanted = texts.setdefault(key, ([], []))
            if position not in slots:
                slots.append(position)
                wanted.append([])
            pieces = wanted[slots.index(position)]
            if piece not in pieces:
                pieces.append(piece)
            places[number].append((key, position, piece))
    whole = [Text(list(k), tuple(s), tuple(map(tuple, w))) for k, (s, w) in texts.items()]
    values = iter(log_probabilities(model, whole, batch_size=batch_size).tolist())
    logp = {
        (tuple(text.ids), slot, piece): next(values)
        for text in whole
        for slot, pieces in zip(text.slots, text.wanted, strict=True)
        for piece in pieces
    }
    score = [sum(logp[place] for place in own) / len(own) for own in places]
    return table.assign(pieces=[len(own) for own in rows], score=score)[COLUMNS]


def _can_write(model: LanguageModel, label: str) -> bool:
    try:
        return bool(answer_pieces(model.tokenizer, label))
    except DataError:
        return False


def _read_in(rows: list[Row], causal: bool, way: str) -> Iterator[tuple[list[int], int, int]]:
    """In which text, and where in it, each piece of a name is read."""
    for row in rows:
        if causal:  # all in the longest text: what stands behind does not count
            yield rows[-1].ids, row.position, row.target
        else:
            yield (rows[0].ids if way == "parallel" else row.ids), row.position, row.target
