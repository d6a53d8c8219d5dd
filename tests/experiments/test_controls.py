"""Whose neurons take an answer away: sets of equal size, and their effects against doing it by hand."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import make_model

from kn_utils import plots
from kn_utils.experiments.controls import CONTROLS, ControlsError, control_sets, generic_neurons, sets_abroad
from kn_utils.experiments.effects import effects_by_kind
from kn_utils.model.interventions import amplify
from kn_utils.model.typed import candidates_of, typed_answers


def sets_of(*rows: tuple[str, str, list[int]]) -> pd.DataFrame:
    """Facts with neurons of layer 1."""
    return pd.DataFrame(
        [(fact, relation, 1, n) for fact, relation, numbers in rows for n in numbers],
        columns=["fact", "relation", "layer", "neuron"],
    )


@pytest.fixture
def small() -> tuple[pd.DataFrame, pd.DataFrame]:
    neurons = sets_of(("a", "P1", [1, 2]), ("b", "P1", [1, 3]), ("c", "P1", [4, 5]), ("d", "P2", [1, 6]))
    prompts = pd.DataFrame(
        {
            "prompt": list("abcd"),
            "fact": list("abcd"),
            "relation": ["P1", "P1", "P1", "P2"],
            "language": "en",
            "answer": ["x", "x", "y", "z"],
        }
    )
    return neurons, prompts


def test_every_control_is_what_its_name_says(small):
    neurons, prompts = small
    found = control_sets(neurons, prompts, (3, 48), active=neurons.assign(neuron=neurons["neuron"] + 20))
    assert list(found) == list(CONTROLS)
    held = {name: table.groupby("fact")["neuron"].agg(set).to_dict() for name, table in found.items()}
    assert held["same answer"] == {"a": {1, 3}, "b": {1, 2}}
    assert held["another answer"]["a"] == {4, 5} and held["another answer"]["c"] in ({1, 2}, {1, 3})
    assert set(held["another answer"]) == {"a", "b", "c"}  # d is alone in its relation
    assert held["another relation"]["a"] == {1, 6}
    assert held["generic"] == dict.fromkeys("abc", {1, 6}) | {"d": {1, 2}}
    assert held["most active"]["a"] == {21, 22}
    for name, table in found.items():
        assert (table.groupby("fact").size() == 2).all(), name
        assert (
            dict(zip(table["fact"], table["relation"], strict=True)).items()
            <= {"a": "P1", "b": "P1", "c": "P1", "d": "P2"}.items()
        )
    assert (found["random, same layers"]["layer"] == 1).all()


def test_sets_of_different_sizes_are_refused(small):
    neurons, prompts = small
    with pytest.raises(ControlsError, match="1 to 2 neurons; sets are compared at one size"):
        control_sets(neurons.iloc[1:], prompts, (3, 48))


def test_generic_neurons_of_one_relation_only_are_none():
    assert generic_neurons(sets_of(("a", "P1", [1, 2])), 2).empty


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_effects_against_doing_it_by_hand(kind, prompts):
    model = make_model(kind)
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)
    facts = list(dict.fromkeys(prompts["fact"]))
    names = candidates_of(prompts)
    own = sets_of(*((fact, "P36", [n, n + 9]) for n, fact in enumerate(facts)))
    operations = {"suppress": 0.0, "amplify": 3.0}
    sets = control_sets(own, prompts, (model.n_layers, model.n_neurons))
    found = effects_by_kind(model, prompts, sets, candidates=names, operations=operations)
    assert list(found["neurons"].unique()) == list(sets)
    before = typed_answers(model, prompts, names).set_index("prompt")
    for (name, operation, fact), rows in found.groupby(["neurons", "operation", "fact"]):
        asked = prompts[prompts["fact"] == fact]
        chosen = [names[i] for i in asked.index]
        table = sets[name][sets[name]["fact"] == fact]
        with amplify(model, table, factor=operations[operation]):
            after = typed_answers(model, asked, chosen).set_index("prompt")
        for column, source in (
            ("before", before["probability"]),
            ("typed_before", before["typed_probability"]),
            ("after", after["probability"]),
            ("typed_after", after["typed_probability"]),
            ("right_after", after["correct"]),
            ("typed_right_after", after["typed_correct"]),
        ):
            wanted = source[rows["prompt"]].to_numpy(float)
            np.testing.assert_allclose(rows[column].to_numpy(float), wanted, rtol=1e-9, err_msg=column)


@pytest.mark.slow
def test_abroad_own_and_other_facts_act_on_every_language(bert, prompts):
    facts = list(dict.fromkeys(prompts["fact"]))
    both = pd.concat([prompts, prompts.assign(prompt=prompts["prompt"] + "'", language="nl")])
    both = both.reset_index(drop=True)
    own = sets_of(*((fact, "P36", [n, n + 9]) for n, fact in enumerate(facts[:2])))
    sets = sets_abroad(own.assign(score=0.5), both)
    assert list(sets) == ["own", "another answer"]  # there is one relation only
    pd.testing.assert_frame_equal(sets["own"], own)
    # of two facts the other one's neurons are lent
    swapped = own.assign(fact=own["fact"].map(dict(zip(facts[:2], facts[1::-1], strict=True))))
    keys = ["fact", "layer", "neuron"]
    found, wanted = (table[keys].sort_values(keys).to_numpy() for table in (sets["another answer"], swapped))
    assert found.tolist() == wanted.tolist()
    acted = effects_by_kind(bert, both, sets, operations={"suppress": 0.0})
    assert set(acted["fact"]) == set(facts[:2]) and set(acted["language"]) == {"en", "nl"}


def numbers(**keys: list) -> pd.DataFrame:
    """A row per combination, values that differ."""
    table = pd.DataFrame(list(product(*keys.values())), columns=list(keys))
    table["value"] = np.linspace(-0.6, 0.1, len(table))
    return table.assign(low=table["value"] - 0.02, high=table["value"] + 0.01)


@pytest.mark.slow
def test_the_picture_of_controls_shows_every_set_at_its_language():
    sets = ["own", "another answer", "random, same layers"]
    keys = {"target": ["answer", "typed"], "measure": ["P(answer)", "P among the relation's answers"]}
    table = numbers(**keys, language=["en", "zh"], neurons=sets)
    figure = plots.controls(table, "title")
    panels = product(keys["measure"], keys["target"])
    for axes, (measure, target) in zip(figure.axes, panels, strict=True):
        part = table[(table["measure"] == measure) & (table["target"] == target)]
        for kind, drawn in zip(sets, axes.containers, strict=True):
            points = drawn.lines[0].get_xydata()
            assert np.round(points[:, 0]).tolist() == [0, 1]
            assert points[:, 1] == pytest.approx(100 * part.loc[part["neurons"] == kind, "value"].to_numpy())
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["en", "zh"]
    assert [(axes.get_title() or axes.get_title("left")) for axes in figure.axes[:2]] == [
        "neurons found for P(answer)",
        "neurons found for P among the relation's answers",
    ]
    assert figure.axes[-1].get_xlabel() == "language of prompts and neurons"
    assert "change of P(answer), %" in figure.axes[0].get_ylabel().replace("\n", " ")
    plt.close(figure)


@pytest.mark.slow
def test_the_picture_between_languages_writes_the_numbers_and_frames_one_language():
    keys = {"target": ["answer", "typed"], "measure": ["P(answer)", "P among the relation's answers"]}
    table = numbers(**keys, found=["en", "zh"], language=["en", "zh"]).assign(n=5)
    few = (table["found"] == "en") & (table["language"] == "zh")
    table.loc[few, "n"] = 4
    figure = plots.excess_between_languages(table)
    for axes, (target, measure) in zip(figure.axes, product(*keys.values()), strict=True):
        part = table[(table["target"] == target) & (table["measure"] == measure)]
        shown = part.loc[part["n"] == 5, "value"]
        assert [text.get_text() for text in axes.texts] == [f"{100 * v:+.0f}" for v in shown]
        assert [patch.get_xy() for patch in axes.patches] == [(0, 0), (1, 1)]
    assert [(axes.get_title() or axes.get_title("left")) for axes in figure.axes[:2]] == keys["measure"]
    assert figure.axes[-1].get_xlabel() == "language of the prompts"
    plt.close(figure)
