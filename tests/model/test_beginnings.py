"""Texts that begin alike: what stands before is read once, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import core_first, make_model, texts_run

from kn_utils.model import answers as answers_room
from kn_utils.model.acting import Scaling
from kn_utils.model.answers import answers, questions_of
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.edits import SlotChange
from kn_utils.model.head import logits_at
from kn_utils.model.texts import by_beginning, texts_of
from kn_utils.model.typed import typed_answers

NAMES = ["Paris", "Berlin", "is", "is the", "is country", "the"]
CAUSAL = [kind for kind, row in ARCHITECTURES.items() if row.causal]


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    table = prompts[~prompts["text"].str.startswith("[Y]")].head(4).reset_index(drop=True)
    # one that is a single token long, so that nothing stands before the place that is read
    table.loc[0, "text"] = "country [Y]."
    return table.assign(answer=NAMES[:2] * 2)


@pytest.fixture
def apart(monkeypatch):
    """Calls with every text read whole."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(answers_room, "by_beginning", lambda model, texts: ([], list(texts)))
            return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("kind", core_first(CAUSAL))
def test_a_beginning_that_is_read_once_changes_nothing(kind, asked, apart):
    model = make_model(kind)
    acts = [None, Scaling(np.array([(0, 7), (1, 5)]), 0.0), Scaling(np.array([(0, 3)]), 2.0), None]
    given = (model, asked, [NAMES] * len(asked), acts)
    with texts_run(model) as shared:
        found = typed_answers(*given)
    with texts_run(model) as whole:
        wanted = apart(typed_answers, *given)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-9, atol=0)
    assert len(shared) == len(whole) and sum(shared) < sum(whole)
    assert found["probability"].nunique() == len(asked)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_equal_and_unequal_beginnings_in_batches_of_any_size(kind, asked, apart):
    model = make_model(kind)
    acts = [Scaling(np.array([(layer, 3)]), 0.0) for layer in (0, 1, 1) for _ in range(len(asked))]
    questions = questions_of(model, asked) * 3
    wanted = apart(answers, model, questions, acts)
    for size in (1, 2, 100):
        found = answers(model, questions, acts, batch_size=size)
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-9, atol=0)


def test_what_does_not_share_is_read_whole(asked):
    model, bert = make_model("llama"), make_model("bert")
    questions = questions_of(model, asked.iloc[[1]])
    act = Scaling(np.array([(1, 7)]), 0.0)
    change = SlotChange(np.array([(1, 7)]), torch.zeros(1, 24, dtype=torch.float64))

    def shared(model, acts):
        return len(by_beginning(model, texts_of(model, questions * len(acts), acts, None))[0])

    number = len(questions[0])
    assert shared(model, [act]) == (number if number > 1 else 0)
    assert shared(model, [act, Scaling(act.neurons, 2.0)]) == 2 * number
    assert shared(model, [change, SlotChange(change.neurons, change.added + 1)]) == 0
    assert shared(model, [None]) == 0, "a text alone shares nothing"
    assert shared(bert, [act, None]) == 0


def test_texts_beyond_the_window_are_read_whole(asked, apart):
    model = make_model("mistral", sliding_window=4)
    long = asked.assign(text=[f"{'the country of ' * n}Paris is [Y]." for n in (0, 1, 2, 3)])
    given = (model, long, [NAMES] * len(long), [Scaling(np.array([(1, 7)]), 0.0)] * len(long))
    with texts_run(model) as lengths:
        found = typed_answers(*given)
    pd.testing.assert_frame_equal(found, apart(typed_answers, *given), rtol=1e-9, atol=0)
    assert max(lengths) > 4 > min(lengths)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "gptj", "falcon", "bert", "deberta-v2"])
def test_few_pieces_have_the_logits_that_they_have_among_all(kind, asked):
    model = make_model(kind)
    rows = [row for question in questions_of(model, asked) for row in question]
    inputs, at, _ = model.batch(rows)
    row = torch.arange(len(rows))
    every = model.logits(inputs, at)
    pieces, half = [9, 4, 20], len(rows) // 2
    whole, few = logits_at(model, inputs, (row[:half], at[:half]), (row[half:], at[half:]), pieces)
    torch.testing.assert_close(whole, every[:half])
    torch.testing.assert_close(few, every[half:][:, pieces])
    none = row[:0]
    whole, few = logits_at(model, inputs, (none, none), (row, at), pieces)
    assert len(whole) == 0
    torch.testing.assert_close(few, every[:, pieces])
    whole, few = logits_at(model, inputs, (row, at), (none, none), [])
    torch.testing.assert_close(whole, every)
    assert few.shape == (0, 0)
