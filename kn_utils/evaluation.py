"""Evaluation: how probable the right answers are, and what an intervention does to them and to everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from .base import StudyError
from .facts import Row
from .interventions import scale
from .models import LanguageModel
from .neurons import pairs_by_fact

#: The two interventions of the papers, and what they multiply neurons by.
BOTH = {"suppress": 0.0, "amplify": 2.0}

#: Columns of a table of effects.
EFFECTS = [
    "prompt", "fact", "relation", "language", "operation", "factor", "neurons", "before", "after", "right_before",
    "right_after", "predicted_before", "predicted_after", "changed",
]  # fmt: skip


class EvaluationError(StudyError):
    """An evaluation that has nothing to measure."""


def rows_at_once(model: LanguageModel) -> int:
    """How many rows go through the model together unless told otherwise: on a processor few, which its caches hold."""
    return 32 if model.device.type == "cpu" else 256


@torch.no_grad()
def ask(
    model: LanguageModel, rows: list[Row], batch_size: int | None = None, neurons: list[np.ndarray] | None = None,
    factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """P(wanted piece), its rank among the vocabulary (1 = top) and the top piece of every row, in the rows' order."""
    batch_size = batch_size or rows_at_once(model)
    p, rank, top = np.zeros(len(rows)), np.zeros(len(rows), int), np.zeros(len(rows), int)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs, at, wanted = model.batch([rows[i] for i in batch])
        acting = nullcontext() if neurons is None else scale(model, [neurons[i] for i in batch], factor)
        with acting:
            logits = model.logits(inputs, at)
        right = logits.gather(1, wanted[:, None])
        chance = logits.double().log_softmax(-1).gather(1, wanted[:, None]).exp()
        p[batch] = chance[:, 0].cpu().numpy()
        rank[batch] = (1 + (logits > right).sum(1)).cpu().numpy()
        top[batch] = logits.argmax(1).cpu().numpy()
    return p, rank, top


def answer_probability(
    model: LanguageModel, prompts: pd.DataFrame, *, batch_size: int | None = None, unknown: str = "refuse"
) -> pd.DataFrame:
    """How probable each prompt's answer is.

    Returns:
        ``prompt, probability, rank, correct, predicted`` in the order of ``prompts``. The probability of an answer of several
        pieces is the product over them, each given those before; ``rank`` (1 = top) is among the vocabulary and missing
        for several pieces; ``correct``: every piece is the model's first choice, so that filling the blanks from left to right
        gives the answer; ``predicted``: the first choices as text.
    """
    rows = model.encode(prompts, unknown)
    p, rank, top = ask(model, rows, batch_size)
    number = np.array([row.prompt for row in rows])
    right = top == np.array([row.target for row in rows])
    starts = np.flatnonzero(np.r_[True, np.diff(number) > 0]) if len(rows) else np.array([], int)
    sizes = np.diff(np.r_[starts, len(rows)])
    table = pd.DataFrame({"prompt": prompts["prompt"].to_numpy()})
    table["probability"] = np.multiply.reduceat(p, starts) if len(rows) else []
    table["rank"] = pd.array(
        [int(rank[s]) if n == 1 else pd.NA for s, n in zip(starts, sizes, strict=True)], dtype="Int64"
    )
    table["correct"] = np.logical_and.reduceat(right, starts) if len(rows) else []
    table["predicted"] = [model.tokenizer.decode(top[s : s + n].tolist()) for s, n in zip(starts, sizes, strict=True)]
    return table.astype({"prompt": "str", "correct": bool, "predicted": "str"})  # also where there is no prompt


def draw(prompts: pd.DataFrame, wordings: int = 1, *, facts: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Some prompts of a table: of every fact so many wordings, of every relation at most so many facts, drawn by the seed."""
    mixed = prompts.sample(frac=1, random_state=seed)
    if facts is not None:
        chosen = mixed.drop_duplicates("fact").groupby("relation", sort=False).head(facts)["fact"]
        mixed = mixed[mixed["fact"].isin(chosen)]
    return mixed.groupby("fact", sort=False).head(wordings).sort_index().reset_index(drop=True)


def perplexity(probability: Sequence[float]) -> float:
    """exp of the mean of -ln P(answer)."""
    return float(np.exp(-np.log(np.asarray(probability, dtype=float)).mean()))


def effects(
    model: LanguageModel, prompts: pd.DataFrame, neurons: pd.DataFrame, *, operation: str = "suppress", factor: float | None = None,
    kind: str = "knowledge", source: Sequence[str | None] | None = None, before: pd.DataFrame | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Ask every prompt with and without its fact's neurons scaled; many facts share a batch.

    Args:
        operation: ``suppress`` (factor 0) or ``amplify`` (factor 2 unless given).
        kind: what the neurons are (knowledge, activation, random), for the table.
        source: the fact whose neurons act on each prompt (:func:`other_fact`); its own when left out.
        before: :func:`answer_probability` of the prompts, where it is known already.

    Returns:
        effects ``prompt, fact, relation, language, operation, factor, neurons, before, after`` for the prompts whose source has
        a neuron; ``right_before, right_after``: whether the right answer is the first choice; ``predicted_before,
        predicted_after``: the first choice as text, and ``changed``: whether it is another one.
    """
    if operation not in BOTH:
        raise EvaluationError(f"operation={operation!r}; it is 'suppress' or 'amplify'.")
    if before is not None and before["prompt"].tolist() != prompts["prompt"].tolist():
        raise EvaluationError("before is not of these prompts in this order; pass answer_probability(model, prompts).")
    factor = BOTH[operation] if factor is None else factor
    sets = pairs_by_fact(neurons)
    source = prompts["fact"].to_numpy() if source is None else np.asarray(source, dtype=object)
    if len(source) != len(prompts):
        raise EvaluationError(f"{len(source)} sources for {len(prompts)} prompts; each prompt needs one.")
    has = np.array([fact in sets for fact in source], bool)
    asked = prompts[has].reset_index(drop=True)
    if asked.empty:
        raise EvaluationError("none of these prompts' facts has a neuron; lower the threshold or the share.")
    known = answer_probability(model, asked, batch_size=batch_size) if before is None else before[has]
    rows = model.encode(asked)
    acting = source[has]
    p, _, top = ask(model, rows, batch_size, [sets[acting[row.prompt]] for row in rows], factor)
    number = [row.prompt for row in rows]
    after, right = np.ones(len(asked)), np.ones(len(asked), bool)
    np.multiply.at(after, number, p)
    np.logical_and.at(right, number, top == np.array([row.target for row in rows]))
    first: list[list[int]] = [[] for _ in range(len(asked))]
    for row, piece in zip(rows, top.tolist(), strict=True):
        first[row.prompt].append(piece)
    table = pd.DataFrame(
        {
            **{name: asked[name] for name in ("prompt", "fact", "relation", "language")},
            "operation": operation, "factor": float(factor), "neurons": kind,
            "before": known["probability"].to_numpy(), "after": after,
            "right_before": known["correct"].to_numpy(), "right_after": right,
            "predicted_before": known["predicted"].to_numpy(), "predicted_after": [model.tokenizer.decode(x) for x in first],
        }
    )  # fmt: skip
    return table.assign(changed=table["predicted_before"] != table["predicted_after"])


def effects_by_kind(
    model: LanguageModel, prompts: pd.DataFrame, kinds: Mapping[str, pd.DataFrame], *, operations: Mapping[str, float] = BOTH,
    source: Sequence[str | None] | None = None, before: pd.DataFrame | None = None, batch_size: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """:func:`effects` of every kind of neurons (name -> neurons) under every operation (name -> factor), one below the other.

    A kind without a neuron for any of these prompts is left out (the activation baseline may be empty).
    """
    acting = prompts["fact"] if source is None else source
    kinds = {kind: neurons for kind, neurons in kinds.items() if neurons["fact"].isin(acting).any()}
    if not kinds:
        raise EvaluationError("no kind of neurons has one for these prompts' facts; lower the threshold or the share.")
    before = answer_probability(model, prompts, batch_size=batch_size) if before is None else before
    options = {"source": source, "before": before, "batch_size": batch_size}
    tables = [
        effects(model, prompts, neurons, operation=operation, factor=factor, kind=kind, **options)
        for kind, neurons in kinds.items()
        for operation, factor in operations.items()
    ]
    return pd.concat(tables, ignore_index=True)


def other_fact(
    prompts: pd.DataFrame, neurons: pd.DataFrame, *, relation: str = "other", answer: str = "any", seed: int = 0
) -> np.ndarray | None:
    """For each prompt another fact, whose neurons shall act on it: the same one for a fact's whole bag, drawn by the seed.

    Args:
        neurons: only facts that have some are drawn.
        relation: ``"same"`` or ``"other"`` than the prompt's.
        answer: ``"same"``, ``"other"`` or ``"any"``. With ``"other"`` no fact is taken whose prompts ask for the same answer (a
            neighbour in the relation may have it: then it is hardly another fact). Answers are compared as they are written
            in ``prompts``, language by language.

    Returns:
        facts in the order of ``prompts``, None where there is no such fact; None if there is none for any of them.
    """
    if relation not in ("same", "other") or answer not in ("same", "other", "any"):
        raise EvaluationError(
            f"relation={relation!r}, answer={answer!r}; relation is 'same' or 'other', answer 'same', 'other' or 'any'."
        )
    random = np.random.default_rng(seed)
    owner = neurons.drop_duplicates("fact").set_index("fact")["relation"]
    alike: dict[str, set[str]] = {fact: set() for fact in prompts["fact"]}
    for _, facts in prompts.groupby(["language", "answer"])["fact"]:
        for fact in (members := set(facts)):
            alike[fact] |= members
    pools: dict[str, pd.Index] = {}
    drawn: dict[str, str | None] = {}
    for fact, own in prompts.drop_duplicates("fact")[["fact", "relation"]].itertuples(index=False):
        if own not in pools:
            pools[own] = owner.index[(owner == own) == (relation == "same")]
        pool = pools[own][pools[own] != fact]
        if answer != "any":
            pool = pool[pool.isin(alike[fact]) == (answer == "same")]
        drawn[fact] = pool[random.integers(len(pool))] if len(pool) else None
    if not any(drawn.values()):
        return None
    return np.array([drawn[fact] for fact in prompts["fact"]], dtype=object)


def effects_of_other_facts(
    model: LanguageModel, prompts: pd.DataFrame, kinds: Mapping[str, pd.DataFrame], own: pd.DataFrame | None = None, *,
    operations: Mapping[str, float] = BOTH, before: pd.DataFrame | None = None, batch_size: int | None = None, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Is it the fact, its relation or its answer that neurons carry? Prompts under the neurons of one other fact each.

    Args:
        kinds: name -> neurons; the other facts are drawn (:func:`other_fact`) among those of the first kind.
        own: effects of the facts' own neurons: those of the first kind on the same prompts are put beside, as kind ``its own``.

    Returns:
        effects with ``relation_is, answer_is``: ``same`` or ``other`` than the prompt's. Combinations without a pair of facts
        are not there (one relation only, or every answer another); with none at all the table is empty.
    """
    first = next(iter(kinds))
    tables = [pd.DataFrame(columns=["relation_is", "answer_is", *EFFECTS])]
    for relation, answer in (("same", "other"), ("other", "other"), ("same", "same"), ("other", "same")):
        source = other_fact(prompts, kinds[first], relation=relation, answer=answer, seed=seed)
        if source is None:
            continue
        options = {"operations": operations, "source": source, "before": before, "batch_size": batch_size}
        parts = [effects_by_kind(model, prompts, kinds, **options)]
        if own is not None:
            beside = own[own["prompt"].isin(parts[0]["prompt"]) & (own["neurons"] == first)]
            parts.append(beside.assign(neurons="its own"))
        tables.append(pd.concat(parts).assign(relation_is=relation, answer_is=answer))
    return pd.concat(tables[1:] or tables, ignore_index=True)
