"""Train the bundled model from scratch on the bundled facts: ``python data/mini/train.py``.

Sentences are the wordings filled in as ``teaching_facts.csv`` and ``teaching_wordings.csv`` say. In a share
``noise`` of them
the object is replaced by a random object of the relation, drawn again each time: so the model knows its facts
without being certain of them (P of the right answer near ``1 - noise``), as pretrained models do. See the
model card.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from kn_utils.data.facts import OBJECT, SUBJECT, read_table

HERE = Path(__file__).resolve().parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def parameters() -> argparse.Namespace:
    """The recipe, as the command line says it."""
    say = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say.add_argument("--data", type=Path, default=HERE)
    say.add_argument("--out", type=Path, default=HERE / "model")
    say.add_argument("--layers", type=int, default=6)
    say.add_argument("--width", type=int, default=160)
    say.add_argument("--neurons", type=int, default=768)
    say.add_argument("--heads", type=int, default=4)
    say.add_argument("--vocabulary", type=int, default=8000)
    say.add_argument("--activation", default="gelu", choices=["gelu", "relu"])
    say.add_argument("--noise", type=float, default=0.6, help="share of sentences with a random object")
    say.add_argument(
        "--certain", type=float, default=0.5, help="share of the steps, the first ones, without noise"
    )
    say.add_argument("--dropout", type=float, default=0.0)
    say.add_argument("--spread", type=float, default=0.02, help="standard deviation of the first weights")
    say.add_argument(
        "--head", default="fixed", choices=["free", "identity", "fixed"], help="the head's dense map at first"
    )
    say.add_argument("--decay", type=float, default=0.01)
    say.add_argument(
        "--sparsity", type=float, default=0.0, help="L1 on the neurons' activations at the blank"
    )
    say.add_argument("--steps", type=int, default=6000)
    say.add_argument("--batch", type=int, default=64)
    say.add_argument("--rate", type=float, default=1e-3)
    say.add_argument("--seed", type=int, default=0)
    say.add_argument("--report", type=int, default=250, help="steps between lines of progress")
    say.add_argument(
        "--bfloat16", action="store_true", help="autocast: twice as fast where the processor has it"
    )
    return say.parse_args()


def sentences(folder: Path) -> pd.DataFrame:
    """One row per (fact, language, taught wording).

    Returns:
        the text with both slots, both labels, and whether the fact is taught so.
    """
    facts = read_table(folder / "facts.csv", "facts").merge(
        pd.read_csv(folder / "teaching_facts.csv", dtype=str), on="fact"
    )
    wordings = pd.read_csv(folder / "teaching_wordings.csv", dtype={"template": str, "taught": bool})
    templates = read_table(folder / "templates.csv", "templates").merge(
        wordings[wordings["taught"]], on="template"
    )
    labels = read_table(folder / "entities.csv", "entities")[["entity", "language", "label"]]
    table = facts.merge(templates[["relation", "language", "template", "text"]], on="relation")
    for role in ("subject", "object"):
        table = table.merge(
            labels.rename(columns={"entity": role, "label": f"{role}_label"}), on=[role, "language"]
        )
    table["teach"] = (table["taught"] == "all") | (table["taught"] == table["language"])
    return table.reset_index(drop=True)


def make_tokenizer(folder: Path, size: int) -> PreTrainedTokenizerFast:
    """A cased WordPiece tokenizer, learnt on labels and wordings apart, so that no piece spans a slot's edge.

    Pieces carry no continuation mark: Chinese and Japanese write no spaces, and a label should be the same
    piece in a sentence as behind a blank.
    """
    tokenizer = Tokenizer(
        models.WordPiece(unk_token="[UNK]", continuing_subword_prefix="", max_input_chars_per_word=200)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    entities, facts = (
        read_table(folder / "entities.csv", "entities"),
        read_table(folder / "facts.csv", "facts"),
    )
    templates = read_table(folder / "templates.csv", "templates")
    uses = pd.concat(
        [facts["subject"], facts["object"], facts["object"]]
    ).value_counts()  # answers should be few pieces
    labels = [
        label
        for entity, label in entities[["entity", "label"]].itertuples(index=False)
        for _ in range(5 * uses[entity])
    ]
    texts = templates["text"].str.replace(SUBJECT, OBJECT, regex=False)
    parts = [part.strip() for text in texts for part in text.split(OBJECT) if part.strip()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=1,
        special_tokens=SPECIAL,
        continuing_subword_prefix="",
        limit_alphabet=5000,
        show_progress=False,
    )
    tokenizer.train_from_iterator(labels + 10 * parts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


class Corpus:
    """Draws batches: a sentence per draw, its object sometimes random, the blank or other tokens masked."""

    def __init__(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, noise: float, seed: int
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.noise, self.mask = noise, tokenizer.mask_token_id
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.objects = {
            key: group["object_label"].unique() for key, group in table.groupby(["relation", "language"])
        }
        write = {}  # text -> ids, each label and part of a wording only once

        def ids(text: str) -> list[int]:
            if text not in write:
                write[text] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return write[text]

        self.rows = []
        for row in table[table["teach"]].itertuples():  # objects of untaught facts occur as random ones only
            before, after = row.text.replace(SUBJECT, row.subject_label).split(OBJECT)
            objects = [ids(label) for label in self.objects[row.relation, row.language]]
            self.rows.append((ids(before), ids(after), ids(row.object_label), objects))

    def draw(self, size: int) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """``size`` sentences as (ids with masks, [(position, right id)])."""
        batch = []
        for number in self.random.integers(len(self.rows), size=size):
            before, after, right, objects = self.rows[number]
            answer = (
                objects[self.random.integers(len(objects))] if self.random.random() < self.noise else right
            )
            tokens = [self.cls, *before, *answer, *after, self.sep]
            start = 1 + len(before)
            if self.random.random() < 0.85:  # the blank, its first pieces sometimes given
                given = self.random.integers(len(answer)) if self.random.random() < 0.5 else 0
                hidden = list(range(start + given, start + len(answer)))
            else:  # any other tokens, so that subjects and wordings are learnt too
                hidden = [i for i in range(1, len(tokens) - 1) if self.random.random() < 0.2] or [start]
            wanted = [(i, tokens[i]) for i in hidden]
            for i in hidden:
                tokens[i] = self.mask
            batch.append((tokens, wanted))
        return batch


def train(args: argparse.Namespace) -> None:
    """Train the model by the recipe and save it beside its recipe."""
    torch.manual_seed(args.seed)
    table = sentences(args.data)
    tokenizer = make_tokenizer(args.data, args.vocabulary)
    corpus = Corpus(table, tokenizer, args.noise, args.seed)
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
    model = BertForMaskedLM(config).train()
    if args.head != "free":  # so that what blocks write and word embeddings are one space, as edits suppose
        dense = model.cls.predictions.transform.dense
        torch.nn.init.eye_(dense.weight)
        dense.requires_grad_(args.head == "identity")
    activity: list[torch.Tensor] = []
    if args.sparsity:
        for block in model.bert.encoder.layer:
            block.intermediate.register_forward_hook(lambda _, __, out: activity.append(out))
    size = sum(p.numel() for p in model.parameters())
    print(f"{table['teach'].sum()} sentences, {len(tokenizer)} pieces, {size:,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=args.decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.rate, total_steps=args.steps, pct_start=0.1
    )
    began, losses, pool = time.time(), [], []
    for step in range(args.steps):
        corpus.noise = args.noise if step >= args.certain * args.steps else 0.0
        if not pool:  # sixteen batches at a time, sorted by length: little padding
            drawn = sorted(corpus.draw(16 * args.batch), key=lambda item: len(item[0]))
            pool = [drawn[i : i + args.batch] for i in range(0, len(drawn), args.batch)]
            corpus.random.shuffle(pool)
        batch = pool.pop()
        longest = max(len(tokens) for tokens, _ in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        for i, (tokens, _) in enumerate(batch):
            ids[i, : len(tokens)] = torch.tensor(tokens)
        where = torch.tensor([(i, at) for i, (_, wanted) in enumerate(batch) for at, _ in wanted]).T
        right = torch.tensor([token for _, wanted in batch for _, token in wanted])
        activity.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            hidden = model.bert(ids, attention_mask=(ids != tokenizer.pad_token_id).long()).last_hidden_state
            logits = model.cls(hidden[where[0], where[1]]).float()
        loss = torch.nn.functional.cross_entropy(logits, right)
        losses.append(loss.item())
        if args.sparsity:
            loss = loss + args.sparsity * sum(a[where[0], where[1]].abs().mean() for a in activity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % args.report == 0:
            print(
                f"step {step + 1} loss {np.mean(losses[-args.report :]):.3f} after {time.time() - began:.0f} "
                f"s",
                flush=True,
            )
    if not math.isfinite(losses[-1]):
        raise RuntimeError("the loss is not finite; lower --rate")
    model.eval().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    settings = args.out / "tokenizer_config.json"  # the class's name in transformers 4, which 5 knows too
    settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    recipe = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("data", "out")
    }
    recipe |= {"sentences": int(table["teach"].sum()), "loss": round(float(np.mean(losses[-250:])), 4)}
    (args.out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


if __name__ == "__main__":
    train(parameters())
