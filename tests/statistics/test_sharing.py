"""Sharing between facts, relations and languages: against plain loops, drawn neurons, all permutations."""

from __future__ import annotations

from itertools import combinations, permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kn_utils import attribute, load_facts, load_model, make_prompts, plots
from kn_utils.neurons.choose import random_neurons
from kn_utils.neurons.refine import Refined, RefinementError, refine_bags
from kn_utils.statistics import intervals as statistics
from kn_utils.statistics.counts import layer_histogram
from kn_utils.statistics.differences import difference_of_groups
from kn_utils.statistics.languages import ALL_PAIRS, shared_between_languages, shared_per_fact
from kn_utils.statistics.sharing import (
    difference_of_sharing,
    intersections,
    settings_grid,
    shared_by,
    table_2,
)

SHAPE = (4, 10)
LANGUAGES = ("en", "nl", "ja")


def refined_of(held: dict[str, set[tuple[int, int]]], relation_of: dict[str, str]) -> Refined:
    rows = [(fact, relation_of[fact], *pair) for fact, pairs in held.items() for pair in sorted(pairs)]
    table = pd.DataFrame(rows, columns=["fact", "relation", "layer", "neuron"]).astype(
        {"layer": int, "neuron": int}
    )
    bags = pd.DataFrame(relation_of.items(), columns=["fact", "relation"])
    return Refined(table, bags, pd.DataFrame())


def parts(refined: Refined) -> tuple[pd.DataFrame, pd.DataFrame]:
    return refined.neurons, refined.bags


def held_by(refined: Refined) -> dict[str, set[tuple[int, int]]]:
    found = {fact: set() for fact in refined.bags["fact"]}
    for row in refined.neurons.itertuples():
        found[row.fact].add((row.layer, row.neuron))
    return found


def chance_of(first: set[tuple[int, int]], second: set[tuple[int, int]]) -> float:
    return (
        sum(sum(a == layer for a, _ in first) * sum(b == layer for b, _ in second) for layer in range(4)) / 10
    )


@pytest.fixture
def relation_of() -> dict[str, str]:
    return {f"f{i}": f"P{i % 3}" for i in range(18)}


@pytest.fixture
def by_language(relation_of) -> dict[str, Refined]:
    """A fact's languages share some neurons, each also has its own; one fact is not asked about in ja."""
    random = np.random.default_rng(5)
    common = {f: {(int(random.integers(4)), int(random.integers(10))) for _ in range(2)} for f in relation_of}
    found = {}
    for language in LANGUAGES:
        held = {f: set(pairs) for f, pairs in common.items()}
        for pairs in held.values():
            pairs |= {(int(random.integers(4)), int(random.integers(10))) for _ in range(random.integers(4))}
        asked = {f: relation for f, relation in relation_of.items() if (language, f) != ("ja", "f4")}
        found[language] = refined_of({f: held[f] for f in asked}, asked)
    return found


def row_of(table: pd.DataFrame, first: str, second: str) -> pd.Series:
    (row,) = [row for _, row in table.iterrows() if (row["first"], row["second"]) == (first, second)]
    return row


def test_a_pair_of_languages_by_hand(by_language, relation_of):
    found = row_of(shared_between_languages(by_language, SHAPE), "en", "ja")
    en, ja = held_by(by_language["en"]), held_by(by_language["ja"])
    facts = [f for f in relation_of if f != "f4"]
    assert found["n"] == len(facts) == 17
    assert found["value"] == pytest.approx(np.mean([len(en[f] & ja[f]) for f in facts]))
    assert found["chance"] == pytest.approx(np.mean([chance_of(en[f], ja[f]) for f in facts]))
    either = sum(len(en[f] | ja[f]) for f in facts)
    assert found["jaccard"] == pytest.approx(sum(len(en[f] & ja[f]) for f in facts) / either)
    other, any_fact = [], []
    for f in facts:
        other.append(
            np.mean([len(en[f] & ja[g]) for g in facts if g != f and relation_of[g] == relation_of[f]])
        )
        any_fact.append(np.mean([len(en[f] & ja[g]) for g in facts if g != f]))
    assert (found["other_fact"], found["any_fact"]) == pytest.approx((np.mean(other), np.mean(any_fact)))
    assert found["low"] < found["value"] < found["high"]
    assert found["p"] == pytest.approx(1 / 2001) == found["p_any"]  # they share by construction


def test_the_mean_of_all_pairs_is_over_facts_asked_about_in_every_language(by_language, relation_of):
    found = row_of(shared_between_languages(by_language, SHAPE), ALL_PAIRS, ALL_PAIRS)
    held = {language: held_by(table) for language, table in by_language.items()}
    facts = [f for f in relation_of if f != "f4"]
    values = [np.mean([len(held[a][f] & held[b][f]) for a, b in combinations(LANGUAGES, 2)]) for f in facts]
    chance = [
        np.mean([chance_of(held[a][f], held[b][f]) for a, b in combinations(LANGUAGES, 2)]) for f in facts
    ]
    assert (found["value"], found["chance"], found["n"]) == pytest.approx(
        (np.mean(values), np.mean(chance), 17)
    )
    assert found[["low", "high"]].tolist() == pytest.approx(
        [statistics.interval(values)["low"], statistics.interval(values)["high"]]
    )
    shared = sum(len(held[a][f] & held[b][f]) for a, b in combinations(LANGUAGES, 2) for f in facts)
    either = sum(len(held[a][f] | held[b][f]) for a, b in combinations(LANGUAGES, 2) for f in facts)
    assert found["jaccard"] == pytest.approx(shared / either)


@pytest.mark.slow
def test_p_is_adjusted_for_the_number_of_pairs(by_language):
    table = shared_between_languages(by_language, SHAPE)
    pairs = table[table["p"].notna() & (table["first"] != ALL_PAIRS)].sort_values("p")
    wanted = [
        min(len(pairs) * p / (j + 1) for j, p in enumerate(pairs["p"]) if j >= i) for i in range(len(pairs))
    ]
    assert len(pairs) == 3 and pairs["q"].tolist() == pytest.approx(wanted)
    assert table.drop(pairs.index)["q"].isna().all()
    # one fact of a relation: nothing to permute, no p, no q
    single = {
        name: Refined(*(table[table["fact"] == "f0"] for table in parts(one)), one.passes)
        for name, one in by_language.items()
    }
    alone = shared_between_languages(single, SHAPE)
    assert alone["p"].isna().all() and alone["q"].isna().all()


def test_facts_that_are_left_out_of_a_pair_of_languages(by_language):
    gone = pd.DataFrame(
        {"first": ["en", "ja"], "second": ["nl", "nl"], "fact": ["f0", "f7"]}
    )  # the other way round, too
    table = shared_between_languages(by_language, SHAPE, without=gone)
    en, nl = held_by(by_language["en"]), held_by(by_language["nl"])
    row = row_of(table, "en", "nl")
    assert (row["value"], row["n"]) == pytest.approx(
        (np.mean([len(en[f] & nl[f]) for f in en if f != "f0"]), 17)
    )
    assert row_of(table, "nl", "ja")["n"] == 16 and row_of(table, "en", "ja")["n"] == 17
    assert row_of(table, ALL_PAIRS, ALL_PAIRS)["n"] == 15  # without f0, f4 and f7


def test_other_groups_than_relations_for_the_permutations(by_language, relation_of):
    groups = pd.Series({f: "x" if i < 5 else "y" if i < 9 else f for i, f in enumerate(relation_of)})
    row = row_of(shared_between_languages(by_language, SHAPE, groups=groups), "en", "nl")
    en, nl = held_by(by_language["en"]), held_by(by_language["nl"])
    facts = list(relation_of)[:9]  # the others are alone in their group
    assert (row["value"], row["n"]) == pytest.approx((np.mean([len(en[f] & nl[f]) for f in facts]), 9))
    other = [np.mean([len(en[f] & nl[g]) for g in facts if g != f and groups[g] == groups[f]]) for f in facts]
    assert row["other_fact"] == pytest.approx(np.mean(other))


def test_shared_by_a_key_against_a_loop_over_pairs(by_language, relation_of):
    key = pd.Series({f: f"answer {i % 4}" for i, f in enumerate(relation_of)})
    held, wanted, members = held_by(by_language["en"]), {}, {}
    for f, g in combinations(held, 2):
        pairs = "one relation" if relation_of[f] == relation_of[g] else "different relations"
        kind = pairs, "the same" if key[f] == key[g] else "another"
        wanted.setdefault(kind, []).append(len(held[f] & held[g]))
        members.setdefault(kind, set()).update((f, g))
    table = shared_by(*parts(by_language["en"]), key).set_index(["pairs", "key"])
    assert table["value"].to_dict() == pytest.approx(
        {kind: np.mean(shared) for kind, shared in wanted.items()}
    )
    assert table["n"].to_dict() == {kind: len(facts) for kind, facts in members.items()} and len(table) == 4
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    alone = shared_by(
        *parts(by_language["en"]), pd.Series({f: f for f in held})
    )  # no two facts have the same key
    assert (
        set(alone["key"]) == {"another"}
        and alone["value"][0] == intersections(*parts(by_language["en"]))["value"][0]
    )


def test_shared_fact_by_fact(by_language):
    table = shared_per_fact(by_language)
    assert len(table) == 18 + 17 + 17
    held = {language: held_by(one) for language, one in by_language.items()}
    for row in table.itertuples():
        a, b = held[row.first][row.fact], held[row.second][row.fact]
        assert (row.shared, row.either) == (len(a & b), len(a | b))
    assert shared_per_fact({"en": by_language["en"]}).empty


def test_the_diagonal_holds_neurons_per_fact(by_language):
    table = shared_between_languages(by_language, SHAPE)
    assert len(table) == 3 + 3 + 1
    own = row_of(table, "ja", "ja")
    assert own["value"] == pytest.approx(len(by_language["ja"].neurons) / 17) and own["n"] == 17
    within = intersections(*parts(by_language["ja"])).set_index("relation")["value"]
    held = dict(by_language["ja"].bags[["fact", "relation"]].to_numpy())
    weighted = np.mean(
        [within[relation] for relation in held.values()]
    )  # each fact of as many others of its relation
    assert own["other_fact"] == pytest.approx(weighted)
    assert own[["chance", "p", "p_any", "jaccard"]].isna().all()


def test_p_is_the_share_of_all_permutations_within_relations(monkeypatch):
    # two relations of three facts: 36 permutations, all listed
    relation_of = dict.fromkeys("abc", "P1") | dict.fromkeys("def", "P2")
    random = np.random.default_rng(8)
    both = [{f: {(0, int(i)) for i in random.integers(4, size=2)} for f in relation_of} for _ in range(2)]
    for f in "ab":
        both[1][f] = set(both[0][f])
    observed = sum(len(both[0][f] & both[1][f]) for f in relation_of)
    traces = [
        sum(len(both[0][f] & both[1][g]) for f, g in zip("abcdef", (*one, *two), strict=True))
        for one in permutations("abc")
        for two in permutations("def")
    ]
    wanted = np.mean([trace >= observed for trace in traces])
    assert 0.02 < wanted < 0.5  # a case where it matters
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)
    by_language = {name: refined_of(held, relation_of) for name, held in zip(("en", "nl"), both, strict=True)}
    found = row_of(shared_between_languages(by_language, SHAPE), "en", "nl")
    assert found["p"] == pytest.approx(wanted, abs=4 * np.sqrt(wanted / 4000))
    same = row_of(
        shared_between_languages(by_language, SHAPE), ALL_PAIRS, ALL_PAIRS
    )  # two languages: one pair
    assert found["q"] == found["p"] and same.drop("q").iloc[2:].tolist() == found.drop("q").iloc[2:].tolist()


@pytest.mark.slow
def test_p_is_even_where_facts_of_a_relation_are_alike(relation_of):
    """Neurons drawn by relation, not by fact: small p for any fact, even p for others of the relation."""
    small, any_fact = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        held = [
            {
                f: {(int(relation[1:]), int(i)) for i in random.integers(3, size=2)}
                for f, relation in relation_of.items()
            }
            for _ in range(2)
        ]
        by_language = {
            name: refined_of(one, relation_of) for name, one in zip(("en", "nl"), held, strict=True)
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statistics, "RESAMPLES", 100)
            row = row_of(shared_between_languages(by_language, SHAPE), "en", "nl")
        small.append(row["p"] <= 0.2)
        any_fact.append(row["p_any"] <= 0.02)
    assert np.mean(small) < 0.45 and np.mean(any_fact) > 0.9


@pytest.mark.slow
def test_chance_is_the_mean_of_drawn_neurons(by_language):
    # the random control of the interventions, drawn again and again, layer by layer
    first, second = (
        Refined(*(table[table["fact"] != "f4"] for table in parts(by_language[name])), None)
        for name in ("en", "ja")
    )
    drawn = []
    for seed in range(60):
        pair = [
            random_neurons(one.neurons, SHAPE, same_layers=True, seed=2 * seed + i)
            for i, one in enumerate((first, second))
        ]
        drawn.append(len(pair[0].merge(pair[1], on=["fact", "layer", "neuron"])) / 17)
    error = np.std(drawn) / np.sqrt(60)
    found = row_of(shared_between_languages({"en": first, "ja": second}, SHAPE), "en", "ja")
    assert found["chance"] == pytest.approx(np.mean(drawn), abs=4 * error) and error < 0.05


def test_chance_of_two_facts_by_a_loop_over_pairs(by_language, relation_of):
    held = held_by(by_language["en"])
    for within, same in (("relation", True), ("other", False)):
        pairs = [(f, g) for f, g in combinations(held, 2) if (relation_of[f] == relation_of[g]) == same]
        found = intersections(*parts(by_language["en"]), within=within, width=10)
        assert found["chance"][0] == pytest.approx(np.mean([chance_of(held[f], held[g]) for f, g in pairs]))
        pd.testing.assert_frame_equal(
            found.drop(columns="chance"), intersections(*parts(by_language["en"]), within=within)
        )


def test_the_difference_between_relations_by_hand(by_language, relation_of):
    held = held_by(by_language["en"])
    differences = []
    for f in held:
        own = [len(held[f] & held[g]) for g in held if g != f and relation_of[g] == relation_of[f]]
        other = [len(held[f] & held[g]) for g in held if relation_of[g] != relation_of[f]]
        differences.append(np.mean(own) - np.mean(other))
    found = difference_of_sharing(*parts(by_language["en"]))
    assert (found["value"], found["n"]) == pytest.approx((np.mean(differences), 18))
    assert found["p"] > 0.05  # nothing was built in


def test_p_of_the_difference_lists_the_ways_to_name_relations(monkeypatch):
    held = {"a": {(0, 1), (0, 2)}, "b": {(0, 1), (0, 2)}, "c": {(0, 2)}, "d": {(0, 3)}, "e": {(0, 3), (0, 2)}}
    labels = ("P1", "P1", "P1", "P2", "P2")

    def mean(relations: tuple[str, ...]) -> float:
        of, found = dict(zip(held, relations, strict=True)), []
        for f in held:
            own = [len(held[f] & held[g]) for g in held if g != f and of[g] == of[f]]
            other = [len(held[f] & held[g]) for g in held if of[g] != of[f]]
            found.append(np.mean(own) - np.mean(other))
        return float(np.mean(found))

    wanted = np.mean([mean(one) >= mean(labels) - 1e-12 for one in permutations(labels)])
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)
    found = difference_of_sharing(*parts(refined_of(held, dict(zip(held, labels, strict=True)))))
    assert found["p"] == pytest.approx(wanted, abs=0.03) and 0.05 < wanted < 0.95


@pytest.mark.slow
def test_resamples_in_small_parts_are_the_same_resamples(by_language, monkeypatch):
    def numbers() -> tuple[pd.DataFrame, dict[str, float]]:
        return shared_between_languages(by_language, SHAPE), difference_of_sharing(*parts(by_language["en"]))

    assert list(statistics.in_parts(10, 3, most=12)) == [4, 4, 2] and list(statistics.in_parts(2, 9, 1)) == [
        1,
        1,
    ]
    (table, difference), sizes = numbers(), []
    own = statistics.in_parts

    def small(number: int, size: int):
        for part in own(number, size, most=700 * size):
            sizes.append(part)
            yield part

    monkeypatch.setattr(statistics, "in_parts", small)
    again, same = numbers()
    pd.testing.assert_frame_equal(again, table)
    assert same == difference and sizes[:3] == [700, 700, 600]


def test_relations_that_share_are_told_apart():
    relation_of = {f"f{i}": f"P{i % 3}" for i in range(15)}
    table = refined_of(
        {f: {(0, int(relation[1:])), (1, 0)} for f, relation in relation_of.items()}, relation_of
    )
    found = difference_of_sharing(*parts(table))
    assert (found["value"], found["p"]) == pytest.approx((1, 1 / 2001))


@pytest.mark.slow
def test_one_relation_one_fact_or_no_neuron_at_all(by_language):
    only = dict.fromkeys("ab", "P1")
    table = refined_of({"a": {(0, 1)}, "b": {(0, 1)}}, only)
    assert np.isnan(difference_of_sharing(*parts(table))["value"]) and np.isnan(
        difference_of_sharing(*parts(table))["p"]
    )
    lone = refined_of({"a": {(0, 1)}}, {"a": "P1"})
    row = row_of(shared_between_languages({"en": lone, "nl": lone}, SHAPE), "en", "nl")
    assert row["value"] == 1 and np.isnan(row["other_fact"]) and np.isnan(row["p"])
    assert len(shared_between_languages({"en": table}, SHAPE)) == 1  # one language: no pairs
    empty = refined_of({"a": set(), "b": set()}, only)
    row = row_of(shared_between_languages({"en": table, "nl": empty}, SHAPE), "en", "nl")
    assert (row["value"], row["chance"], row["p"]) == (0, 0, 1)
    apart = refined_of({"c": {(0, 1)}}, {"c": "P1"})
    row = row_of(shared_between_languages({"en": table, "nl": apart}, SHAPE), "en", "nl")  # no fact in common
    assert row["n"] == 0 and np.isnan(row["value"])
    rows = table_2({"en": table}, width=10).query("relation == 'all'").set_index("measure")["value"]
    assert rows["shared within a relation"] == 1 and np.isnan(rows["shared between relations"])


@pytest.mark.slow
def test_table_2_puts_the_measures_together(by_language):
    table = table_2(by_language, width=10)
    assert list(table) == ["bag", "measure", "relation", "value", "low", "high", "n", "chance"]
    whole = table[(table["bag"] == "nl") & (table["relation"] == "all")].set_index("measure")
    held = held_by(by_language["nl"])
    assert whole.loc["neurons per fact", "value"] == pytest.approx(
        np.mean([len(pairs) for pairs in held.values()])
    )
    alike = intersections(*parts(by_language["nl"]), within="other", pool="relations").iloc[0]
    found = whole.loc["shared between relations", ["value", "low", "high"]].tolist()
    assert found == alike[["value", "low", "high"]].tolist()
    assert "chance" not in table_2(by_language) and np.isnan(whole.loc["neurons per fact", "chance"])


# How the counts depend on threshold and share


@pytest.fixture(scope="module")
def small() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of the bundled model: six facts of two relations, in English."""
    prompts = make_prompts(load_facts(relations=["P36", "P30"]).sample(3), "en", wordings=4)
    return attribute(load_model("mini", device="cpu"), prompts, progress=False), prompts


def held_by_prompt(scores: pd.DataFrame, prompts: pd.DataFrame, threshold: float) -> dict[str, list[set]]:
    """fact -> the neurons at or above the threshold of each of its prompts, from the stored scores."""
    found = {fact: [] for fact in prompts["fact"]}
    for prompt in prompts.itertuples():
        own = scores[scores["prompt"] == prompt.prompt]
        top = own["score"].max()
        found[prompt.fact].append(
            {(r.layer, r.neuron) for r in own.itertuples() if r.score >= threshold * top}
        )
    return found


@pytest.mark.slow
def test_the_grid_from_stored_scores_by_hand(small):
    scores, prompts = small
    table = settings_grid(scores, prompts, thresholds=(0.1, 0.3), shares=(0.5, 0.75))
    assert len(table) == 2 * 2 * 2
    for row in table.itertuples():
        bags = held_by_prompt(scores, prompts, row.threshold)
        refined = {
            fact: {one for one in set().union(*bag) if sum(one in own for own in bag) >= row.share * len(bag)}
            for fact, bag in bags.items()
        }
        wanted = np.mean([len(one) for one in refined.values()])
        if row.measure == "shared within a relation":
            pairs = [(a, b) for a, b in combinations(refined, 2) if a.split(":")[0] == b.split(":")[0]]
            wanted = np.mean([len(refined[a] & refined[b]) for a, b in pairs])
        assert row.value == pytest.approx(wanted) and row.n == 6
    counts = table[table["measure"] == "neurons per fact"].set_index(["threshold", "share"])["value"]
    assert counts[0.1, 0.5] > counts[0.3, 0.75]


def test_the_grid_refuses_thresholds_below_what_is_stored(small):
    scores = small[0].copy()
    with pytest.raises(RefinementError, match=r"threshold 0.05 is below the stored scores' keep=0.1"):
        settings_grid(scores, small[1], thresholds=(0.05,), shares=(0.5,))
    scores.attrs = {}  # what a merge leaves
    with pytest.raises(RefinementError, match=r"threshold 0.05 is below the stored scores' keep=0.1"):
        settings_grid(scores, small[1], thresholds=(0.05,), shares=(0.5,), keep=0.1)


def test_table_2_of_the_bundled_model_from_stored_scores(small):
    """The first row of the notebook's table, at the share that refinement took."""
    scores, prompts = small
    refined = refine_bags(scores, prompts)
    taken = refined.bags.set_index("relation")["share"].to_dict()
    number = 0
    for fact, bag in held_by_prompt(scores, prompts, 0.2).items():
        share = taken[fact.split(":")[0]]
        number += sum(sum(one in own for own in bag) >= share * len(bag) - 1e-6 for one in set().union(*bag))
    assert table_2({"en": refined})["value"][0] == pytest.approx(number / 6)


# Groups of facts, compared within relations


def groups_table() -> pd.DataFrame:
    rows = [
        ("a", "P1", "never", 4),
        ("a", "P1", "never", 6),
        ("b", "P1", "all", 2),
        ("c", "P1", "all", 3),
        ("d", "P2", "never", 9),
        ("e", "P2", "all", 9),
        ("f", "P2", "all", 11),
        ("g", "P2", "other", 50),
        ("h", "P3", "never", 70),
    ]
    return pd.DataFrame(rows, columns=["fact", "relation", "group", "neurons"])


def test_the_difference_of_groups_by_hand():
    # a has 5, its relation's others 2.5 on average; d 9 against 10; P3 has no other, g is of neither group
    found = difference_of_groups(groups_table(), "neurons", "never", "all")
    assert (found["value"], found["n"]) == (pytest.approx((2.5 - 1) / 2), 2)
    # each of 3 x 3 ways to call one of P1's and one of P2's facts "never", alike often
    p1, p2 = [(v - (10 - v) / 2) for v in (5, 2, 3)], [(v - (29 - v) / 2) for v in (9, 9, 11)]
    wanted = np.mean([abs(x + y) >= 1.5 - 1e-9 for x in p1 for y in p2])
    assert found["p"] == pytest.approx(wanted, abs=0.05)


def test_the_difference_of_groups_is_not_one_of_relations():
    random = np.random.default_rng(4)
    rows = []
    for i in range(300):
        relation, group = (
            ("P1", "never" if i % 10 else "all") if i < 150 else ("P2", "all" if i % 10 else "never")
        )
        rows.append((f"f{i}", relation, group, (5 if relation == "P1" else 1) + random.normal()))
    table = pd.DataFrame(rows, columns=["fact", "relation", "group", "neurons"])
    means = table.groupby("group")["neurons"].mean()
    assert means["never"] - means["all"] > 2  # of relations, all of it
    found = difference_of_groups(table, "neurons", "never", "all")
    assert abs(found["value"]) < 0.5 and found["p"] > 0.02
    table.loc[table["group"] == "never", "neurons"] += 1
    found = difference_of_groups(table, "neurons", "never", "all")
    assert found["p"] == pytest.approx(1 / 2001) and found["low"] > 0.3
    nothing = difference_of_groups(table, "neurons", "never", "this")
    assert nothing["n"] == 0 and np.isnan(nothing["value"]) and np.isnan(nothing["p"])


# The notebook's tables, their first rows from stored scores


@pytest.fixture(scope="module")
def two() -> tuple[dict[str, Refined], dict[str, dict[str, set]]]:
    """The bundled model's neurons in two languages, and the same by hand at the shares that were taken."""
    facts = load_facts(relations=["P36", "P30"])
    kept = facts.sample(5).facts
    model, by_language, by_hand = load_model("mini", device="cpu"), {}, {}
    for language in ("en", "nl"):
        prompts = make_prompts(facts, language, wordings=2)
        prompts = prompts[prompts["fact"].isin(kept["fact"])].reset_index(drop=True)
        scores = attribute(model, prompts, progress=False)
        by_language[language] = refine_bags(scores, prompts, share=0.5)
        taken = by_language[language].bags.set_index("relation")["share"].to_dict()
        by_hand[language] = {
            fact: {
                one
                for one in set().union(*bag)
                if sum(one in own for own in bag) >= taken[fact.split(":")[0]] * len(bag) - 1e-6
            }
            for fact, bag in held_by_prompt(scores, prompts, 0.2).items()
        }
    return by_language, by_hand


@pytest.mark.slow
def test_first_row_of_sharing_between_languages_from_stored_scores(two):
    by_language, held = two
    row = shared_between_languages(by_language, (6, 768)).iloc[1]
    assert (row["first"], row["second"], row["n"]) == ("en", "nl", 10)
    assert row["value"] == pytest.approx(np.mean([len(held["en"][f] & held["nl"][f]) for f in held["en"]]))
    expected = [
        sum(sum(a == i for a, _ in held["en"][f]) * sum(b == i for b, _ in held["nl"][f]) for i in range(6))
        / 768
        for f in held["en"]
    ]
    assert row["chance"] == pytest.approx(np.mean(expected)) and row["value"] > 0
    assert shared_per_fact(by_language)["shared"].tolist() == [
        len(held["en"][f] & held["nl"][f]) for f in held["en"]
    ]


@pytest.mark.slow
def test_first_rows_of_the_differences_from_stored_scores(two):
    by_language, held = two
    facts = list(held["en"])
    relation = {f: f.split(":")[0] for f in facts}
    differences = []
    for f in facts:
        own = [len(held["en"][f] & held["en"][g]) for g in facts if g != f and relation[g] == relation[f]]
        other = [len(held["en"][f] & held["en"][g]) for g in facts if relation[g] != relation[f]]
        differences.append(np.mean(own) - np.mean(other))
    assert difference_of_sharing(*parts(by_language["en"]))["value"] == pytest.approx(np.mean(differences))
    answer = {f: f.split(":")[2] for f in facts}
    pairs = [
        (f, g) for f, g in combinations(facts, 2) if relation[f] == relation[g] and answer[f] == answer[g]
    ]
    first = shared_by(*parts(by_language["en"]), pd.Series(answer)).iloc[0]
    assert (first["pairs"], first["key"]) == ("one relation", "the same") and len(pairs) > 0
    assert first["value"] == pytest.approx(np.mean([len(held["en"][f] & held["en"][g]) for f, g in pairs]))


def test_first_row_of_the_layers_from_stored_scores(two):
    by_language, held = two
    every = [layer for pairs in held["en"].values() for layer, _ in pairs]
    table = layer_histogram(*parts(by_language["en"]), n_layers=6)
    assert table["value"].tolist() == pytest.approx([every.count(layer) / len(every) for layer in range(6)])


# Pictures


def texts_of(axes) -> list[list[float | None]]:
    """The numbers written in the cells of a heat map, by their place."""
    rows, columns = axes.images[0].get_array().shape
    grid = [[None] * columns for _ in range(rows)]
    for text in axes.texts:
        x, y = text.get_position()
        grid[int(y)][int(x)] = float(text.get_text())
    return grid


@pytest.mark.slow
def test_figure_of_languages_shows_the_table(by_language):
    table = shared_between_languages(by_language, SHAPE)
    figure = plots.between_languages(table)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "the same fact",
        "another fact of its relation",
        "by chance",
    ]
    for axes, column in zip(figure.axes, ("value", "other_fact", "chance"), strict=True):
        assert axes.get_xlabel() == "language"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == list(LANGUAGES)
        shown, shade = texts_of(axes), axes.images[0].get_array()
        for (i, first), (j, second) in combinations(enumerate(LANGUAGES), 2):
            value = row_of(table, first, second)[column]
            assert shown[i][j] == shown[j][i] == pytest.approx(value, abs=0.0051)
            assert shade[i, j] == shade[j, i] == value
        assert all(np.ma.getmaskarray(shade)[i, i] or np.isnan(shade[i, i]) for i in range(3))
    assert texts_of(figure.axes[0])[1][1] == pytest.approx(row_of(table, "nl", "nl")["value"], abs=0.0051)
    assert texts_of(figure.axes[2])[1][1] is None
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(LANGUAGES)
    alone = plots.between_languages(shared_between_languages({"en": by_language["en"]}, SHAPE))
    assert len(alone.axes) == 3
    plt.close("all")


def test_figure_of_settings_shows_the_grid_and_frames_the_start():
    rows = [
        (threshold, share, measure, 10 * share - 10 * threshold + bonus, 0, 0, 5)
        for threshold in (0.3, 0.1)
        for share in (0.5, 0.7, 0.9)
        for measure, bonus in (("neurons per fact", 1), ("shared within a relation", 0))
    ]
    table = pd.DataFrame(rows, columns=["threshold", "share", "measure", "value", "low", "high", "n"])
    figure = plots.settings(table, 0.3, 0.7)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "neurons per fact",
        "shared within a relation",
    ]
    for axes, bonus in zip(figure.axes, (1, 0), strict=True):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "0.7", "0.9"]
        assert axes.get_xlabel() == "share of a bag's prompts, at least"
        wanted = [
            [10 * share - 10 * threshold + bonus for share in (0.5, 0.7, 0.9)] for threshold in (0.1, 0.3)
        ]
        assert np.array(texts_of(axes)) == pytest.approx(np.array(wanted))
        (frame,) = axes.patches
        assert (frame.get_xy(), frame.get_width()) == ((0.5, 0.5), 1)  # around column 1, row 1
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["0.1", "0.3"]
    assert figure.axes[0].get_ylabel() == "threshold (of the maximum)"
    assert not plots.settings(table, 0.2, 0.7).axes[0].patches  # not in the grid: no frame
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize(("panels", "columns", "shape"), [(2, None, (1, 2)), (5, 3, (2, 3)), (1, 3, (1, 1))])
def test_figure_of_layers_has_a_panel_each(by_language, panels, columns, shape):
    histogram = layer_histogram(*parts(by_language["en"]), n_layers=4)
    table = pd.concat([histogram.assign(bag=i) for i in range(panels + 1)])
    figure = plots.layers(table, {i: f"language {i}" for i in range(panels)}, columns=columns)
    assert len(figure.axes) == shape[0] * shape[1]
    seen = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") or axes.get_title() for axes in seen] == [
        f"language {i}" for i in range(panels)
    ]
    for axes in seen:
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(100 * histogram["value"])
        assert axes.get_xticks().tolist() == [0, 1, 2, 3]
        assert sum(bar.get_x() + bar.get_width() / 2 for bar in axes.patches) == pytest.approx(6)
    assert seen[0].get_ylabel() == "knowledge neurons (%)" and seen[-1].get_xlabel() == "layer (0 = lowest)"
    if panels == 5:
        assert seen[2].get_xlabel() == "layer (0 = lowest)"  # nothing below it
        assert seen[0].get_xlabel() == ""
    figure = plots.layers(table.rename(columns={"bag": "dataset"}).astype({"dataset": str}), by="dataset")
    seen = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert seen == [str(i) for i in range(panels + 1)]
    plt.close("all")
