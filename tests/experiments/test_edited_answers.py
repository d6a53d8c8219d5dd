"""Many edits and questions at once, against editing the weights and asking one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import make_model
from oracles import neurons_at, plain_answer

from kn_utils.data.facts import Facts
from kn_utils.data.prompts import make_prompts
from kn_utils.experiments.edited_answers import (
    FORCES,
    ask_edited,
    force_edits,
    judged,
    questions_abroad,
    questions_around,
)
from kn_utils.experiments.effects import EvaluationError
from kn_utils.experiments.updating import Bystanders
from kn_utils.model.answers import answer_probability, questions_of
from kn_utils.model.edits import FineTune, ValueEdit
from kn_utils.model.interventions import update_fact
from kn_utils.model.typed import candidates_of, typed_answers

#: What the fact's own prompts are called: of the first wording, the second, the third.
OWN = ("the edited prompt", "wordings held out", "wordings that found the neurons")


@pytest.fixture(scope="module")
def facts() -> Facts:
    """Four capitals and three languages in two languages; Paris is spelled alike in both."""
    rows = [
        ("P36", "France", "Paris"),
        ("P36", "India", "Delhi"),
        ("P36", "Ger", "Ber"),
        ("P36", "The", "the"),
    ]
    rows += [("P37", "France", "capital"), ("P37", "India", "country"), ("P37", "Ger", "of")]
    names = dict.fromkeys(name for _, *pair in rows for name in pair)
    spelled = {(name, "nl"): name if name in ("Paris", "France") else f"{name} {name}" for name in names}
    entities = [(name, lang, spelled.get((name, lang), name), "") for name in names for lang in ("en", "nl")]
    texts = [
        (r, "en", f"{r}-en-{i}", t)
        for r in ("P36", "P37")
        for i, t in enumerate(["of [X] is [Y]", "in [X] the [Y]", "[X] is the [Y]"], 1)
    ]
    texts += [(r, "nl", f"{r}-nl-1", "is [X] of [Y]") for r in ("P36", "P37")]
    return Facts(
        "two",
        pd.DataFrame(entities, columns=["entity", "language", "label", "aliases"]),
        pd.DataFrame(
            [(f"{r}:{s}:{o}", r, s, o) for r, s, o in rows], columns=["fact", "relation", "subject", "object"]
        ),
        pd.DataFrame(texts, columns=["relation", "language", "template", "text"]),
    )


@pytest.fixture(scope="module")
def prompts(facts) -> pd.DataFrame:
    return make_prompts(facts, "en")


@pytest.fixture(scope="module")
def updates(prompts) -> pd.DataFrame:
    """Two facts, each edited in view of its first wording."""
    table = prompts[prompts["fact"].isin(["P36:France:Paris", "P36:India:Delhi"])]
    table = table[table["template"] == "P36-en-1"].rename(columns={"answer": "old"})
    return table.assign(new=["Delhi", "Paris"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def neurons(updates) -> pd.DataFrame:
    places = pd.DataFrame({"layer": [0, 2, 2], "neuron": [3, 7, 11]})
    own = updates[["fact", "relation"]].merge(places, how="cross")
    return own.assign(neuron=own["neuron"] + own["fact"].eq("P36:India:Delhi"))


def around(prompts, updates, others: int = 2) -> pd.DataFrame:
    own = {name: prompts[prompts["template"] == f"P36-en-{i}"] for i, name in enumerate(OWN, 1)}
    return questions_around(updates, own, prompts, Bystanders(others, 1))


def signs_by_hand(model, prompt: pd.DataFrame, pairs: list[tuple[int, int]]) -> list[float]:
    (rows,) = questions_of(model, prompt)
    return [
        float(np.sign(sum(neurons_at(model, row.ids, row.position, layer)[neuron].item() for row in rows)))
        for layer, neuron in pairs
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gemma3_text"])
def test_every_answer_after_every_edit_against_editing_the_weights(kind, prompts, updates, neurons):
    model, asked = make_model(kind), around(prompts, updates)
    edits = force_edits(ValueEdit(2.0, 8.0), (1.0, 8.0), tuned=False)
    found = ask_edited(model, updates, asked, neurons, edits, every=prompts)
    assert len(found) == 4 * len(asked)
    right, negative = prompts.set_index("prompt")["answer"], 0
    for row in found.itertuples():
        update = updates[updates["fact"] == row.edited]
        own = neurons[neurons["fact"] == row.edited]
        pairs = list(own[["layer", "neuron"]].itertuples(index=False, name=None))
        signs = [1.0] * len(pairs)
        if row.edit == "signed":
            new = update.assign(answer=update["new"])
            signs = signs_by_hand(model, new, pairs)
        negative += -1.0 in signs
        question = asked[(asked["prompt"] == row.prompt) & (asked["edited"] == row.edited)].iloc[[0]]
        names = candidates_of(question.assign(answer=question["right"]), prompts)
        saved = {pair: model.value_slots(pair[0])[pair[1]].clone() for pair in pairs}
        before = typed_answers(model, question, names, progress=False).iloc[0]
        with update_fact(
            model, own, old=update["old"].item(), new=update["new"].item(), l1=row.force / 4, l2=row.force
        ):
            for pair, sign in zip(pairs, signs, strict=True):  # what was added, turned round
                slot = model.value_slots(pair[0])[pair[1]]
                slot.copy_(saved[pair] + sign * (slot - saved[pair]))
            after = typed_answers(model, question, names, progress=False).iloc[0]
            sides = row.text.split("[Y]")
            plain = plain_answer(model, *sides, row.answer)
        assert (row.before, row.after) == pytest.approx((before["probability"], plain[0]), rel=1e-8, abs=0)
        assert row.right_after == (plain[2] == plain[3])
        assert (row.typed_before, row.typed_after) == pytest.approx(
            (before["typed_probability"], after["typed_probability"]), rel=1e-8, abs=0
        )
        assert (
            row.typed_right_after == after["typed_correct"]
            and row.typed_right_before == before["typed_correct"]
        )
        assert right[row.prompt] == row.right and (row.answer == row.right) == (row.where not in OWN)
    assert negative  # some neuron was negative: the test of signs can fail


@pytest.mark.slow
def test_force_is_the_length_of_the_move_in_units_of_each_slot(prompts, updates, neurons):
    model, asked = make_model("bert"), around(prompts, updates)
    found = ask_edited(
        model, updates, asked, neurons, force_edits(ValueEdit(0.0, 8.0), tuned=False), every=prompts
    )
    assert found["moved"].to_numpy() == pytest.approx(found["force"].to_numpy())
    assert sorted(found["force"].unique()) == list(FORCES)
    published = force_edits(ValueEdit(1.0, 8.0))
    assert published["as published", 8.0] == ValueEdit(1.0, 8.0)
    assert published["signed", 2.0] == ValueEdit(0.25, 2.0, signed=True)
    assert [edit for edit in published.values() if isinstance(edit, FineTune)] == [FineTune()]


@pytest.mark.slow
def test_fine_tuned_slots_stand_beside(prompts, updates, neurons):
    model, asked = make_model("bert"), around(prompts, updates)
    edits = {("fine-tuned", np.nan): FineTune(0.5, 2)}
    found = ask_edited(model, updates, asked, neurons, edits, every=prompts)
    assert found["force"].isna().all() and (found["moved"] > 0).all() and set(found["edit"]) == {"fine-tuned"}


@pytest.mark.slow
def test_without_candidates_the_vocabulary_is_asked_as_with_them(prompts, updates, neurons):
    model, asked = make_model("gemma3_text"), around(prompts, updates)
    edits = force_edits(forces=(2.0,), tuned=False)
    found, typed = (ask_edited(model, updates, asked, neurons, edits, every=e) for e in (None, prompts))
    assert {name for name in typed if name not in found} == {
        f"typed_{name}{when}" for name in ("", "right_") for when in ("before", "after")
    }
    pd.testing.assert_frame_equal(found, typed[found.columns], rtol=1e-9)


def test_facts_without_neurons_are_passed_over(prompts, updates, neurons):
    model, asked = make_model("bert"), around(prompts, updates)
    edits = force_edits(forces=(1.0,), tuned=False)
    one = neurons[neurons["fact"] == "P36:India:Delhi"]
    found = ask_edited(model, updates, asked, one, edits, every=prompts)
    assert set(found["edited"]) == {"P36:India:Delhi"}
    with pytest.raises(EvaluationError, match="no question about a fact that has neurons"):
        ask_edited(model, updates, asked, neurons.iloc[:0], edits, every=prompts)


def test_questions_around_are_about_the_fact_and_about_others(prompts, updates):
    asked = around(prompts, updates, others=9)
    own = asked[asked["where"] == "wordings held out"]
    assert own["prompt"].tolist() == ["P36:France:Paris/P36-en-2", "P36:India:Delhi/P36-en-2"]
    assert own["answer"].tolist() == ["Delhi", "Paris"] and own["right"].tolist() == ["Paris", "Delhi"]
    names = asked[asked["fact"] == asked["edited"]].set_index("template")["where"]
    assert {t: set(names[t]) for t in names.index} == {f"P36-en-{i}": {n} for i, n in enumerate(OWN, 1)}
    for fact in updates["fact"]:
        mine = asked[asked["edited"] == fact]
        same, other = (mine[mine["where"] == where] for where in ("same relation", "other relations"))
        assert len(same) == 3 and fact not in set(same["fact"]) and set(same["relation"]) == {"P36"}
        assert len(other) == 3 and set(other["relation"]) == {"P37"}
        assert (same["answer"] == same["right"]).all() and (other["answer"] == other["right"]).all()


@pytest.mark.slow
def test_questions_abroad_ask_another_fact_for_the_same_new_answer(facts, updates):
    everywhere = make_prompts(facts, "all", wordings=1)
    asked = questions_abroad(updates, everywhere)
    assert set(asked["language"]) == {"nl"} and len(asked) == 6
    for update, nl, alike in zip(updates.itertuples(), ["Delhi Delhi", "Paris"], [False, True], strict=True):
        own, another, its = (
            asked[(asked["edited"] == update.fact) & (asked["where"] == where)].iloc[0]
            for where in ("the fact", "another fact", "another fact, its answer")
        )
        assert own["fact"] == update.fact and own["answer"] == another["answer"] == nl
        assert another["fact"] == its["fact"] and another["fact"] in ("P36:Ger:Ber", "P36:The:the")
        assert its["answer"] == its["right"] == another["right"] and another["text"] == its["text"]
        assert {own["alike"], another["alike"], its["alike"]} == {alike}
    seeds = [tuple(questions_abroad(updates, everywhere, seed=s)["fact"]) for s in range(8)]
    assert len(set(seeds)) > 1 and questions_abroad(updates, everywhere, seed=3).equals(
        questions_abroad(updates, everywhere, seed=3)
    )
    one = everywhere[everywhere["fact"] != "P36:India:Delhi"]  # Delhi has no name any more
    assert set(questions_abroad(updates[updates["new"] == "Delhi"], one)["edited"]) == set()
    assert {"alike", "edited", "where"} <= set(questions_abroad(updates.iloc[:0], everywhere).columns)


@pytest.mark.slow
def test_what_counts_as_answered_by_hand(prompts):
    masked = make_model("bert")
    known = answer_probability(masked, prompts)
    assert judged(masked, prompts, prompts)["correct"].tolist() == known["correct"].tolist()
    half = known.iloc[::2].assign(correct=True, probability=0.25)  # what is given is not asked again
    found = judged(masked, prompts, prompts, given=half)
    assert found["prompt"].tolist() == prompts["prompt"].tolist()
    assert found["correct"][::2].all() and found["correct"][1::2].tolist() == known["correct"][1::2].tolist()
    assert set(found["probability"][::2]) == {0.25}
    model = make_model("gemma3_text")
    typed = typed_answers(model, prompts, candidates_of(prompts), progress=False)
    for least in (1, 2, 3, 9):
        found = judged(model, prompts, prompts, least=least)
        times = {}
        for fact, right in zip(prompts["fact"], typed["typed_correct"], strict=True):
            times[fact] = times.get(fact, 0) + bool(right)
        expected = [
            bool(right) and times[fact] >= min(least, 3)
            for fact, right in zip(prompts["fact"], typed["typed_correct"], strict=True)
        ]
        assert found["correct"].tolist() == expected
        assert found["probability"].tolist() == typed["probability"].tolist()
    assert typed["typed_correct"].any()
