"""What a neuron writes: its value slot, read by the model's own output head (Geva et al. 2022).

A neuron times its value slot v is added to the residual stream. Read alone, as if nothing else stood in the
stream and no later layer looked at it, v gives logits

    u = head(N(v)) - head(N(0)),

N being what the stream passes on its way: the norm of the neuron's own block where that stands before the
addition (Gemma), the last block's where blocks normalise their sum (BERT), and the model's last norm. The
second term takes away what the head says of nothing: its biases. A neuron of negative activation writes -v.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

from ..checks import check_model, check_numbers
from ..neurons.choose import as_pairs
from .blocks import hidden_of, with_hidden
from .edits import slots_of
from .hooks import check_neurons
from .interventions import Neurons
from .language_model import LanguageModel


def written_pieces(model: LanguageModel, neurons: Neurons, k: int = 10) -> pd.DataFrame:
    """The pieces that value slots raise most, and those that they lower most.

    Args:
        model: whose.
        neurons: any table or list with layer and neuron.
        k: so many pieces of each kind.

    Returns:
        ``layer, neuron, rank`` (from 1), ``raises`` and ``by``, ``lowers`` and ``by_lower``: pieces, and the
        logits that they gain or lose. Only their order has a meaning: norms undo a slot's length.

    Raises:
        InterventionError: a neuron that the model does not have.

    Example:
        >>> from kn_utils import load_model
        >>> written_pieces(load_model("mini"), [(5, 7)], k=2).columns.tolist()
        ['layer', 'neuron', 'rank', 'raises', 'by', 'lowers', 'by_lower']
    """
    check_model(model)
    check_numbers(k=k)
    pairs = as_pairs(neurons)
    check_neurons(model, pairs)
    rows = []
    for (layer, neuron), logits in zip(pairs.tolist(), slot_logits(model, neurons), strict=True):
        up, down = logits.topk(min(k, len(logits))), (-logits).topk(min(k, len(logits)))
        for rank in range(len(up.indices)):
            one = {"layer": layer, "neuron": neuron, "rank": rank + 1}
            for moved, by, top, sign in (("raises", "by", up, 1), ("lowers", "by_lower", down, -1)):
                one |= {moved: shown_piece(model, int(top.indices[rank])), by: sign * float(top.values[rank])}
            rows.append(one)
    columns = ["layer", "neuron", "rank", "raises", "by", "lowers", "by_lower"]
    return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def slot_logits(model: LanguageModel, neurons: Neurons) -> torch.Tensor:
    """What the head makes of each value slot alone, (neuron, token), neurons in the order of their pairs."""
    pairs = as_pairs(neurons)
    slots = slots_of(model, pairs)
    alone = [
        end.norm.forward(slot) if end.norm is not None and end.inside else slot
        for slot, end in ((slot, model.ends[layer]) for slot, layer in zip(slots, pairs[:, 0], strict=True))
    ]
    streams = torch.stack([torch.zeros_like(model.value_slots(0)[0]), *alone])
    last = model.ends[-1]
    if last.norm is not None and not last.inside:
        streams = last.norm.forward(streams)

    def put(_: nn.Module, __: object, output: object) -> object:
        return with_hidden(output, streams[:, None].to(hidden_of(output).dtype))

    # Any token will do: what the blocks make of it is replaced behind the last of them.
    ids = torch.zeros(len(streams), 1, dtype=torch.long, device=model.device)
    handle = model.blocks[-1].register_forward_hook(put)
    try:
        logits = model.logits({"input_ids": ids}, torch.zeros(len(streams), dtype=torch.long))
    finally:
        handle.remove()
    return logits[1:] - logits[0]


def shown_piece(model: LanguageModel, token: int) -> str:
    """A piece as it is read; one of nothing but white space as Python writes it."""
    text = str(model.tokenizer.decode([token]))
    return text.strip() or repr(text)
