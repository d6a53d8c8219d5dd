"""Which texts switch a fact's knowledge neurons on (Dai et al. 2022, section 4.3, tables 3 and 4).

Sentences about a fact have a blank (:mod:`kn_utils.data.blanks`), and the fact's neurons are read there. The
blank is as long as what it hides (a mask per piece, as in our prompts) and is read at its first mask; the
papers' answers have one piece.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..attribution.reading import read_neurons
from ..base import QUIET, StudyError
from ..data.facts import OBJECT
from ..model.language_model import LanguageModel
from ..model.memory import rows_at_once
from ..model.rows import Row, encode

COLUMNS = ["prompt", "passage", "fact", "relation", "sentences", "neurons", "layer", "neuron", "activation"]


class ActivatingError(StudyError):
    """Activations that were not read, or cannot be."""


def activations(
    model: LanguageModel,
    blanks: pd.DataFrame,
    neurons: Mapping[str, pd.DataFrame],
    *,
    masks: str = "pieces",
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Read every fact's neurons at the blanks of its sentences (after the non-linearity, with their sign).

    Args:
        model: whose.
        blanks: :func:`kn_utils.data.blanks.find_blanks`.
        neurons: kind -> table ``fact, layer, neuron``.
        masks: ``pieces``: as many as the hidden word has pieces; ``one``, as published.

    Returns:
        ``prompt, passage, fact, relation, sentences, neurons, layer, neuron, activation``; sentences that the
        model cannot take have no row (:func:`unread`).
    """
    if masks not in ("pieces", "one"):
        raise ActivatingError(f"masks={masks!r}; it is 'pieces' or 'one'.")
    parts = [pd.DataFrame(columns=["fact", "layer", "neuron", "neurons"])] * (not neurons)
    parts += [table[["fact", "layer", "neuron"]].assign(neurons=kind) for kind, table in neurons.items()]
    kinds = pd.concat(parts, ignore_index=True)
    asked = blanks[blanks["fact"].isin(kinds["fact"])].reset_index(drop=True)
    rows, number = _rows(model, asked, masks)
    if not rows:
        return pd.DataFrame(columns=COLUMNS).astype({"activation": float})
    pairs, held = kinds[["layer", "neuron"]].to_numpy(int), kinds.groupby("fact").indices
    held_by = [held[asked["fact"][n]] for n in number]  # rows of ``kinds``, for each sentence
    batch_size = batch_size or rows_at_once(model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    read: dict[int, np.ndarray] = {}
    for start in tqdm(range(0, len(order), batch_size), desc="read", disable=not progress or QUIET):
        batch = order[start : start + batch_size]
        values = read_neurons(model, [rows[i] for i in batch])[0].cpu().numpy()
        for value, i in zip(values, batch, strict=True):
            layer, neuron = pairs[held_by[i]].T
            read[i] = value[layer, neuron]
    sentence = np.repeat(number, [len(rows_of_kinds) for rows_of_kinds in held_by])
    table = asked[["prompt", "passage", "fact", "relation", "sentences"]].iloc[sentence]
    every = kinds[["neurons", "layer", "neuron"]].iloc[np.concatenate(held_by)]
    table = pd.concat([table.reset_index(drop=True), every.reset_index(drop=True)], axis=1)
    return table.assign(activation=np.concatenate([read[i] for i in range(len(rows))]))


def unread(blanks: pd.DataFrame, neurons: Mapping[str, pd.DataFrame], read: pd.DataFrame) -> pd.DataFrame:
    """The sentences of facts with neurons that :func:`activations` could not read.

    They are too long for the model or hold a mask of their own; for a left-to-right model, nothing stands in
    front of their blank.
    """
    facts = {fact for table in neurons.values() for fact in table["fact"]}
    return blanks[blanks["fact"].isin(facts) & ~blanks["prompt"].isin(read["prompt"])]


def _rows(model: LanguageModel, blanks: pd.DataFrame, masks: str) -> tuple[list[Row], list[int]]:
    """The first row of every sentence that the model can take, and the sentence's number."""
    limit = model.max_length
    own = model.tokenizer.mask_token
    if model.causal:
        can = ~blanks["text"].str.lstrip().str.startswith(OBJECT)
    else:
        can = ~blanks["text"].str.contains(own, regex=False)
        if masks == "one":  # an answer of one piece, whichever: it is not asked for
            blanks = blanks.assign(answer=own)
    numbers = np.flatnonzero(can)
    rows: dict[int, Row] = {}
    for row in encode(model.tokenizer, blanks[can], causal=model.causal, unknown="allow"):
        rows.setdefault(row.prompt, row)
    kept = [(row, int(numbers[i])) for i, row in rows.items() if limit is None or len(row.ids) <= limit]
    return [row for row, _ in kept], [number for _, number in kept]
