"""Facts and prompts: the tables everything starts from, their checks, and filling wordings.

    entities   entity, language, label, aliases
    facts      fact, relation, subject, object           fact = "P36:Q142:Q90"; sometimes masked: the side to
    ask for
    templates  relation, language, template, text        text holds [X] and [Y]
    prompts    prompt, fact, relation, language, template, text, answer, masked

A prompt's text keeps its blank written ``[Y]`` (``[X]`` where the subject is asked for), so a table of
prompts belongs to no tokenizer; :func:`encode` turns it into rows of token ids for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import StudyError

SUBJECT, OBJECT = "[X]", "[Y]"
COLUMNS = {
    "entities": ["entity", "language", "label", "aliases"],
    "facts": ["fact", "relation", "subject", "object"],
    "templates": ["relation", "language", "template", "text"],
    "prompts": ["prompt", "fact", "relation", "language", "template", "text", "answer", "masked"],
}


class DataError(StudyError):
    """A table, a wording or an answer that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Facts:
    """A data set: its name and its three tables (columns above)."""

    dataset: str
    entities: pd.DataFrame
    facts: pd.DataFrame
    templates: pd.DataFrame
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def relations(self) -> list[str]:
        return sorted(self.facts["relation"].unique(), key=relation_number)

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(self.templates["language"]))

    def sample(self, facts_per_relation: int | None, seed: int = 0) -> Facts:
        """At most so many facts of each relation, drawn with a seed; ``None`` keeps all.

        Facts that can be asked for in more languages go first, so that one sample serves every language where
        it can.
        """
        if facts_per_relation is None:
            return self
        spread = self._languages_of_facts()
        drawn = [
            group.sample(frac=1, random_state=seed)
            .sort_values("fact", key=lambda fact: -fact.map(spread).fillna(0), kind="stable")
            .head(facts_per_relation)
            for _, group in self.facts.groupby("relation", sort=False)
        ]
        kept = pd.concat(drawn).sort_index() if drawn else self.facts
        return Facts(self.dataset, self.entities, kept.reset_index(drop=True), self.templates, self.origin)

    def _languages_of_facts(self) -> pd.Series:
        """In how many languages a fact has both names and its relation a wording."""
        named = self.entities.loc[
            self.entities["label"].str.strip() != "", ["entity", "language"]
        ].drop_duplicates()
        both = self.facts.merge(named, left_on="subject", right_on="entity").drop(columns="entity")
        both = both.merge(named, left_on=["object", "language"], right_on=["entity", "language"])
        both = both.merge(
            self.templates[["relation", "language"]].drop_duplicates(), on=["relation", "language"]
        )
        return both.groupby("fact").size()

    def select(self, languages: list[str] | None = None, relations: list[str] | None = None) -> Facts:
        """Only these languages and relations; an unknown one is an error that lists the known."""
        for name, asked, known in (
            ("language", languages, self.languages),
            ("relation", relations, self.relations),
        ):
            refuse_unknown(self.dataset, name, asked or [], known)
        entities, facts, templates = self.entities, self.facts, self.templates
        if languages is not None:
            entities = entities[entities["language"].isin(languages)]
            templates = templates[templates["language"].isin(languages)]
        if relations is not None:
            facts = facts[facts["relation"].isin(relations)]
            templates = templates[templates["relation"].isin(relations)]
        tables = (table.reset_index(drop=True) for table in (entities, facts, templates))
        return Facts(self.dataset, *tables, self.origin)


def refuse_unknown(dataset: str, kind: str, asked: Iterable[str], known: Sequence[str]) -> None:
    """An error that lists the known languages, relations or options if one of those asked for is none of
    them."""
    for one in asked:
        if one not in known:
            raise DataError(
                f"unknown {kind} {one!r} in data set {dataset!r}; known: {', '.join(known) or 'none'}."
            )


def relation_number(relation: str) -> int:
    """``P36`` -> 36, to sort relations as people do."""
    return int(relation[1:]) if relation[1:].isdigit() else 0


def read_table(path: str | Path, kind: str) -> pd.DataFrame:
    """A CSV of one of the tables, as text, its columns checked."""
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing; it should hold the table of {kind} with columns {COLUMNS[kind]}."
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    missing = [column for column in COLUMNS[kind] if column not in table.columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; expected {COLUMNS[kind]}.")
    return table


def find_problems(data: Facts) -> list[str]:
    """Everything wrong with a data set, one line each; an empty list means that it can be used.

    Missing labels, wordings without both slots, duplicates, facts without a subject or object, and labels
    that two entities of a relation share (so that an answer would not tell them apart).
    """
    entities, facts, templates = data.entities, data.facts, data.templates
    problems = []
    for table, key in ((entities, ["entity", "language"]), (facts, ["fact"]), (templates, ["template"])):
        for value in table.loc[table.duplicated(key), key].itertuples(index=False):
            problems.append(f"duplicate {' '.join(value)}")
    for row in templates.itertuples():
        if row.text.count(SUBJECT) != 1 or row.text.count(OBJECT) != 1:
            problems.append(f"{row.template}: needs {SUBJECT} and {OBJECT} once each: {row.text!r}")
    for row in templates[templates.duplicated(["relation", "language", "text"])].itertuples():
        problems.append(f"{row.template}: wording repeated: {row.text!r}")
    for row in facts.itertuples():
        if row.fact != f"{row.relation}:{row.subject}:{row.object}":
            problems.append(f"{row.fact}: the id should be relation:subject:object")
        if not row.subject or not row.object:
            problems.append(f"{row.fact}: a fact needs a subject and an object")
    for row in facts[facts.duplicated(["relation", "subject"])].itertuples():
        problems.append(f"{row.fact}: a second object for this subject")
    for row in entities[entities["label"].str.strip() != entities["label"]].itertuples():
        problems.append(f"{row.entity} {row.language}: white space around the label {row.label!r}")
    label = entities.drop_duplicates(["entity", "language"])
    label = label[label["label"].str.strip() != ""].set_index(["entity", "language"])["label"]
    used = pd.unique(pd.concat([facts["subject"], facts["object"]]))
    for entity in used:
        for language in data.languages:
            if (entity, language) not in label.index:
                problems.append(f"{entity}: no label in {language}")
    by_language = {language: part.droplevel(1) for language, part in label.groupby(level=1)}
    for relation, group in facts.groupby("relation"):
        members = pd.unique(pd.concat([group["subject"], group["object"]]))
        for language in data.languages:
            labels = by_language.get(language, pd.Series(dtype=str)).reindex(members).dropna()
            for text, same in labels.groupby(labels.str.casefold()):
                if len(same) > 1:
                    problems.append(f"{relation} {language}: {text!r} names {', '.join(same.index)}")
    return problems


def coverage(facts: Facts) -> pd.DataFrame:
    """How much can be asked, per relation and language: ``relation, language, facts, answers, wordings,
    prompts``.

    ``facts`` counts those with both labels in a language that has a wording, ``answers`` their different
    objects; a row for every relation and language, zeros included.
    """
    wordings = facts.templates.groupby(["relation", "language"]).size()
    labels = facts.entities.loc[facts.entities["label"] != "", ["entity", "language"]]
    both = facts.facts.merge(labels.rename(columns={"entity": "subject"}), on="subject")
    both = both.merge(labels.rename(columns={"entity": "object"}), on=["object", "language"])
    found = both.groupby(["relation", "language"]).agg(facts=("fact", "size"), answers=("object", "nunique"))
    grid = pd.MultiIndex.from_product([facts.relations, facts.languages], names=["relation", "language"])
    table = found.reindex(grid, fill_value=0).assign(wordings=wordings.reindex(grid, fill_value=0))
    table.loc[table["wordings"] == 0, ["facts", "answers"]] = 0
    return table.assign(prompts=table["facts"] * table["wordings"]).reset_index()
