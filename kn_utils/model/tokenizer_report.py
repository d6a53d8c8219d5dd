"""What a tokenizer does to prompts: texts it cannot write, long answers, answers that languages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from ..base import LANGUAGES
from ..data.facts import OBJECT, SUBJECT, DataError
from .rows import answer_pieces

BATCH = 10_000  # texts at once
COUNTS = ["unknown_text", "pieces_1", "pieces_2", "pieces_3", "unwritable"]


def tokenizer_report(tokenizer: Any, prompts: pd.DataFrame) -> pd.DataFrame:
    """How many prompts and answers a tokenizer can write, per language and relation.

    Args:
        tokenizer: of the transformers library.
        prompts: see :func:`kn_utils.make_prompts`.

    Returns:
        ``language, relation, prompts, unknown_text, pieces_1, pieces_2, pieces_3, unwritable``, numbers of
        prompts: those whose text holds the unknown token (its blank apart; for a tokenizer without a mask,
        what stands before the blank), those whose answer takes one, two, three or more pieces, and those
        whose answer holds the unknown token or becomes nothing. The last four add up to ``prompts``.
    """
    blanks = prompts["masked"].map({"object": OBJECT, "subject": SUBJECT})
    split = [text.partition(blank) for text, blank in zip(prompts["text"], blanks, strict=True)]
    if tokenizer.mask_token:
        texts = [before + tokenizer.mask_token + after for before, _, after in split]
    else:
        texts = [before for before, _, _ in split]
    holds = _holding_unknown(tokenizer, texts)
    # An answer's pieces depend on whether a space, another character or nothing stands before it.
    lead = [" " if before[-1:].isspace() else before[-1:] and "." for before, _, _ in split]
    asked = list(zip(prompts["answer"], lead, strict=True))
    lengths = {pair: _length(tokenizer, *pair) for pair in dict.fromkeys(asked)}
    length = pd.Series([lengths[pair] for pair in asked], index=prompts.index, dtype=int)
    marks = pd.DataFrame(
        {
            "language": prompts["language"],
            "relation": prompts["relation"],
            "prompts": 1,
            "unknown_text": [int(holds[text]) for text in texts],
            "pieces_1": length.eq(1).astype(int),
            "pieces_2": length.eq(2).astype(int),
            "pieces_3": length.ge(3).astype(int),
            "unwritable": length.eq(0).astype(int),
        }
    )
    table = marks.groupby(["language", "relation"], sort=False).sum().reset_index()
    order = table["language"].map(_order(table["language"])).sort_values(kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _holding_unknown(tokenizer: Any, texts: Sequence[str]) -> dict[str, bool]:
    """Text -> whether the tokenizer needs the unknown token to write it."""
    distinct, unknown = list(dict.fromkeys(texts)), tokenizer.unk_token_id
    holds: dict[str, bool] = {}
    for start in range(0, len(distinct), BATCH):
        batch = distinct[start : start + BATCH]
        rows = tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        holds.update((text, unknown in ids) for text, ids in zip(batch, rows, strict=True))
    return holds


def _length(tokenizer: Any, answer: str, before: str) -> int:
    """The number of an answer's pieces; 0 if it cannot be written."""
    try:
        return len(answer_pieces(tokenizer, answer, before))
    except DataError:
        return 0


def _order(languages: Iterable[str]) -> dict[str, int]:
    """Languages to their places in tables: those of the study first, in its order."""
    there = dict.fromkeys(languages)
    studied = [language for language in LANGUAGES if language in there]
    others = [language for language in there if language not in studied]
    return {language: n for n, language in enumerate([*studied, *others])}


def as_shares(report: pd.DataFrame, by: Sequence[str] = ("language",)) -> pd.DataFrame:
    """Sum a report over what is not in ``by``; counts become shares of ``prompts`` (0 to 1)."""
    sums = report.groupby(list(by), sort=False)[["prompts", *COUNTS]].sum()
    return sums[COUNTS].div(sums["prompts"], axis=0).assign(prompts=sums["prompts"])[["prompts", *COUNTS]]


def shared_spellings(prompts: pd.DataFrame) -> pd.DataFrame:
    """Facts whose answer two languages spell alike.

    Such an answer says nothing about what crosses between the languages.

    Returns:
        ``relation, language, other, facts, same``: the facts asked in both languages, and those of them whose
        answers are the same string. Each pair of languages once.
    """
    answers = prompts.drop_duplicates(["fact", "language"])
    table = answers.set_index(["relation", "fact", "language"])["answer"].unstack("language")
    parts = []
    for language, other in combinations(_order(prompts["language"]), 2):
        both = table[[language, other]].dropna()
        same = both[language] == both[other]
        part = same.groupby(level="relation").agg(facts="size", same="sum").reset_index()
        parts.append(part.assign(language=language, other=other))
    columns = ["relation", "language", "other", "facts", "same"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def spelling_matrix(pairs: pd.DataFrame) -> pd.DataFrame:
    """Shares of :func:`shared_spellings` over all relations, as a symmetric table of languages."""
    sums = pairs.groupby(["language", "other"], sort=False)[["facts", "same"]].sum()
    share = sums["same"] / sums["facts"]
    languages = list(_order([*pairs["language"], *pairs["other"]]))
    matrix = pd.DataFrame(1.0, index=languages, columns=languages)
    for (language, other), value in share.items():
        matrix.loc[language, other] = matrix.loc[other, language] = value
    return matrix
