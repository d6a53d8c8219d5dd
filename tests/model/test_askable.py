"""What keeps a model from being asked a prompt."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import make_model

from kn_utils.data.prompts import make_prompts, shown_names
from kn_utils.model.askable import askable

READ = {
    "The capital of France is [Y].": ("", False),
    "[Y] is the capital of France.": ("subject behind the blank", True),
    "France, as one says, has [Y] for a capital, in the country.": ("", True),
}


def test_the_name_that_a_text_shows(toy):
    prompts = make_prompts(toy, "all")
    for name, text, language in zip(
        shown_names(prompts, toy), prompts["text"], prompts["language"], strict=True
    ):
        assert name in text and (language == "zh") == (not name.isascii())
    turned = make_prompts(toy, "en", masked="subject")
    assert set(shown_names(turned, toy)) == {"Paris", "Berlin", "New Delhi"}
    assert shown_names(prompts.assign(fact="P36:Q1:Q2"), toy).isna().all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_left_to_right_model_is_asked_only_what_it_can_read(kind, toy, prompts):
    asked = prompts[prompts["fact"] == "P36:Q142:Q90"]
    found = askable(make_model(kind), asked, toy).set_index(asked["text"].to_numpy())
    assert {text: (row.reason, row.unseen) for text, row in found.iterrows()} == READ
    without = askable(make_model(kind), asked)  # nothing is known of subjects
    assert (without["reason"] == "").all()


def test_a_masked_model_reads_both_sides(bert, toy, prompts):
    found = askable(bert, prompts, toy)
    assert (found["reason"] == "").all() and not found["unseen"].any()
    assert found["prompt"].tolist() == prompts["prompt"].tolist()


def test_what_cannot_be_written_or_is_too_long_is_set_aside_alone(bert, toy, prompts):
    odd = prompts.iloc[[0]].assign(prompt="odd", answer="☃")
    long = prompts.iloc[[0]].assign(prompt="long", text="Paris " * 200 + "[Y]")
    twice = prompts.iloc[[0]].assign(prompt="twice", text="[Y] and [Y]")
    found = askable(bert, pd.concat([prompts, odd, long, twice]), toy).set_index("prompt")["reason"]
    assert found[["odd", "long", "twice"]].tolist() == [
        "answer cannot be written",
        "too long",
        "text cannot be asked",
    ]
    assert (found.drop(["odd", "long", "twice"]) == "").all()


def test_nothing_before_the_blank(toy, prompts):
    model = make_model("gpt2")
    alone = prompts.iloc[[0]].assign(text="[Y] governs.")
    assert askable(model, alone, toy)["reason"].tolist() == [""]  # asked behind the beginning of a text
    model.tokenizer.bos_token = None
    assert askable(model, alone, toy)["reason"].tolist() == ["nothing before the blank"]


def test_copying_is_told_apart(bert, toy, prompts):
    copied = prompts.iloc[[0]].assign(answer="fran")
    found = askable(bert, pd.concat([prompts, copied]), toy)
    assert found["copied"].tolist() == [False] * len(prompts) + [True]
