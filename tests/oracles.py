"""Slow and plain versions of what the package computes, from the definitions, sharing no code with it."""

from __future__ import annotations

import torch


def probability_with(
    model, ids: list[int], position: int, target, layer: int, neurons: torch.Tensor
) -> torch.Tensor:
    """P(target) with a layer's neurons at the blank set to a vector; one unpadded forward pass.

    The target is a piece, or what makes a probability of those of all pieces.
    """

    def put(_, args):
        value = args[0].clone()
        value.view(-1, value.shape[-1])[position] = neurons  # one row: OPT passes it without its batch axis
        return (value, *args[1:])

    handle = model.seconds[layer].register_forward_pre_hook(put)
    try:
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, position]
    finally:
        handle.remove()
    p = logits.softmax(-1)
    return target(p) if callable(target) else p[target]


def every_layer(model, ids: list[int], position: int) -> list[torch.Tensor]:
    """The neurons at the blank, layer by layer; one unpadded forward pass."""
    seen: list[torch.Tensor] = []

    def read(_, args):
        seen.append(args[0].flatten(0, -2)[position].detach().clone())

    handles = [second.register_forward_pre_hook(read) for second in model.seconds]
    try:
        model.model(input_ids=torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return seen  # layers run in their order


def neurons_at(model, ids: list[int], position: int, layer: int) -> torch.Tensor:
    return every_layer(model, ids, position)[layer].clone()


def plain_scores(
    model, ids: list[int], position: int, target, points: list[float], weights: list[float]
) -> torch.Tensor:
    """Equation 6 of Dai et al. as a loop over layers and points: (layer, neuron)."""
    layers = []
    for layer, w in enumerate(every_layer(model, ids, position)):
        total = torch.zeros_like(w)
        for a, c in zip(points, weights, strict=True):
            leaf = (a * w).requires_grad_()
            with torch.enable_grad():
                p = probability_with(model, ids, position, target, layer, leaf)
            total += c * torch.autograd.grad(p, leaf)[0]
        layers.append(w * total)
    return torch.stack(layers)


def scores_from(
    model,
    ids: list[int],
    position: int,
    target: int,
    points: list[float],
    weights: list[float],
    baseline: str,
    token: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Averaged paths, from their definition.

    There is one forward pass per replaced token, one gradient per path, layer and point.

    ``zero``: from 0. ``replacement``: from the mean over t of the neurons at the blank of the text whose
    token t is ``token``. ``replacement-each``: one path from each of these texts, and the mean of the paths'
    scores.

    Returns:
        scores (layer, neuron) with multiplier w - b; with multiplier w; and P(w) - mean P(b), (layer,).
    """
    difference, activation, change = [], [], []
    texts = [ids[:t] + [token] + ids[t + 1 :] for t in range(len(ids))] if baseline != "zero" else []
    others = [every_layer(model, text, position) for text in texts]
    for layer, w in enumerate(every_layer(model, ids, position)):
        starts = [other[layer] for other in others] or [torch.zeros_like(w)]
        if baseline == "replacement":
            starts = [sum(starts) / len(starts)]
        found = torch.zeros(2, len(w), dtype=w.dtype)
        with torch.no_grad():
            moved = probability_with(model, ids, position, target, layer, w)
        for b in starts:
            with torch.no_grad():
                moved = moved - probability_with(model, ids, position, target, layer, b) / len(starts)
            for a, c in zip(points, weights, strict=True):
                leaf = ((1 - a) * b + a * w).requires_grad_()
                with torch.enable_grad():
                    p = probability_with(model, ids, position, target, layer, leaf)
                slope = torch.autograd.grad(p, leaf)[0]
                found += c / len(starts) * torch.stack([(w - b) * slope, w * slope])
        difference.append(found[0])
        activation.append(found[1])
        change.append(moved)
    return torch.stack(difference), torch.stack(activation), torch.stack(change)


def place_of(
    model, before: str, after: str, pieces: list[int], so_far: int, *, open_before: bool = False
) -> tuple[list[int], int]:
    """One unpadded text that asks for the piece behind the first ``so_far`` ones: its token ids, and where.

    ``open_before``: of a masked model the blanks before it stay open.
    """
    tokenizer = model.tokenizer
    if model.causal:
        ids = tokenizer(before.rstrip())["input_ids"] + pieces[:so_far]
        return ids, len(ids) - 1
    ids = tokenizer(before + "[MASK]" * len(pieces) + after)["input_ids"]
    start = ids.index(tokenizer.mask_token_id)
    if not open_before:
        ids[start : start + so_far] = pieces[:so_far]
    return ids, start + so_far


def next_probabilities(model, before: str, after: str, pieces: list[int], so_far: int) -> torch.Tensor:
    """P over the vocabulary of the piece behind the first ``so_far`` ones; one unpadded forward pass."""
    ids, at = place_of(model, before, after, pieces, so_far)
    return model.model(input_ids=torch.tensor([ids])).logits[0, at].double().softmax(-1)


def pieces_of(model, answer: str) -> list[int]:
    """The tokens of an answer, as it stands behind a text."""
    return model.tokenizer(" " + answer if model.causal else answer, add_special_tokens=False)["input_ids"]


def plain_answer(
    model, before: str, after: str, answer: str
) -> tuple[float, list[int], list[int], list[int]]:
    """P(answer) as a product over its pieces, their ranks by sorting, the first choices, and the pieces."""
    p, ranks, first, pieces = 1.0, [], [], pieces_of(model, answer)
    for j, piece in enumerate(pieces):
        each = next_probabilities(model, before, after, pieces, j)
        p *= each[piece].item()
        ranking = each.argsort(descending=True).tolist()
        ranks.append(ranking.index(piece) + 1)
        first.append(ranking[0])
    return p, ranks, first, pieces


def whole_words(model) -> list[str]:
    """Words that the tokenizer keeps in one piece."""
    tokenizer = model.tokenizer
    return sorted(t for t in tokenizer.get_vocab() if t.isalpha() and tokenizer.tokenize(t) == [t])
