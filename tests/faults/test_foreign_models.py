"""Models as people have them: each that cannot be read ends in one line that says how to go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from transformers import AutoTokenizer

from kn_utils import answer_probability, load_model
from kn_utils.model.architectures import ModelError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small whole model."""
    model = make_model(dtype=torch.float32)
    model.model.save_pretrained(tmp_path / "m")
    model.tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_adapter_is_to_be_merged(folder):
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}'
    )
    (folder / "adapter_model.safetensors").write_bytes(b"")
    said = refused(folder)
    assert "adapter (LoRA) for owner/base" in said and "merge_and_unload" in said


def test_weights_as_pickles_alone_are_to_be_converted(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refused(folder)
    assert "only as pytorch_model.bin" in said and "save_pretrained(folder) writes model.safetensors" in said


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
    ],
)
def test_weights_of_a_few_bits_are_refused(folder, told, kind):
    change(folder / "config.json", quantization_config=told)
    said = refused(folder)
    assert f"is quantised ({kind})" in said and "GGUF" in said


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["Ouagadougou"])
    tokenizer.save_pretrained(folder)
    said = refused(folder)
    assert f"token {size} ('Ouagadougou')" in said and f"the model {size} embeddings" in said


def test_a_special_token_of_no_use_here_may_lie_behind_the_table(folder, prompts):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert len(answer_probability(load_model(str(folder), device="cpu"), prompts, progress=False))


def test_a_mask_behind_the_table_is_refused(folder):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(folder)
    assert "('<mask>')" in refused(folder)


@pytest.mark.parametrize("package", ["fugashi", "sentencepiece"])
def test_a_package_that_a_tokenizer_needs_is_named(folder, monkeypatch, package):
    def lacking(*given: object, **options: object) -> None:
        raise ImportError(
            f"You need to install {package} to use this tokenizer.\nSee https://x.org", name=package
        )

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lacking)
    assert f"pip install {package}" in refused(folder)


def test_a_japanese_tokenizer_names_its_package_in_truth(folder, monkeypatch):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    told = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "mecab",
        "subword_tokenizer_type": "wordpiece",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "東京", "首都"])
    )
    monkeypatch.setitem(sys.modules, "fugashi", None)
    assert "pip install fugashi" in refused(folder)


def test_a_sentencepiece_file_alone(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    (folder / "tokenizer.model").write_bytes(b"no model")
    said = refused(folder)
    assert "tokenizer" in said and ("SentencePiece" in said or "pip install" in said)


@pytest.mark.parametrize("name", ["~/nowhere", "./nowhere", "no\0where", " "])
def test_names_of_nothing(name):
    with pytest.raises(ValueError) as caught:
        load_model(name)
    assert type(caught.value).__module__.startswith("kn_utils") and "\n" not in str(caught.value)
