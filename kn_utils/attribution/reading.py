"""Neurons as they are: activations at the blank, and where paths start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import nn

from ..model.hooks import read_at
from ..model.language_model import LanguageModel
from ..model.memory import in_parts, rows_at_once
from ..model.rows import Row
from .precision import computing_in
from .quadrature import AttributionError
from .targets import Target

CONTENT, RELATION_MEAN = "replacement-content", "relation-mean"
BASELINES = ("zero", "replacement", "replacement-each", CONTENT, RELATION_MEAN)


def exact_type(model: LanguageModel) -> torch.dtype:
    """What scores and points are computed in: at least float32."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def read_neurons(
    model: LanguageModel, rows: list[Row], precision: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations at the blank (row, layer, neuron) and P(answer) (row,), without gradients."""
    inputs, at, _ = model.batch(rows)
    exact, target = exact_type(model), Target(model, rows)
    with torch.no_grad(), computing_in(model, precision), target.installed(), read_at(model, at) as values:
        logits = model.logits(inputs, at).to(exact)
    p = target.value(logits, torch.arange(len(rows), device=at.device))
    return torch.stack(values, 1).to(exact), p


def path_starts(
    model: LanguageModel, rows: list[Row], layers: list[int], baseline: str
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Where the paths start, and each path's share in the mean.

    Returns:
        (path, row, layer, neuron), ``None`` for zero; (path, row).
    """
    dtype = exact_type(model)
    whole = torch.ones(1, len(rows), dtype=dtype, device=model.device)
    if baseline == "zero":
        return None, whole
    if baseline == RELATION_MEAN:
        if any(row.start is None for row in rows):
            raise AttributionError(f"baseline={RELATION_MEAN!r} needs rows with starts of their own.")
        own = torch.stack([torch.as_tensor(row.start)[layers] for row in rows])
        return own.to(model.device, dtype).unsqueeze(0), whole
    put = model.tokenizer.eos_token_id if model.causal else model.tokenizer.mask_token_id
    if put is None:
        raise AttributionError(
            f"baseline={baseline!r} needs an end-of-text token, which this tokenizer lacks."
        )
    texts = []
    for row in rows:
        places = content(model, row) if baseline == CONTENT else range(len(row.ids))
        replaced = [replace(row, ids=[*row.ids[:t], put, *row.ids[t + 1 :]]) for t in places]
        inputs, at, _ = model.batch(replaced)
        with torch.no_grad(), read_at(model, at) as values:
            model.model.base_model(**inputs, **({"use_cache": False} if model.causal else {}))
        texts.append(torch.stack([values[layer] for layer in layers], 1).to(dtype))
    if baseline != "replacement-each":
        return torch.stack([values.mean(0) for values in texts]).unsqueeze(0), whole
    share = [
        torch.full((len(values),), 1 / len(values), dtype=dtype, device=model.device) for values in texts
    ]
    # A shorter text is filled up with paths from zero, of no share.
    return nn.utils.rnn.pad_sequence(texts), nn.utils.rnn.pad_sequence(share)


def content(model: LanguageModel, row: Row) -> list[int]:
    """Places of a row's tokens that are neither special nor where the answer is asked for.

    Replaced at the blank itself, a masked model's text stays what it is; and a left-to-right model's has its
    last token changed, from which it answers.
    """
    special = set(model.tokenizer.all_special_ids)
    places = [t for t, piece in enumerate(row.ids) if t != row.position and piece not in special]
    if not places:
        raise AttributionError(
            f"baseline={CONTENT!r}: a text of {len(row.ids)} tokens has none to replace beside special "
            "ones and its blank; leave it out, or use baseline='replacement'."
        )
    return places


def from_relation_means(
    model: LanguageModel,
    prompts: pd.DataFrame,
    encode: Callable[[pd.DataFrame], list[Row]],
    precision: str | None = None,
) -> Callable[[pd.DataFrame], list[Row]]:
    """The same way from prompts to rows, whose paths start at :func:`relation_means` of these prompts."""
    own: list[list[Row]] = [[] for _ in range(len(prompts))]
    for row in encode(prompts):
        own[row.prompt].append(row)
    means = relation_means(model, prompts, own, precision)

    def started(part: pd.DataFrame) -> list[Row]:
        facts = part["fact"].to_numpy()
        return [replace(row, start=means[facts[row.prompt]]) for row in encode(part)]

    return started


def relation_means(
    model: LanguageModel, prompts: pd.DataFrame, rows: Sequence[list[Row]], precision: str | None = None
) -> dict[str, torch.Tensor]:
    """Of every fact the mean activation at the blanks of its relation's other facts.

    Args:
        model: whose.
        prompts: ``fact, relation``.
        rows: of each prompt, one per piece of its answer; every piece's blank counts alike.
        precision: of the matrix products.

    Returns:
        fact -> (layer, neuron), on the CPU.

    Raises:
        AttributionError: a relation with one fact.
    """
    lonely = prompts.groupby("relation", sort=False)["fact"].nunique()
    if (lonely < 2).any():
        raise AttributionError(
            f"baseline={RELATION_MEAN!r}: relation {lonely.index[lonely < 2][0]} has one fact among these "
            "prompts, so there is no other to take the mean of; give several facts of each relation."
        )
    facts, relations = list(prompts["fact"]), list(prompts["relation"])
    total = {name: torch.zeros(model.n_layers, model.n_neurons, dtype=torch.float64) for name in set(facts)}
    number = dict.fromkeys(total, 0)
    asked = [(row, fact) for own, fact in zip(rows, facts, strict=True) for row in own]
    asked.sort(key=lambda pair: len(pair[0].ids))

    def read(part: Sequence[tuple[Row, str]]) -> torch.Tensor:
        return read_neurons(model, [row for row, _ in part], precision)[0].double().cpu()

    for part, values in in_parts(read, asked, rows_at_once(model)):
        for (_, fact), one in zip(part, values, strict=True):
            total[fact] += one
            number[fact] += 1
    of = dict(zip(facts, relations, strict=True))
    members: dict[str, list[str]] = {}
    for fact, relation in of.items():
        members.setdefault(relation, []).append(fact)
    means: dict[str, torch.Tensor] = {}
    for own in members.values():
        every, count = sum(total[fact] for fact in own), sum(number[fact] for fact in own)
        means |= {fact: (every - total[fact]) / (count - number[fact]) for fact in own}
    return means
