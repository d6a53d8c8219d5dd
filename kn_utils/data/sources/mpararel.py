"""mParaRel: several wordings per relation *and* language, so that the two can be told apart.

The wordings are ParaRel's, machine translated and partly reviewed (``checked-by-human``); the facts are
LAMA's with Wikidata's labels of 2021. Chinese comes in simplified and traditional writing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from ...base import LANGUAGES as STUDIED
from ..downloads.catalogue import index
from ..facts import Facts
from .tables import (
    choose_languages,
    choose_relations,
    in_enough_languages,
    obtain,
    origin,
    read_facts,
    read_json_lines,
    tables,
)

DATASET = "mpararel"
FOLDER = "coastalcph/mpararel/data/mpararel_reviewed"
LANGUAGES = (*STUDIED, "zh-hans", "zh-hant")


def load(
    languages: list[str] | None = None,
    relations: list[str] | None = None,
    *,
    chinese: Literal["hans", "hant"] = "hans",
    min_languages: PositiveInt = 1,
) -> Facts:
    """mParaRel in some of its languages and relations.

    Args:
        languages: ``zh`` is the writing that ``chinese`` names; ``zh-hans`` and ``zh-hant`` may be asked for
            by name, so that they can stand side by side. ``None``: the six of this study.
        relations: such as ``["P36"]``; ``None``: all with wordings. Some have no wording in some language; it
            then has no prompts there.
        chinese: ``"hans"`` (simplified) or ``"hant"`` (traditional).
        min_languages: keep facts that have both labels in at least so many of the languages asked for (in all
            of them if they are fewer); with 1 the languages hold different facts.

    Raises:
        DataError: unknown language or relation.
    """
    languages = choose_languages(DATASET, languages, LANGUAGES)
    written = {language: f"zh-{chinese}" if language == "zh" else language for language in languages}
    files = {language: _relations(f"{FOLDER}/patterns/{folder}/") for language, folder in written.items()}
    known = list(dict.fromkeys(relation for listed in files.values() for relation in listed))
    relations = choose_relations(DATASET, relations, known)
    both = [(relation, language) for language in languages for relation in relations]
    asked = [(relation, language) for relation, language in both if relation in files[language]]
    paths = [f"{FOLDER}/patterns/{written[language]}/{relation}.jsonl" for relation, language in asked]
    rows = [
        (relation, language, text, checked)
        for (relation, language), place in zip(asked, obtain(DATASET, paths), strict=True)
        for text, checked in read_json_lines(place, ["pattern", "checked-by-human"])
    ]
    names = [(relation, language) for relation in relations for language in languages]
    paths = [f"{FOLDER}/tuples/{written[language]}/{relation}.jsonl" for relation, language in names]
    every, labels = read_facts(dict(zip(names, obtain(DATASET, paths), strict=True)))
    triples = in_enough_languages(every, labels, languages, min(min_languages, len(languages)))
    note = origin(DATASET, [DATASET], {"chinese": chinese, "min_languages": min_languages})
    unworded = [
        f"{relation} in {language}" for relation, language in names if relation not in files[language]
    ]
    note["left_out"] = {
        "relations without a wording": unworded,
        "facts in too few languages": len(every) - len(triples),
    }
    data = tables(DATASET, labels, triples, [row[:3] for row in rows], note)
    note["noted"]["wordings checked by a person"] = sum(bool(checked) for *_, checked in rows)
    return data


def _relations(folder: str) -> list[str]:
    """The relations that have a file of wordings in a folder."""
    paths = (path for path in index(DATASET) if path.startswith(folder))
    return [path.removeprefix(folder).removesuffix(".jsonl") for path in paths]
