"""Facts as words: ``P17:Q23482:Q142`` is ``Marseille, country: France``. Tables that are read show these."""

from __future__ import annotations

import pandas as pd

from .facts import Facts
from .relations import relation_names, title


def labels_in(facts: Facts, language: str = "en") -> pd.Series:
    """entity -> its name in a language, else in the data set's first language that names it."""
    there = facts.entities[facts.entities["label"] != ""]
    first = there.assign(_later=there["language"] != language).sort_values("_later", kind="stable")
    return first.drop_duplicates("entity").set_index("entity")["label"]


def in_words(table: pd.DataFrame, labels: pd.Series) -> pd.Series:
    """Facts as words; what has no name stays as it is.

    Args:
        table: ``relation, subject, object``.
        labels: :func:`labels_in`.
    """
    subject, answer = (table[side].map(labels).fillna(table[side]) for side in ("subject", "object"))
    names = relation_names()
    relation = table["relation"].map(lambda name: names.get(name, name))
    return subject + ", " + relation + ": " + answer


def facts_in_words(facts: Facts, language: str = "en") -> dict[str, str]:
    """fact -> the fact as words.

    Example:
        >>> from kn_utils import load_facts
        >>> facts_in_words(load_facts())["P36:Q142:Q90"]
        'France, capital: Paris'
    """
    words = in_words(facts.facts, labels_in(facts, language))
    return dict(zip(facts.facts["fact"], words, strict=True))


def with_words(table: pd.DataFrame, facts: Facts, language: str = "en") -> pd.DataFrame:
    """A table to be read: its facts as words, its relations by number and name.

    Args:
        table: with any of the columns ``fact``, ``prompt`` (a fact's wording keeps its number behind the
            words) and ``relation``.
        facts: what the facts are called.
        language: in which.
    """
    words = facts_in_words(facts, language)
    named = table.copy()
    if "fact" in table:
        named["fact"] = table["fact"].map(lambda fact: words.get(fact, fact))
    if "prompt" in table:
        named["prompt"] = table["prompt"].map(lambda prompt: _prompt(prompt, words))
    if "relation" in table:
        named["relation"] = table["relation"].map(title)
    return named


def _prompt(prompt: str, words: dict[str, str]) -> str:
    fact, _, wording = prompt.partition("/")
    return f"{words[fact]} ({wording.partition('-')[2] or wording})" if fact in words else prompt
