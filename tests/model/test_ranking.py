"""Rankings of names against a plain loop over names and pieces."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import pieces_of, place_of

from kn_utils.data.facts import Facts
from kn_utils.model.answers import answer_probability
from kn_utils.model.ranking import RankingError, objects_of, rank_candidates

LABELS = {"a": "Paris", "b": "Germany", "c": "is the", "d": "Paris country", "e": "Ω"}
CANDIDATES = pd.DataFrame(
    [("P36", "en", name, label) for name, label in LABELS.items()],
    columns=["relation", "language", "candidate", "label"],
)


def plain_score(model, text: str, label: str, parallel: bool) -> float:
    """One name, one piece, one pass at a time."""
    before, after = text.split("[Y]")
    pieces = pieces_of(model, label)
    logp = []
    for j, piece in enumerate(pieces):
        ids, at = place_of(model, before, after, pieces, j, open_before=parallel)
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, at].double()
        logp.append(logits.log_softmax(-1)[piece].item())
    return float(np.mean(logp))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), [("bert", "parallel"), ("bert", "in order"), ("gpt2", "in order")])
def test_scores_against_a_plain_loop(prompts, kind, way):
    model = make_model(kind)
    asked = prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)
    found = rank_candidates(model, asked, CANDIDATES, way=way, batch_size=3)
    known = {name: label for name, label in LABELS.items() if model.causal or name != "e"}
    assert len(found) == len(asked) * len(known)
    text = asked.set_index("prompt")["text"]
    for row in found.itertuples():
        plain = plain_score(model, text[row.prompt], known[row.candidate], way == "parallel")
        assert row.score == pytest.approx(plain, abs=1e-9)


def test_in_order_is_the_probability_of_the_answer(bert, prompts):
    one = CANDIDATES[CANDIDATES["candidate"] == "b"]
    found = rank_candidates(bert, prompts, one, way="in order")
    told = answer_probability(bert, prompts.assign(answer="Germany"))
    np.testing.assert_allclose(np.exp(found["score"] * found["pieces"]), told["probability"], rtol=1e-8)


def test_objects_by_their_names(toy):
    table = objects_of(toy)
    assert table[table["language"] == "en"]["label"].tolist() == ["Paris", "Berlin", "New Delhi"]
    assert set(table) == {"relation", "language", "candidate", "label"}
    more = toy.facts.assign(fact=toy.facts["fact"] + "x", object="Q987")
    often = Facts("toy", toy.entities, pd.concat([toy.facts, more]), toy.templates)
    assert objects_of(often, most=1)["candidate"].unique().tolist() == ["Q987"]
    assert set(objects_of(often)["candidate"]) == {"Q90", "Q64", "Q987"}


def test_another_way_is_refused(bert, prompts):
    with pytest.raises(RankingError, match="parallel, in order"):
        rank_candidates(bert, prompts, CANDIDATES, way="x")
