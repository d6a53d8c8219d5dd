"""What relations are called, and small tables about facts and bags."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_utils import load_facts, make_prompts
from kn_utils.data.facts import answers_by_chance, relation_number
from kn_utils.data.prompts import bag_sizes
from kn_utils.data.relations import relation_names, title, with_names
from kn_utils.data.sources import mini


def test_every_bundled_relation_has_a_name_of_its_own():
    names = relation_names()
    assert set(load_facts().relations) <= set(names)
    assert len(set(names.values())) == len(names) and list(names) == sorted(names, key=relation_number)
    assert title("P36") == "P36 capital" and title("all") == "all"


def test_relations_are_named_in_a_column_and_in_an_index():
    table = pd.DataFrame(
        {"relation": ["P36", "P0", "P36"], "language": ["en", "en", "nl"], "value": [1, 2, 3]}
    )
    wanted = ["P36 capital", "P0", "P36 capital"]
    assert list(with_names(table)["relation"]) == wanted and list(table["relation"]) == ["P36", "P0", "P36"]
    named = with_names(table.set_index("relation"))
    assert list(named.index) == wanted and named.index.name == "relation"
    both = with_names(table.set_index(["relation", "language"]))
    assert list(both.index) == list(zip(wanted, table["language"], strict=True))
    assert both.index.names == ["relation", "language"] and list(both["value"]) == [1, 2, 3]


def test_bags_are_counted(toy):
    shapes = {"en": make_prompts(toy, "en"), "all": make_prompts(toy, "all", wordings=1)}
    rows = bag_sizes(shapes).set_index("bag")
    for name, prompts in shapes.items():
        bags = {}
        for row in prompts.itertuples():
            bags.setdefault(row.fact, []).append(row.prompt)
        each = sum(map(len, bags.values())) / len(bags)
        assert rows.loc[name].tolist() == [len(prompts), len(bags), each]


def test_guessing_knows_only_the_answers_of_a_relation(toy):
    rows = answers_by_chance(toy).set_index("guess")["value"]
    most, any_of = [], []
    for relation in toy.relations:
        objects = list(toy.facts.loc[toy.facts["relation"] == relation, "object"])
        most.append(max(objects.count(answer) for answer in objects) / len(objects))
        any_of.append(1 / len(set(objects)))
    assert rows["the most frequent answer"] == pytest.approx(sum(most) / len(most))
    assert rows["any of its answers"] == pytest.approx(sum(any_of) / len(any_of))


def test_where_teaching_is_not_known_all_facts_are_one_group(toy):
    marked = mini.mark_teaching(make_prompts(toy, "en"), known=False)
    assert set(marked["group"]) == {"all facts"} and set(marked["wording"]) == {"as given"}
