"""What edits of facts achieved and what they cost: the paper's Table IV, with intervals over edits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .changes import mean_table
from .intervals import LEVEL, RESAMPLES, interval

#: The measures that say most: does an edit succeed, and what does it cost others?
MAIN = [
    "change rate",
    "success rate",
    "new among the first 5, after",
    "perplexity within, ratio",
    "perplexity between, ratio",
]


def summarise_updates(edits: pd.DataFrame, by: Sequence[str] = ("neurons",)) -> pd.DataFrame:
    """The paper's Table IV, with intervals over edits.

    Args:
        edits: :func:`kn_utils.experiments.updating.evaluate_updates`.
        by: columns that tell kinds of edits apart.

    Returns:
        ``*by, measure, value, low, high, n``.

    Of perplexities (exp of the mean -ln P) the *rise* is as published, exp(mean after) - exp(mean before)
    over all edits; the *ratio* is, per edit, after / before (geometric mean over edits).
    """
    shares = {
        "change rate": "changed",
        "success rate": "success",
        "new among the first 5, before": "first_before",
        "new among the first 5, after": "first_after",
        "P(new answer), before": "new_before",
        "P(new answer), after": "new_after",
        "P(old answer), before": "old_before",
        "P(old answer), after": "old_after",
        "length of the move": "moved",
    }
    rows = []
    for key, group in edits.groupby(list(by), sort=False):
        measures = {name: interval(group[column]) for name, column in shares.items()}
        for when in ("before", "after"):
            measures[f"reciprocal rank of the new answer, {when}"] = interval(1 / group[f"rank_{when}"])
        for side in ("within", "between"):
            before, after = group[f"{side}_before"], group[f"{side}_after"]
            logs = {"before": before, "after": after, "ratio": after - before}
            for name, values in logs.items():
                measures[f"perplexity {side}, {name}"] = _exp(interval(values))
            measures[f"perplexity {side}, rise"] = _rise(before, after)
        named = dict(zip(by, key, strict=True))
        rows += [{**named, "measure": name, **values} for name, values in measures.items()]
    return pd.DataFrame(rows)


def still_new(answers: pd.DataFrame) -> pd.DataFrame:
    """How often the new answer is given to other questions, of those answered rightly before the edit.

    Args:
        answers: of :func:`kn_utils.experiments.updating.ask_after`, with ``where``.

    Returns:
        ``neurons, where, value, low, high, n``; intervals over facts.
    """
    known = answers[answers["known"].astype(bool)]
    return mean_table(known.astype({"success": float}), "success", ["neurons", "where"])


def language_maps(crossed: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Shares of edits by the language edited through and the language asked in.

    Args:
        crossed: of :func:`kn_utils.experiments.updating.across_languages`.

    Returns:
        title -> ``through, language, value, low, high, n``. The last leaves out pairs of languages that write
        the new answer alike, and edits through ``all`` of them. A map without a row is left out.
    """
    table = crossed.astype({"success": float, "changed": float})
    pair = ["through", "language"]
    apart = table[_written_differently(table)]
    maps = {
        "the new answer": mean_table(table, "success", pair),
        "another answer than before": mean_table(table, "changed", pair),
        "the new answer, written differently": mean_table(apart, "success", pair),
    }
    return {title: shares for title, shares in maps.items() if len(shares)}


def language_reach(crossed: pd.DataFrame) -> pd.DataFrame:
    """How far an edit through one language reaches.

    Args:
        crossed: of :func:`kn_utils.experiments.updating.across_languages`; edits through ``all`` languages
            are left out.

    Returns:
        ``neurons, where, value, low, high, n``; ``where``: ``asked in the language itself``, ``asked in
        another language``, and of the latter those that write the new answer differently.
    """
    single = crossed[crossed["through"] != "all"].astype({"success": float})
    home = single["through"] == single["language"]
    where = home.map({True: "asked in the language itself", False: "asked in another language"})
    apart = single[~home & _written_differently(single)]
    apart = apart.assign(where="asked in another language, written differently")
    return mean_table(pd.concat([single.assign(where=where), apart]), "success", ["neurons", "where"])


def _written_differently(crossed: pd.DataFrame) -> pd.Series:
    return crossed["same"].eq(False).fillna(False).astype(bool)


def _exp(logs: dict[str, float]) -> dict[str, float]:
    """An interval of logarithms as one of what they are the logarithms of."""
    return {name: value if name == "n" else float(np.exp(value)) for name, value in logs.items()}


def _rise(before: pd.Series, after: pd.Series) -> dict[str, float]:
    """exp(mean after) - exp(mean before) of mean -ln P, with an interval over edits."""
    there = before.notna() & after.notna()
    pair = (before[there].to_numpy(), after[there].to_numpy())
    if len(pair[0]) < 2:
        value = float(np.exp(pair[1][0]) - np.exp(pair[0][0])) if len(pair[0]) else np.nan
        return {"value": value, "low": np.nan, "high": np.nan, "n": len(pair[0])}
    ends = stats.bootstrap(
        pair,
        _difference_of_perplexities,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        rng=np.random.default_rng(0),
        vectorized=True,
    ).confidence_interval
    value = float(_difference_of_perplexities(*pair))
    return {"value": value, "low": float(ends.low), "high": float(ends.high), "n": len(pair[0])}


def _difference_of_perplexities(before: np.ndarray, after: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.exp(after.mean(axis=axis)) - np.exp(before.mean(axis=axis))
