"""Erased relations: which neurons go, what the numbers mean, and that everything is put back."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model

from kn_utils import load_facts, load_model, make_prompts, plots
from kn_utils.base import ROOT
from kn_utils.data.prompts import draw
from kn_utils.experiments import erasing
from kn_utils.experiments.erasing import (
    ErasingError,
    erase_relations,
    erased_sets,
    erasure_cases,
    language_sets,
)
from kn_utils.model.answers import answer_probability
from kn_utils.published.printed import printed
from kn_utils.statistics.erased import (
    MEAN,
    OTHERS,
    OWN,
    ErasedError,
    as_another_relation,
    damage_by_sharing,
    first_choices,
    in_other_sets,
    languages_grid,
    means_of_grid,
    shared_sets,
    summarise_erasing,
    wide,
)
from kn_utils.statistics.intervals import ResamplingError, column_means, draws, interval


def table(rows, columns):
    return pd.DataFrame(rows, columns=columns)


#: Facts a, b of P1 and c of P2; the neuron (0, 5) is held by a and b, (1, 1) by a, (2, 2) by b and c.
FOUND = table(
    [("a", "P1", 0, 5), ("a", "P1", 1, 1), ("b", "P1", 0, 5), ("b", "P1", 2, 2), ("c", "P2", 2, 2)],
    ["fact", "relation", "layer", "neuron"],
)


def pairs(sets, kind, relation):
    some = sets[(sets["neurons"] == kind) & (sets["relation"] == relation)]
    return list(zip(some["layer"], some["neuron"], strict=True))


def test_the_most_frequent_neurons_go_and_as_many_of_each_control():
    active = table(
        [("a", "P1", 1, 7), ("b", "P1", 1, 7), ("b", "P1", 0, 9), ("c", "P2", 0, 9)], FOUND.columns
    )
    sets = erased_sets(FOUND, (3, 10), k=2, activation=active, seed=3)
    assert pairs(sets, "knowledge", "P1") == [(0, 5), (1, 1)]  # of equals the lower layer
    assert pairs(sets, "knowledge", "P2") == [(2, 2)]
    assert pairs(sets, "activation", "P1") == [(1, 7), (0, 9)] and pairs(sets, "activation", "P2") == [(0, 9)]
    for kind in ("same-layer", "random"):
        for relation, many in (("P1", 2), ("P2", 1)):
            assert len(set(pairs(sets, kind, relation))) == many
    assert [layer for layer, _ in pairs(sets, "same-layer", "P1")] == [0, 1]
    wide_model = erased_sets(FOUND, (3, 1000), k=2, seed=0), erased_sets(FOUND, (3, 1000), k=2, seed=1)
    assert pairs(wide_model[0], "random", "P1") != pairs(wide_model[1], "random", "P1")
    # no more active neurons than knowledge neurons
    assert len(pairs(erased_sets(FOUND, (3, 10), k=1, activation=active), "activation", "P1")) == 1


def test_relations_are_sorted_as_people_do():
    neurons = FOUND.assign(relation=FOUND["relation"].map({"P1": "P19", "P2": "P106"}))
    assert erased_sets(neurons, (3, 10))["relation"].drop_duplicates().tolist() == ["P19", "P106"]


def test_draw_takes_so_many_wordings_and_facts():
    prompts = table(
        [(f"{r}{f}/{w}", f"{r}{f}", r) for r in ("P1", "P2") for f in range(5) for w in range(4)],
        ["prompt", "fact", "relation"],
    )
    some = draw(prompts, 2, facts=3, seed=1)
    assert some.groupby("relation")["fact"].nunique().to_dict() == {"P1": 3, "P2": 3}
    assert (some.groupby("fact").size() == 2).all() and some["prompt"].is_unique
    assert draw(prompts, 9)["prompt"].tolist() == prompts["prompt"].tolist()  # all there are, in their order
    assert draw(prompts, 1)["prompt"].str[-1].nunique() > 1  # not always the first wording
    assert draw(prompts, 2, facts=3, seed=1).equals(some) and not draw(prompts, 2, facts=3, seed=2).equals(
        some
    )


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def asked():
    return make_prompts(load_facts("mini", relations=["P36", "P38"]).sample(3, 0), "en", wordings=2)


SETS = table(
    [
        ("knowledge", "P36", 4, 7),
        ("knowledge", "P36", 5, 9),
        ("knowledge", "P38", 5, 9),
        ("knowledge", "P38", 3, 1),
    ]
    + [("random", "P36", 2, 2), ("random", "P38", 1, 5)],
    ["neurons", "relation", "layer", "neuron"],
)


@pytest.fixture(scope="module")
def effects(model, asked):
    return erase_relations(model, SETS, asked, draw(asked, 1), progress=False)


@pytest.mark.slow
def test_every_relation_is_erased_and_asked_before_and_after(model, asked, effects):
    by_hand = {}
    slots = model.value_slots(4)[7].clone(), model.value_slots(5)[9].clone()
    by_hand["before"] = answer_probability(model, asked)["probability"]
    model.value_slots(4)[7] = 0
    model.value_slots(5)[9] = 0
    erased = answer_probability(model, asked)
    by_hand["after"], predicted = erased["probability"], erased["predicted"]
    model.value_slots(4)[7], model.value_slots(5)[9] = slots
    own = asked["relation"] == "P36"
    others = asked["prompt"].isin(draw(asked, 1)["prompt"]) & ~own
    some = effects[(effects["neurons"] == "knowledge") & (effects["erased"] == "P36")]
    assert some["prompt"].tolist() == [*asked["prompt"][own], *asked["prompt"][others]]
    for name, wanted in by_hand.items():
        assert some[name].to_numpy() == pytest.approx([*wanted[own], *wanted[others]], rel=1e-9, abs=0)
    assert (some["before"] - some["after"]).abs().max() > 1e-4
    assert some["predicted"].tolist()[:6] == predicted[own].tolist()
    assert len(effects) == 2 * 2 * (6 + 3) and (effects["operation"] == "erase").all()


def test_weights_are_put_back_bit_for_bit(model, asked):
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    erase_relations(model, SETS, asked.head(2), to="unknown", progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.slow
def test_the_batch_changes_nothing(model, asked, effects):
    again = erase_relations(model, SETS, asked, draw(asked, 1), batch_size=1, progress=False)
    assert again["after"].to_numpy() == pytest.approx(effects["after"].to_numpy(), rel=1e-9, abs=0)


@pytest.mark.slow
def test_one_relation_alone(model, asked):
    own = asked[asked["relation"] == "P36"]
    only = SETS[SETS["relation"] == "P36"]
    found = erase_relations(model, only, own, own, progress=False)
    assert (found["relation"] == "P36").all() and len(found) == 2 * len(own)
    summary = summarise_erasing(found)
    assert set(summary["asked"]) == {OWN} and set(summary["relation"]) == {"P36", MEAN}
    assert damage_by_sharing(found, only).empty
    assert in_other_sets(only)["share"].tolist() == [0, 0]
    # another model of another shape, and one language
    assert languages_grid(found.assign(neurons="en"))[["source", "language"]].to_numpy().tolist() == [
        ["en", "en"]
    ]


def test_mistakes_are_told(model, asked, effects):
    with pytest.raises(ErasingError, match="lower the threshold"):
        erased_sets(FOUND.iloc[:0], (3, 10))
    with pytest.raises(ErasingError, match="no prompts"):
        erase_relations(model, SETS, asked.iloc[:0], progress=False)
    with pytest.raises(ErasingError, match="none of the erased relations"):
        erase_relations(model, SETS.assign(relation="P1"), asked, progress=False)
    with pytest.raises(ErasedError, match="per='x'"):
        summarise_erasing(effects, per="x")
    with pytest.raises(ErasingError, match="before lacks 1 of the prompts"):
        before = answer_probability(model, asked.iloc[1:])
        erase_relations(model, SETS, asked, before=before, progress=False)


@pytest.mark.slow
def test_what_is_known_before_is_not_asked_again(model, asked, effects, monkeypatch):
    known = answer_probability(model, asked.sample(frac=1, random_state=0))
    monkeypatch.setattr(erasing, "answer_probability", None)
    again = erase_relations(model, SETS, asked, draw(asked, 1), before=known, progress=False)
    pd.testing.assert_frame_equal(again, effects, check_exact=False, rtol=1e-5)


@pytest.mark.slow
def test_cases_together_are_one_erasure_of_all_kinds(model, asked):
    sets = pd.concat([SETS, SETS.assign(neurons="random", layer=3)])
    cases = erasure_cases(sets, ["zero", "unknown"], without={"unknown": "random"})
    assert list(cases) == [(to, kind) for to in ("zero", "unknown") for kind in sets["neurons"].unique()][:-1]
    parts = [erase_relations(model, own=asked, progress=False, **case) for case in cases.values()]
    found = pd.concat(parts, ignore_index=True)
    together = [
        erase_relations(model, some, asked, to=to, progress=False)
        for to, some in (("zero", sets), ("unknown", sets[sets["neurons"] != "random"]))
    ]
    together = pd.concat(together, ignore_index=True)
    pd.testing.assert_frame_equal(found, together, check_exact=False, rtol=1e-4)


def test_sets_of_languages_and_their_random_neurons():
    neurons = {"en": FOUND, "nl": FOUND.assign(layer=2)}
    control = erased_sets(FOUND, (3, 50), k=2)
    sets = language_sets(neurons, (3, 50), control, k=2)
    assert list(sets["neurons"].unique()) == ["en", "nl", "random"]
    for language, found in neurons.items():
        own = erased_sets(found, (3, 50), k=2).query("neurons == 'knowledge'")
        assert pairs(sets, language, "P1") == pairs(own, "knowledge", "P1")
    assert pairs(sets, "random", "P1") == pairs(control, "same-layer", "P1")


#: erased P1, asked about a, b (P1) and c, d (P2); erased P2, asked about c, d, a. One prompt of each but a:
#: two.
EFFECTS = table(
    [
        ("P1", "a/1", "a", "P1", 0.5, 0.25, True, False),
        ("P1", "a/2", "a", "P1", 0.5, 0.5, True, True),
        ("P1", "b/1", "b", "P1", 0.2, 0.025, False, False),
        ("P1", "c/1", "c", "P2", 0.4, 0.4, True, True),
        ("P1", "d/1", "d", "P2", 0.1, 0.2, False, True),
        ("P2", "c/1", "c", "P2", 0.4, 0.1, True, True),
        ("P2", "d/1", "d", "P2", 0.1, 0.1, False, False),
        ("P2", "a/1", "a", "P1", 0.5, 0.5, True, True),
    ],
    ["erased", "prompt", "fact", "relation", "before", "after", "right_before", "right_after"],
).assign(neurons="knowledge", to="zero", language="en")


def value(summary, measure, asked, relation, column="value"):
    some = summary.query("measure == @measure and asked == @asked and relation == @relation")
    return some[column].item()


def test_the_table_by_hand():
    summary = summarise_erasing(EFFECTS)
    # P1: fact a halves in one of two prompts (ln 2 / 2), fact b falls to an eighth (3 ln 2); mean 1.75 ln 2
    assert value(summary, "perplexity rise", OWN, "P1") == pytest.approx(2**1.75 - 1)
    assert value(summary, "perplexity rise", OTHERS, "P1") == pytest.approx(2**-0.5 - 1)  # d doubles
    assert value(summary, "perplexity rise", OWN, "P2") == pytest.approx(2.0 - 1)  # 4 times, and 1
    assert value(summary, "perplexity rise", OTHERS, "P2") == pytest.approx(0)
    assert value(summary, "perplexity rise", OWN, MEAN) == pytest.approx(2 ** (2.75 / 2) - 1)
    assert value(summary, "perplexity before", OWN, "P1") == pytest.approx(
        np.exp(-(np.log(0.5) + np.log(0.2)) / 2)
    )
    assert value(summary, "perplexity after", OWN, "P1") == pytest.approx(
        np.exp(-((np.log(0.25) + np.log(0.5)) / 2 + np.log(0.025)) / 2)
    )
    assert value(summary, "accuracy before", OWN, "P1") == 0.5
    assert value(summary, "accuracy after", OWN, "P1") == 0.25
    assert value(summary, "accuracy change", OTHERS, "P1") == 0.5
    assert value(summary, "perplexity rise", OWN, "P1", "n") == 2


def test_what_a_relation_suffers_from_the_others():
    three = pd.concat(
        [EFFECTS, EFFECTS[EFFECTS["erased"] == "P1"].assign(erased="P3", after=EFFECTS["before"] / 2)]
    )
    suffered = summarise_erasing(three, per="relation")
    # P1 is asked while P2 is erased (fact a: nothing) and while P3 is (a and b: halved): per fact a
    # ln2/2*..., then facts
    rise_a = np.mean([0, np.log(2), np.log(2)])  # a's prompts alike: one under P2, two under P3
    assert value(suffered, "perplexity rise", OTHERS, "P1") == pytest.approx(
        np.exp((rise_a + np.log(2)) / 2) - 1
    )
    assert value(suffered, "perplexity rise", OWN, "P1") == pytest.approx(2**1.75 - 1)


def test_published_sign_is_turned(effects):
    """The printed rises are positive where perplexity rose, and so are ours."""
    worse = EFFECTS.assign(after=EFFECTS["before"] / 2)
    assert value(summarise_erasing(worse), "perplexity rise", OWN, "P1") == pytest.approx(1.0)
    paper = printed("Dai et al. 2022")
    rises = paper.loc[paper["quantity"] == f"erasing: rise of perplexity of the {OWN}", "value"]
    assert len(rises) == 4 and (rises > 0).all()


@pytest.mark.slow
def test_first_row_of_the_notebooks_table_by_a_loop(model, asked, effects):
    """Perplexity rise of the erased relation, from plain probabilities."""
    summary = summarise_erasing(effects)
    slot = model.value_slots(4)[7].clone(), model.value_slots(5)[9].clone()
    own = asked[asked["relation"] == "P36"].reset_index(drop=True)

    def surprise():
        total = {}
        for i in range(len(own)):
            p = 1.0
            for row in model.encode(own.iloc[[i]]):
                p *= (
                    model.model(input_ids=torch.tensor([row.ids]))
                    .logits[0, row.position]
                    .softmax(-1)[row.target]
                    .item()
                )
            total.setdefault(own["fact"][i], []).append(-np.log(p))
        return np.mean([np.mean(values) for values in total.values()])

    before = surprise()
    model.value_slots(4)[7] = 0
    model.value_slots(5)[9] = 0
    after = surprise()
    model.value_slots(4)[7], model.value_slots(5)[9] = slot
    some = summary[summary["neurons"] == "knowledge"]
    assert value(some, "perplexity rise", OWN, "P36") == pytest.approx(
        np.exp(after - before) - 1, rel=1e-8, abs=0
    )


def test_languages_grid_by_hand():
    found = pd.concat([EFFECTS.assign(neurons="en"), EFFECTS.assign(neurons="ja", after=EFFECTS["before"])])
    grid = languages_grid(found).set_index("source")["value"]
    assert grid["en"] == pytest.approx(2.75 / 2 * np.log(2)) and grid["ja"] == 0


def test_means_of_the_grid_by_hand():
    cells = [
        ("en", "en", 1.0),
        ("en", "nl", 0.2),
        ("nl", "nl", 2.0),
        ("nl", "en", 0.4),
        ("random", "en", 0.1),
    ]
    grid = pd.concat(
        [table(cells, ["source", "language", "value"]).assign(to="zero")]
        + [table([("en", "en", 5.0)], ["source", "language", "value"]).assign(to="unknown")]
    )
    means = means_of_grid(grid)
    assert list(means) == ["same language", "other language", "random"] and list(means.index) == [
        "zero",
        "unknown",
    ]
    assert means.loc["zero"].tolist() == pytest.approx([1.5, 0.3, 0.1])
    assert means.loc["unknown", "same language"] == 5 and np.isnan(means.loc["unknown", "random"])


def test_first_choices_are_counted_of_erased_relations_only():
    said = ["Rome", "Rome", "Oslo", "Bonn", "Rome"]
    effects = pd.DataFrame({"predicted": said, "to": ["zero"] * 4 + ["unknown"], "erased": "P1"})
    effects["relation"] = ["P1", "P1", "P1", "P2", "P1"]
    found = first_choices(effects)
    assert found.loc["zero"].tolist() == ["Rome (2)", "Oslo (1)"] and found.loc["unknown", 1] == "Rome (1)"
    assert first_choices(effects, 1).shape == (2, 1)


def test_another_relations_neurons_stand_beside_a_relations_own():
    suffered = summarise_erasing(EFFECTS, per="relation")
    beside = as_another_relation(suffered)
    assert set(beside["neurons"]) == {"another relation"} and set(beside["asked"]) == {OWN}
    theirs = suffered[suffered["asked"] == OTHERS]
    assert beside["value"].tolist() == theirs["value"].tolist() and len(beside)


def test_sharing_by_hand():
    sets = erased_sets(FOUND, (3, 10), k=3)
    shared = in_other_sets(sets).set_index(["neurons", "relation"]).loc["knowledge"]
    assert shared.loc["P1", ["size", "share", "closest", "shared"]].tolist() == [3, 1 / 3, "P2", 1]
    assert shared.loc["P2", "share"] == 1
    both = shared_sets(sets[sets["neurons"] == "knowledge"])
    assert both[["relation", "other", "shared"]].to_numpy().tolist() == [["P1", "P2", 1], ["P2", "P1", 1]]
    damage = damage_by_sharing(EFFECTS, sets, edges=(0, 1, 2))
    # c: nothing, d: doubles, a: nothing
    assert damage[["shared", "pairs", "n"]].to_numpy().tolist() == [["1", 2, 3]]
    assert damage["value"][0] == pytest.approx(-np.log(2) / 3)
    assert damage_by_sharing(EFFECTS, sets, edges=(0, 1))["shared"].tolist() == ["1 or more"]
    assert damage_by_sharing(EFFECTS, sets, edges=(0, 3))["shared"].tolist() == ["0 to 2"]


# Resampling


def test_column_means_by_hand():
    values = pd.DataFrame({"P1": [1.0, 3, np.nan], "P2": [np.nan, np.nan, 8]}, index=list("abc"))
    relation = pd.Series({"a": "P1", "b": "P1", "c": "P2"})
    found = column_means(values, relation, mean="mean").set_index("column")
    assert found["value"].tolist() == [2, 8, 5] and found["n"].tolist() == [2, 1, 3]
    assert found.loc["P1", ["low", "high"]].tolist() == [1, 3] and np.isnan(found.loc["P2", "low"])
    weights = pd.DataFrame({"P1": [3.0, 1, 1], "P2": [1.0, 1, 1]}, index=list("abc"))
    assert column_means(values, relation, weights=weights)["value"].tolist() == [1.5, 8]
    with pytest.raises(ResamplingError, match="fact c"):
        column_means(values, relation.drop("c"))


def test_intervals_are_those_of_a_bootstrap_over_facts():
    x = np.random.default_rng(0).gamma(2, size=40)
    facts = [f"f{i}" for i in range(40)]
    relation = pd.Series("P1", index=facts)
    ours = column_means(pd.DataFrame({"P1": x}, index=facts), relation).iloc[0]
    theirs = interval(x, seed=1)
    assert ours["value"] == theirs["value"]
    assert [ours["low"], ours["high"]] == pytest.approx([theirs["low"], theirs["high"]], rel=0.03)


def test_facts_are_drawn_within_their_relation():
    strata = np.array(["P1"] * 3 + ["P2"] * 2)
    times = draws(strata, seed=2)
    assert (times[:, :3].sum(1) == 3).all() and (times[:, 3:].sum(1) == 2).all() and times[:, 0].std() > 0
    assert (draws(strata, seed=2) == times).all()


# Pictures


def pictured():
    rows = [
        (asked, kind, relation, 0.1 * i + 0.3 * (asked == OWN), 0.05 * i, 0.9 * i + 0.4)
        for asked in (OWN, OTHERS)
        for kind in ("knowledge", "random")
        for i, relation in enumerate(["P19", "P36", MEAN])
    ]
    return table(rows, ["asked", "neurons", "relation", "value", "low", "high"])


def test_picture_of_erased_relations():
    data = pictured()
    paper = table(
        [(OWN, "P19", 1.066), (OTHERS, "P19", 0.011), (OWN, "P937", 1.4)], ["asked", "relation", "value"]
    )
    figure = plots.erased(data, paper, "title")
    left, right = figure.axes
    assert left.get_xlabel() == "perplexity after / before" and left.get_ylabel() == "erased relation"
    assert [tick.get_text() for tick in left.get_yticklabels()] == [MEAN, "P36 capital", "P19 place of birth"]
    lines = [line for line in left.lines if line.get_marker() == "o"]
    assert lines[0].get_xdata() == pytest.approx([1.5, 1.4, 1.3])  # from the lowest place up: mean, P36, P19
    cross = [line for line in left.lines if line.get_marker() == "x"]
    assert cross[0].get_xdata() == pytest.approx([2.066]) and list(cross[0].get_ydata()) == [2]
    assert [line.get_xdata()[0] for line in right.lines if line.get_marker() == "x"] == pytest.approx([1.011])
    for axes in (left, right):
        assert axes.get_xscale() == "log"
        assert [float(t.get_text()) for t in axes.get_xticklabels()] == pytest.approx(list(axes.get_xticks()))
    plt.close(figure)
    figure = plots.erased(data[data["asked"] == OWN], paper.iloc[:0], "one relation: no others")
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    plt.close(figure)


def test_picture_of_the_sweep():
    data = pd.concat([pictured().assign(k=k, value=k / 10) for k in (1, 5, 20)]).query("relation == @MEAN")
    figure = plots.erased_sweep(data, "title")
    left = figure.axes[0]
    assert left.get_xlabel() == "erased neurons, at most" and left.get_ylabel() == "perplexity after / before"
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "5", "20"] and list(
        left.get_xticks()
    ) == [1, 5, 20]
    line = next(line for line in left.lines if line.get_marker() == "o")
    assert line.get_xdata() == pytest.approx([1, 5, 20]) and line.get_ydata() == pytest.approx([1.1, 1.5, 3])
    plt.close(figure)


def test_picture_of_languages():
    data = table(
        [
            (to, s, lang, i + (to == "unknown"))
            for to in ("zero", "unknown")
            for i, (s, lang) in enumerate([("en", "en"), ("en", "ja"), ("random", "en"), ("random", "ja")])
        ],
        ["to", "source", "language", "value"],
    )
    figure = plots.erased_languages(data, "title")
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["0.00", "1.00", "2.00", "3.00"]
    assert [text.get_text() for text in right.texts] == ["1.00", "2.00", "3.00", "4.00"]
    assert [t.get_text() for t in left.get_yticklabels()] == [
        "en",
        "random",
    ] and left.get_ylabel() == "neurons found in"
    assert [t.get_text() for t in left.get_xticklabels()] == [
        "en",
        "ja",
    ] and left.get_xlabel() == "language asked in"
    plt.close(figure)


def test_wide_shows_value_and_interval():
    summary = summarise_erasing(EFFECTS)
    text = wide(summary[summary["relation"] == "P1"], ["perplexity rise"], digits=1)
    assert text.index.names == ["asked"]  # all else is the same in every row
    assert text.loc[OWN, "perplexity rise"].startswith("2.4 [") and text.loc[
        OTHERS, "perplexity rise"
    ].startswith("-0.3 [")
    one = wide(
        summary[(summary["relation"] == "P1") & (summary["asked"] == OWN)],
        ["perplexity rise", "accuracy change"],
    )
    assert one.index.tolist() == ["P1"] and one.shape == (1, 2)


def test_a_model_of_another_shape(toy, prompts):
    model = make_model("gpt2")
    sets = erased_sets(
        table([(f, "P36", 1, i) for i, f in enumerate(prompts["fact"].unique())], FOUND.columns), (3, 48), k=2
    )
    some = prompts[prompts["text"].str.contains(r"capital of .* is \[Y\]")]
    found = erase_relations(model, sets, some, progress=False)
    assert len(found) == 3 * len(some) and found["after"].between(0, 1).all()


def test_the_notebook_is_there():
    assert (ROOT / "notebooks" / "08_erase_relations.ipynb").is_file()
