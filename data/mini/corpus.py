"""The sentences that the bundled models are taught, their tokenizer, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kn_utils.data.facts import OBJECT, SUBJECT, read_table

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


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


def make_tokenizer(folder: Path, size: int, *, causal: bool = False) -> PreTrainedTokenizerFast:
    """A cased WordPiece tokenizer, learnt on labels and wordings apart, so that no piece spans a slot's edge.

    Pieces carry no continuation mark: Chinese and Japanese write no spaces, and a label should be the same
    piece in a sentence as behind a blank. Both models have the same pieces with the same ids; texts of a
    ``causal`` one are begun by ``[CLS]`` and not closed, since it goes on with them.
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
    end = "" if causal else " [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A{end}",
        pair=f"[CLS] $A{end} $B:1{end and end + ':1'}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    if causal:
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


class Told(NamedTuple):
    """A sentence as ids: what stands before its object, the object said, what stands behind it."""

    before: list[int]
    answer: list[int]
    after: list[int]
    subject_first: bool


class Corpus:
    """Draws sentences, their object sometimes random; what a kind of model learns of one, it says itself."""

    def __init__(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, noise: float, seed: int
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.noise = noise
        self.begin, self.end, self.mask = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[MASK]"])
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
            first = row.text.index(SUBJECT) < row.text.index(OBJECT)
            self.rows.append((Told(ids(before), ids(row.object_label), ids(after), first), objects))

    def told(self, size: int) -> Iterator[Told]:
        """``size`` sentences, drawn with replacement."""
        for number in self.random.integers(len(self.rows), size=size):
            told, objects = self.rows[number]
            if self.random.random() < self.noise:
                told = told._replace(answer=objects[self.random.integers(len(objects))])
            yield told
