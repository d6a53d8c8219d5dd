"""Which prompts a model can be asked, and why not the others.

One prompt that cannot be asked does not end a study.

A left-to-right model reads what stands before the blank and nothing else. Asked "[Y] is the capital of
France" it would have to answer before it has seen France; of "The capital of France is [Y], a city in Europe"
it sees the first half.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ..data.facts import OBJECT, SUBJECT, DataError, Facts
from ..data.prompts import shown_names
from .language_model import LanguageModel
from .rows import encode

#: Why a prompt is set aside, in the order in which it is looked for.
REASONS = (
    "subject behind the blank",
    "nothing before the blank",
    "answer cannot be written",
    "text cannot be asked",
    "too long",
)


def askable(model: LanguageModel, prompts: pd.DataFrame, facts: Facts | None = None) -> pd.DataFrame:
    """What keeps a model from being asked each prompt.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`.
        facts: the data set of the prompts; without it nothing is said of subjects (whether they stand behind
            the blank, and copying).

    Returns:
        a row per prompt: ``prompt``; ``reason``, empty where it can be asked (:data:`REASONS`); ``unseen``:
        words stand behind the blank that a left-to-right model does not read; ``copied``: the answer is
        spelled in the name that the text shows, so that repeating the text answers it.

    Example:
        >>> from kn_utils import load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en")
        >>> askable(load_model("mini"), prompts)["reason"].unique().tolist()
        ['']
    """
    blanks = prompts["masked"].map({"object": OBJECT, "subject": SUBJECT})
    sides = [text.partition(blank) for text, blank in zip(prompts["text"], blanks, strict=True)]
    shown = [""] * len(prompts) if facts is None else shown_names(prompts, facts).fillna("").tolist()
    behind = [
        bool(name) and name not in before and name in after
        for name, (before, _, after) in zip(shown, sides, strict=True)
    ]
    empty = [not before.strip() for before, _, _ in sides]
    reason = np.full(len(prompts), "", dtype=object)
    if model.causal:
        reason[np.array(behind, bool)] = REASONS[0]
        bos = model.tokenizer.bos_token_id is not None
        reason[np.array(empty, bool) & (reason == "") & (not bos or np.array(behind, bool))] = REASONS[1]
    free = np.flatnonzero(reason == "")
    reason[free] = _troubles(model, prompts.iloc[free])
    return pd.DataFrame(
        {
            "prompt": prompts["prompt"].to_numpy(),
            "reason": reason,
            "unseen": [model.causal and bool(re.search(r"\w", after)) for _, _, after in sides],
            "copied": [
                bool(name) and answer.casefold() in name.casefold()
                for name, answer in zip(shown, prompts["answer"], strict=True)
            ],
        }
    )


def _troubles(model: LanguageModel, prompts: pd.DataFrame) -> list[str]:
    """Why the tokenizer or the model cannot take each prompt; empty where it can."""
    try:  # all at once, which is quick and mostly enough
        rows = encode(model.tokenizer, prompts, causal=model.causal)
    except DataError:
        return [_trouble(model, prompts.iloc[[place]]) for place in range(len(prompts))]
    longest = np.zeros(len(prompts), int)
    for row in rows:
        longest[row.prompt] = max(longest[row.prompt], len(row.ids))
    limit = model.max_length
    return [REASONS[4] if limit is not None and length > limit else "" for length in longest]


def _trouble(model: LanguageModel, prompt: pd.DataFrame) -> str:
    """The same of one prompt."""
    try:
        rows = encode(model.tokenizer, prompt, causal=model.causal)
    except DataError as error:
        said = str(error)
        if "nothing stands before" in said:
            return REASONS[1]
        return REASONS[2] if "cannot write the answer" in said else REASONS[3]
    limit = model.max_length
    return REASONS[4] if limit is not None and max(len(row.ids) for row in rows) > limit else ""
