"""The bundled left-to-right model: it knows what its masked twin was taught, and its card says what is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from kn_utils import Study, StudyParameters, answer_probability, effects, load_facts, load_model, make_prompts
from kn_utils.base import DATA, ROOT
from kn_utils.data.downloads.identity import BUNDLED
from kn_utils.data.sources.mini import is_taught, mark_teaching
from kn_utils.model.askable import askable
from kn_utils.neurons.choose import random_neurons
from kn_utils.statistics.changes import relative_change

PLACE = BUNDLED["mini-causal"]
MEASURED = pd.read_csv(PLACE / "measured.csv", keep_default_na=False)
CARD = (PLACE / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model():
    return load_model("mini-causal", device="cpu")


@pytest.fixture(scope="module")
def prompts(model):
    """All that it can be asked, marked by teaching; ``one``: its text asks for one answer only."""
    every = make_prompts(load_facts(), "all")
    every = every[(askable(model, every, load_facts())["reason"] == "").to_numpy()]
    before = every["text"].str.partition("[Y]")[0]
    answers = every.groupby([every["language"], before])["answer"].transform("nunique")
    return mark_teaching(every).assign(one=answers == 1)


def answered(model, prompts, n):
    some = prompts.sample(n, random_state=0).reset_index(drop=True)
    return some.merge(answer_probability(model, some, progress=False), on="prompt")


def test_it_is_a_small_left_to_right_model_whose_head_is_its_embeddings(model):
    assert model.causal and model.model.config.model_type == "gpt2"
    assert {weight.dtype for weight in model.model.parameters()} == {torch.float32}
    assert model.embeddings.data_ptr() == model.model.get_output_embeddings().weight.data_ptr()
    norm = model.model.transformer.ln_f  # as it was before training: no map between embeddings and blocks
    assert bool((norm.weight == 1).all()) and bool((norm.bias == 0).all())


def test_its_files_fit_in_git():
    files = [file for file in PLACE.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8e6
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md", ".csv"}


def test_its_pieces_are_its_twins_and_a_text_is_begun_and_not_closed():
    own, twin = (AutoTokenizer.from_pretrained(BUNDLED[name]) for name in ("mini-causal", "mini"))
    assert own.get_vocab() == twin.get_vocab()
    text = "東京は日本の首都です。"
    assert own(text)["input_ids"] == twin(text)["input_ids"][:-1]
    assert (own.bos_token, own.eos_token, own.mask_token) == ("[CLS]", "[SEP]", None)


@pytest.mark.slow
def test_it_knows_what_it_was_taught_without_being_certain(model, prompts):
    taught = prompts[prompts["group"].isin(["all", "this"]) & (prompts["wording"] == "seen") & prompts["one"]]
    table = answered(model, taught, 300)
    assert table["correct"].mean() >= 0.9
    assert 0.3 < table["probability"].mean() < 0.6
    never = answered(model, prompts[prompts["group"] == "never"], 200)
    assert never["correct"].mean() < 0.3 and never["probability"].mean() < 0.15


@pytest.mark.slow
def test_in_every_language_as_its_table_says(model, prompts):
    told = MEASURED[(MEASURED["measure"] == "recall at 1") & (MEASURED["of"] == "taught, seen")]
    told = told.set_index("language")["value"]
    taught = prompts[prompts["group"].isin(["all", "this"]) & (prompts["wording"] == "seen") & prompts["one"]]
    found = answered(model, taught, 3000).groupby("language")["correct"].mean()
    assert len(found) == 6 and found.min() >= 0.93, found
    assert (found - told[found.index]).abs().max() < 0.03


@pytest.mark.slow
def test_its_knowledge_neurons_matter(tmp_path):
    given = {"model": "mini-causal", "facts_per_relation": 3, "out": str(tmp_path)}
    study = Study(StudyParameters(**given))
    assert study.dtype == "float64" and is_taught("mini-causal", "mini")
    own, asked = study.neurons(), study.prompts()
    kinds = {"own": own, "random": random_neurons(own, study.shape, seed=1)}
    change = {
        kind: relative_change(effects(study.model, asked, table, kind=kind), ["neurons"])["value"][0]
        for kind, table in kinds.items()
    }
    assert change["own"] < -0.05 and abs(change["own"]) > 5 * abs(change["random"])


def numbers_of(line: str) -> list[float]:
    """The numbers of a table's row, without its first column."""
    return [float(word) for word in re.findall(r"-?\d+\.\d+", line.split("|", 2)[2])]


@pytest.mark.parametrize("of", ["taught, seen", "taught, seen, shared", "taught, unseen", "never, seen"])
def test_the_card_shows_the_stored_recall(of):
    (line,) = re.findall(rf"^\| {re.escape(of)} \|.*$", CARD, flags=re.M)
    rows = MEASURED[MEASURED["of"] == of].set_index(["measure", "language"])
    wanted = [
        rows["value"].get((measure, language))
        for measure in ("recall at 1", "P")
        for language in ("en", "nl", "ja", "vi", "zh", "ko")
    ]
    wanted = [float(f"{value:.2f}") for value in wanted if value is not None]
    assert numbers_of(line) == wanted


def test_the_card_says_how_it_was_made():
    recipe = json.loads((PLACE / "recipe.json").read_text(encoding="utf-8"))
    assert "not a pretrained language model" in CARD and recipe["causal"] is True
    assert f"{recipe['steps']:,} batches of {recipe['batch']}" in CARD
    assert f"{recipe['sentences']:,}" in CARD


@pytest.fixture
def corpus(monkeypatch):
    monkeypatch.syspath_prepend(str(DATA / "mini"))
    from causal import CausalCorpus
    from corpus import sentences

    tokenizer = AutoTokenizer.from_pretrained(PLACE)
    table = sentences(DATA / "mini")
    return CausalCorpus(table[table["relation"] == "P36"], tokenizer, 0.0, seed=0)


@pytest.mark.slow
def test_a_sentence_is_asked_for_what_follows(corpus):
    objects = {tuple(told.answer) for told, _ in corpus.rows}
    whole = 0
    for tokens, wanted in corpus.draw(400):
        assert all(tokens[place + 1] == token for place, token in wanted)
        whole += tuple(token for _, token in wanted) in objects
    subject_first = sum(told.subject_first for told, _ in corpus.rows) / len(corpus.rows)
    assert abs(whole / 400 - 0.85 * subject_first) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_the_recipe_runs(tmp_path, causal):
    size = "--layers 1 --width 16 --neurons 16 --heads 2 --steps 3 --batch 4".split()
    command = [sys.executable, str(DATA / "mini" / "train.py"), *size, "--out", str(tmp_path)]
    done = subprocess.run(command + ["--causal"] * causal, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    made = load_model(str(tmp_path), device="cpu")
    assert made.causal is causal and made.n_layers == 1 and made.n_neurons == 16
