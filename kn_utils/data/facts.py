"""Facts and prompts: the tables everything starts from, their checks, and filling wordings.

    entities   entity, language, label, aliases
    facts      fact, relation, subject, object           fact = "P36:Q142:Q90"
    templates  relation, language, template, text        text holds [X] and [Y]
    prompts    prompt, fact, relation, language, template, text, answer, masked

Some data sets say of each fact which side is asked for: their facts have a column ``masked`` too.

A prompt's text keeps its blank written ``[Y]`` (``[X]`` where the subject is asked for), so a table of
prompts belongs to no tokenizer; :func:`kn_utils.model.rows.encode` turns it into rows of token ids for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import DataError, check_numbers, check_table

SUBJECT, OBJECT = "[X]", "[Y]"
COLUMNS = {
    "entities": ["entity", "language", "label", "aliases"],
    "facts": ["fact", "relation", "subject", "object"],
    "templates": ["relation", "language", "template", "text"],
    "prompts": ["prompt", "fact", "relation", "language", "template", "text", "answer", "masked"],
}
#: What tells the rows of a table apart.
KEYS = {"entities": "entity language", "facts": "fact", "templates": "template"}


@dataclass(frozen=True)
class Facts:
    """A data set: its name, its three tables (columns above), and where they come from."""

    dataset: str
    entities: pd.DataFrame
    facts: pd.DataFrame
    templates: pd.DataFrame
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def relations(self) -> list[str]:
        """The relations of its facts, by their numbers."""
        return sorted(self.facts["relation"].unique(), key=relation_number)

    @property
    def languages(self) -> list[str]:
        """The languages of its wordings, in their order."""
        return list(dict.fromkeys(self.templates["language"]))

    def sample(self, facts_per_relation: int | None, seed: int = 0) -> Facts:
        """At most so many facts of each relation, drawn with a seed; ``None`` keeps all.

        Facts that can be asked for in more languages go first, so that one sample serves every language where
        it can.
        """
        check_numbers(facts_per_relation=facts_per_relation, seed=seed)
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
        labelled = self.entities["label"].str.strip() != ""
        named = self.entities.loc[labelled, ["entity", "language"]].drop_duplicates()
        worded = self.templates[["relation", "language"]].drop_duplicates()
        both = self.facts.merge(named, left_on="subject", right_on="entity").drop(columns="entity")
        both = both.merge(named, left_on=["object", "language"], right_on=["entity", "language"])
        return both.merge(worded, on=["relation", "language"]).groupby("fact").size()

    def select(self, languages: list[str] | None = None, relations: list[str] | None = None) -> Facts:
        """Only these languages and relations; ``None`` keeps all.

        Raises:
            DataError: an unknown one; the message lists the known.
        """
        refuse_unknown(self.dataset, "language", languages or [], self.languages)
        refuse_unknown(self.dataset, "relation", relations or [], self.relations)
        entities, facts, templates = self.entities, self.facts, self.templates
        if languages is not None:
            entities = entities[entities["language"].isin(languages)]
            templates = templates[templates["language"].isin(languages)]
        if relations is not None:
            facts = facts[facts["relation"].isin(relations)]
            templates = templates[templates["relation"].isin(relations)]
        entities, facts, templates = (table.reset_index(drop=True) for table in (entities, facts, templates))
        return Facts(self.dataset, entities, facts, templates, self.origin)


def refuse_unknown(dataset: str, kind: str, asked: Iterable[str], known: Sequence[str]) -> None:
    """Raise an error that lists the ``known`` names if one of those ``asked`` for is none of them."""
    for name in asked:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise DataError(f"unknown {kind} {name!r} in data set {dataset!r}; known: {listed}.")


def relation_number(relation: str) -> int:
    """``P36`` -> 36, to sort relations as people do."""
    return int(relation[1:]) if relation[1:].isdigit() else 0


def read_table(path: str | Path, kind: str) -> pd.DataFrame:
    """Read a CSV of one of the tables (``kind``, a key of ``COLUMNS``), as text.

    Raises:
        DataError: no such file, or a column is missing.
    """
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
    return [
        *_duplicates(data),
        *_broken_wordings(data.templates),
        *_broken_facts(data.facts),
        *_broken_labels(data),
        *_shared_labels(data),
    ]


def refuse_broken(data: Facts) -> None:
    """Raise an error of one line where prompts would be doubled, or would ask for nothing.

    Less than :func:`find_problems` finds: published data hold subjects with several objects.
    """
    for kind, table in (("entities", data.entities), ("facts", data.facts), ("templates", data.templates)):
        columns = [name for name in COLUMNS[kind] if name not in ("aliases", "label")]
        check_table(kind, table, " ".join(columns), unique=KEYS[kind])
    labels = data.entities["label"]
    if (bad := labels.isna() | ((labels != "") & (labels.str.strip() == ""))).any():
        row = data.entities[bad].iloc[0]
        raise DataError(f"entities: the label of {row['entity']} in {row['language']} is {row['label']!r}.")


def _duplicates(data: Facts) -> Iterator[str]:
    for kind, key in ((kind, columns.split()) for kind, columns in KEYS.items()):
        table = getattr(data, kind)
        for value in table.loc[table.duplicated(key), key].itertuples(index=False):
            yield f"duplicate {' '.join(value)}"


def _broken_wordings(templates: pd.DataFrame) -> Iterator[str]:
    for row in templates.itertuples():
        if row.text.count(SUBJECT) != 1 or row.text.count(OBJECT) != 1:
            yield f"{row.template}: needs {SUBJECT} and {OBJECT} once each: {row.text!r}"
    for row in templates[templates.duplicated(["relation", "language", "text"])].itertuples():
        yield f"{row.template}: wording repeated: {row.text!r}"


def _broken_facts(facts: pd.DataFrame) -> Iterator[str]:
    for row in facts.itertuples():
        if row.fact != f"{row.relation}:{row.subject}:{row.object}":
            yield f"{row.fact}: the id should be relation:subject:object"
        if not row.subject or not row.object:
            yield f"{row.fact}: a fact needs a subject and an object"
    for row in facts[facts.duplicated(["relation", "subject"])].itertuples():
        yield f"{row.fact}: a second object for this subject"


def _broken_labels(data: Facts) -> Iterator[str]:
    entities, facts = data.entities, data.facts
    for row in entities[entities["label"].str.strip() != entities["label"]].itertuples():
        yield f"{row.entity} {row.language}: white space around the label {row.label!r}"
    there = _labels(entities).index
    for entity in pd.unique(pd.concat([facts["subject"], facts["object"]])):
        for language in data.languages:
            if (entity, language) not in there:
                yield f"{entity}: no label in {language}"


def _shared_labels(data: Facts) -> Iterator[str]:
    """Entities of one relation that a language calls by the same name."""
    by_language = {name: part.droplevel(1) for name, part in _labels(data.entities).groupby(level=1)}
    for relation, group in data.facts.groupby("relation"):
        members = pd.unique(pd.concat([group["subject"], group["object"]]))
        for language in data.languages:
            labels = by_language.get(language, pd.Series(dtype=str)).reindex(members).dropna()
            for text, same in labels.groupby(labels.str.casefold()):
                if len(same) > 1:
                    yield f"{relation} {language}: {text!r} names {', '.join(same.index)}"


def _labels(entities: pd.DataFrame) -> pd.Series:
    """(entity, language) -> label, of those that have one."""
    first = entities.drop_duplicates(["entity", "language"])
    return first[first["label"].str.strip() != ""].set_index(["entity", "language"])["label"]


def answers_by_chance(facts: Facts) -> pd.DataFrame:
    """How often one is right who knows only which answers a relation has.

    Args:
        facts: a data set.

    Returns:
        ``guess, value``, the mean over relations: always ``the most frequent answer`` of the relation, or
        ``any of its answers``, drawn evenly.
    """
    objects = facts.facts.groupby("relation")["object"]
    shares = objects.value_counts(normalize=True).groupby(level="relation")
    right = {"the most frequent answer": shares.max(), "any of its answers": 1 / objects.nunique()}
    rows = [(guess, share.mean()) for guess, share in right.items()]
    return pd.DataFrame(rows, columns=["guess", "value"])


def coverage(facts: Facts) -> pd.DataFrame:
    """How much can be asked, per relation and language.

    Returns:
        ``relation, language, facts, answers, wordings, prompts``, a row for every relation and language,
        zeros included: ``facts`` counts those with both labels in a language that has a wording, ``answers``
        their different objects.
    """
    wordings = facts.templates.groupby(["relation", "language"]).size()
    labels = facts.entities.loc[facts.entities["label"] != "", ["entity", "language"]]
    both = facts.facts.merge(labels.rename(columns={"entity": "subject"}), on="subject")
    both = both.merge(labels.rename(columns={"entity": "object"}), on=["object", "language"])
    counts = both.groupby(["relation", "language"]).agg(facts=("fact", "size"), answers=("object", "nunique"))
    grid = pd.MultiIndex.from_product([facts.relations, facts.languages], names=["relation", "language"])
    table = counts.reindex(grid, fill_value=0).assign(wordings=wordings.reindex(grid, fill_value=0))
    table.loc[table["wordings"] == 0, ["facts", "answers"]] = 0
    return table.assign(prompts=table["facts"] * table["wordings"]).reset_index()
