"""Were the decoded answers right? Per prompt, and as recall with intervals over facts.

A masked model's answer is right if it is, normalised, one of the accepted names. A left-to-right model goes
on with the text, so its answer is right if it begins with one and a boundary follows; Japanese, Chinese and
Korean write on without one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Protocol

import numpy as np
import pandas as pd

from .intervals import resample, with_percentiles

#: Languages whose names are compared without spaces, and go on without a boundary.
UNSPACED = ("ja", "zh", "ko")
#: Column of :func:`decode_report` -> what it is called as a measure.
MEASURES = {
    "right": "right",
    "right_strict": "strict",
    "right_given_length": "given length",
    "length_right": "length right",
}
SUBSETS = ("all", "single", "multi")


class Named(Protocol):
    """A data set: its entities (``entity, language, label, aliases``) and facts."""

    @property
    def entities(self) -> pd.DataFrame:
        """Labels, aliases between bars."""

    @property
    def facts(self) -> pd.DataFrame:
        """``fact, relation, subject, object``."""


def normalised(text: str, language: str = "en") -> str:
    """A name to be compared: compatible characters are one, letters small, outer punctuation and spaces gone.

    Example:
        >>> normalised(" The  Hague. "), normalised("東 京。", "ja")
        ('the hague', '東京')
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if language in UNSPACED:
        text = text.replace(" ", "")
    inside = [i for i, sign in enumerate(text) if unicodedata.category(sign)[0] not in "PZ"]
    return text[inside[0] : inside[-1] + 1] if inside else ""


def says(text: str, name: str, language: str, open_ended: bool) -> bool:
    """Whether an answer is a name or, ``open_ended``, begins with it."""
    text, name = normalised(text, language), normalised(name, language)
    if not name or not open_ended or text == name:
        return bool(name) and text == name
    if not text.startswith(name):
        return False
    return language in UNSPACED or re.match(r"\w", text[len(name) :]) is None


def decode_report(
    decoded: pd.DataFrame, prompts: pd.DataFrame, facts: Named, *, aliases: bool = True
) -> pd.DataFrame:
    """Whether each prompt's chosen answer is right, and would have been with the length given.

    Args:
        decoded: of :func:`kn_utils.decode`, a number of blanks chosen.
        prompts: those that were decoded.
        facts: their data set, all of it: other right objects are looked up in it.
        aliases: accept other names of the right answer, and other right answers to the same question, too.

    Returns:
        ``prompt, fact, relation, language, answer, text, right, accepted, right_strict, right_given_length,
        length_right, gold_pieces, masks, subset``: ``accepted`` says as what the answer is right (``label``,
        ``alias``, ``another object``); ``right_strict``: as the label; ``right_given_length``: the text of as
        many blanks as the right answer has pieces is right, which it never is where that many were not
        decoded, and missing for left-to-right models; ``subset``: ``single`` or ``multi``, by the pieces of
        the right answer, empty where it cannot be written.
    """
    names = {
        prompt: (language, dict(every if aliases else every[:1]))
        for prompt, language, every in _accepted(prompts, facts)
    }
    mine = decoded[decoded["prompt"].isin(names)]
    as_what = [
        _accepted_as(row.text, *names[row.prompt], row.end != "blanks")
        for row in mine[["prompt", "text", "end"]].itertuples()
    ]
    told = mine.assign(accepted=as_what)
    given = told[(told["masks"] == told["gold_pieces"]).fillna(False).astype(bool)].set_index("prompt")
    table = told[told["chosen"]].reset_index(drop=True)
    blanks = table["end"] == "blanks"
    with_length = (given["accepted"].reindex(table["prompt"]).fillna("") != "").to_numpy()
    pieces = table["gold_pieces"]
    subset = pd.Series(np.where(pieces.fillna(0) > 1, "multi", "single"), index=table.index)
    columns = {
        "answer": table["prompt"].map(prompts.set_index("prompt")["answer"]),
        "right": table["accepted"] != "",
        "right_strict": table["accepted"] == "label",
        "right_given_length": pd.Series(with_length, dtype="boolean").where(blanks),
        "length_right": (table["masks"] == pieces).fillna(False).astype(bool),
        "subset": subset.where(pieces.notna(), ""),
    }
    order = ["prompt", "fact", "relation", "language", "answer", "text", "right", "accepted", "right_strict"]
    order += ["right_given_length", "length_right", "gold_pieces", "masks", "subset"]
    return table.assign(**columns)[order]


def _accepted(prompts: pd.DataFrame, facts: Named) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Per prompt its language and (name, what it is), the label first; of a name the first kind counts."""
    labels: dict[tuple[str, str], list[str]] = {}
    for row in facts.entities.itertuples():
        spelled = [row.label, *str(row.aliases or "").split("|")]
        labels.setdefault((row.entity, row.language), []).extend(name for name in spelled if name)
    sides = facts.facts.set_index("fact")[["subject", "object"]]
    other = {
        "object": facts.facts.groupby(["relation", "subject"])["object"].agg(list).to_dict(),
        "subject": facts.facts.groupby(["relation", "object"])["subject"].agg(list).to_dict(),
    }
    for row in prompts.itertuples():
        found = [(row.answer, "label")]
        if row.fact in sides.index:
            asked, shown = ("object", "subject") if row.masked == "object" else ("subject", "object")
            own = sides.at[row.fact, asked]
            found += [(name, "alias") for name in labels.get((own, row.language), [])]
            for entity in other[asked].get((row.relation, sides.at[row.fact, shown]), []):
                found += [(name, "another object") for name in labels.get((entity, row.language), [])]
        kinds: dict[str, str] = {}
        for name, kind in found:
            kinds.setdefault(name, kind)
        yield row.prompt, row.language, list(kinds.items())


def _accepted_as(text: str, language: str, names: dict[str, str], open_ended: bool) -> str:
    """As what an answer is right; empty where it is not."""
    return next((kind for name, kind in names.items() if says(text, name, language, open_ended)), "")


def decoded_recall(report: pd.DataFrame, by: Iterable[str] = ("language",), *, seed: int = 0) -> pd.DataFrame:
    """Recall per group: the mean over relations of the mean over their facts.

    Args:
        report: of :func:`decode_report`, with the columns of ``by``.
        by: what names a group.
        seed: of the resamples.

    Returns:
        ``*by, subset, measure, value, low, high, n, micro, empty_as_0, relations``. ``subset``: ``all``, or
        by the right answer's pieces ``single`` or ``multi``; ``measure``: ``right, strict, given length,
        length right``; ``value``: over relations that have such a fact, with an interval that resamples facts
        within relations; ``micro``: over facts; ``empty_as_0``: as X-FACTR's program counts, relations of the
        group without such a fact as 0. Subsets without a fact have no row.
    """
    by, rows = list(by), list[dict[str, object]]()
    drawn = cache(lambda n, relation: resample(n, [seed, relation]))  # the same for all groups of a size
    for key, group in report.groupby(by, sort=False):
        every = group["relation"].nunique()
        for subset in SUBSETS:
            part = group if subset == "all" else group[group["subset"] == subset]
            for column, measure in MEASURES.items():
                own = part[part[column].notna()]
                if len(own):
                    head = {**dict(zip(by, key, strict=True)), "subset": subset, "measure": measure}
                    rows.append({**head, **_recall(own, column, every, drawn)})
    columns = [*by, "subset", "measure", "value", "low", "high", "n", "micro", "empty_as_0", "relations"]
    return pd.DataFrame(rows, columns=columns)


def _recall(
    part: pd.DataFrame, column: str, every: int, times: Callable[[int, int], np.ndarray]
) -> dict[str, float]:
    """The numbers of one group, subset and measure."""
    facts = part.assign(_x=part[column].astype(float)).groupby(["relation", "fact"], sort=False)["_x"].mean()
    groups = [group.to_numpy() for _, group in facts.groupby(level="relation", sort=False)]
    means = [values.mean() for values in groups]
    drawn = [times(len(x), i) @ x / len(x) for i, x in enumerate(groups)]
    free = len(facts) > len(groups)
    spread = np.mean(drawn, axis=0) if free else np.full(len(drawn[0]), np.nan)
    row = with_percentiles(float(np.mean(means)), spread, len(facts))
    more = {"micro": float(facts.mean()), "empty_as_0": float(sum(means) / every), "relations": len(groups)}
    return {**row, **more}


def left_out(decoded: pd.DataFrame, by: Iterable[str] = ("language",)) -> pd.DataFrame:
    """What decoding could not get right whatever it chose, and what did not come to rest; counts of prompts.

    Returns:
        ``*by, prompts, cannot be written, longer than all blanks, not settled``. All of them stay in the
        denominators of recall; ``not settled`` counts chosen answers.
    """
    by = list(by)
    most = decoded.groupby(by)["masks"].transform("max")
    blanks = decoded["end"] == "blanks"
    table = decoded.assign(
        **{
            "prompts": 1,
            "cannot be written": decoded["gold_pieces"].isna().astype(int),
            "longer than all blanks": ((decoded["gold_pieces"] > most).fillna(False) & blanks).astype(int),
            "not settled": (~decoded["settled"].astype(bool)).astype(int),
        }
    )
    columns = ["prompts", "cannot be written", "longer than all blanks", "not settled"]
    return table[table["chosen"]].groupby(by, sort=False)[columns].sum().reset_index()


def decoded_moves(decoded: pd.DataFrame, prompts: pd.DataFrame, facts: Named) -> pd.DataFrame:
    """What became of each chosen answer under operations.

    Args:
        decoded: of :func:`kn_utils.experiments.decoded.decoded_effects` or ``decoded_edits``.
        prompts: those that were decoded, with their answers.
        facts: their data set.

    Returns:
        a row per prompt, operation and kind of neurons: ``prompt, fact, relation, language, operation,
        neurons, text_before, text_after, right_before, right_after, changed, length_changed``, and where
        ``decoded`` has ``new`` also ``got_new``: the answer is the new one.
    """
    keys, open_ended = ["operation", "neurons"], bool((decoded["end"] != "blanks").any())
    parts = {key: decode_report(part, prompts, facts) for key, part in decoded.groupby(keys, sort=False)}
    tables = []
    for (operation, kind), after in parts.items():
        if operation == "none":
            continue
        both = parts["none", kind].merge(after, on="prompt", suffixes=("_before", "_after"))
        spelled = [
            [
                normalised(text, language)
                for text, language in zip(both[name], both["language_after"], strict=True)
            ]
            for name in ("text_before", "text_after")
        ]
        about = {name: both[f"{name}_after"] for name in ("fact", "relation", "language")}
        names = ["text_before", "text_after", "right_before", "right_after"]
        table = both[["prompt"]].assign(**about, operation=operation, neurons=kind)
        table = table.join(both[names]).assign(
            changed=[a != b for a, b in zip(*spelled, strict=True)],
            length_changed=both["masks_before"] != both["masks_after"],
        )
        if "new" in decoded:
            new = table["prompt"].map(decoded.drop_duplicates("prompt").set_index("prompt")["new"])
            table["got_new"] = [
                says(text, name, language, open_ended)
                for text, name, language in zip(table["text_after"], new, table["language"], strict=True)
            ]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
