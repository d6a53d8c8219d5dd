"""The multilingual study's released outputs, read into this project's tables.

``refined`` gives the refined neurons of nine relations and their bags (``kn_bag-P*.json``), ``scores`` the
attribution scores of one of them (``TREx-all-P108.rlt.jsonl``), ``settings`` what they were made with. The
files name facts by their place only, so a fact is ``P108:17``: the 18th bag of that relation's file. All of
it belongs to the authors' model, which the tables name; none of it may be mixed with neurons that this
project finds.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ..base import LANGUAGES
from ..data.facts import COLUMNS, OBJECT, SUBJECT, DataError
from ..data.sources.tables import obtain, read_lines
from ..neurons.refine import BAGS, PASSES, Refined

REPOSITORY = "Fuyao233/Knowledge-Neurons-in-Multilingual-Pretrained-Language-Models"
QUERY_PAIRS = "Hunter-DDM/knowledge-neurons/data/PARAREL/query_pairs.json"
MASK, UNKNOWN = "[MASK]", "[UNK]"
#: Scores of at least this fraction of the prompt's maximum were kept.
KEEP = 0.1


@dataclass(frozen=True)
class Release:
    """One data set's outputs.

    Attributes:
        folder: their folder under ``results/``.
        language: of a bag.
        relations: those refined.
    """

    folder: str
    language: str
    relations: tuple[str, ...]


RELEASES = {
    "PARAREL_en": Release("multilingual", "en", ("P101", "P108", "P463", "P1376")),
    "T-REx_multilingual": Release("MultilingualTRExf", "all", ("P27", "P31", "P108", "P1001", "P1303")),
}


def place(dataset: str, name: str) -> str:
    """Where a file of a data set's results, such as ``kn/kn_bag-P101.json``, lies in the cache."""
    if dataset not in RELEASES:
        raise DataError(f"nothing was released for {dataset!r}; known: {', '.join(RELEASES)}.")
    return f"{REPOSITORY}/results/{RELEASES[dataset].folder}/{name}"


def settings(dataset: str) -> dict[str, Any]:
    """The arguments of the last attribution run for this data set.

    Returns:
        ``bert_model, do_lower_case, batch_size, ...``.
    """
    return _json(place(dataset, "TREx-all.args.json"))


def refined(
    dataset: str,
    relations: tuple[str, ...] | list[str] | None = None,
    kind: Literal["knowledge", "activation"] = "knowledge",
) -> Refined:
    """Refined neurons of a data set, and every bag, also those without a neuron.

    Layers and neurons count from 0.

    Args:
        dataset: ``"PARAREL_en"`` or ``"T-REx_multilingual"``.
        relations: some of ``RELEASES[dataset].relations``; all of them by default.
        kind: ``"knowledge"``, or ``"activation"``: those of the activation baseline.

    Returns:
        neurons with the column ``model`` besides, and bags. What was not released is missing in them: the
        neurons' share, the bags' number of prompts, the share taken, whether it settled; ``passes`` is empty.

    Raises:
        DataError: unknown data set or relation; a file that is not a list of bags of (layer, neuron).
    """
    name = {"knowledge": "kn_bag", "activation": "base_kn_bag"}[kind]
    model, release = settings(dataset)["bert_model"], RELEASES[dataset]
    rows, facts = [], []
    for relation in relations or release.relations:
        if relation not in release.relations:
            raise DataError(
                f"no neurons of {relation!r} in {dataset}; released: {', '.join(release.relations)}."
            )
        path = place(dataset, f"kn/{name}-{relation}.json")
        for number, bag in enumerate(_json(path)):
            fact = f"{relation}:{number}"
            facts.append((fact, relation, release.language))
            for pair in bag:
                if len(pair) != 2 or not all(isinstance(place, int) and place >= 0 for place in pair):
                    raise DataError(f"{path}: bag {number} holds {pair!r}, not a layer and a neuron.")
                rows.append((fact, relation, release.language, *pair, float("nan"), model))
    columns = ["fact", "relation", "language", "layer", "neuron", "share", "model"]
    table = pd.DataFrame(rows, columns=columns).astype({"layer": int, "neuron": int, "share": float})
    bags = pd.DataFrame(facts, columns=BAGS[:3]).assign(prompts=float("nan"), share=float("nan"))
    bags["settled"] = pd.array([pd.NA] * len(bags), "boolean")
    return Refined(table, bags[BAGS], pd.DataFrame(columns=PASSES))


def scores(relation: str = "P108") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Attribution scores of ``T-REx_multilingual``, and the prompts that they belong to (P108 only).

    Returns:
        ``scores`` (prompt, layer, neuron, score; only those of at least ``KEEP`` times the prompt's maximum
        were kept) and ``prompts`` with two columns more: ``tokens``, the pieces that the model saw, and
        ``predicted``. The texts are those pieces, so an unknown word reads ``[UNK]``. A bag's prompts are
        in the six languages, in their order.

    Raises:
        DataError: another relation; a bag that does not hold one prompt per language, with one blank each.
    """
    if relation != "P108":
        raise DataError(f"attribution scores of {relation!r} were not released; those of P108 were.")
    path = place("T-REx_multilingual", f"TREx-all-{relation}.rlt.jsonl")
    rows, kept = [], []
    for number, line in enumerate(read_lines(_file(path))):
        bag = json.loads(line)
        if len(bag) != len(LANGUAGES):
            listed = ", ".join(LANGUAGES)
            raise DataError(
                f"{path}: bag {number} holds {len(bag)} prompts; expected one in each of {listed}."
            )
        # The English wording is "[X] works for [Y] .": its beginning tells which of the two was asked for.
        masked = "subject" if bag[0][0]["tokens"][1] == MASK else "object"
        for language, (seen, metrics) in zip(LANGUAGES, bag, strict=True):
            if seen["tokens"].count(MASK) != 1:
                raise DataError(f"{path}: bag {number}, {language}: {seen['tokens']} should hold one {MASK}.")
            fact, template = f"{relation}:{number}", f"{relation}-{language}-1"
            prompt = f"{fact}/{template}"
            text = " ".join(seen["tokens"][1:-1]).replace(MASK, OBJECT if masked == "object" else SUBJECT)
            asked = (prompt, fact, relation, language, template, text, seen["gold_obj"], masked)
            rows.append((*asked, seen["tokens"], seen["pred_obj"]))
            kept += [(prompt, *triple) for triple in metrics["ig_gold"]]
    table = pd.DataFrame(kept, columns=["prompt", "layer", "neuron", "score"])
    table.attrs["keep"] = KEEP
    return table, pd.DataFrame(rows, columns=[*COLUMNS["prompts"], "tokens", "predicted"])


def written(refined: Refined) -> str:
    """Refined neurons of one relation in the released files' own format, to compare them byte by byte."""
    bags: dict[str, list[list[int]]] = {fact: [] for fact in refined.bags["fact"]}
    for row in refined.neurons.itertuples():
        bags[row.fact].append([int(row.layer), int(row.neuron)])
    return json.dumps(list(bags.values()), indent=2)


def answers(relation: str) -> list[str]:
    """The answer of every ``PARAREL_en`` bag of a relation, in the order of :func:`refined`'s bags."""
    return [answer for _, answer in _json(QUERY_PAIRS)[relation]]


def edit() -> dict[str, float]:
    """The one released result of updating facts (``edit.txt``).

    Returns:
        probabilities, ranks and perplexities before and after, by their names in the file.
    """
    text = _file(place("T-REx_multilingual", "edit.txt")).read_text(encoding="utf-8")
    said = ast.literal_eval(text[: text.index("}") + 1])
    return {name: value for name, value in said.items() if isinstance(value, float)}


def _json(path: str) -> Any:
    """The content of a JSON file of the cache."""
    file = _file(path)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}).") from None


def _file(path: str) -> Path:
    return obtain("released" if path.startswith(REPOSITORY) else "pararel", [path])[0]
