"""T-REx_multilingual: facts asked once in each of several languages, in wordings by native speakers.

The wordings are X-FACTR's. There are two builds. ``released`` follows the notebook in the multilingual
study's repository: X-FACTR's list of subjects with all their Wikidata objects, 16 relations, X-FACTR's
labels, subject or object asked for by a coin per fact. ``clean`` takes LAMA's facts with mLAMA's labels
instead: 41 relations, the object asked for, nothing to guess.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from ..downloads.catalogue import index
from ..facts import OBJECT, SUBJECT, DataError, Facts
from . import mlama
from .tables import (
    Triple,
    choose_languages,
    choose_relations,
    in_enough_languages,
    obtain,
    origin,
    read_lines,
    tables,
)

DATASET = "trex_multilingual"
FOLDER = "jzbjyb/X-FACTR/data"
LANGUAGES = "en zh fr el nl ru ko es mr vi he tr yo ja hu bn war tl sw mg pa ilo ceb".split()
RELATIONS = "P27 P31 P39 P47 P101 P106 P108 P178 P190 P463 P527 P530 P937 P1001 P1303 P1412".split()
NOMINATIVE = re.compile(r"\[([XY])\.nom\]", re.IGNORECASE)  # the form that labels have
#: A slot of the subject and of the object, plain or with a case (``[X.Gen]``), or Turkish ``[Y;be]``.
SLOTS = (re.compile(r"\[X(?:\.[\w.+]+)?\]"), re.compile(r"\[Y(?:\.[\w.+]+|;be)?\]"))
LABEL = re.compile(r'"(.*?)"@([A-Za-z-]+)(?:\t|$)')

Labels = dict[tuple[str, str], str]


def load(
    languages: list[str] | None = None,
    relations: list[str] | None = None,
    *,
    build: Literal["clean", "released"] = "clean",
    min_languages: PositiveInt | None = None,
    labels: str | None = None,
    aliases: bool = False,
    seed: int = 0,
) -> Facts:
    """T-REx_multilingual in some of its languages and relations.

    Args:
        languages: of X-FACTR's 23 (``clean``: those that mLAMA has too); ``None``: the six of this study.
        relations: ``None``: all, 41 (``clean``) or 16 (``released``).
        build: ``"clean"`` or ``"released"``.
        min_languages: keep a fact with labels in at least so many of the languages; in all of them if they
            are fewer, or for ``None``. The notebook's rule is 4 of six; the released results fit all six.
        labels: ``released`` only: a file in the format of ``TREx_unicode_escape.txt`` to read in its place.
        aliases: ``released`` only: where a label is missing but X-FACTR's lists of names show that there is
            one, take the first name. The lists are sorted and do not say which name is the label: about one
            in six is wrong.
        seed: ``released`` only: of the coin. A fact's coin does not depend on what else is loaded.

    Returns:
        the tables; ``facts`` has ``masked`` in the released build. Wordings with inflection mark-up, which a
        morphology tool would have to resolve, are in ``origin["left_out"]``, and so are broken ones.

    Raises:
        DataError: unknown language or relation; no fact in a language.
    """
    released = build == "released"
    if not released and (labels or aliases or seed):
        raise DataError("labels, aliases and seed belong to build='released'.")
    languages = choose_languages(DATASET, languages, LANGUAGES if released else _in_mlama())
    relations = choose_relations(DATASET, relations, RELATIONS if released else mlama.RELATIONS)
    least = min(min_languages or len(languages), len(languages))
    options = {"build": build, "min_languages": least}
    note = origin(DATASET, ["xfactr"] if released else ["xfactr", "mlama"], options)
    if released:
        note["options"] |= {"labels": labels, "aliases": aliases, "seed": seed}
        triples = _multi_rel(relations)
        known = _labels(languages, labels)
        if aliases:
            used = {entity for _, *pair in triples for entity in pair}
            note["labels taken from lists of names"] = _add_names(known, languages, used)
    else:
        triples, known = mlama.read_labelled(languages, relations)
    for language in languages:
        if not any((s, language) in known and (o, language) in known for _, s, o in triples):
            raise DataError(f"{DATASET}: no fact has labels in {language}" + f" ({labels})." * bool(labels))
    kept = in_enough_languages(triples, known, languages, least)
    wordings, left_out = _wordings(languages, relations)
    note["left_out"] = {"facts in too few languages": len(triples) - len(kept), **left_out}
    masked = [_coin(":".join(triple), seed) for triple in kept] if released else None
    return tables(DATASET, known, kept, wordings, note, masked)


def _in_mlama() -> list[str]:
    return [language for language in LANGUAGES if language in mlama.LANGUAGES]


def _coin(fact: str, seed: int) -> str:
    """The side of a fact that is asked for."""
    return ("object", "subject")[hashlib.sha256(f"{seed}:{fact}".encode()).digest()[0] & 1]


def _multi_rel(relations: Sequence[str]) -> list[Triple]:
    """X-FACTR's facts: lines of subject, relation and all objects."""
    (place,) = obtain("xfactr", [f"{FOLDER}/TREx_multi_rel.txt"])
    rows = (line.split("\t") for line in read_lines(place))
    return [
        (relation, subject, answer)
        for subject, relation, objects in rows
        for answer in objects.split()
        if relation in relations
    ]


def _wordings(
    languages: Sequence[str], relations: Sequence[str]
) -> tuple[list[Triple], dict[str, list[str]]]:
    """X-FACTR's wordings that need no morphology, and those left out: with mark-up, or broken."""
    (place,) = obtain("xfactr", [f"{FOLDER}/TREx_prompts.csv"])
    with place.open(encoding="utf-8", newline="") as file:
        rows = {row["pid"]: row for row in csv.DictReader(file)}
    kept: list[Triple] = []
    left_out: dict[str, list[str]] = {}
    for language in languages:
        for relation in relations:
            text = NOMINATIVE.sub(r"[\1]", rows[relation][language].strip())
            whole = all(len(slot.findall(text)) == 1 for slot in SLOTS)
            if whole and "[" not in text.replace(SUBJECT, "").replace(OBJECT, ""):
                kept.append((relation, language, text))
            else:
                why = "wordings with inflection mark-up" if whole else "broken wordings, which lack a slot"
                left_out.setdefault(why, []).append(f"{relation} in {language}: {text}")
    return kept, left_out


def _labels(languages: Sequence[str], replacement: str | None) -> Labels:
    """Labels of X-FACTR's file, whose lines are ``Q16<tab>"Canada"@en<tab>"Canada"@nl``."""
    place = (
        Path(replacement).expanduser()
        if replacement
        else obtain("xfactr", [f"{FOLDER}/TREx_unicode_escape.txt"])[0]
    )
    if not place.is_file():
        raise DataError(f"{place} is missing; labels= names a file in the format of TREx_unicode_escape.txt.")
    labels: Labels = {}
    for line in read_lines(place):
        entity, _, rest = line.partition("\t")
        for label, language in LABEL.findall(rest):  # a label may hold quotes, at-signs and tabs
            if language in languages and label.strip():
                labels.setdefault((entity, language), label)
    return labels


def _add_names(labels: Labels, languages: Sequence[str], entities: set[str]) -> dict[str, int]:
    """Fill in missing labels from X-FACTR's sorted lists of names; how many in each language."""
    added = dict.fromkeys(languages, 0)
    for language in languages:
        paths = [f"{FOLDER}/alias/{kind}/{language}.txt" for kind in ("TREx", "mTRExf")]
        for place in obtain("xfactr", [path for path in paths if path in index("xfactr")]):
            for line in read_lines(place):
                entity, *names = line.split("\t")
                name = next((name.strip() for name in names if name.strip()), None)
                if name and entity in entities and (entity, language) not in labels:
                    labels[entity, language] = name
                    added[language] += 1
    return added
