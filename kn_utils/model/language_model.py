"""A language model, its tokenizer, and where its neurons are."""

from __future__ import annotations

import hashlib
import inspect
import json
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from .architectures import ARCHITECTURES, ModelError
from .blocks import BlockEnd, check_blocks
from .rows import Row, Writer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LanguageModel:
    """A transformer with a language-model head, its tokenizer, and where its neurons are.

    Attributes:
        model, tokenizer: the Hugging Face objects, the model in evaluation mode without parameter gradients.
        n_layers, n_neurons: layers, and neurons per layer.
        device: where the weights lie.
        name, revision: its origin, as asked for.
        causal: whether it reads from left to right only.
        ends: per layer, how the block's output follows its neurons (:class:`kn_utils.model.blocks.BlockEnd`).

    Raises:
        ModelError: an architecture that is not in the table, or whose blocks are not as the table says.

    Example:
        >>> from kn_utils import LanguageModel, load_model
        >>> loaded = load_model("mini")
        >>> LanguageModel(loaded.model, loaded.tokenizer, name="mine")
        LanguageModel('mine', bert, 6 layers x 768 neurons)
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, name: str = "in memory", revision: str | None = None
    ) -> None:
        kind = model.config.model_type
        if kind not in ARCHITECTURES:
            raise ModelError(
                f"architecture {kind!r} is not supported; known: {', '.join(ARCHITECTURES)}. To add it, give "
                "kn_utils.model.architectures.ARCHITECTURES a row: its blocks, the second linear map of a "
                "block's feed-forward part, its head."
            )
        self.architecture = ARCHITECTURES[kind].of(model.config)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.revision = tokenizer, name, revision
        self.causal = self.architecture.causal
        if not self.causal and tokenizer.mask_token is None:
            raise ModelError(
                f"the tokenizer of {name!r} has no mask token; {kind} cannot be asked without one."
            )
        self.blocks = list(operator.attrgetter(self.architecture.blocks)(model))
        self.ends = [BlockEnd(block, self.architecture, model.config) for block in self.blocks]
        self.seconds = [end.second for end in self.ends]
        head = self.architecture.head
        self.head = operator.attrgetter(head)(model) if head else model.get_output_embeddings()
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.n_layers = len(self.blocks)
        self.n_neurons = self.ends[0].slots.shape[0]
        check_blocks(self)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.seconds[0].weight.device

    @property
    def hooked(self) -> bool:
        """Whether neurons are being read or changed by hooks, such as those of ``suppress``."""
        return any(second._forward_pre_hooks for second in self.seconds)

    @property
    def norms_output(self) -> bool:
        """Whether blocks normalise a feed-forward output before adding it (no integral then)."""
        return self.architecture.normed_output is not None

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self.seconds[0].weight.dtype

    def __repr__(self) -> str:
        kind = self.model.config.model_type
        return f"LanguageModel({self.name!r}, {kind}, {self.n_layers} layers x {self.n_neurons} neurons)"

    def value_slots(self, layer: int) -> torch.Tensor:
        """A view of the value slots of a layer, shape (neuron, hidden): writing to it edits the model."""
        return self.ends[layer].slots

    @property
    def embeddings(self) -> torch.Tensor:
        """Input word embeddings, shape (token, hidden)."""
        return self.model.get_input_embeddings().weight

    def checksum(self) -> str:
        """A digest of all weights as they are now; an edit of a single one changes it."""
        digest = hashlib.sha256(str(self.dtype).encode())
        whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        for name, weight in self.model.state_dict().items():
            # Sums of bit patterns are exact, whatever order a device adds in.
            digest.update(
                f"{name} {weight.view(whole[weight.element_size()]).sum(dtype=torch.int64).item()}".encode()
            )
        return digest.hexdigest()[:16]

    def reading(self) -> str:
        """A digest of how the model is built and reads texts: its configuration and its tokenizer."""
        config = self.model.config.to_dict()
        for name in ("_name_or_path", "transformers_version", "_commit_hash", "dtype", "torch_dtype"):
            config.pop(name, None)
        tokenizer = self.tokenizer
        if tokenizer.is_fast:
            how = json.loads(tokenizer.backend_tokenizer.to_str())
            how = {part: how[part] for part in how if part not in ("padding", "truncation")}
        else:
            how = {"vocabulary": sorted(tokenizer.get_vocab().items())}
        told = [config, how, tokenizer.special_tokens_map]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def max_length(self) -> int | None:
        """Tokens that a text may have; ``None`` where the model sets no limit."""
        config = self.model.config
        limit = getattr(config, "max_position_embeddings", None)
        return limit - config.pad_token_id - 1 if self.architecture.padded_positions else limit

    def encode(self, prompts: pd.DataFrame, unknown: str = "refuse") -> list[Row]:
        """Prompts as rows of token ids, see :func:`kn_utils.model.rows.encode`."""
        return self.writer(unknown).every(prompts)

    def writer(self, unknown: str = "refuse") -> Writer:
        """What writes prompts in this model's pieces."""
        return Writer(self.tokenizer, causal=self.causal, unknown=unknown, max_length=self.max_length)

    def batch(self, rows: list[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Rows padded on the right: inputs, the blanks' positions, the wanted ids (all on the device).

        Rows of equal length have no mask: some models look at it and so wait for an accelerator.
        """
        pad = self.tokenizer.pad_token_id
        pad = 0 if pad is None else pad
        longest = max(len(row.ids) for row in rows)
        ids = [row.ids + [pad] * (longest - len(row.ids)) for row in rows]
        inputs = {"input_ids": self.tensor(ids)}
        if min(len(row.ids) for row in rows) < longest:
            mask = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
            inputs["attention_mask"] = self.tensor(mask)
        at, wanted = (self.tensor([row.position for row in rows]), self.tensor([row.target for row in rows]))
        return inputs, at, wanted

    def tensor(self, values: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Numbers on the model's device, see :func:`on_device`."""
        return on_device(values, self.device, dtype)

    def logits(
        self, inputs: dict[str, torch.Tensor], positions: torch.Tensor, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits at some positions, shape (position, token); the head sees nothing else.

        Args:
            inputs: from :meth:`batch`.
            positions: where, (position,).
            rows: in which row each of them is, (position,); ``None``: one in every row.
        """
        with self.head_at(positions, rows):
            keep = {"use_cache": False} if self.causal else {}
            return self.model(**inputs, **keep).logits[:, 0]

    @contextmanager
    def head_at(self, positions: torch.Tensor, rows: torch.Tensor | None = None) -> Iterator[None]:
        """Inside, the output head receives only these positions: hidden states (position, 1, hidden)."""

        def narrow(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            index = torch.arange(len(args[0]), device=args[0].device) if rows is None else rows
            return (args[0][index, positions].unsqueeze(1), *args[1:])

        handle = self.head.register_forward_pre_hook(narrow)
        try:
            yield
        finally:
            handle.remove()


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers on a device.

    The host does not wait until an accelerator has done what was asked of it before: it takes them from
    memory that does not move.
    """
    made = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda":
        made = made.pin_memory()
    return made.to(device, non_blocking=True)
