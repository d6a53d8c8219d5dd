"""The papers' claims one by one: what they rest on, which of our numbers decides each, the verdict per model.

``data/published/claims.csv`` has a row per claim, ``claim_parts.csv`` a row per named number that a claim
needs, with its rule (:mod:`kn_utils.statistics.verdicts`). Verdicts follow from both and from stored results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..base import DATA, StudyError
from ..statistics import verdicts

CLAIMS = DATA / "published" / "claims.csv"
PARTS = DATA / "published" / "claim_parts.csv"
#: The models that a verdict is given for -> what they are called.
MODELS = {"gemma3": "Gemma 3 270M", "smollm2": "SmolLM2 135M", "mini": "mini", "mini-causal": "mini-causal"}
#: Of these, the ones that were taught sentences of ours: they say nothing of what models learn from texts.
TAUGHT = ("mini", "mini-causal")
MBERT = "google-bert/bert-base-multilingual-cased"
#: What stands behind ``published``: printed in the paper; written down from memory; computed by us from
#: released files; a number that a released file holds; said in the paper's text without a number at hand;
#: nothing at hand.
STATUS = ("printed", "recalled", "recomputed", "released", "prose", "not at hand")


def claims(source: str | None = None) -> pd.DataFrame:
    """Every claim, a row each.

    Args:
        source: one of the four papers; ``None``: all.

    Returns:
        ``id, source, place`` (in the paper, as far as known), ``short`` (for figures), ``claim`` (in our
        words), ``published`` (numbers at hand) and their ``status`` (:data:`STATUS`), ``test`` (ours),
        ``notebooks`` and ``options`` that decide it, ``open`` (why nothing stored can), ``learnt`` (yes:
        about what models learn from texts, which :data:`TAUGHT` ones cannot say).

    Raises:
        StudyError: no such paper.
    """
    table = _texts(CLAIMS)
    if source is not None and source not in set(table["source"]):
        raise StudyError(f"no claims of {source!r}; known: {', '.join(table['source'].unique())}.")
    return table if source is None else table[table["source"] == source].reset_index(drop=True)


def parts() -> pd.DataFrame:
    """What each claim needs, a row per named number.

    Returns:
        ``id, part`` (in words), the number's ``notebook, measure, neurons, where``, its ``rule``, the other
        number's name where the rule has ``another`` (``other_measure, other_neurons, other_where``),
        ``unit``, and the ``reason`` of a limit that is not 0.
    """
    return _texts(PARTS)


def judged(numbers: pd.DataFrame, models: Sequence[str] = tuple(MODELS)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The verdicts on all claims and on all parts.

    Args:
        numbers: ``model, notebook, measure, neurons, where, value, low, high, n``
            (:func:`kn_utils.run.results.stored_numbers`).
        models: whose verdicts are wanted.

    Returns:
        ``id, model, verdict, why``, and the parts with their numbers (:func:`verdicts.judged_parts`).
    """
    every = claims()
    by_part = verdicts.judged_parts(parts(), numbers, models)
    by_claim = verdicts.judged_claims(by_part, every["id"].tolist())
    said = by_claim["id"].map(every.set_index("id")["open"])
    by_claim["why"] = by_claim["why"].where(said == "", said)
    learnt = by_claim["id"].isin(every.loc[every["learnt"] == "yes", "id"])
    learnt &= by_claim["model"].isin(TAUGHT) & (by_claim["verdict"] != verdicts.NOT_RUN)
    by_claim.loc[learnt, ["verdict", "why"]] = [verdicts.OPEN, "this model was taught by us, not by texts"]
    return by_claim, by_part


def command(claim: Mapping[str, Any], model: str = MBERT) -> str:
    """What to type so that a model decides a claim; ``14`` then shows the verdict.

    Example:
        >>> command({"notebooks": "06 11", "options": ""}, "gemma3")
        './run_all.sh --model gemma3 --notebooks 06 11 14'
    """
    told = f"./run_all.sh --model {model} --notebooks {claim['notebooks']} 14 {claim['options']}"
    return told.strip()


def with_numbers(by_part: pd.DataFrame) -> pd.DataFrame:
    """Parts as text, a column per model: its verdict, value [95 % interval] (facts), the other's after ``/``.

    Args:
        by_part: of :func:`judged`.

    Returns:
        indexed by ``id, part, rule``.
    """
    table = by_part.assign(text=[_number(row) for row in by_part.to_dict("records")])
    index = ["id", "part", "rule"]
    order = table[index].drop_duplicates()
    wide = table.pivot(index=index, columns="model", values="text")
    names = list(dict.fromkeys(table["model"]))
    return wide.loc[pd.MultiIndex.from_frame(order), names].rename_axis(columns=None)


def by_model(by_claim: pd.DataFrame) -> pd.DataFrame:
    """How many claims each model's verdicts are: a row per verdict, a column per model."""
    counts = pd.crosstab(by_claim["verdict"], by_claim["model"])
    order = list(dict.fromkeys(by_claim["model"]))
    wanted = counts.reindex(index=list(verdicts.VERDICTS), columns=order, fill_value=0)
    return wanted.rename_axis(index=None, columns=None)


def _number(row: Mapping[str, Any]) -> str:
    if np.isnan(row["value"]):
        return str(row["verdict"])
    own = _shown(row["value"], row["low"], row["high"], row["unit"])
    other = ""
    if not np.isnan(row["other_value"]):
        other = " / " + _shown(row["other_value"], row["other_low"], row["other_high"], row["unit"])
    return f"{row['verdict']}: {own} ({row['n']:.0f}){other}"


def _shown(value: float, low: float, high: float, unit: str) -> str:
    times, digits = (100, 1) if unit == "%" else (1, 3)
    # Perplexity ratios of a ruined model have ten digits.
    spell = "{:.2g}".format if abs(value) >= 1e4 else f"{{:.{digits}f}}".format
    ends = "" if np.isnan(low) or np.isnan(high) else f" [{spell(times * low)}, {spell(times * high)}]"
    return f"{spell(times * value)}{' %' * (unit == '%')}{ends}"


def _texts(path: Any) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
