"""Scores of some of an answer's pieces: the tree of names by hand, and the maps piece by piece."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import pieces_of, place_of, plain_scores, probability_with

from kn_utils.attribution.attribute import attribute, attribution_map, score_tables
from kn_utils.attribution.quadrature import AttributionError, quadrature
from kn_utils.data.prompts import make_prompts
from kn_utils.data.sources import load_facts
from kn_utils.model.decoding import decode
from kn_utils.model.loading import load_model
from kn_utils.store.tables import load_table

#: Names of one piece, names that begin alike, and one that ends where two others go on.
NAMES = ["Paris", "Berlin", "is", "is the", "is country", "the", "is the of", "is country in"]
KINDS = ["bert", "gpt2", "llama"]
PATH = {"rule": "right", "steps": 2}


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    one = prompts[~prompts["text"].str.startswith("[Y]")].iloc[[0]]
    several = [one.assign(answer=name, prompt=one["prompt"] + name) for name in NAMES if name != "is"]
    return pd.concat(several, ignore_index=True)


def decides(model, answer: str, names: list[str]) -> list[int]:
    """Pieces behind whose beginning some other name goes on otherwise, or ends."""
    own, written = pieces_of(model, answer), [pieces_of(model, name) for name in names]
    if not model.causal:
        written = [pieces for pieces in written if len(pieces) == len(own)]
    return [
        j
        for j, piece in enumerate(own)
        if any(one[:j] == own[:j] and (len(one) == j or one[j] != piece) for one in written)
    ]


def maps_by_piece(model, text: str, answer: str) -> list[torch.Tensor]:
    before, after = text.split("[Y]")
    nodes, weights = (values.tolist() for values in quadrature(*PATH.values()))
    pieces = pieces_of(model, answer)
    return [
        plain_scores(model, *place_of(model, before, after, pieces, j), piece, nodes, weights)
        for j, piece in enumerate(pieces)
    ]


def near(found: torch.Tensor, truth: torch.Tensor) -> None:
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_equal_a_plain_loop(kind, asked):
    model = make_model(kind)
    first = attribution_map(model, asked, pieces="first", **PATH).double()
    deciding = attribution_map(
        model, asked, pieces="deciding", candidates=[NAMES] * len(asked), batch_size=3, **PATH
    ).double()
    each = attribution_map(model, asked, pieces="each", **PATH).double()
    mean = attribution_map(model, asked, **PATH).double()
    start, some = 0, 0
    for number, prompt in enumerate(asked.itertuples()):
        truth = maps_by_piece(model, prompt.text, prompt.answer)
        branching = decides(model, prompt.answer, NAMES)
        some += 0 < len(branching) < len(truth)
        near(first[number], truth[0])
        near(deciding[number], torch.stack([truth[j] for j in branching]).mean(0))
        near(each[start : start + len(truth)], torch.stack(truth))
        near(mean[number], torch.stack(truth).mean(0))
        start += len(truth)
    assert start == len(each) and some, "an answer only some of whose pieces decide is wanted here"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_tables_say_which_piece_and_are_stored_alike(kind, asked, tmp_path):
    model = make_model(kind)
    told = score_tables(model, asked, pieces="each", progress=False, **PATH)
    numbers = [len(pieces_of(model, answer)) for answer in asked["answer"]]
    assert max(numbers) > 1
    assert told.prompts["piece"].tolist() == [j for n in numbers for j in range(n)]
    plain = score_tables(model, asked, progress=False, **PATH).prompts["probability"]
    products = told.prompts.groupby("prompt", sort=False)["probability"].prod()
    assert products.tolist() == pytest.approx(plain.tolist(), rel=1e-6)
    assert told.scores.columns.tolist() == ["prompt", "piece", "layer", "neuron", "score"]
    assert not told.scores.duplicated(["prompt", "piece", "layer", "neuron"]).any()
    out = attribute(model, asked, pieces="each", out=tmp_path / "scores.parquet", progress=False, **PATH)
    pd.testing.assert_frame_equal(load_table(out)[0], told.scores)
    one = score_tables(model, asked.assign(piece=7), pieces="first", progress=False, **PATH)
    assert "piece" not in one.scores and "piece" not in one.prompts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_log_scores_of_the_pieces_add_up_to_ln_p(kind, asked):
    """Completeness of the whole answer, piece by piece: each layer's sums are what ln P loses with it."""
    model = make_model(kind)
    maps = attribution_map(model, asked, pieces="each", target="log", rule="gauss-legendre", steps=96)
    sums, start = maps.double().sum(2), 0
    nothing = torch.zeros(model.n_neurons, dtype=torch.float64)
    for prompt in asked.itertuples():
        before, after = prompt.text.split("[Y]")
        pieces = pieces_of(model, prompt.answer)
        change = torch.zeros(model.n_layers, dtype=torch.float64)
        for j, piece in enumerate(pieces):
            ids, at = place_of(model, before, after, pieces, j)
            whole = model.model(input_ids=torch.tensor([ids])).logits[0, at].log_softmax(-1)[piece]
            for layer in range(model.n_layers):
                change[layer] += (
                    whole - probability_with(model, ids, at, piece, layer, nothing).log()
                ).item()
        torch.testing.assert_close(sums[start : start + len(pieces)].sum(0), change, rtol=1e-4, atol=1e-5)
        start += len(pieces)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pieces": "last"}, "unknown pieces 'last'; known: mean, first, deciding, each"),
        ({"pieces": "first", "target": "typed"}, "pieces='first' are asked for over the vocabulary"),
        ({"pieces": "deciding", "unknown": "allow"}, "pieces='deciding' tells answers apart"),
        ({"pieces": "first", "candidates": [NAMES] * 7}, "candidates are for target='typed' and pieces="),
        ({"pieces": "deciding", "answer": "decoded"}, "need not be among candidates"),
        ({"pieces": "deciding", "candidates": [["Rome"]] * 7}, "7 prompts: the answer is not among"),
    ],
)
def test_bad_pieces(bert, asked, options, message):
    with pytest.raises(AttributionError, match=message):
        attribution_map(bert, asked, **options)


def test_an_answer_that_nothing_but_its_end_decides_is_refused(asked):
    model = make_model("gpt2")
    one = asked.iloc[[0]].assign(answer="is")
    assert decides(model, "is", ["is", "is the"]) == []
    with pytest.raises(AttributionError, match="no piece of the answer decides it"):
        attribution_map(model, one, pieces="deciding", candidates=[["is", "is the"]])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_decoded_answers_are_what_the_model_says(kind, prompts):
    """Those of a random model are not written as it said them: what is asked for is what can be written."""
    model = make_model(kind)
    one = prompts[~prompts["text"].str.startswith("[Y]")].iloc[[0]]
    said = decode(model, one, masks=5, progress=False)
    said = said[said["chosen"]].iloc[0]
    pieces = [row.target for row in model.encode(one.assign(answer=said["text"]))] if said["text"] else []
    if pieces == list(said["ids"]):
        found = attribution_map(model, one, answer="decoded", **PATH)
        torch.testing.assert_close(found, attribution_map(model, one.assign(answer=said["text"]), **PATH))
    else:
        with pytest.raises(AttributionError, match="of 1 of 1 prompts what the model says is empty or is"):
            attribution_map(model, one, answer="decoded", **PATH)


@pytest.mark.slow
def test_decoded_answers_of_a_model_that_knows(mini):
    model, asked = mini
    found = score_tables(model, asked, answer="decoded", progress=False, **PATH)
    said = decode(model, asked, progress=False)
    said = said[said["chosen"]].set_index("prompt")["text"].loc[asked["prompt"]].tolist()
    assert said != asked["answer"].tolist() and len(set(said)) > 1
    by_hand = score_tables(model, asked.assign(answer=said), progress=False, **PATH)
    pd.testing.assert_frame_equal(found.scores, by_hand.scores)
    pd.testing.assert_frame_equal(found.prompts, by_hand.prompts)


@pytest.fixture(scope="module")
def mini():
    prompts = make_prompts(load_facts(relations=["P36"]), "en", wordings=1).head(6)
    return load_model("mini", device="cpu"), prompts.reset_index(drop=True)
