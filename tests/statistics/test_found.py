"""What facts share, summed up."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_utils.neurons.refine import Refined
from kn_utils.statistics.counts import counts_of_groups
from kn_utils.statistics.found import joined, keys_of_facts, last_layer, named_sharing, shared_part


def numbers(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns).assign(value=0.5, low=0.4, high=0.6, n=9)


def refined(facts: list[str], held: list[tuple[str, int, int]]) -> Refined:
    bags = pd.DataFrame({"fact": facts, "relation": "P1", "language": "en"})
    neurons = pd.DataFrame(held, columns=["fact", "layer", "neuron"]).assign(relation="P1", language="en")
    return Refined(neurons, bags, pd.DataFrame())


def test_keys_are_the_first_answer_and_the_subject():
    prompts = pd.DataFrame({"fact": ["a", "a", "b"], "answer": ["Paris", "Parijs", "Berlin"]})
    keys = keys_of_facts(prompts, pd.DataFrame({"fact": ["a", "b"], "subject": ["Q1", "Q2"]}))
    assert keys["answer"].to_dict() == {"a": "Paris", "b": "Berlin"}
    assert keys["subject"].to_dict() == {"a": "Q1", "b": "Q2"}


def test_what_two_tables_hold_stands_once():
    one = numbers(bag=["en", "en"], neurons="knowledge", measure=["m", "s"], relation="all")
    other = numbers(bag=["en", "nl"], neurons="knowledge", measure="m", relation="all")
    assert joined(one, other)[["bag", "measure"]].to_numpy().tolist() == [
        ["en", "m"],
        ["en", "s"],
        ["nl", "m"],
    ]


def test_the_shared_part_is_a_quotient():
    rows = [(0.1, 0.5, 4, 1), (0.1, 0.7, 2, 1), (0.2, 0.5, 1, 0), (0.2, 0.7, 5, 1)]
    grid = pd.DataFrame(
        [
            (t, s, name, value)
            for t, s, each, part in rows
            for name, value in (("neurons per fact", each), ("shared within a relation", part))
        ],
        columns=["threshold", "share", "measure", "value"],
    )
    found = shared_part(grid)
    assert found.loc[0.1].tolist() == [0.25, 0.5] and found.loc[0.2].tolist() == [0, 0.2]


def test_the_last_layer_has_its_bags_number_of_facts():
    histograms = numbers(bag=["en", "en", "nl", "nl"], layer=[0, 1, 0, 1])
    found = last_layer(histograms, {"en": refined(["a", "b"], []), "nl": refined(["a"], [])})
    assert found[["bag", "layer", "n"]].to_numpy().tolist() == [["en", 1, 2], ["nl", 1, 1]]


def test_counts_have_their_groups():
    found = {"en": refined(["a", "b"], [("a", 0, 1), ("a", 0, 2)]), "nl": refined(["a"], [("a", 0, 3)])}
    groups = pd.DataFrame({"fact": ["a", "b", "a"], "language": ["en", "en", "nl"], "group": ["x", "y", "z"]})
    table = counts_of_groups(found, groups.assign(other=1))
    assert sorted(table[["language", "fact", "neurons", "group"]].to_numpy().tolist()) == [
        ["en", "a", 2, "x"],
        ["en", "b", 0, "y"],
        ["nl", "a", 1, "z"],
    ]


def test_named_numbers_say_where_and_of_what():
    tables = numbers(
        bag=["en", "all", "en", "en"],
        neurons=["knowledge", "knowledge", "activation", "knowledge"],
        measure=["per fact", "per fact", "per fact", "aside"],
        relation="all",
    )
    rows = named_sharing(
        pd.concat([tables, tables.assign(relation="P1")]),
        ["per fact"],
        by_key=numbers(bag="en", by=["answer", "subject"], pairs="same relation", key=["same", "same"]),
        against=numbers(**{"another fact": ["of the relation", "same answer"]}),
        spelling=numbers(answer=["spelled alike"]),
        taught=numbers(group=["all", "never"]),
        top=numbers(bag=["en"], layer=[5]),
    )
    assert rows[["measure", "where"]].to_numpy().tolist() == [
        ["per fact", "en"],
        ["per fact", "all"],
        ["shared, same relation, same answer", "en"],
        ["shared by two languages", "the same fact"],
        ["shared by two languages", "answer spelled alike"],
        ["neurons per fact", "taught: all"],
        ["neurons per fact", "taught: never"],
        ["share in the last layer", "en"],
    ]
    assert set(rows["neurons"]) == {"knowledge"} and rows["value"].tolist() == pytest.approx([0.5] * 8)
