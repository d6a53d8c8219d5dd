"""Edits of value slots: the published formula, training as an upper reference, erasing.

Each is an object that says what is added to the slots of a fact's neurons; how that is put into effect is
no concern of it.

:func:`kn_utils.model.hooks.slots_changed` puts it in batch by batch, :mod:`kn_utils.model.interventions` into
the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..checks import ParameterError, Range, check_numbers
from .hooks import InterventionError, SlotChange, check_neurons, read_at, slots_changed
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .rows import Row, answer_pieces

FACTS = 32  # trained at once, at most,
LOGITS = 2**28  # and not more than whose questions' logits take so many bytes


@dataclass(frozen=True)
class Request:
    """A fact to edit; an edit uses of it what it needs.

    Attributes:
        neurons: those to edit, (n, 2): layer and neuron.
        old, new: the answers; several names of one thing (in several languages) may be given as one answer.
        rows: the question, asked for the new answer.
    """

    neurons: np.ndarray
    old: str | Sequence[str] = ""
    new: str | Sequence[str] = ""
    rows: list[Row] = field(default_factory=list)


class Edit(Protocol):
    """Something that says how the slots of a fact's neurons change."""

    def changes(self, model: LanguageModel, requests: Sequence[Request]) -> list[SlotChange]:
        """What is added to the slots of each requested fact."""
        ...

    @property
    def settings(self) -> dict[str, float | bool | str]:
        """What a table says of the edit."""
        ...


@dataclass(frozen=True)
class ValueEdit:
    """The published update (Dai et al. 2022, section 5.1; norms as in their code).

    A value slot v_i moves away from the old answer and towards the new one::

        v_i <- v_i - l1 |v_i| e(old) / |e(old)| + l2 |v_i| e(new) / |e(new)|

    e is the input word embedding, of an answer of several pieces their mean; of several answers it is the
    mean of their unit vectors.

    Attributes:
        l1, l2: how far, in units of the slot's own length.
        signed: multiply both terms by the sign of the neuron's activation at the question's blank. A slot
            whose neuron is negative there (gated and GELU neurons can be) is otherwise pushed the wrong way.
    """

    l1: float = 1.0
    l2: float = 8.0
    signed: bool = False

    def __post_init__(self) -> None:
        check_numbers(l1=self.l1, l2=self.l2)

    @property
    def settings(self) -> dict[str, float | bool | str]:
        """``l1, l2, signed``."""
        return {"l1": self.l1, "l2": self.l2, "signed": self.signed}

    def changes(self, model: LanguageModel, requests: Sequence[Request]) -> list[SlotChange]:
        """The formula's moves, fact by fact."""
        for request in requests:
            check_neurons(model, request.neurons)
        signs = _signs(model, requests) if self.signed else [None] * len(requests)
        return [self._change(model, *pair) for pair in zip(requests, signs, strict=True)]

    def _change(self, model: LanguageModel, request: Request, sign: torch.Tensor | None) -> SlotChange:
        move = self.l2 * direction(model, request.new) - self.l1 * direction(model, request.old)
        size = slots_of(model, request.neurons).norm(dim=1, keepdim=True)
        return SlotChange(request.neurons, (size if sign is None else size * sign[:, None]) * move)


#: The papers' update, with their force.
PUBLISHED = ValueEdit()


@dataclass(frozen=True)
class FineTune:
    """The slots, and nothing else, trained to give the question's answer: the best that they can do.

    Adam lowers the mean -ln P(piece), v_i + |v_i| d_i / sqrt(hidden) with d = 0 at first, so that a step
    moves a slot by about ``lr`` times its length. It stops once every piece is the first choice, at the
    latest after ``steps``.
    """

    lr: float = 0.5
    steps: int = 25

    def __post_init__(self) -> None:
        check_numbers(lr=self.lr)
        if not Range(0, whole=True).holds(self.steps):
            raise ParameterError(f"steps={self.steps!r}; it is {Range(0, whole=True)}.")

    @property
    def settings(self) -> dict[str, float | bool | str]:
        """``lr, steps``."""
        return {"lr": self.lr, "steps": self.steps}

    def changes(self, model: LanguageModel, requests: Sequence[Request]) -> list[SlotChange]:
        """Train many facts at once: they share forward and backward passes, and each stops by itself."""
        trained: list[SlotChange] = []
        rows = LOGITS // (model.embeddings.shape[0] * model.dtype.itemsize)
        most = max((len(request.rows) for request in requests), default=0)
        at_once = min(FACTS, max(1, rows // max(1, most)))
        for _, changes in in_parts(lambda part: self._train(model, part), requests, at_once):
            trained += changes
        return trained

    def _train(self, model: LanguageModel, requests: Sequence[Request]) -> list[SlotChange]:
        exact = torch.promote_types(model.dtype, torch.float32)
        units, moves = [], []
        optimizers: dict[int, torch.optim.Adam] = {}  # of the facts that have neurons
        for i, request in enumerate(requests):
            check_neurons(model, request.neurons)
            slots = slots_of(model, request.neurons)
            units.append((slots.norm(dim=1, keepdim=True) / slots.shape[1] ** 0.5).to(exact))
            moves.append(torch.zeros_like(slots, dtype=exact))
            if len(slots):
                optimizers[i] = torch.optim.Adam([moves[i]], lr=self.lr)
        learning = list(optimizers)
        for _ in range(self.steps):
            if not learning:
                break
            now = [SlotChange(requests[i].neurons, units[i] * moves[i]) for i in learning]
            slopes, right = _slopes(model, now, [requests[i].rows for i in learning])
            for i, slope in zip(learning, slopes, strict=True):
                moves[i].grad = units[i] * slope
            learning = [i for i, done in zip(learning, right, strict=True) if not done]
            for i in learning:
                optimizers[i].step()
        return [SlotChange(r.neurons, u * d) for r, u, d in zip(requests, units, moves, strict=True)]


@dataclass(frozen=True)
class Erasure:
    """The slots become zero, or (``to="unknown"``) the unknown token's embedding.

    See Dai et al. 2022, section 5.2.
    """

    to: str = "zero"

    def __post_init__(self) -> None:
        if self.to not in ("zero", "unknown"):
            raise InterventionError(f"to={self.to!r}; it is 'zero' or 'unknown'.")

    @property
    def settings(self) -> dict[str, float | bool | str]:
        """``to``."""
        return {"to": self.to}

    def changes(self, model: LanguageModel, requests: Sequence[Request]) -> list[SlotChange]:
        """What turns each slot into zero, or into that embedding."""
        return [self._change(model, request) for request in requests]

    def _change(self, model: LanguageModel, request: Request) -> SlotChange:
        check_neurons(model, request.neurons)
        slots = slots_of(model, request.neurons)
        if self.to == "zero":
            return SlotChange(request.neurons, -slots)
        unknown = model.tokenizer.unk_token_id
        if unknown is None:
            raise InterventionError("the tokenizer has no unknown token; erase with to='zero'.")
        if model.embeddings.shape[1] != slots.shape[1]:
            raise InterventionError(
                "this model's embeddings and value slots differ in size; erase with to='zero'."
            )
        # In float64 the slot plus the difference is the embedding to the last bit.
        return SlotChange(request.neurons, model.embeddings[unknown].double() - slots.double())


def slots_of(model: LanguageModel, neurons: np.ndarray) -> torch.Tensor:
    """The value slots of these (layer, neuron) pairs, (n, hidden)."""
    slots = [model.value_slots(int(layer))[int(neuron)] for layer, neuron in neurons]
    hidden = model.value_slots(0).shape[1]
    return torch.stack(slots) if slots else torch.zeros(0, hidden, dtype=model.dtype, device=model.device)


def length_of_move(model: LanguageModel, change: SlotChange) -> float:
    """How far the slots go, in units of their own length: the mean over them."""
    return float((change.added.norm(dim=1) / slots_of(model, change.neurons).norm(dim=1)).mean())


def direction(model: LanguageModel, answer: str | Sequence[str]) -> torch.Tensor:
    """Unit vector of an answer's embedding, or of the mean of several answers' unit vectors, (hidden,)."""
    if not answer or not (isinstance(answer, str) or all(isinstance(name, str) for name in answer)):
        raise ParameterError(f"answer={answer!r}; it is a text, or a list of one thing's names.")
    if not isinstance(answer, str):
        mean = torch.stack([direction(model, name) for name in answer]).mean(0)
        return mean / mean.norm()
    e = model.embeddings[answer_pieces(model.tokenizer, answer)].mean(0)
    if len(e) != model.value_slots(0).shape[1]:
        raise InterventionError(
            "this model's embeddings and value slots differ in size; facts cannot be updated so."
        )
    return e / e.norm()


@torch.no_grad()
def _signs(model: LanguageModel, requests: Sequence[Request]) -> list[torch.Tensor]:
    """Per fact the sign of each neuron's activation at its question's blank, (n,); of pieces, of their mean.

    Many questions share a forward pass.
    """
    if not all(request.rows for request in requests):
        raise InterventionError("a signed edit needs the question: at its blank the neurons' signs are read.")
    asked = [(i, row) for i, request in enumerate(requests) for row in request.rows]
    active = [torch.zeros(len(request.neurons), dtype=model.dtype) for request in requests]

    def read(part: Sequence[tuple[int, Row]]) -> list[torch.Tensor]:
        inputs, at, _ = model.batch([row for _, row in part])
        with read_at(model, at) as values:
            model.logits(inputs, at)
        return [
            torch.stack([values[layer][k, neuron] for layer, neuron in requests[i].neurons.tolist()])
            if len(requests[i].neurons)
            else torch.zeros(0)
            for k, (i, _) in enumerate(part)
        ]

    for part, values in in_parts(read, asked, rows_at_once(model)):
        for (i, _), value in zip(part, values, strict=True):
            active[i] = active[i].to(value) + value
    return [total.to(model.device).sign() for total in active]


def _slopes(
    model: LanguageModel, changes: list[SlotChange], questions: list[list[Row]]
) -> tuple[tuple[torch.Tensor, ...], list[bool]]:
    """Per fact: how the loss changes with its slots, and whether it is learnt.

    The loss is the mean -ln P of the answer's pieces; it is learnt when all pieces are first choices.
    """
    added = [change.added.detach().requires_grad_() for change in changes]
    each = [SlotChange(change.neurons, leaf) for change, leaf in zip(changes, added, strict=True)]
    owner = [fact for fact, rows in enumerate(questions) for _ in rows]
    inputs, at, wanted = model.batch([row for rows in questions for row in rows])
    with torch.enable_grad(), slots_changed(model, [each[fact] for fact in owner]):
        logits = model.logits(inputs, at)
        loss = nn.functional.cross_entropy(logits.to(added[0].dtype), wanted, reduction="none")
        share = torch.tensor(
            [1 / len(questions[fact]) for fact in owner], dtype=loss.dtype, device=loss.device
        )
        slopes = torch.autograd.grad((loss * share).sum(), added)
    hit = (logits.argmax(1) == wanted).tolist()
    right = [all(h for h, o in zip(hit, owner, strict=True) if o == fact) for fact in range(len(questions))]
    return slopes, right
