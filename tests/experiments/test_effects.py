"""Silencing and amplifying: whose neurons act, what is measured, and each table's first row by hand."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kn_utils import plots
from kn_utils.attribution.attribute import attribute
from kn_utils.data.prompts import make_prompts
from kn_utils.data.sources import load_facts
from kn_utils.experiments.effects import (
    EvaluationError,
    cases_by_kind,
    effects,
    effects_by_kind,
    effects_in_held_out,
    effects_of_operations,
)
from kn_utils.model.answers import answer_probability
from kn_utils.model.loading import load_model
from kn_utils.neurons.choose import ChoiceError, other_fact, random_neurons
from kn_utils.neurons.refine import refine
from kn_utils.statistics.changes import answer_changes, mean_over_relations, relative_change
from kn_utils.statistics.intervals import ratio_interval


def by_hand(model, text: str, answer: str, pairs: list[tuple[int, int]], factor: float) -> tuple[float, str]:
    """P(answer) and the first choice, neurons multiplied at the first mask of one unpadded row at a time."""
    tokenizer, p, first = model.tokenizer, 1.0, []
    pieces = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids = tokenizer(text.replace("[Y]", "[MASK]" * len(pieces)))["input_ids"]
    for piece in pieces:
        at = ids.index(tokenizer.mask_token_id)

        def multiply(layer: int, at: int = at):
            def hook(_, args):
                value = args[0].clone()
                for number, neuron in pairs:
                    if number == layer:
                        value[0, at, neuron] = factor * value[0, at, neuron]
                return (value, *args[1:])

            return hook

        handles = [
            second.register_forward_pre_hook(multiply(layer))
            for layer, second in enumerate(model.seconds)
            if pairs
        ]
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, at]
        for handle in handles:
            handle.remove()
        p *= logits.softmax(-1)[piece].item()
        first.append(int(logits.argmax()))
        ids[at] = piece
    return p, tokenizer.decode(first)


def pairs_of(neurons: pd.DataFrame, fact: str) -> list[tuple[int, int]]:
    part = neurons[neurons["fact"] == fact]
    return [(int(a), int(b)) for a, b in zip(part["layer"], part["neuron"], strict=True)]


# On the bundled model: three facts of each of two relations whose answers are countries, in two languages


class Case:
    """Prompts in English and Dutch, the neurons found with each, and their effects on the English prompts."""

    def __init__(self) -> None:
        self.model = load_model("mini", device="cpu", dtype="float64")
        data = load_facts("mini", relations=["P17", "P27"]).sample(4, 2)
        self.prompts = make_prompts(data, "en", wordings=3)
        self.dutch = make_prompts(data, "nl", wordings=2)
        self.neurons, self.dutch_neurons = (
            refine(attribute(self.model, table, progress=False), table)
            for table in (self.prompts, self.dutch)
        )
        shape = (self.model.n_layers, self.model.n_neurons)
        self.kinds = {
            "knowledge": self.neurons,
            "same-layer": random_neurons(self.neurons, shape, same_layers=True),
        }
        self.before = answer_probability(self.model, self.prompts)
        self.own = effects_by_kind(self.model, self.prompts, self.kinds, before=self.before)

    def plain(self, prompts: pd.DataFrame, neurons: pd.DataFrame, factor: float, source=None) -> pd.DataFrame:
        """``before, after, first_before, first_after`` of the prompts whose source has neurons, by hand."""
        rows = []
        source = prompts["fact"] if source is None else source
        for row, fact in zip(prompts.itertuples(), source, strict=True):
            pairs = pairs_of(neurons, fact) if fact is not None else []
            if pairs:
                before, after = (
                    by_hand(self.model, row.text, row.answer, some, factor) for some in ([], pairs)
                )
                rows.append((row.prompt, row.fact, row.relation, row.answer, *before, *after))
        names = ["prompt", "fact", "relation", "answer", "before", "first_before", "after", "first_after"]
        return pd.DataFrame(rows, columns=names)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.fixture(scope="module")
def silenced(case) -> pd.DataFrame:
    return case.plain(case.prompts, case.neurons, 0.0)


@pytest.mark.slow
def test_the_first_row_of_the_main_table_by_hand(case, silenced):
    row = relative_change(case.own, ["operation", "neurons"]).iloc[0]
    assert (row["operation"], row["neurons"], row["n"]) == (
        "suppress",
        "knowledge",
        silenced["fact"].nunique(),
    )
    assert row["value"] == pytest.approx(
        silenced["after"].sum() / silenced["before"].sum() - 1, rel=1e-9, abs=0
    )
    ratios = [after / before - 1 for before, after in zip(silenced["before"], silenced["after"], strict=True)]
    assert row["mean_of_ratios"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-9, abs=0)
    assert row["low"] < row["value"] < row["high"] < -0.01
    assert row["ratios_low"] < row["mean_of_ratios"] < row["ratios_high"]


@pytest.mark.slow
def test_the_first_row_per_relation_and_their_mean_by_hand(case, silenced):
    sums = silenced.groupby("relation")[["before", "after"]].sum()
    change = sums["after"] / sums["before"] - 1
    per_relation = relative_change(case.own, ["operation", "neurons", "relation"]).iloc[0]
    assert per_relation["value"] == pytest.approx(change[per_relation["relation"]], rel=1e-9, abs=0)
    row = mean_over_relations(case.own, ["operation", "neurons"]).iloc[0]
    assert row["value"] == pytest.approx((change["P17"] + change["P27"]) / 2, rel=1e-9, abs=0)
    assert row["relations"] == 2 and row["low"] < row["value"] < row["high"]


@pytest.mark.slow
def test_the_first_choices_by_hand(case, silenced):
    own = case.own[(case.own["operation"] == "suppress") & (case.own["neurons"] == "knowledge")]
    assert own["prompt"].tolist() == silenced["prompt"].tolist()
    assert own["predicted_before"].tolist() == silenced["first_before"].tolist()
    assert own["predicted_after"].tolist() == silenced["first_after"].tolist()
    assert own["changed"].tolist() == (silenced["first_before"] != silenced["first_after"]).tolist()
    right = silenced[silenced["first_before"] == silenced["answer"]]
    stays = (right["first_after"] == right["answer"]).groupby(right["fact"]).mean()
    row = answer_changes(case.own, ["operation", "neurons"]).iloc[0]
    assert (row["measure"], row["operation"], row["neurons"]) == ("stays right", "suppress", "knowledge")
    assert row["value"] == pytest.approx(stays.mean()) and row["n"] == len(stays) > 1


@pytest.mark.slow
def test_a_dose_by_hand_and_a_factor_of_one_changes_nothing(case):
    plain = case.plain(case.prompts, case.neurons, 3.0)
    table = effects_by_kind(
        case.model, case.prompts, {"knowledge": case.neurons}, operations={"amplify": 3.0}
    )
    assert set(table["factor"]) == {3.0}
    assert table["after"].to_numpy() == pytest.approx(plain["after"].to_numpy(), rel=1e-9, abs=0)
    for kind, neurons in case.kinds.items():
        one = effects(case.model, case.prompts, neurons, operation="amplify", factor=1.0, kind=kind)
        np.testing.assert_allclose(one["after"], one["before"], rtol=1e-12)  # other batches round otherwise
        assert not one["changed"].any()


@pytest.mark.slow
def test_the_first_row_across_languages_by_hand(case):
    both = pd.concat([case.prompts, case.dutch], ignore_index=True)
    found = {"en": case.neurons, "nl": case.dutch_neurons}
    across = pd.concat(
        [effects_by_kind(case.model, both, {"knowledge": n}).assign(found=name) for name, n in found.items()]
    )
    table = relative_change(across, ["operation", "found", "language"])
    assert list(table.groupby(["found", "language"]).groups) == list(product(["en", "nl"], repeat=2))
    # the second, where neurons of one language act in another, tells more than the first
    plain = case.plain(case.dutch, case.neurons, 0.0)
    row = table[
        (table["operation"] == "suppress") & (table["found"] == "en") & (table["language"] == "nl")
    ].iloc[0]
    assert row["value"] == pytest.approx(plain["after"].sum() / plain["before"].sum() - 1, rel=1e-9, abs=0)


@pytest.mark.slow
def test_held_out_wordings_by_hand(case):
    place = case.prompts.groupby("fact").cumcount()
    half, held = case.prompts[place % 2 == 0], case.prompts[place % 2 == 1]
    neurons = refine(attribute(case.model, half, progress=False), half)
    table = effects(case.model, case.prompts, neurons, before=case.before)
    table["wordings"] = np.where(table["prompt"].isin(half["prompt"]), "found them", "held out")
    found = relative_change(table, ["wordings"]).set_index("wordings")["value"]
    for name, part in (("found them", half), ("held out", held)):
        plain = case.plain(part, neurons, 0.0)
        assert found[name] == pytest.approx(plain["after"].sum() / plain["before"].sum() - 1, rel=1e-9, abs=0)


# Whose neurons act


def bags(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Two prompts of each (fact, relation, answer)."""
    table = pd.DataFrame([row for row in rows for _ in range(2)], columns=["fact", "relation", "answer"])
    return table.assign(language="en", prompt=[f"{fact}/{i % 2}" for i, fact in enumerate(table["fact"])])


BAGS = bags(
    ("a", "P1", "Paris"),
    ("b", "P1", "Paris"),
    ("c", "P1", "Rome"),
    ("d", "P1", "Oslo"),
    ("e", "P2", "Paris"),
    ("f", "P2", "Rome"),
    ("g", "P2", "Bonn"),
)
OWNERS = BAGS.drop_duplicates("fact").assign(layer=0, neuron=0)[["fact", "relation", "layer", "neuron"]]
ANSWER = dict(zip(BAGS["fact"], BAGS["answer"], strict=True))
RELATION = dict(zip(BAGS["fact"], BAGS["relation"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("relation", "answer"), list(product(["same", "other"], ["same", "other", "any"])))
def test_every_other_fact_of_the_kind_asked_for_is_drawn_and_no_other(relation, answer):
    drawn: dict[str, set] = {fact: set() for fact in ANSWER}
    for seed in range(40):
        source = other_fact(BAGS, OWNERS, relation=relation, answer=answer, seed=seed)
        for fact in ANSWER:
            (one,) = set(source[(BAGS["fact"] == fact).to_numpy()])  # a bag is asked with one fact's neurons
            drawn[fact].add(one)
    for fact, seen in drawn.items():
        wanted = {
            other
            for other in ANSWER
            if other != fact
            and (RELATION[other] == RELATION[fact]) == (relation == "same")
            and (answer == "any" or (ANSWER[other] == ANSWER[fact]) == (answer == "same"))
        }
        assert seen == (wanted or {None})


def test_other_facts_are_seeded_and_have_neurons():
    one, again, another = (other_fact(BAGS, OWNERS, seed=seed) for seed in (0, 0, 1))
    assert one.tolist() == again.tolist() != another.tolist()
    few = OWNERS[OWNERS["fact"].isin(["c", "e"])]
    assert set(other_fact(BAGS, few, relation="same")) == {
        "c",
        "e",
        None,
    }  # c and e have no neighbour but themselves
    assert set(other_fact(BAGS, few, relation="other")) == {"c", "e"}


@pytest.mark.parametrize("language", ["de", "nl"])  # before and after English in the alphabet
def test_an_answer_is_the_same_if_it_is_in_any_language(language):
    abroad = BAGS.assign(language=language, answer=BAGS["answer"].where(BAGS["fact"] != "d", "Rome"))
    both = pd.concat([BAGS, abroad], ignore_index=True)
    both = both[both["fact"].isin(["c", "d"])]  # one answer there, two in English
    owners = OWNERS[OWNERS["relation"] == "P1"]
    assert set(other_fact(both, owners, relation="same", answer="same")) == {"c", "d"}


def test_one_relation_only_or_one_fact_only_has_no_other():
    alone = BAGS[BAGS["relation"] == "P1"]
    assert other_fact(alone, OWNERS[OWNERS["relation"] == "P1"]) is None
    assert other_fact(BAGS[:2], OWNERS[:1], relation="same") is None
    with pytest.raises(ChoiceError, match="relation='all', answer='any'; relation is 'same' or 'other'"):
        other_fact(BAGS, OWNERS, relation="all")
    with pytest.raises(ChoiceError, match="answer 'same', 'other' or 'any'"):
        other_fact(BAGS, OWNERS, answer="Paris")


def capitals(*facts: str) -> pd.DataFrame:
    return pd.DataFrame({"fact": facts, "relation": "P36", "layer": 1, "neuron": range(len(facts))})


# Kinds, and what effects refuse


@pytest.mark.slow
def test_effects_by_kind_are_those_of_each_kind_and_the_size_of_a_batch_changes_nothing(bert, prompts):
    kinds = {
        "knowledge": capitals(*prompts["fact"].unique()),
        "random": capitals(prompts["fact"][0]).assign(neuron=9),
    }
    weights = bert.checksum()
    operations = {"suppress": 0.0, "amplify": 5.0}
    table = effects_by_kind(bert, prompts, kinds, operations=operations)
    assert bert.checksum() == weights
    for (kind, operation), part in table.groupby(["neurons", "operation"]):
        one = effects(
            bert, prompts, kinds[kind], operation=operation, factor=operations[operation], kind=kind
        )
        pd.testing.assert_frame_equal(part.reset_index(drop=True), one, rtol=1e-9)
    assert len(table) == 2 * len(prompts) + 2 * (prompts["fact"] == prompts["fact"][0]).sum()
    small = effects_by_kind(bert, prompts, kinds, operations=operations, batch_size=1)
    pd.testing.assert_frame_equal(table, small, rtol=1e-9)


@pytest.mark.slow
def test_operations_of_one_kind_are_its_rows_among_all_kinds(bert, prompts):
    few = prompts.groupby("fact").head(1).reset_index(drop=True)
    neurons = few[["fact", "relation", "language"]].assign(layer=1, neuron=range(len(few)))
    kinds = {"knowledge": neurons, "random": neurons.assign(layer=2)}
    every = effects_by_kind(bert, few, kinds)
    for kind, case in cases_by_kind(kinds, few).items():
        assert list(case) == ["neurons", "kind"] and case["kind"] == kind
        alone = effects_of_operations(bert, few, **case)
        assert list(alone["operation"].unique()) == ["suppress", "amplify"]
        beside = every[every["neurons"] == kind].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, beside, check_exact=False, rtol=1e-5)


@pytest.mark.slow
def test_prompts_that_found_the_neurons_are_told_from_those_held_out(bert, prompts):
    neurons = prompts[["fact", "relation", "language"]].drop_duplicates("fact").assign(layer=1, neuron=3)
    found = prompts[prompts.groupby("fact").cumcount() == 0]
    table = effects_in_held_out(bert, prompts, {"knowledge": neurons}, found)
    inside = table["where"] == "wordings that found the neurons"
    assert set(table.loc[inside, "prompt"]) == set(found["prompt"])
    assert set(table.loc[~inside, "where"]) == {"wordings held out"}
    plain = effects_by_kind(bert, prompts, {"knowledge": neurons})
    pd.testing.assert_frame_equal(table.drop(columns="where"), plain)


def test_a_kind_without_neurons_is_left_out(bert, prompts):
    kinds = {"knowledge": capitals(prompts["fact"][0]), "activation": capitals()}
    assert set(effects_by_kind(bert, prompts, kinds)["neurons"]) == {"knowledge"}
    with pytest.raises(EvaluationError, match="no kind of neurons has one for these prompts' facts; lower"):
        effects_by_kind(bert, prompts, {"activation": capitals()})


def test_what_does_not_belong_to_the_prompts_is_refused(bert, prompts):
    neurons = capitals(prompts["fact"][0])
    before = answer_probability(bert, prompts)
    with pytest.raises(EvaluationError, match="before is not of these prompts in this order"):
        effects(bert, prompts, neurons, before=before.iloc[::-1])
    # prompts whose fact has no neuron are not asked
    asked = prompts.loc[prompts["fact"] == prompts["fact"][0], "prompt"].tolist()
    assert effects(bert, prompts, neurons)["prompt"].tolist() == asked != prompts["prompt"].tolist()


# The statistics of effects


def table_of(*rows: tuple) -> pd.DataFrame:
    names = ["fact", "relation", "before", "after", "right_before", "right_after", "changed"]
    return pd.DataFrame(rows, columns=names).assign(operation="suppress")


EFFECTS_BY_HAND = table_of(
    ("a", "P1", 0.8, 0.4, True, True, False),
    ("a", "P1", 0.2, 0.3, True, False, True),
    ("b", "P1", 0.5, 0.5, False, False, True),
    ("c", "P2", 0.1, 0.2, False, True, True),
)


def test_the_mean_over_relations_by_hand():
    (row,) = mean_over_relations(EFFECTS_BY_HAND, ["operation"]).to_dict("records")
    assert row["value"] == pytest.approx(((1.2 - 1.5) / 1.5 + (0.2 - 0.1) / 0.1) / 2)
    assert (row["n"], row["relations"]) == (3, 2)
    # P1 is a alone, b alone or both; P2 never varies
    assert (row["low"], row["high"]) == pytest.approx(((-0.3 + 1) / 2, (0 + 1) / 2))


def test_one_fact_of_each_relation_has_a_mean_but_no_interval():
    (row,) = mean_over_relations(EFFECTS_BY_HAND[1:4:2], ["operation"]).to_dict("records")
    assert row["value"] == pytest.approx((0.5 + 1) / 2) and np.isnan([row["low"], row["high"]]).all()


def test_relations_are_resampled_apart_from_each_other():
    # the same numbers four times: drawn together, their mean would vary as much as each
    after = np.random.default_rng(0).uniform(0.2, 0.4, size=40)
    rows = [(f"{r}{i}", r, 0.4, x, 1, 1, 0) for r in ("P1", "P2", "P3", "P4") for i, x in enumerate(after)]
    table = table_of(*rows)
    (row,) = mean_over_relations(table, ["operation"]).to_dict("records")
    alone = relative_change(table, ["relation"])
    assert row["value"] == pytest.approx(alone["value"].mean())
    # a mean of four independent numbers: half as wide as one of them
    width = (alone["high"] - alone["low"]).mean()
    assert (row["high"] - row["low"]) / width == pytest.approx(1 / 2, rel=0.15)


def test_the_interval_of_the_mean_of_ratios_resamples_facts():
    rows = [("a", "P1", 0.1, 0.05, 1, 1, 0)] * 30 + [("b", "P1", 0.8, 0.8, 1, 1, 0)] * 10
    row = relative_change(table_of(*rows), ["operation"]).iloc[0]
    assert row["mean_of_ratios"] == pytest.approx(-0.5 * 30 / 40)  # prompts count alike
    assert (row["ratios_low"], row["ratios_high"]) == pytest.approx((-0.5, 0))
    same = ratio_interval(np.array([[3.0, 1.5], [8.0, 8.0]]))
    assert (row["low"], row["value"], row["high"]) == pytest.approx(
        (same["low"], same["value"], same["high"])
    )


def test_changes_of_the_answer_by_hand():
    table = answer_changes(EFFECTS_BY_HAND, ["operation"]).set_index("measure")
    assert table["value"].to_dict() == pytest.approx(
        {"stays right": 1 / 2, "becomes right": 1 / 2, "first choice changes": (1 / 2 + 1 + 1) / 3}
    )
    assert table["n"].to_dict() == {"stays right": 1, "becomes right": 2, "first choice changes": 3}
    known = EFFECTS_BY_HAND[EFFECTS_BY_HAND["right_before"]]
    found = answer_changes(known, ["operation"])
    assert (
        found["measure"].tolist() == ["stays right", "first choice changes"] and found["value"].dtype == float
    )


# Pictures


def values(*keys: list) -> pd.DataFrame:
    """A row per combination, values that differ, intervals of different widths on the two sides."""
    table = pd.DataFrame(list(product(*keys)))
    table["value"] = np.linspace(-0.2, 0.15, len(table))
    return table.assign(low=table["value"] - 0.02, high=table["value"] + 0.01)


def errorbars(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """label -> points and the ends of their intervals."""
    return {
        c.get_label(): (
            c.lines[0].get_xydata(),
            np.array([s for bar in c.lines[2] for s in bar.get_segments()]),
        )
        for c in axes.containers
    }


def test_the_picture_of_changes_shows_each_relation_at_its_place():
    kinds = ["knowledge", "activation", "random", "same-layer"]
    table = values(["suppress", "amplify"], kinds, ["all", "P17", "P1303"])
    table = table.rename(columns={0: "operation", 1: "neurons", 2: "relation"})
    figure = plots.changes(table, "title")
    for axes, operation in zip(figure.axes, ("suppress", "amplify"), strict=True):
        assert axes.get_xlabel() == "change of P(right answer), %"
        names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        assert names == ["P1303 instrument", "P17 country", "all"] and axes.get_yticks().tolist() == [0, 1, 2]
        drawn = errorbars(axes)
        assert list(drawn) == [plots.KINDS[kind][2] for kind in kinds]
        for kind in kinds:
            points, bars = drawn[plots.KINDS[kind][2]]
            for (x, y), bar in zip(points, bars, strict=True):
                row = table[(table["operation"] == operation) & (table["neurons"] == kind)]
                row = row[row["relation"] == names[round(y)].split()[0]].iloc[0]
                assert x == pytest.approx(100 * row["value"])
                assert bar[:, 0] == pytest.approx([100 * row["low"], 100 * row["high"]])
    assert figure.axes[0].get_ylabel() == "relation"
    plt.close(figure)


def test_the_picture_of_doses_has_a_tick_per_factor():
    table = values(["knowledge", "same-layer"], [0.0, 1.0, 3.0]).rename(columns={0: "neurons", 1: "factor"})
    figure = plots.doses(table)
    (axes,) = figure.axes
    assert axes.get_xticks().tolist() == [0, 1, 3]
    assert axes.get_ylabel() == "change of P(right answer), %" and axes.get_xlabel().startswith("factor")
    for kind, part in table.groupby("neurons"):
        points, bars = errorbars(axes)[plots.KINDS[kind][2]]
        assert points[:, 0] == pytest.approx(part["factor"].to_numpy(), abs=0.05)
        assert points[:, 1] == pytest.approx(100 * part["value"].to_numpy())
        assert bars[:, :, 1] == pytest.approx(100 * part[["low", "high"]].to_numpy())
    plt.close(figure)
