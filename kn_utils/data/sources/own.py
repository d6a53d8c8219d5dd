"""Your own facts: a folder of three tables, or one simple table, as CSV files in UTF-8.

A folder holds ``entities.csv`` (``entity, language, label``), ``facts.csv`` (``relation, subject, object``)
and ``templates.csv`` (``relation, language, text``); ``aliases``, ``fact`` and ``template`` (ids) may be
there too. A simple table has ``subject, object, relation, language, prompt``: names, and a wording such as
``The capital of [X] is [Y].`` (the subject's own name may stand for ``[X]``). Ids and names of relations are
free. Every fact of a relation is asked in every wording of it. ``data/own_example`` is one to start from.

What is wrong is refused with file, line and column. What can be left out without harm is counted: a fact that
lacks a label in some language is asked in the others.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..facts import COLUMNS, OBJECT, SUBJECT, DataError, Facts

#: Columns that must be there, by table.
NEEDED = {
    "entities": ("entity", "language", "label"),
    "facts": ("relation", "subject", "object"),
    "templates": ("relation", "language", "text"),
}
SIMPLE = ("subject", "object", "relation", "language", "prompt")
#: Relations name folders of results; these names are taken there.
TAKEN = {"all", "tables", "figures", "logs"}
RELATION = re.compile(r"[^\W\d][\w.-]*")
LANGUAGE = re.compile(r"[a-z][a-z-]*")


@dataclass
class Row:
    """A line of a file: its cells by column, and where it stands."""

    file: Path
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def at(self, column: str) -> str:
        """What a message calls the place of a cell."""
        return f"{self.file.name}, line {self.line}, column {column}"


@dataclass
class _Read:
    """The three tables with where each row stands, and what is wrong, in the order in which it is found."""

    entities: list[Row] = field(default_factory=list)
    facts: list[Row] = field(default_factory=list)
    templates: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def is_place(dataset: str) -> bool:
    """Whether a data set's name is that of a folder or a table of one's own."""
    place = Path(dataset).expanduser()
    spelt = dataset.startswith(("~", ".", "/")) or dataset.endswith(".csv")
    return spelt or place.is_dir()


def own_files(place: Path) -> list[Path]:
    """The files that facts at a place are read from, there or not."""
    return [place / f"{kind}.csv" for kind in NEEDED] if place.is_dir() else [place]


def load(languages: list[str] | None = None, relations: list[str] | None = None, *, place: str) -> Facts:
    """The facts at a place of yours.

    Args:
        languages, relations: only these; ``None``: all that are there.
        place: the folder, or the simple table.

    Raises:
        DataError: nothing there, or something wrong with it: the message names file, line and column of the
            first problem, and counts the others.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        read = _read_folder(path)
    elif path.is_file():
        read = _read_simple(path)
    else:
        raise DataError(f"there is no folder or table {place!r} (looked for in {Path.cwd()}).")
    read.problems += [*_names(read), *_repeated(read), *_strangers(read)]
    if read.problems:
        more = f" ({len(read.problems) - 1} more problems)" if len(read.problems) > 1 else ""
        raise DataError(f"{path}: {read.problems[0]}{more}.")
    return _as_facts(path, read).select(languages, relations)


def _read_folder(folder: Path) -> _Read:
    read = _Read()
    for kind in NEEDED:
        rows = getattr(read, kind)
        rows += _rows(folder / f"{kind}.csv", NEEDED[kind], read.problems)
    for row in read.facts:
        row.cells.setdefault("fact", ":".join(row[part] for part in NEEDED["facts"]))
    number: dict[tuple[str, str], int] = {}
    for row in read.templates:
        group = row["relation"], row["language"]
        number[group] = number.get(group, 0) + 1
        row.cells.setdefault("template", "-".join([*group, str(number[group])]))
        read.problems += _wording(row, "text")
    return read


def _read_simple(path: Path) -> _Read:
    """The same of a table of names and wordings; a name is its own id."""
    read, seen = _Read(), set[tuple[str, ...]]()
    number: dict[tuple[str, str], int] = {}

    def new(*key: str) -> bool:
        return key not in seen and not seen.add(key)  # type: ignore[func-returns-value]

    for row in _rows(path, SIMPLE, read.problems):
        subject, answer, relation, language = (row[name] for name in SIMPLE[:4])
        text = row["prompt"]
        if SUBJECT not in text and subject:
            text = text.replace(subject, SUBJECT, 1)
        wording = Row(path, row.line, {"relation": relation, "language": language, "text": text})
        if wrong := list(_wording(wording, "text", "prompt")):
            read.problems += wrong
            continue
        for side in ("subject", "object"):
            if new("entity", row[side], language):
                cells = {"entity": row[side], "language": language, "label": row[side]}
                read.entities.append(Row(path, row.line, cells))
        fact = {"relation": relation, "subject": subject, "object": answer}
        if not new("asked", *fact.values(), language, text):
            read.problems.append(f"{path.name}, line {row.line}: the same fact in the same wording again")
        if new("fact", *fact.values()):
            read.facts.append(Row(path, row.line, {**fact, "fact": ":".join(fact.values())}))
        if new("text", relation, language, text):
            number[relation, language] = number.get((relation, language), 0) + 1
            wording.cells["template"] = f"{relation}-{language}-{number[relation, language]}"
            read.templates.append(wording)
    return read


def _rows(path: Path, needed: Iterable[str], problems: list[str]) -> list[Row]:
    """The lines of a CSV file, in NFC; gaps in the needed columns are problems."""
    reader = csv.reader(io.StringIO(_text(path, needed), newline=""), strict=True)
    rows: list[Row] = []
    try:
        head = _head(path, next(reader, []), needed)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(head):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, {len(head)} columns; a text with "
                    f"a comma in it stands in double quotes."
                )
            row = Row(path, reader.line_num, dict(zip(head, cells, strict=True)))
            problems += _gaps(row, needed)
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no CSV ({error}).") from None
    if not rows:
        raise DataError(f"{path} holds no rows below its line of columns.")
    return rows


def _text(path: Path, needed: Iterable[str]) -> str:
    if not path.is_file():
        raise DataError(f"{path} is missing; it should hold the columns {', '.join(needed)}.")
    try:
        content = path.read_bytes()
        return unicodedata.normalize("NFC", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8; save the table as CSV in UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def _head(path: Path, cells: list[str], needed: Iterable[str]) -> list[str]:
    """The names of the columns, with all that are needed."""
    head = [name.strip() for name in cells]
    if lacking := [name for name in needed if name not in head]:
        there = ", ".join(head) or "nothing"
        raise DataError(f"{path}, line 1: column {lacking[0]!r} is missing; there is: {there}.")
    if len(set(head)) < len(head):
        raise DataError(f"{path}, line 1: two columns have one name: {', '.join(head)}.")
    return head


def _gaps(row: Row, needed: Iterable[str]) -> Iterator[str]:
    for column, value in row.cells.items():
        if column in needed and not value.strip():
            yield f"{row.at(column)}: empty"
        elif column in needed and value != value.strip():
            yield f"{row.at(column)}: white space around {value!r}"


def _wording(row: Row, column: str, shown: str | None = None) -> Iterator[str]:
    text = row[column]
    for slot in (SUBJECT, OBJECT):
        if text and text.count(slot) != 1:
            yield f"{row.at(shown or column)}: needs {slot} once: {text!r}"


def _names(read: _Read) -> Iterator[str]:
    """Names that cannot be used, and labels that hold a slot."""
    for row in [*read.facts, *read.templates]:
        relation = row["relation"]
        if relation and (relation in TAKEN or not RELATION.fullmatch(relation)):
            yield (
                f"{row.at('relation')}: {relation!r} cannot name a relation; take letters, digits, '_', '-', "
                f"'.', a letter first, and none of {', '.join(sorted(TAKEN))}"
            )
    for row in [*read.entities, *read.templates]:
        language = row["language"]
        if language and (language == "all" or not LANGUAGE.fullmatch(language)):
            yield f"{row.at('language')}: {language!r} is no language; write it as en or zh-classical"
    for row in read.entities:
        if SUBJECT in row["label"] or OBJECT in row["label"]:
            yield f"{row.at('label')}: {row['label']!r} holds a slot"


def _repeated(read: _Read) -> Iterator[str]:
    """What stands twice where once is meant."""
    keys = (
        (read.entities, ("entity", "language")),
        (read.facts, ("fact",)),
        (read.facts, NEEDED["facts"]),
        (read.templates, ("template",)),
        (read.templates, NEEDED["templates"]),
    )
    told = set()
    for rows, key in keys:
        first: dict[tuple[str, ...], int] = {}
        for row in rows:
            value = tuple(row[part] for part in key)
            line = first.setdefault(value, row.line)
            if line != row.line and (row.file, row.line) not in told:
                told.add((row.file, row.line))
                yield f"{row.at(key[-1])}: {' '.join(value)!r} stands in line {line} already"


def _strangers(read: _Read) -> Iterator[str]:
    """Facts of entities without a label, of relations without a wording, and wordings without a fact."""
    labels = {(row["entity"], row["language"]) for row in read.entities}
    known = {entity for entity, _ in labels}
    worded: dict[str, set[str]] = {}
    for row in read.templates:
        worded.setdefault(row["relation"], set()).add(row["language"])
    for row in read.facts:
        for side in ("subject", "object"):
            if row[side] and row[side] not in known:
                yield f"{row.at(side)}: {row[side]!r} has no label among the entities"
        if row["relation"] not in worded:
            yield f"{row.at('relation')}: {row['relation']!r} has no wording among the templates"
        elif {row["subject"], row["object"]} <= known and not any(
            (row["subject"], language) in labels and (row["object"], language) in labels
            for language in worded[row["relation"]]
        ):
            yield f"{row.at('relation')}: in no language are there a wording and both labels of this fact"
    asked = {row["relation"] for row in read.facts}
    for row in read.templates:
        if row["relation"] not in asked:
            yield f"{row.at('relation')}: {row['relation']!r} has no fact"


def _as_facts(path: Path, read: _Read) -> Facts:
    tables = {
        kind: pd.DataFrame([[row[name] for name in COLUMNS[kind]] for row in getattr(read, kind)])
        .set_axis(COLUMNS[kind], axis=1)
        .astype("str")
        for kind in NEEDED
    }
    facts, entities = tables["facts"], tables["entities"]
    labels = set(entities[["entity", "language"]].itertuples(index=False, name=None))
    left: dict[str, list[str]] = {}
    worded = tables["templates"][["relation", "language"]].drop_duplicates()
    for relation, language in worded.itertuples(index=False):
        for row in facts[facts["relation"] == relation].itertuples():
            if not {(row.subject, language), (row.object, language)} <= labels:
                left.setdefault(f"facts without both labels in {language}", []).append(row.fact)
    shared = entities.assign(label=entities["label"].str.casefold()).groupby(["language", "label"]).size()
    origin = {
        "dataset": path.name,
        "addresses": [str(path)],
        "counts": {
            "relations": facts["relation"].nunique(),
            "facts": len(facts),
            "wordings": len(tables["templates"]),
            "entities": entities["entity"].nunique(),
            "labels": len(entities),
        },
        "left_out": left,
        "noted": {
            "subjects with several objects": int((facts.groupby(["relation", "subject"]).size() > 1).sum()),
            "labels that several entities of a language share": int((shared > 1).sum()),
        },
    }
    return Facts(path.name, entities, facts, tables["templates"], origin)
