"""Curves of localisation: against plain loops, of a planted neuron, and what their areas are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import core_first, make_model
from oracles import every_layer

from kn_utils.attribution.attribute import attribution_map
from kn_utils.experiments import localisation
from kn_utils.experiments.localisation import (
    LocalisationError,
    curves,
    orders_compared,
    own_and_unrelated,
    random_order,
    selections,
    strongest_first,
)
from kn_utils.model.answers import answer_probability
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.interventions import suppress
from kn_utils.model.typed import candidates_of, typed_answers
from kn_utils.statistics.localisation import (
    AreaError,
    areas,
    mean_height,
    named,
    numbers_for,
    pooled_curves,
    selectivity_gained,
    success_rates,
)
from kn_utils.statistics.tables import with_intervals


@pytest.fixture(scope="module")
def asked(prompts) -> pd.DataFrame:
    return prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)


def shuffled(asked: pd.DataFrame, model, n: int, seed: int = 1) -> pd.DataFrame:
    """An order of its own for every fact."""
    random, rows = np.random.default_rng(seed), []
    for fact, relation in asked.drop_duplicates("fact")[["fact", "relation"]].itertuples(index=False):
        for place in random.choice(model.n_layers * model.n_neurons, n, replace=False):
            rows.append((fact, relation, *divmod(int(place), model.n_neurons)))
    return pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron"])


def everything_but(model, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    every = [(layer, neuron) for layer in range(model.n_layers) for neuron in range(model.n_neurons)]
    return sorted(set(every) - set(kept))


@pytest.mark.slow
@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_a_batch_of_sets_equals_one_prompt_at_a_time(kind, asked):
    model = make_model(kind)
    order, sizes = shuffled(asked, model, 8), [0, 1, 8]
    table = curves(model, asked, order, sizes=sizes, batch_size=5)
    assert len(table) == len(asked) * 2 * len(sizes)
    for row in table.itertuples():
        own = order[order["fact"] == row.fact][["layer", "neuron"]].head(row.k)
        first = [(int(layer), int(neuron)) for layer, neuron in own.to_numpy()]
        gone = first if row.way == "silenced" else everything_but(model, first)
        with suppress(model, gone):
            plain = answer_probability(model, asked[asked["prompt"] == row.prompt], progress=False)
        assert row.p == pytest.approx(plain["probability"].item(), rel=1e-6, abs=0)
    # all kept is plain P, all silenced is none kept
    every = shuffled(asked, model, model.n_layers * model.n_neurons)
    whole = curves(model, asked, every, sizes=[0, model.n_layers * model.n_neurons])
    wide = whole.pivot(index="prompt", columns=["way", "k"], values="p").loc[asked["prompt"]]
    plain = answer_probability(model, asked, progress=False)["probability"].to_numpy()
    last = wide.columns[-1][1]
    np.testing.assert_allclose(wide["kept", last], plain, rtol=1e-6)
    np.testing.assert_allclose(wide["silenced", 0], plain, rtol=1e-9)
    np.testing.assert_allclose(wide["silenced", last], wide["kept", 0], rtol=1e-6)


@pytest.mark.slow
def test_typed_probabilities_are_read_beside(bert, asked):
    order, among = shuffled(asked, bert, 4), candidates_of(asked)
    table = curves(bert, asked, order, sizes=[0, 4], candidates=among)
    plain = typed_answers(bert, asked, among, progress=False)
    nothing = table[(table["way"] == "silenced") & (table["k"] == 0)]
    np.testing.assert_allclose(nothing["typed"], plain["typed_probability"])
    np.testing.assert_allclose(nothing["p"], plain["probability"])
    some = asked[asked["fact"] != asked["fact"][0]]
    rest = curves(bert, asked, order[order["fact"].isin(some["fact"])], sizes=[0, 4], candidates=among)
    pd.testing.assert_frame_equal(
        rest, table[table["fact"].isin(some["fact"])].reset_index(drop=True), rtol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", [{}, {"baseline": "relation-mean"}, {"method": "activation"}])
def test_orders_are_those_of_the_mean_maps(bert, asked, method, monkeypatch):
    monkeypatch.setattr(localisation, "AT_ONCE", 2)  # a fact's prompts come in two parts
    order = strongest_first(bert, asked, depth=20, **method)
    assert list(dict.fromkeys(order["fact"])) == list(dict.fromkeys(asked["fact"]))
    for fact, own in order.groupby("fact"):
        here = (asked["fact"] == fact).to_numpy().copy()
        mean = attribution_map(bert, asked, **method).double()[here].mean(0)
        wanted = [divmod(int(i), 48) for i in torch.argsort(-mean.flatten(), stable=True)[:20]]
        found = list(zip(own["layer"], own["neuron"], strict=True))
        assert found[:5] == wanted[:5] and len(set(found) & set(wanted)) >= 19
        values = [float(mean[place]) for place in found]
        assert own["score"].tolist() == pytest.approx(values, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_neurons_may_be_set_to_the_mean_of_the_relation_s_other_facts(kind, asked):
    """A plain loop: every prompt's activations, their means, and one text with the neurons put there."""
    model = make_model(kind)
    one = asked.drop_duplicates("fact").reset_index(drop=True)
    order = shuffled(one, model, 4)
    table = curves(model, one, order, sizes=[0, 1, 4], set_to=asked)
    rows = [(row, asked["fact"][row.prompt]) for row in model.encode(asked)]
    seen = [(fact, every_layer(model, row.ids, row.position)) for row, fact in rows]
    for row in table.itertuples():
        others = [values for fact, values in seen if fact != row.fact]
        means = [torch.stack(layer).mean(0) for layer in zip(*others, strict=True)]
        first = order[order["fact"] == row.fact][["layer", "neuron"]].head(row.k).to_numpy()
        chosen = {(int(layer), int(neuron)) for layer, neuron in first}
        p = 1.0
        for asked_row in model.encode(one[one["fact"] == row.fact]):
            handles = [
                second.register_forward_pre_hook(
                    putting(asked_row.position, layer, means[layer], chosen, row.way == "kept")
                )
                for layer, second in enumerate(model.seconds)
            ]
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([asked_row.ids])).logits[0, asked_row.position]
            for handle in handles:
                handle.remove()
            p *= logits.softmax(-1)[asked_row.target].item()
        assert row.p == pytest.approx(p, rel=1e-6, abs=0)
    with pytest.raises(LocalisationError, match="is not among the prompts whose means"):
        curves(model, one, order, sizes=[0, 1], set_to=asked[asked["fact"] != one["fact"][0]])


def putting(position: int, layer: int, mean: torch.Tensor, chosen: set, kept: bool):
    """A hook that sets the chosen neurons of a layer, or all others, to their mean at the blank."""
    there = torch.tensor([((layer, n) in chosen) != kept for n in range(len(mean))])

    def put(_, args):
        value = args[0].clone()
        own = value.view(-1, value.shape[-1])[position]
        own[there] = mean[there]
        return (value, *args[1:])

    return put


def planted(neuron: int = 7, layer: int = 2):
    """A BERT whose answer to anything is Paris through one neuron of the last layer, and only through it."""
    model = make_model("bert")
    piece = model.tokenizer.convert_tokens_to_ids("Paris")
    with torch.no_grad():
        head = model.model.cls.predictions
        direction = torch.zeros(32, dtype=torch.float64)
        direction[0], direction[1] = 1.0, -1.0  # it has to outlive norms, which take the mean away
        for end in model.ends:
            end.second.bias.zero_()
        model.value_slots(layer)[neuron] = 60 * direction
        first = model.blocks[layer].intermediate.dense
        first.weight[neuron], first.bias[neuron] = 0.0, 3.0  # it is always on
        head.transform.dense.weight.copy_(torch.eye(32, dtype=torch.float64))
        head.transform.dense.bias.zero_()
        head.transform.LayerNorm.weight.fill_(1.0)
        head.transform.LayerNorm.bias.zero_()
        model.embeddings[piece] = 4 * direction
    return model, (layer, neuron)


def test_a_planted_neuron_is_found_first_and_carries_everything(prompts):
    model, place = planted()
    asked = prompts[prompts["answer"] == "Paris"].drop_duplicates("fact").reset_index(drop=True)
    plain = answer_probability(model, asked, progress=False)["probability"].item()
    order = strongest_first(model, asked, depth=16, rule="gauss-legendre", steps=32)
    assert tuple(order[["layer", "neuron"]].iloc[0]) == place
    found = curves(model, asked, order, sizes=[0, 1, 2, 4, 8, 16]).assign(selection="own")
    random = random_order(order, (3, 48))
    assert place not in set(zip(random["layer"], random["neuron"], strict=True))
    other = curves(model, asked, random, sizes=[0, 1, 2, 4, 8, 16]).assign(selection="random")
    wide = found.set_index(["way", "k"])["p"]
    # without it the random rest of the model says what it says: a little of Paris, too
    assert plain > 0.9 and wide["silenced", 1] < 0.2 * plain and wide["kept", 1] > 0.8 * plain
    assert wide["kept", 0] < 0.2 * plain
    table = areas(pd.concat([found, other])).set_index(["measure", "way", "selection"])["value"]
    assert table["P(answer)", "silenced", "own"] > 0.8 and table["P(answer)", "kept", "own"] > 0.7
    assert abs(table["P(answer)", "silenced", "random"]) < 0.1
    assert table["P(answer)", "kept", "random"] < 0.2
    reached = numbers_for(pooled_curves(pd.concat([found, other])))
    assert reached.loc["own"].tolist() == [1, 1] and reached.loc["random"].isna().all()


def test_random_neurons_keep_the_layers_of_every_beginning():
    order = pd.DataFrame({"fact": ["a"] * 40, "layer": [0, 1] * 20, "neuron": range(40)})
    found = random_order(order, (2, 48), seed=3)
    assert found["layer"].tolist() == order["layer"].tolist() and not found.duplicated().any()
    assert found["neuron"].tolist() != order["neuron"].tolist()
    two = pd.concat([order.assign(fact="b"), order])
    again = random_order(two, (2, 48), seed=3)
    assert again[again["fact"] == "a"]["neuron"].tolist() == found["neuron"].tolist()
    with pytest.raises(LocalisationError, match="^20 neurons of layer 0, which has 10"):
        random_order(order, (2, 10))


def test_orders_compared_and_their_controls(bert, asked):
    one = strongest_first(bert, asked, depth=6)
    found = orders_compared({"default": one, "most active": one}, asked, (3, 48))
    assert list(found) == ["default", "most active", "random, same layers", "another answer"]
    lent, by = found["another answer"], {fact: own for fact, own in one.groupby("fact")}
    for fact, own in lent.groupby("fact"):
        source = [name for name, table in by.items() if table["neuron"].tolist() == own["neuron"].tolist()]
        assert len(source) == 1 and source != [fact]


def test_selections_that_are_the_same_are_not_there_twice(bert):
    assert list(selections(bert))[:2] == ["default", "replacement"] and "gradient" in selections(bert)
    short = selections(make_model("gemma2"))
    assert "gradient" not in short and "replacement-each" not in short and "relation-mean" in short
    assert selections(bert, rule="right", steps=20)["replacement"] == {
        "rule": "right",
        "steps": 20,
        "baseline": "replacement",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [0, 4, 2]}, r"^sizes=\[0, 4, 2\]; they are numbers of neurons that grow"),
        ({"sizes": [0, 9]}, "has an order of 4 neurons, fewer than 9"),
        ({"order": "twice"}, "holds a neuron twice"),
        ({"order": "others"}, "none of these prompts' facts has an order"),
    ],
)
def test_orders_that_cannot_be_read_are_refused(bert, asked, change, message):
    order = shuffled(asked, bert, 4)
    if change.get("order") == "twice":
        order = order.assign(layer=0, neuron=1)
    elif change.get("order") == "others":
        order = order.assign(fact="other")
    with pytest.raises(LocalisationError, match=message):
        curves(bert, asked, order, sizes=change.get("sizes", [0, 4]))


def made_curves(values: dict[str, dict[str, list[float]]], sizes=(0, 1, 2, 4)) -> pd.DataFrame:
    """selection -> way -> P at each size, of four facts of two relations that differ in scale."""
    rows = [
        (f"f{i}", f"r{i % 2}", f"f{i}", way, k, p / (1 + i), name)
        for name, ways in values.items()
        for way, line in ways.items()
        for i in range(4)
        for k, p in zip(sizes, line, strict=True)
    ]
    return pd.DataFrame(rows, columns=["fact", "relation", "prompt", "way", "k", "p", "selection"])


def test_areas_of_constant_and_of_straight_curves():
    constant = {"silenced": [0.5] * 4, "kept": [0.5] * 4}
    gone = {"silenced": [0.5, 0, 0, 0], "kept": [0, 0.5, 0.5, 0.5]}
    straight = {"silenced": [0.6, 0.4, 0.2, 0.0], "kept": [0.0, 0.2, 0.4, 0.6]}
    table = areas(made_curves({"constant": constant, "gone": gone, "straight": straight}))
    plain = table[table["measure"] == "P(answer)"].set_index(["selection", "way"])
    assert plain.loc[("constant", "silenced"), "value"] == pytest.approx(0)
    assert plain.loc[("constant", "kept"), "value"] == pytest.approx(1)
    # half a step of three is lost between k = 0 and k = 1
    assert plain.loc[("gone", "silenced"), "value"] == pytest.approx(1 - 0.5 / 3)
    assert plain.loc[("gone", "kept"), "value"] == pytest.approx(1 - 0.5 / 3)
    assert plain.loc[("straight", "silenced"), "value"] == pytest.approx(0.5)
    assert plain["low"].to_numpy() == pytest.approx(plain["high"].to_numpy())  # ratios are the same
    assert (plain["n"] == 4).all()


def test_differences_of_areas_are_paired_and_signed():
    random = np.random.default_rng(0)
    table = made_curves({"a": {"silenced": [0.5] * 4, "kept": [0.5] * 4}})
    table["p"] = random.uniform(0.1, 0.9, len(table))
    other = table.assign(selection="b", p=np.where(table["k"] > 0, 0.9 * table["p"], table["p"]))
    both = pd.concat([table, other])
    found = areas(both, over="a").set_index(["measure", "way"])
    alone = areas(both).set_index(["measure", "way", "selection"])["value"]
    for measure in ("P(answer)", "log-odds of P(answer)"):
        for way in ("silenced", "kept"):
            difference = alone[measure, way, "b"] - alone[measure, way, "a"]
            assert found.loc[(measure, way), "value"] == pytest.approx(difference)
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    assert found.loc[("P(answer)", "silenced"), "low"] > 0 > found.loc[("P(answer)", "kept"), "high"]
    with pytest.raises(AreaError, match="no curves of 'c'; there are those of a, b"):
        areas(both, over="c")
    with pytest.raises(AreaError, match="the least of them 0"):
        areas(both[both["k"] > 0])


def test_the_area_by_a_plain_loop():
    sizes, line = [0, 1, 4, 64], [0.7, 0.4, 0.1, 0.2]
    x = [0, 1, 3, 7]
    by_hand = sum((x[i + 1] - x[i]) * (line[i] + line[i + 1]) / 2 for i in range(3)) / 7
    assert mean_height(np.array(line), sizes) == pytest.approx(by_hand)
    with pytest.raises(AreaError, match="two numbers of neurons or more"):
        mean_height(np.array([0.5]), [0])


@pytest.mark.slow
def test_success_rates_and_selectivity_by_hand(bert, asked):
    one = asked.drop_duplicates("fact").reset_index(drop=True)
    relations = ["P36", "P19", "P36"]
    one = one.assign(relation=relations)
    order = strongest_first(bert, one, depth=3)
    table = own_and_unrelated(bert, one, order, k=2).assign(selection="default")
    assert set(table["neurons"]) == {"own", "another relation"}
    found = success_rates(table).set_index("measure")["value"]
    told = table.assign(relative=table["after"] / table["before"] - 1)
    own, other = (
        told[told["neurons"] == kind].groupby("operation")["relative"].mean()
        for kind in ("own", "another relation")
    )
    assert found["success rate"] == pytest.approx((own / other).abs().sum())
    assert found["relative change, own, silenced"] == pytest.approx(own["suppress"])
    assert found["relative change, unrelated, amplified"] == pytest.approx(other["amplify"])
    logit = np.log(told["after"] / (1 - told["after"])) - np.log(told["before"] / (1 - told["before"]))
    means = told.assign(logit=logit).groupby(["operation", "neurons"])["logit"].mean()
    wanted = means["suppress", "own"] - means["suppress", "another relation"]
    assert found["selectivity, silenced"] == pytest.approx(wanted)
    nothing = table.assign(selection="nothing", after=table["before"])
    both = pd.concat([table, table.assign(selection="same"), nothing])
    gained = selectivity_gained(both, "default").set_index(["measure", "selection"])
    assert gained.loc[("selectivity, silenced", "same"), "value"] == pytest.approx(0)
    assert gained.loc[("selectivity, silenced", "nothing"), "value"] == pytest.approx(-wanted)


@pytest.mark.slow
def test_of_one_relation_there_are_no_rates(bert, asked):
    one = asked.drop_duplicates("fact").reset_index(drop=True)
    order = strongest_first(bert, one, depth=3)
    both = [own_and_unrelated(bert, one, order, k=2).assign(selection=name) for name in ("default", "other")]
    table = pd.concat(both)
    assert set(table["neurons"]) == {"own"}
    assert success_rates(table).empty and selectivity_gained(table, "default").empty
    assert with_intervals(success_rates(table), "selection", "measure").empty
    assert named(success_rates(table)).empty
