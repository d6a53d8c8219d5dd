"""What was recomputed of X-FACTR's decoding (Jiang et al. 2020), alone and beside ours.

The numbers are recall in per cent, computed by us from the predictions that the authors released; the paper's
own tables were not read, so none of them is called printed.
"""

from __future__ import annotations

import pandas as pd

from ..base import DATA

STORED = DATA / "published" / "decoding_recomputed.csv"
SHOWN = ["status", "model", "language", "decoding", "facts", "value", "low", "high", "n"]


def decoding_recomputed() -> pd.DataFrame:
    """The stored numbers.

    Returns:
        ``paper, model, language, decoding, facts, measure, value, n, relations, status, note``. ``facts``:
        ``all`` of a run, those whose answer is one token (``single``) or several (``multi``), or of a run
        over ``multi-token facts only``; ``measure``: ``macro``, the mean over relations, or ``recall`` where
        the kind of mean was not recorded; ``value`` in %; ``status``: ``recomputed``.
    """
    return pd.read_csv(STORED, encoding="utf-8")


def decoding_beside(recall: pd.DataFrame, model: str, language: str = "en") -> pd.DataFrame:
    """Our recall of one language above the recomputed numbers of that language.

    Other facts and another model: what can be compared is the pattern, not the size.

    Args:
        recall: ``decoding, language, subset, measure, value, low, high, n`` (shares), of
            :func:`kn_utils.statistics.decoded.decoded_recall`; its measure ``right`` is taken.
        model: ours.
        language: one of both.

    Returns:
        ``status, model, language, decoding, facts, value, low, high, n``, in %.
    """
    ours = recall[(recall["measure"] == "right") & (recall["language"] == language)]
    ours = ours.rename(columns={"subset": "facts"}).assign(status="ours", model=model)
    ours[["value", "low", "high"]] *= 100
    theirs = decoding_recomputed()
    theirs = theirs[theirs["language"] == language]
    return pd.concat([ours.reindex(columns=SHOWN), theirs.reindex(columns=SHOWN)], ignore_index=True)
