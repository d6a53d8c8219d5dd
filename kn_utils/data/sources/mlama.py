"""mLAMA 1.1: LAMA's T-REx facts with Wikidata's labels in 53 languages.

There is one wording per relation and language; all are English ones put through a translation engine. Chinese
labels mix simplified and traditional writing. GoogleRE's three relations are in the archive too and are left
out: their entities are Freebase's, which no other data set here knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import PositiveInt

from ..downloads.catalogue import COLLECTIONS, index
from ..downloads.fetch import fetch_members
from ..facts import Facts
from .tables import (
    Triple,
    choose_languages,
    choose_relations,
    in_enough_languages,
    origin,
    read_facts,
    read_json_lines,
    tables,
)

DATASET = "mlama"
ARCHIVE, FOLDER = "mlama1.1.zip", "mlama1.1"
LANGUAGES = (
    "af ar az be bg bn ca ceb cs cy da de el en es et eu fa fi fr ga gl he hi hr hu hy id it ja ka ko la lt "
    "lv ms nl pl pt ro ru sk sl sq sr sv ta th tr uk ur vi zh"
).split()
RELATIONS = (
    "P19 P20 P279 P37 P413 P449 P47 P138 P364 P463 P101 P106 P527 P530 P176 P27 P407 P30 P178 P1376 P131 "
    "P1412 P108 P136 P17 P39 P264 P276 P937 P140 P1303 P127 P103 P190 P1001 P31 P495 P159 P36 P740 P361"
).split()


def load(
    languages: list[str] | None = None, relations: list[str] | None = None, *, min_languages: PositiveInt = 1
) -> Facts:
    """mLAMA in some of its languages and relations.

    Args:
        languages: of its 53; ``None``: the six of this study.
        relations: of its 41; ``None``: all.
        min_languages: keep facts that have both labels in at least so many of the languages asked for (in all
            of them if they are fewer). With 1 the languages hold different facts; with 6 they share 9,327.

    Raises:
        DataError: unknown language or relation.
    """
    languages = choose_languages(DATASET, languages, LANGUAGES)
    relations = choose_relations(DATASET, relations, RELATIONS)
    every, labels = read_labelled(languages, relations)
    triples = in_enough_languages(every, labels, languages, min(min_languages, len(languages)))
    places = members([f"{language}/templates" for language in languages])
    wordings = [
        (relation, language, text)
        for language, place in zip(languages, places, strict=True)
        for relation, text in read_json_lines(place, ["relation", "template"])
        if relation in relations
    ]
    note = origin(DATASET, ["mlama"], {"min_languages": min_languages})
    note["left_out"] = {
        "relations of GoogleRE": ["place_of_birth", "place_of_death", "date_of_birth"],
        "facts in too few languages": len(every) - len(triples),
    }
    return tables(DATASET, labels, triples, wordings, note)


def read_labelled(
    languages: Sequence[str], relations: Sequence[str]
) -> tuple[list[Triple], dict[tuple[str, str], str]]:
    """LAMA's facts with a label in any of the languages, in LAMA's order, and their labels."""
    names = [(relation, language) for relation in relations for language in languages]
    places = members([f"{language}/{relation}" for relation, language in names])
    return read_facts(dict(zip(names, places, strict=True)))


def members(names: Sequence[str]) -> list[Path]:
    """Files of the archive, named as ``en/P36``."""
    archive = index("mlama")[ARCHIVE]
    return fetch_members(COLLECTIONS["mlama"], archive, [f"{FOLDER}/{name}.jsonl" for name in names])


def candidates(data: Facts) -> pd.DataFrame:
    """The objects that typed ranking chooses between.

    They are all objects of a relation's facts that have both labels in the language (Kassner et al.: the
    answer is ranked among them instead of the whole vocabulary).

    Returns:
        ``relation, language, object, label``; objects that share a label keep a row each.
    """
    labels = data.entities[["entity", "language", "label"]]
    facts = data.facts[["relation", "subject", "object"]]
    both = facts.merge(labels.drop(columns="label").rename(columns={"entity": "subject"}), on="subject")
    both = both.merge(labels.rename(columns={"entity": "object"}), on=["object", "language"])
    worded = data.templates[["relation", "language"]].drop_duplicates()
    asked = both.merge(worded, on=["relation", "language"])
    return asked[["relation", "language", "object", "label"]].drop_duplicates(ignore_index=True)
