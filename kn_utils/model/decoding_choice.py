"""How many pieces has the answer? What chooses among a prompt's decodings with 1, 2, ... blanks.

    mean         the highest mean log-probability of the blanks (X-FACTR)
    sum          their highest sum (X-FACTR without its length norm)
    pll          the highest mean log-probability of each blank given all others
    calibrated   the mean, less what other facts of the relation have on average at that number of blanks
    prior        the mean, plus the log of how often other facts' answers of the relation have so many pieces
    given        as many as the right answer has

``prior`` and ``given`` look at right answers: those of other facts, and the prompt's own. Other facts are
those of the same relation and language; a fact never says anything about itself.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..base import StudyError

CHOICES = ("mean", "sum", "pll", "calibrated", "prior", "given")
#: Facts that are compared share these; operations and kinds of neurons are apart where a table holds several.
OTHERS = ["relation", "language"]
APART = ["decoding", "operation", "neurons"]


class ChoiceError(StudyError):
    """A way to choose the number of blanks that is not known, or that lacks what it needs."""


def choose(decoded: pd.DataFrame, by: str = "mean", lengths: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mark one number of blanks of every prompt.

    Args:
        decoded: of :func:`kn_utils.model.decoding.decode`, any choice; a row per prompt and number of blanks.
            Several such tables, told apart by :data:`APART`, are chosen from one by one.
        by: one of :data:`CHOICES`.
        lengths: ``fact, relation, language, gold_pieces`` of more facts for ``prior``
            (:func:`kn_utils.model.decoding.answer_lengths`); ``None``: those that were decoded.

    Returns:
        ``decoded`` with ``chosen`` set again: one row of every prompt. Of equal scores the fewest blanks.
        Where the ``given`` number was not decoded, the nearest.

    Raises:
        ChoiceError: another name; ``pll`` of a table that holds none.
    """
    if by not in CHOICES:
        raise ChoiceError(f"choose={by!r}; known: {', '.join(CHOICES)}.")
    if by == "pll" and decoded["pll"].isna().any() and len(decoded):
        raise ChoiceError("this table holds no pll; decode with choose='pll'.")
    keys = [name for name in APART if name in decoded]
    order = decoded[["prompt", "masks", *keys]].assign(_score=-_score(decoded, by, keys, lengths))
    order = order.sort_values(["_score", "masks"], kind="stable")
    best = order.drop_duplicates(["prompt", *keys]).index
    return decoded.assign(chosen=decoded.index.isin(best))


def _score(decoded: pd.DataFrame, by: str, keys: list[str], lengths: pd.DataFrame | None) -> pd.Series:
    if by in ("sum", "pll"):
        return decoded["sum_logp" if by == "sum" else "pll"]
    if by == "given":
        # Unknown where the tokenizer cannot write the answer: then the fewest.
        return -(decoded["masks"] - decoded["gold_pieces"].fillna(0).astype(int)).abs()
    mean = decoded["mean_logp"]
    if by == "calibrated":
        return mean - usual(decoded, keys)
    return mean + np.log(length_prior(decoded, lengths)) if by == "prior" else mean


def usual(decoded: pd.DataFrame, apart: list[str] | None = None) -> pd.Series:
    """Per row the mean ``mean_logp`` of the relation's other facts at that number of blanks.

    0 where there is no other fact, so that nothing is taken off.
    """
    keys = [*OTHERS, *(apart or []), "masks"]
    own = decoded.groupby([*keys, "fact"])["mean_logp"].transform
    every = decoded.groupby(keys)["mean_logp"].transform
    number = every("size") - own("size")
    return ((every("sum") - own("sum")) / number.where(number > 0)).fillna(0.0)


def length_prior(decoded: pd.DataFrame, lengths: pd.DataFrame | None = None) -> pd.Series:
    """Per row how often the relation's other facts' answers have that many pieces, one added to every count.

    A fact counts once (its answer in a language), however many prompts ask for it.
    """
    columns = [*OTHERS, "fact", "gold_pieces"]
    every = decoded[columns] if lengths is None else pd.concat([lengths[columns], decoded[columns]])
    facts = every.drop_duplicates([*OTHERS, "fact"])
    number = facts.groupby([*OTHERS, "gold_pieces"]).size()
    total = facts.dropna(subset="gold_pieces").groupby(OTHERS).size()
    here = pd.MultiIndex.from_frame(decoded[OTHERS])
    there = pd.MultiIndex.from_arrays([decoded[key] for key in [*OTHERS, "masks"]])
    mine = (decoded["gold_pieces"] == decoded["masks"]).fillna(False).to_numpy(int)
    known = decoded["gold_pieces"].notna().to_numpy(int)
    of_that_length = number.reindex(there).fillna(0).to_numpy() - mine
    options = decoded["masks"].nunique()
    others = total.reindex(here).fillna(0).to_numpy() - known
    return pd.Series((of_that_length + 1) / (others + options), index=decoded.index)
