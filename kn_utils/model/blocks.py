"""The end of a block: how its output follows its neurons, and a check of what the table says of it.

A block adds to its residual stream r what its neurons w write, y = w V + bias, in one of three ways:

    x = r + s y            as it is, or times a fixed s (Granite)
    x = N(r + y)           the sum is normalised (BERT)
    x = r + N(y)           it is normalised before it is added (Gemma 2 and 3, OLMo 2)

So if the neurons at one token move by d, the block's output there is known without running the block again.
Attribution depends on it, so a model whose blocks do something else is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .architectures import Architecture, ModelError

if TYPE_CHECKING:
    from .language_model import LanguageModel


class BlockEnd:
    """What follows a block's neurons.

    Attributes:
        second: the second linear map; its inputs are the neurons.
        norm: the module that normalises the sum, or (``inside``) the second map's output; ``None``: neither.
        factor: what the output is multiplied by before it is added.
    """

    def __init__(self, block: nn.Module, architecture: Architecture, config: Any) -> None:
        norm = architecture.norm or architecture.normed_output
        self.second: Any = operator.attrgetter(architecture.second)(block)
        self.norm: Any = operator.attrgetter(norm)(block) if norm else None
        self.inside = architecture.normed_output is not None
        self.factor = float(getattr(config, architecture.multiplier)) if architecture.multiplier else 1.0

    @property
    def slots(self) -> torch.Tensor:
        """Value slots, a view of shape (neuron, hidden)."""
        weight = self.second.weight
        return weight.T if isinstance(self.second, nn.Linear) else weight  # GPT-2's Conv1D stores it so

    def moved(
        self, output: torch.Tensor, normed: torch.Tensor | None, move: torch.Tensor, held: bool = False
    ) -> torch.Tensor:
        """The block's output at tokens whose neurons have moved.

        Args:
            output: what the block gave there, (row, hidden).
            normed: what ``norm`` received there, (row, hidden); ``None`` without one.
            move: of the neurons, (row, neuron).
            held: the norm of the second map's output keeps the scale that it had.

        Returns:
            (row, hidden), in the type of ``output``.
        """
        slots = self.slots
        written = move.to(slots.dtype) @ slots
        if self.norm is None or normed is None:
            moved = output + self.factor * written
        elif not self.inside:
            moved = self.norm.forward(normed + self.factor * written)  # forward: not through its hooks
        elif held:
            moved = output + self.factor * self._scale(normed) * written
        else:
            moved = output + self.factor * (self.norm.forward(normed + written) - self.norm.forward(normed))
        return moved.to(output.dtype)

    def _scale(self, normed: torch.Tensor) -> torch.Tensor:
        """What a root-mean-square norm multiplies this vector by, (row, hidden): any of its length alike."""
        length = normed.square().mean(-1, keepdim=True).sqrt()
        return self.norm.forward(length.expand_as(normed)) / length


def by_row(values: torch.Tensor, rows: int) -> torch.Tensor:
    """Values as (row, token, value); some blocks fold rows and tokens into one axis."""
    return values if values.ndim == 3 else values.view(rows, -1, values.shape[-1])


def hidden_of(output: Any) -> torch.Tensor:
    """A block's hidden states; some blocks give them with other things."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """A block's output with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


#: Neurons that are silenced and scaled in a check; the most active, so that rounding hides nothing.
CHECKED_NEURONS = 8
#: How far block and shortcut may be apart, of the change in the block's output.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@torch.no_grad()
def check_blocks(model: LanguageModel) -> None:
    """Silence and scale a few neurons of every layer; the block must give what :meth:`BlockEnd.moved` says.

    One pass of four random tokens, three rows: as it is, silenced, scaled. Behind each block all rows go on
    from the first.

    Raises:
        ModelError: a block gives something else, or its hidden states are not finite.
    """
    draw = torch.Generator().manual_seed(0)
    words = model.embeddings.shape[0]
    ids = torch.randint(min(5, words - 1), words, (1, 4), generator=draw).repeat(3, 1).to(model.device)
    keep = {"use_cache": False} if model.causal else {}
    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            stack.enter_context(_checked(model, layer, block))
        model.model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), **keep)


@contextmanager
def _checked(model: LanguageModel, layer: int, block: nn.Module) -> Iterator[None]:
    end, seen = model.ends[layer], dict[str, torch.Tensor]()

    def refusal(what: str, columns: str) -> ModelError:
        kind = model.model.config.model_type
        return ModelError(
            f"{model.name}: layer {layer}: {what}; {columns} of {kind!r} in ARCHITECTURES is wrong, or such "
            "blocks are not supported."
        )

    def change(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        neurons = args[0].clone()
        blank = by_row(neurons, 3)[:, -1]
        w, slots = blank[0].clone(), end.slots
        strongest = w.abs().topk(min(CHECKED_NEURONS, len(w))).indices
        written = (w[strongest] @ slots[strongest]).norm()
        stream = seen["input"].norm()
        blank[1, strongest] = 0
        blank[2, strongest] *= 1 + (stream / written.clamp(min=1e-30)).clamp(0.5, 1e4).to(w.dtype)
        seen["move"] = blank[1:] - w
        return (neurons, *args[1:])

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen["input"] = hidden[0, -1]

    def receive(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen["normed"] = by_row(args[0], 3)[:1, -1]

    def compare(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        x = hidden[:, -1]
        if end.slots.shape[1] != x.shape[1]:
            sizes = f"writes {end.slots.shape[1]} numbers, the hidden states have {x.shape[1]}"
            raise refusal(f"its second map {sizes}", "second")
        normed = seen["normed"].expand(2, -1) if end.norm is not None else None
        shortcut = end.moved(x[:1].expand(2, -1), normed, seen["move"])
        off = (shortcut - x[1:]).float().norm(dim=1)
        changed = (x[1:] - x[:1]).float().norm(dim=1)
        rounding = 8 * torch.finfo(x.dtype).eps * x.float().norm(dim=1)[1:]
        if not torch.isfinite(x).all():
            raise ModelError(
                f"{model.name}: hidden states of layer {layer} are not finite; check its weights."
            )
        wrong = off > TOLERANCE[model.dtype] * changed + rounding
        if wrong.any():
            which = int(wrong.nonzero()[0, 0])
            done = ("silenced", "scaled")[which]
            apart = f"moves by {changed[which]:.3g}, {off[which]:.3g} from what the table says"
            raise refusal(
                f"with neurons {done} the block's output {apart}", "norm, normed_output or multiplier"
            )
        return with_hidden(output, torch.cat([hidden[:1]] * 3))

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(end.second.register_forward_pre_hook(change).remove)
        if end.norm is not None:
            stack.callback(end.norm.register_forward_pre_hook(receive).remove)
        stack.callback(block.register_forward_hook(compare).remove)
        yield
