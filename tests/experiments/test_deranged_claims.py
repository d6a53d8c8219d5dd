"""Claims: false objects are a derangement, halves share what they may share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from conftest import make_model

from kn_utils.data.prompts import make_prompts
from kn_utils.experiments.claims import ClaimsError, claims_of, questions_for_claims


def questions(*objects: str, relation: str = "P1") -> pd.DataFrame:
    names = [f"{relation}-{i}" for i in range(len(objects))]
    return pd.DataFrame(
        {
            "prompt": [f"p{name}" for name in names],
            "fact": names,
            "relation": relation,
            "language": "en",
            "template": "t",
            "text": [f"{name} is in [Y]." for name in names],
            "answer": list(objects),
            "masked": "object",
        }
    )


def random_questions(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    parts = [questions(*random.choice(list("abcdefgh"), 14), relation=f"P{r}") for r in range(3)]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_false_objects_are_a_derangement_within_relation_and_half(seed):
    asked = random_questions(seed)
    claims = claims_of(asked, seed=seed)
    own = asked.set_index("fact")["answer"]
    for (split, _, _), part in claims.groupby(["split", "relation", "half"]):
        true, false = part[part["true"]], part[~part["true"]]
        assert Counter(true["answer"]) == Counter(false["answer"]), split
        assert true["fact"].tolist() == false["fact"].tolist() and not true["fact"].duplicated().any()
        assert (true["answer"] == own[true["fact"]].to_numpy()).all()
        assert (false["answer"] != own[false["fact"]].to_numpy()).all()
    by_object = claims[claims["split"] == "by object"]
    assert (by_object.groupby(["relation", "answer"])["half"].nunique() == 1).all()
    counts = claims[claims["split"] == "by fact"].drop_duplicates("fact").groupby("relation")["half"]
    assert (counts.apply(lambda half: abs((half == 0).sum() - (half == 1).sum())) <= 4).all()
    assert claims.groupby("prompt")[["question", "answer", "true"]].nunique().eq(1).all(axis=None)
    pd.testing.assert_frame_equal(claims, claims_of(asked, seed=seed))


def test_a_frequent_object_loses_facts_until_the_others_can_take_it():
    asked = questions(*"aaaaaabb")
    claims = claims_of(asked)
    by_fact = claims[claims["split"] == "by fact"]
    assert len(by_fact) and set(by_fact["split"]) == {"by fact"}
    for _, part in by_fact.groupby("half"):
        assert Counter(part[part["true"]]["answer"])["a"] == Counter(part[part["true"]]["answer"])["b"]
    assert "by object" not in set(claims["split"])  # each half has one object only


@pytest.mark.slow
def test_what_is_right_elsewhere_or_spelled_in_the_text_is_no_false_object():
    asked = questions("a", "b", "c", "d", "A")
    also = asked.assign(answer="b").iloc[[0]]  # b is right for the first text, too
    asked.loc[3, "text"] = "The land of c is in [Y]."
    for seed in range(8):
        claims = claims_of(asked, also, seed=seed)
        false = claims[~claims["true"]]
        assert not {"b", "A"} & set(false.loc[false["fact"] == "P1-0", "answer"])
        assert "c" not in set(false.loc[false["fact"] == "P1-3", "answer"])


def test_claims_that_cannot_be_made_are_refused():
    with pytest.raises(ClaimsError, match="exchanged"):
        claims_of(questions("a", "a", "a"))
    with pytest.raises(ClaimsError, match="one prompt of each fact"):
        claims_of(pd.concat([questions("a", "b"), questions("a", "b").assign(prompt=["x", "y"])]))


@pytest.mark.slow
def test_questions_are_the_first_wordings_that_can_be_asked(toy):
    masked, causal = make_model("bert"), make_model("gpt2")
    every = make_prompts(toy, "en")
    found = questions_for_claims(masked, toy, "en")
    assert found["template"].eq("P36-en-1").all() and len(found) == 3
    assert found["prompt"].isin(every["prompt"]).all()
    swapped = toy.templates.iloc[[1, 0, 2, 3]].reset_index(drop=True)  # the subject behind the blank first
    turned = type(toy)("toy", toy.entities, toy.facts, swapped)
    assert questions_for_claims(masked, turned, "en")["template"].eq("P36-en-2").all()
    assert questions_for_claims(causal, turned, "en")["template"].eq("P36-en-1").all()
