"""Pairs and sets of neurons, asked of small models: against one intervention at a time, and planted."""

from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import make_model

from kn_utils import plots
from kn_utils.experiments import degenerate
from kn_utils.experiments.degenerate import (
    SetsError,
    located_kinds,
    not_located,
    pairs_silenced,
    sets_searched,
)
from kn_utils.model.answers import answer_probability
from kn_utils.model.interventions import suppress
from kn_utils.model.typed import candidates_of, typed_answers
from kn_utils.neurons.degenerate import additive, searched
from kn_utils.statistics.changes import log_odds
from kn_utils.statistics.degenerate import judged_pairs, orders


@pytest.fixture(scope="module")
def models():
    return {kind: make_model(kind) for kind in ("bert", "gpt2")}


@pytest.fixture(scope="module")
def asked(prompts):
    return prompts.drop_duplicates("fact").reset_index(drop=True)


def strong(asked: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    random = np.random.default_rng(3)
    rows = [
        (fact, relation, *divmod(int(place), 48))
        for fact, relation in zip(asked["fact"], asked["relation"], strict=True)
        for place in random.choice(3 * 48, n, replace=False)
    ]
    return pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron"])


def p_without(model, prompt: pd.DataFrame, gone: list[tuple[int, int]]) -> float:
    """One prompt, one intervention, one pass."""
    with suppress(model, gone):
        return float(answer_probability(model, prompt, progress=False)["probability"].iloc[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_pairs_are_what_one_intervention_at_a_time_gives(models, asked, kind):
    model, neurons = models[kind], strong(asked)
    table = pairs_silenced(model, asked, neurons, kind="k")
    assert len(table) == len(asked) * 6 and set(table["kind"]) == {"k"}
    fact = asked["fact"][1]
    prompt = asked[asked["fact"] == fact]
    own = list(map(tuple, neurons[neurons["fact"] == fact][["layer", "neuron"]].to_numpy().tolist()))
    here = table[table["fact"] == fact].reset_index(drop=True)
    for row, (a, b) in zip(here.itertuples(), combinations(own, 2), strict=True):
        assert (row.a_layer, row.a_neuron) == a and (row.b_layer, row.b_neuron) == b
        for name, gone in (("p", []), ("p_a", [a]), ("p_b", [b]), ("p_ab", [a, b])):
            assert getattr(row, name) == pytest.approx(p_without(model, prompt, gone), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_sets_are_searched_side_by_side_as_one_by_one(models, asked, kind):
    model, neurons = models[kind], strong(asked)
    table = sets_searched(model, asked, neurons)
    assert table["fact"].sort_values().tolist() == sorted(asked["fact"])
    for row in table.itertuples():
        prompt = asked[asked["fact"] == row.fact]
        own = sorted(
            map(tuple, neurons[neurons["fact"] == row.fact][["layer", "neuron"]].to_numpy().tolist())
        )

        def value(gone, own=own, prompt=prompt):
            return float(log_odds(np.array(p_without(model, prompt, [own[i] for i in sorted(gone)]))))

        one = searched(value, len(own))
        null = additive(one)
        assert (row.n, row.order, row.order_additive) == (len(own), one.order, null.order)
        assert row.before == pytest.approx(one.full) and row.carried == pytest.approx(one.full - one.none)
        assert row.summed == pytest.approx(one.losses.sum())
        assert row.redundant == bool(one.redundant[0]) and row.redundant_additive == bool(null.redundant[0])
        for name, told in (("", one), ("_additive", null)):
            size, left = getattr(row, f"size{name}"), getattr(row, f"left{name}")
            assert size == pytest.approx(len(told.found[0]) if told.found else np.nan, nan_ok=True)
            assert left == pytest.approx(told.left, nan_ok=True)
        assert row.harmful == pytest.approx(one.harmful, nan_ok=True)


def test_typed_probabilities_are_read_where_candidates_are_given(models, asked):
    model, neurons, candidates = models["bert"], strong(asked, 2), candidates_of(asked)
    table = pairs_silenced(model, asked, neurons, candidates=candidates)
    plain = typed_answers(model, asked, candidates, progress=False)
    assert table["p"].to_numpy() == pytest.approx(plain["typed_probability"].to_numpy())


def plant(monkeypatch, structures: list) -> None:
    """Of each prompt the log-odds are a function of which of its neurons (numbers 0, 1 ...) are silenced."""

    def planted(model, prompts, places, silenced, **asking):
        odds = [
            structures[place](frozenset(pairs[:, 1].tolist() if len(pairs) else []))
            for place, pairs in zip(places, silenced, strict=True)
        ]
        return 1 / (1 + np.exp(-np.array(odds, dtype=float)))

    monkeypatch.setattr(degenerate, "probabilities_without", planted)


@pytest.mark.slow
def test_a_planted_or_is_found_through_the_whole_experiment(models, asked, monkeypatch):
    either = lambda gone: 3.0 * (not {0, 1} <= gone)  # noqa: E731
    total = lambda gone: 3.0 - len(gone)  # noqa: E731
    plant(monkeypatch, [either, total, lambda gone: 0.0])
    rows = [(fact, "P36", 1, n) for fact in asked["fact"] for n in range(3)]
    neurons = pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron"])
    found = sets_searched(models["bert"], asked, neurons).set_index("fact").loc[asked["fact"]]
    assert found["order"].tolist() == [2, 1, 0] and found["order_additive"].tolist() == [0, 1, 0]
    assert found["redundant"].tolist() == [True, False, False]
    told = orders(found.reset_index(), noise=0.1).set_index("measure")
    assert told.loc["carries something", "value"] == pytest.approx(2 / 3)
    assert told.loc["order", "value"] == pytest.approx(1.5)
    assert told.loc["order beyond additive", "value"] == pytest.approx(0.5)
    pairs = judged_pairs(pairs_silenced(models["bert"], asked, neurons))
    first = pairs[(pairs["fact"] == asked["fact"][0]) & (pairs["a_neuron"] + pairs["b_neuron"] == 1)]
    assert first["interaction"].tolist() == pytest.approx([3.0])
    others = pairs.drop(first.index)["interaction"]
    assert others.to_numpy() == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_asked_is_refused_or_left_out(models, asked, prompts):
    neurons = strong(asked)
    with pytest.raises(SetsError, match="several prompts"):
        pairs_silenced(models["bert"], prompts, neurons)
    alone = neurons.groupby("fact").head(1)
    assert pairs_silenced(models["bert"], asked, alone).empty
    assert len(sets_searched(models["bert"], asked, alone)) == len(asked)
    assert sets_searched(models["bert"], asked, neurons.iloc[:0]).empty


def test_kinds_of_neurons_are_what_their_names_say(asked):
    located = strong(asked).assign(score=0.5)
    here = pd.concat([located, strong(asked).assign(layer=2, neuron=lambda t: range(len(t)), score=0.4)])
    here = here.drop_duplicates(["fact", "layer", "neuron"])
    asked = asked.assign(answer=["a", "a", "b"])
    kinds = located_kinds(located, here, asked, (3, 48), 2)
    assert list(kinds) == ["own", "as strong, not located", "another answer", "random, same layers"]
    keys = ["fact", "layer", "neuron"]
    own = set(map(tuple, kinds["own"][keys].values.tolist()))
    free = kinds["as strong, not located"]
    assert not own & set(map(tuple, free[keys].values.tolist())) and (free.groupby("fact").size() == 2).all()
    third = asked["fact"][2]
    lent = kinds["another answer"].set_index("fact").loc[third, ["layer", "neuron"]].values.tolist()
    others = located[located["fact"] != third][["layer", "neuron"]].values.tolist()
    assert all(pair in others for pair in lent)
    layers = [kinds[name].groupby(["fact", "layer"]).size() for name in ("own", "random, same layers")]
    pd.testing.assert_series_equal(*layers)


def test_the_strongest_that_are_not_located_come_first():
    rows = [("a", "P", 0, n, score) for n, score in enumerate((0.9, 0.8, 0.7, 0.6))]
    strongest = pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron", "score"])
    found = not_located(strongest, strongest.iloc[[1]], 2)
    assert found["neuron"].tolist() == [0, 2]


def test_the_pictures_show_every_pair_and_every_kind(models, asked):
    parts = [
        pairs_silenced(models["bert"], asked, strong(asked), kind=kind) for kind in ("own", "another answer")
    ]
    table = judged_pairs(pd.concat(parts, ignore_index=True))
    figure = plots.pairs(table, (0.2, 0.25), "random bert")
    for axes in figure.axes:
        drawn = np.concatenate([dots.get_offsets() for dots in axes.collections])
        part = table[table["kind"] == ("own" if axes is figure.axes[0] else "another answer")]
        wanted = np.stack([part["loss_a"] + part["loss_b"], part["loss_ab"]], 1)
        assert sorted(map(tuple, np.asarray(drawn).round(9))) == sorted(map(tuple, wanted.round(9)))
        assert "log-odds" in axes.get_xlabel()
    plt.close(figure)


def test_the_picture_of_what_is_left_shows_both_measures_of_every_kind():
    measures = ["left to the others", "left to the others, additive", "order"]
    kinds = ["own", "random, same layers"]
    rows = [(m, k, 0.1 * i + 0.3 * j) for i, m in enumerate(measures) for j, k in enumerate(kinds)]
    table = pd.DataFrame(rows, columns=["measure", "kind", "value"])
    table = table.assign(low=table["value"] - 0.05, high=table["value"] + 0.02, n=7)
    figure = plots.left_to_others(table, "a model")
    (axes,) = figure.axes
    for drawn, measure in zip(axes.containers, measures[:2], strict=True):
        wanted = 100 * table.loc[table["measure"] == measure, "value"].to_numpy()
        assert drawn.lines[0].get_xydata()[:, 0] == pytest.approx(wanted)
    assert all("(7)" in tick.get_text() for tick in axes.get_yticklabels())
    plt.close(figure)
