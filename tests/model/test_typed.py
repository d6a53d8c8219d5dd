"""Typed answers against a plain loop over candidates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import next_probabilities, pieces_of

from kn_utils.model.acting import Scaling
from kn_utils.model.answers import answer_probability
from kn_utils.model.interventions import suppress
from kn_utils.model.rows import asked_of
from kn_utils.model.typed import branches, candidates_of, typed_answers, typed_rows

#: Names of one piece, names that begin alike, and a name that another one goes on from.
NAMES = ["Paris", "Berlin", "is", "is the", "is country", "the"]


def plain_typed(model, text: str, answer: str, names: list[str]) -> dict[str, float]:
    """Each candidate's typed probability, by a loop over candidates and pieces."""
    before, after = text.split("[Y]")
    written = {name: pieces_of(model, name) for name in names}
    if not model.causal:
        written = {name: pieces for name, pieces in written.items() if len(pieces) == len(written[answer])}
    found = {}
    for name, pieces in written.items():
        total = 1.0
        for depth in range(len(pieces) + 1):
            alike = [other for other in written.values() if other[:depth] == pieces[:depth]]
            ends = [other for other in alike if len(other) == depth]
            ways = {other[depth] for other in alike if len(other) > depth}
            if len(ways) + bool(ends) > 1:
                longest = max(alike, key=len)
                p = next_probabilities(model, before, after, longest, depth)
                each = {way: p[way].item() for way in ways}
                if ends:
                    each[-1] = 1 - sum(each.values())
                total *= each[pieces[depth] if depth < len(pieces) else -1] / sum(each.values())
            if depth == len(pieces):
                break
        found[name] = total
    return found


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    table = prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)
    return pd.concat(
        [table.assign(answer=name, prompt=table["prompt"] + name) for name in NAMES], ignore_index=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama", "opt"])
def test_typed_answers_against_a_loop_over_candidates(kind, asked):
    model = make_model(kind)
    found = typed_answers(model, asked, [NAMES] * len(asked), batch_size=5)
    plain = answer_probability(model, asked)
    pd.testing.assert_frame_equal(found[list(plain.columns)], plain, rtol=1e-9)
    shared = 0
    for row, question in zip(found.itertuples(), asked.itertuples(), strict=True):
        wanted = plain_typed(model, question.text, question.answer, NAMES)
        assert sum(wanted.values()) == pytest.approx(1)
        assert row.typed_probability == pytest.approx(wanted[question.answer], rel=1e-9, abs=0)
        assert row.typed_rank == 1 + sum(p > wanted[question.answer] for p in wanted.values())
        assert row.typed_predicted == max(wanted, key=wanted.get) and row.candidates == len(wanted)
        assert row.typed_correct == (row.typed_predicted == question.answer)
        (here,) = asked_of(asked.iloc[[question.Index]])
        shared += len(branches(model.writer(), here, NAMES)) > 1
    assert shared > 0, "names that share their first pieces are wanted here"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_typed_answers_under_an_intervention(kind, asked):
    model, pairs = make_model(kind), np.array([(1, 7), (2, 5)])
    found = typed_answers(model, asked, [NAMES] * len(asked), [Scaling(pairs, 0.0)] * len(asked))
    with suppress(model, pairs):
        for row, question in zip(found.itertuples(), asked.itertuples(), strict=True):
            wanted = plain_typed(model, question.text, question.answer, NAMES)
            assert row.typed_probability == pytest.approx(wanted[question.answer], rel=1e-9, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_rows_on_the_answers_way_multiply_to_its_typed_probability(kind, asked):
    model = make_model(kind)
    found = typed_answers(model, asked, [NAMES] * len(asked))
    for p, rows in zip(
        found["typed_probability"], typed_rows(model, asked, [NAMES] * len(asked)), strict=True
    ):
        total = 1.0
        for row in rows:
            at = model.model(input_ids=torch.tensor([row.ids])).logits[0, row.position].double().softmax(-1)
            share = {piece: at[piece].item() for piece in row.among if piece >= 0}
            if -1 in row.among:
                share[-1] = 1 - sum(share.values())
            total *= share[row.target] / sum(share.values())
        assert total == pytest.approx(p, rel=1e-9, abs=0)


def test_candidates_are_the_relations_answers_but_for_others_that_are_right(prompts):
    more = prompts.iloc[[0]].assign(prompt="again", answer="Lyon")  # the same question has two right answers
    other = prompts.iloc[[0]].assign(prompt="elsewhere", relation="P30", answer="Europe")
    found = candidates_of(prompts.iloc[[0]], pd.concat([prompts, more, other]))
    assert found == [sorted({*prompts["answer"]})]
    assert "Lyon" in candidates_of(prompts.iloc[[-1]], pd.concat([prompts, more]))[0]
    assert candidates_of(prompts.iloc[[0]]) == [[prompts["answer"].iloc[0]]]


def test_an_answer_without_a_competitor_is_certain(bert, prompts):
    found = typed_answers(bert, prompts.iloc[[0]])
    assert found["typed_probability"].tolist() == [1.0] and found["candidates"].tolist() == [1]
    assert typed_answers(bert, prompts.iloc[:0]).empty
