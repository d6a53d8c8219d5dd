"""BingDistantTREx: sentences found on the web for each fact of PARAREL_en.

A sentence holds both entities, or was found for the head alone.

The facts and wordings are those of :mod:`kn_utils.data.sources.pararel`. There are at most ten sentences of
each kind per fact; some facts have none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ..facts import DataError, Facts
from . import pararel
from .tables import obtain, origin

DATASET = "bing_distant"
FOLDER = "Hunter-DDM/knowledge-neurons/data/BingDistantTREx/final"
KINDS = {"th_bags": "both", "h_bags": "head"}


def load(languages: list[str] | None = None, relations: list[str] | None = None) -> Facts:
    """The facts that the sentences are about: PARAREL_en's, under this data set's name."""
    data = pararel.load(languages, relations)
    note = origin(DATASET, ["pararel", "bing_distant"], {})
    return Facts(DATASET, data.entities, data.facts, data.templates, {**data.origin, **note, "left_out": {}})


def passages(relations: list[str] | None = None) -> pd.DataFrame:
    """The sentences of some relations; ``None`` takes all 34 (69 MB).

    Returns:
        ``passage, relation, fact, kind, text``; ``kind`` is ``both`` (subject and object are in the sentence)
        or ``head`` (found for the subject alone; the object may turn up in it nevertheless).

    Raises:
        DataError: unknown relation; a file that does not fit PARAREL_en's facts.
    """
    facts = pararel.load(relations=relations).facts
    names = list(dict.fromkeys(facts["relation"]))
    places = obtain(DATASET, [f"{FOLDER}/final_distant_allbags_{relation}_new.json" for relation in names])
    rows = []
    for relation, place in zip(names, places, strict=True):
        rows += _sentences(relation, place, facts[facts["relation"] == relation])
    return pd.DataFrame(rows, columns=["passage", "relation", "fact", "kind", "text"])


def _sentences(relation: str, place: Path, facts: pd.DataFrame) -> list[tuple[str, str, str, str, str]]:
    try:
        bags = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:  # most of these files have no checksum that would have told
        raise DataError(f"{place} is not whole ({error}); delete it and run again.") from None
    if len(bags) != len(facts):
        raise DataError(f"{place} holds {len(bags)} facts; PARAREL_en has {len(facts)} of {relation}.")
    rows, fitting = [], []
    for fact, subject, bag in zip(facts["fact"], facts["subject"], bags, strict=True):
        for key, kind in KINDS.items():
            rows += [(fact, kind, text) for text in bag[key]]
        fitting += [subject.casefold() in text.casefold() for text in bag["th_bags"]]
    if fitting and sum(fitting) < 0.9 * len(fitting):  # the files hold no ids: a shift would go unseen
        raise DataError(
            f"{place} does not fit PARAREL_en's {relation}: its sentences do not name the subjects."
        )
    return [(f"{relation}-{n}", relation, *row) for n, row in enumerate(rows, 1)]
