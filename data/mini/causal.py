"""The left-to-right half of the bundled default, a small GPT-2: what it is, what it learns of a sentence."""

from __future__ import annotations

import argparse

import torch
from corpus import Corpus
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


class CausalCorpus(Corpus):
    """Sentences read from left to right; the object counts where the subject stands before it."""

    def draw(self, size: int) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """``size`` sentences as (ids, [(position, the id that follows)])."""
        batch = []
        for told in self.told(size):
            tokens = [self.begin, *told.before, *told.answer, *told.after, self.end]
            start = len(told.before)  # the last token before the object
            if told.subject_first and self.random.random() < 0.85:
                asked = list(range(start, start + len(told.answer)))
            else:  # any other tokens, so that wordings, sentences' ends and object-first sentences are learnt
                asked = [i for i in range(len(tokens) - 1) if self.random.random() < 0.2] or [start]
            batch.append((tokens, [(i, tokens[i + 1]) for i in asked]))
        return batch


def make_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """The untrained model."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        n_inner=args.neurons,
        activation_function=args.activation,
        n_positions=64,
        resid_pdrop=args.dropout,
        embd_pdrop=args.dropout,
        attn_pdrop=args.dropout,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=args.spread,
        tie_word_embeddings=True,
    )
    model = GPT2LMHeadModel(config)
    # What blocks write and word embeddings are one space, as edits suppose: no map stands between them.
    model.transformer.ln_f.requires_grad_(args.head != "fixed")
    return model


def hidden_states(model: GPT2LMHeadModel, ids: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """What the last layer writes, (row, token, hidden)."""
    return model.transformer(ids, attention_mask=there, use_cache=False).last_hidden_state


def head(model: GPT2LMHeadModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states."""
    return model.lm_head(hidden)


def second_maps(model: GPT2LMHeadModel) -> list[torch.nn.Module]:
    """The modules whose inputs are neurons, layer by layer."""
    return [block.mlp.c_proj for block in model.transformer.h]
