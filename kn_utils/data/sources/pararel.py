"""PARAREL_en: Dai et al.'s data, LAMA's T-REx facts in ParaRel's English paraphrases.

34 relations, 318 wordings, 27,738 facts, 253,448 prompts. The published list of facts gives labels only, so
an entity's id is its label: ``P36:France:Paris``. Facts with the same labels (other entities of the same
name) are kept, as the paper keeps them: the second is ``P36:England:London#2``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from ..downloads.catalogue import index
from ..facts import DataError, Facts
from .tables import choose_languages, choose_relations, obtain, origin, read_json_lines, tables

DATASET = "pararel"
DATA = "Hunter-DDM/knowledge-neurons/data/PARAREL"
PATTERNS = f"{DATA}/raw_data/patterns"
VOCABULARY = "yanaiela/pararel/data/trex_lms_vocab"
Pairs = dict[str, list[tuple[str, str]]]


def load(
    languages: list[str] | None = None,
    relations: list[str] | None = None,
    *,
    facts: Literal["all", "vocabulary"] = "all",
    min_wordings: int = 4,
) -> Facts:
    """PARAREL_en in some of its relations.

    Args:
        languages: ``["en"]`` or ``None``; there is no other.
        relations: such as ``["P36"]``; ``None`` is all with enough wordings.
        facts: ``"all"``: LAMA's 27,738; ``"vocabulary"``: those whose object is one token in several English
            models, which EleutherAI's package reads.
        min_wordings: relations with fewer are left out; 4 is the papers' rule. With 1, ``facts="vocabulary"``
            holds the 39 relations of EleutherAI's package.

    Raises:
        DataError: unknown language or relation; a relation with too few wordings.
    """
    choose_languages(DATASET, languages or ["en"], ["en"])
    collections = ["pararel"] if facts == "all" else ["pararel", "pararel_vocabulary"]
    note = origin(DATASET, collections, {"facts": facts, "min_wordings": min_wordings})
    pairs = _pairs(relations) if facts == "all" else _vocabulary(relations)
    places = obtain("pararel", [f"{PATTERNS}/{relation}.jsonl" for relation in pairs])
    texts = {
        r: [text for (text,) in read_json_lines(place, ["pattern"])]
        for r, place in zip(pairs, places, strict=True)
    }
    few = [relation for relation in pairs if len(texts[relation]) < min_wordings]
    if few and relations is not None:
        raise DataError(
            f"{few[0]} has {len(texts[few[0]])} wordings; min_wordings={min_wordings} leaves it out."
        )
    note["left_out"] = {"relations with too few wordings": few} if few else {}
    triples = [(relation, *pair) for relation in pairs if relation not in few for pair in pairs[relation]]
    labels = {(label, "en"): label for _, *pair in triples for label in pair}
    wordings = [
        (relation, "en", text) for relation in pairs if relation not in few for text in texts[relation]
    ]
    return tables(DATASET, labels, triples, wordings, note)


def _pairs(relations: list[str] | None) -> Pairs:
    """Subject and object of LAMA's facts of the 34 relations, in LAMA's order."""
    (place,) = obtain("pararel", [f"{DATA}/query_pairs.json"])
    pairs = json.loads(place.read_text(encoding="utf-8"))
    return {
        r: [(subject, answer) for subject, answer in pairs[r]]
        for r in choose_relations(DATASET, relations, list(pairs))
    }


def _vocabulary(relations: list[str] | None) -> Pairs:
    """The same of the filtered facts, for every relation that has a wording at all."""
    known = [Path(path).stem for path in index("pararel") if path.startswith(PATTERNS)]
    kept = choose_relations(DATASET, relations, known)
    places = obtain("pararel_vocabulary", [f"{VOCABULARY}/{relation}.jsonl" for relation in kept])
    return {
        r: list(read_json_lines(place, ["sub_label", "obj_label"]))
        for r, place in zip(kept, places, strict=True)
    }
