"""A text and its answer, asked in one call."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..checks import ParameterError
from ..data.prompts import from_texts
from .answers import answer_probability
from .language_model import LanguageModel


def ask(
    model: LanguageModel, text: str | Sequence[str], answer: str | Sequence[str], *, unknown: str = "refuse"
) -> pd.DataFrame:
    """How probable an answer is where a text leaves its blank.

    Args:
        model: which to ask.
        text: with its blank written ``[Y]``; or several texts.
        answer: what stands there; of several texts one each. One text may be given several answers.
        unknown: ``"allow"`` to ask for the unknown token where the tokenizer cannot write an answer.

    Returns:
        ``prompt, probability, rank, correct, predicted`` as :func:`kn_utils.answer_probability`; a prompt's
        name is its text with the answer.

    Raises:
        DataError: a text without its blank, an answer that cannot be written.
        ParameterError: not as many answers as texts.

    Example:
        >>> from kn_utils import ask, load_model
        >>> asked = ask(load_model("mini"), "The capital of France is [Y].", ["Paris", "Berlin"])
        >>> asked["prompt"].tolist()
        ['The capital of France is Paris.', 'The capital of France is Berlin.']
        >>> bool(asked["probability"][0] > asked["probability"][1])
        True
    """
    texts, answers = ([given] if isinstance(given, str) else list(given) for given in (text, answer))
    texts = texts * len(answers) if len(texts) == 1 else texts
    answers = answers * len(texts) if isinstance(answer, str) else answers
    if len(texts) != len(answers):
        raise ParameterError(f"{len(answers)} answers for {len(texts)} texts; each text needs one.")
    table = from_texts(pd.DataFrame({"text": texts, "answer": answers}))
    return answer_probability(model, table, unknown=unknown, progress=False)
