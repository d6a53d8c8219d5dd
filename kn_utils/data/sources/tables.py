"""From published files to the tables of :mod:`kn_utils.data.facts`: what the loaders share.

Published data are not refused for what :func:`kn_utils.data.facts.find_problems` calls a problem: they hold
subjects with several objects, entities that share a label, and the same fact under two uuids. :func:`tables`
checks what must hold for the tables to be usable, and counts the rest in ``origin``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...base import LANGUAGES
from ..downloads.catalogue import COLLECTIONS, COMMITS, index
from ..downloads.fetch import fetch
from ..facts import COLUMNS, OBJECT, SUBJECT, DataError, Facts, refuse_unknown

Triple = tuple[str, str, str]  # relation, subject, object


def obtain(collection: str, paths: Sequence[str]) -> list[Path]:
    """These files of a collection, downloaded if they are not in the cache."""
    known = index(collection)
    return fetch(COLLECTIONS[collection], [known[path] for path in paths])


def choose_relations(dataset: str, asked: Iterable[str] | None, known: Sequence[str]) -> list[str]:
    """The relations asked for in the published order, all for ``None``; unknown ones are refused."""
    asked = list(known if asked is None else asked)
    refuse_unknown(dataset, "relation", asked, known)
    return [relation for relation in known if relation in asked]


def choose_languages(dataset: str, asked: Iterable[str] | None, known: Sequence[str]) -> list[str]:
    """The languages asked for in the order of asking, for ``None`` the study's; unknown ones are refused."""
    asked = list(dict.fromkeys(LANGUAGES if asked is None else asked))
    refuse_unknown(dataset, "language", asked, known)
    return asked


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends, empty ones left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n")


def read_json_lines(path: Path, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The values of ``keys`` in each line of a JSON-lines file.

    Raises:
        DataError: a line that is not JSON, or lacks a key.
    """
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
            yield tuple(row[key] for key in keys)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: expected JSON with {', '.join(keys)} ({error!r})."
            ) from None


def read_facts(places: Mapping[tuple[str, str], Path]) -> tuple[list[Triple], dict[tuple[str, str], str]]:
    """Facts with their labels from mLAMA's kind of file, of which there is one per relation and language.

    Args:
        places: (relation, language) -> file; each line holds ids, labels and ``lineid``, the fact's number in
            LAMA.

    Returns:
        the facts of any language, by relation and then LAMA's number; and (entity, language) -> label.

    Raises:
        DataError: a number that means different facts in two languages.
    """
    numbered: dict[str, dict[int, tuple[str, str]]] = {}
    labels: dict[tuple[str, str], str] = {}
    for (relation, language), place in places.items():
        facts = numbered.setdefault(relation, {})
        for line in read_json_lines(place, ["sub_uri", "sub_label", "obj_uri", "obj_label", "lineid"]):
            subject, subject_label, answer, answer_label, number = line
            if facts.setdefault(number, (subject, answer)) != (subject, answer):
                raise DataError(f"{place}: lineid {number} is another fact than in the other languages.")
            labels.setdefault((subject, language), subject_label)
            labels.setdefault((answer, language), answer_label)
    triples = [(relation, *facts[number]) for relation, facts in numbered.items() for number in sorted(facts)]
    return triples, labels


def in_enough_languages(
    triples: Sequence[Triple], labels: Mapping[tuple[str, str], str], languages: Sequence[str], least: int
) -> list[Triple]:
    """The facts with both labels in at least so many of the languages."""
    return [
        (relation, subject, answer)
        for relation, subject, answer in triples
        if sum((subject, name) in labels and (answer, name) in labels for name in languages) >= least
    ]


def origin(dataset: str, collections: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The beginning of ``Facts.origin``: what was read, from where, under which licence."""
    sources = [COLLECTIONS[name] for name in collections]
    addresses = [source.address for source in sources]
    commits = {name: commit for name, commit in COMMITS.items() if any(at.endswith(name) for at in addresses)}
    return {
        "dataset": dataset,
        "options": dict(options),
        "sources": [source.title for source in sources],
        "addresses": addresses,
        "commits": commits,
        "licence": "; ".join(dict.fromkeys(source.licence for source in sources)),
        "terms": list(dict.fromkeys(source.terms for source in sources)),
        "citation": "; ".join(dict.fromkeys(source.citation for source in sources)),
        "left_out": {},
    }


def tables(
    dataset: str,
    labels: Mapping[tuple[str, str], str],
    triples: Sequence[Triple],
    wordings: Sequence[Triple],
    origin: dict[str, Any],
    masked: Sequence[str] | None = None,
) -> Facts:
    """The tables of a published data set.

    Args:
        dataset: its name.
        labels: (entity, language) -> label.
        triples: relation, subject, object of each fact, in the published order; the n-th of equal ones gets
            ``#n``.
        wordings: relation, language, text; within a relation and language in the published order.
        origin: gains ``counts`` and ``noted``.
        masked: which side of each fact is asked for, ``object`` or ``subject``; adds the column ``masked``.

    Raises:
        DataError: a wording without both slots once each, an empty label or one that holds a slot, two facts
            with one id.
    """
    for relation, language, text in wordings:
        if text.count(SUBJECT) != 1 or text.count(OBJECT) != 1:
            where = f"a wording of {relation} in {language}"
            raise DataError(f"{dataset}: {where} lacks {SUBJECT} or {OBJECT} once: {text!r}.")
    used = dict.fromkeys(entity for _, *pair in triples for entity in pair)
    languages = list(dict.fromkeys(language for _, language, _ in wordings))
    entities = [
        (entity, language, labels[entity, language], "")
        for language in languages
        for entity in used
        if (entity, language) in labels
    ]
    for entity, language, label, _ in entities:
        if not label.strip() or SUBJECT in label or OBJECT in label:
            raise DataError(f"{dataset}: the label of {entity} in {language} cannot be used: {label!r}.")
    facts = pd.DataFrame(triples, columns=["relation", "subject", "object"])
    same = facts.groupby(["relation", "subject", "object"]).cumcount()
    name = facts["relation"] + ":" + facts["subject"] + ":" + facts["object"]
    facts.insert(0, "fact", name.where(same == 0, name + "#" + (same + 1).astype(str)))
    if not facts["fact"].is_unique:
        twice = facts.loc[facts["fact"].duplicated(), "fact"].iloc[0]
        raise DataError(f"{dataset}: two facts are called {twice}.")
    if masked is not None:
        facts["masked"] = list(masked)
    number: Counter[tuple[str, str]] = Counter()
    rows = []
    for relation, language, text in wordings:
        number[relation, language] += 1
        rows.append((relation, language, f"{relation}-{language}-{number[relation, language]}", text))
    templates = pd.DataFrame(rows, columns=COLUMNS["templates"])
    named = pd.DataFrame(entities, columns=COLUMNS["entities"])
    origin["counts"] = {
        "relations": facts["relation"].nunique(),
        "facts": len(facts),
        "wordings": len(templates),
        "entities": len(used),
        "labels": len(named),
    }
    spelt = templates.assign(text=templates["text"].str.replace(" ", ""))
    shared = named.assign(label=named["label"].str.casefold()).groupby(["language", "label"])["entity"].size()
    origin["noted"] = {
        "facts that repeat another": int((same > 0).sum()),
        "subjects with several objects": int((facts.groupby(["relation", "subject"]).size() > 1).sum()),
        "labels that several entities of a language share": int((shared > 1).sum()),
        "wordings that repeat another but for spaces": int(
            spelt.duplicated(["relation", "language", "text"]).sum()
        ),
    }
    return Facts(
        dataset,
        named,
        facts[[*COLUMNS["facts"], *(["masked"] if masked is not None else [])]],
        templates,
        origin,
    )


def provenance(data: Facts) -> pd.DataFrame:
    """What a data set holds, what was left out of it and why, what stands out, and whose it is.

    Returns:
        ``part, what, number, detail``; ``detail`` shows the first example where there are several.
    """
    rows: list[tuple[str, str, Any, str]] = []
    for part in ("counts", "left_out", "noted"):
        for what, told in data.origin.get(part, {}).items():
            number, example = (len(told), next(iter(told), "")) if isinstance(told, list) else (told, "")
            rows.append((part.replace("_", " "), what, number, example))
    for what in ("options", "licence", "terms", "addresses", "commits", "citation"):
        if told := data.origin.get(what):
            shown = told if isinstance(told, str) else ", ".join(told)
            if isinstance(told, dict):
                shown = ", ".join(f"{key}={value}" for key, value in told.items())
            rows.append(("origin", what, "", shown))
    return pd.DataFrame(rows, columns=["part", "what", "number", "detail"])
