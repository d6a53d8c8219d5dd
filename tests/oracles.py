"""Slow and plain versions of what the package computes, written from the definitions and sharing no code with it."""

from __future__ import annotations

import torch


def probability_with(
    model, ids: list[int], position: int, target: int, layer: int, neurons: torch.Tensor
) -> torch.Tensor:
    """P(target) with a layer's neurons at the blank set to a vector; one unpadded forward pass."""

    def put(_, args):
        value = args[0].clone()
        value.view(-1, value.shape[-1])[position] = neurons  # one row: OPT passes it without its batch axis
        return (value, *args[1:])

    handle = model.seconds[layer].register_forward_pre_hook(put)
    try:
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, position]
    finally:
        handle.remove()
    return logits.softmax(-1)[target]


def neurons_at(model, ids: list[int], position: int, layer: int) -> torch.Tensor:
    seen = []
    second = model.seconds[layer]
    handle = second.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].flatten(0, -2)[position].detach().clone())
    )
    try:
        model.model(input_ids=torch.tensor([ids]))
    finally:
        handle.remove()
    return seen[0]


def plain_scores(
    model, ids: list[int], position: int, target: int, points: list[float], weights: list[float]
) -> torch.Tensor:
    """Equation 6 of Dai et al. as a loop over layers and points: (layer, neuron)."""
    layers = []
    for layer in range(model.n_layers):
        w = neurons_at(model, ids, position, layer)
        total = torch.zeros_like(w)
        for a, c in zip(points, weights, strict=True):
            leaf = (a * w).requires_grad_()
            with torch.enable_grad():
                p = probability_with(model, ids, position, target, layer, leaf)
            total += c * torch.autograd.grad(p, leaf)[0]
        layers.append(w * total)
    return torch.stack(layers)
