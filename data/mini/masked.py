"""The masked half of the bundled default, a small BERT: what it is, what it learns of a sentence."""

from __future__ import annotations

import argparse

import torch
from corpus import Corpus
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast


class MaskedCorpus(Corpus):
    """Sentences with the blank or other tokens masked."""

    def draw(self, size: int) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """``size`` sentences as (ids with masks, [(position, right id)])."""
        batch = []
        for told in self.told(size):
            tokens = [self.begin, *told.before, *told.answer, *told.after, self.end]
            start = 1 + len(told.before)
            if self.random.random() < 0.85:  # the blank, its first pieces sometimes given
                given = self.random.integers(len(told.answer)) if self.random.random() < 0.5 else 0
                hidden = list(range(start + given, start + len(told.answer)))
            else:  # any other tokens, so that subjects and wordings are learnt too
                hidden = [i for i in range(1, len(tokens) - 1) if self.random.random() < 0.2] or [start]
            wanted = [(i, tokens[i]) for i in hidden]
            for i in hidden:
                tokens[i] = self.mask
            batch.append((tokens, wanted))
        return batch


def make_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> BertForMaskedLM:
    """The untrained model."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.neurons,
        hidden_act=args.activation,
        max_position_embeddings=64,
        type_vocab_size=1,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=args.spread,
    )
    model = BertForMaskedLM(config)
    if args.head != "free":  # so that what blocks write and word embeddings are one space, as edits suppose
        dense = model.cls.predictions.transform.dense
        torch.nn.init.eye_(dense.weight)
        dense.requires_grad_(args.head == "identity")
    return model


def hidden_states(model: BertForMaskedLM, ids: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """What the last layer writes, (row, token, hidden)."""
    return model.bert(ids, attention_mask=there).last_hidden_state


def head(model: BertForMaskedLM, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states."""
    return model.cls(hidden)


def second_maps(model: BertForMaskedLM) -> list[torch.nn.Module]:
    """The modules whose inputs are neurons, layer by layer."""
    return [block.output.dense for block in model.bert.encoder.layer]
