"""What relations are called, and small tables about facts and bags."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_utils import load_facts, make_prompts
from kn_utils.data.facts import answers_by_chance, relation_number
from kn_utils.data.prompts import bag_sizes
from kn_utils.data.relations import relation_names, title, with_names
from kn_utils.data.sources import mini
from kn_utils.data.words import facts_in_words, in_words, labels_in, with_words


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


def test_other_columns_can_hold_relations_too():
    table = pd.DataFrame({"relation": ["P36"], "closest": ["P17"], "size": [3]})
    assert with_names(table, "closest").iloc[0].tolist() == ["P36 capital", "P17 country", 3]


def test_facts_are_told_in_words(toy):
    words = facts_in_words(toy)
    assert words["P36:Q142:Q90"] == "France, capital: Paris" and len(words) == len(toy.facts)
    assert facts_in_words(toy, "zh")["P36:Q142:Q90"] == "法国, capital: 巴黎"
    assert labels_in(toy, "nl")["Q142"] == "France", "the first language that names it"
    bare = pd.DataFrame({"relation": ["kin_of"], "subject": ["Q142"], "object": ["Q0"]})
    assert in_words(bare, labels_in(toy)).tolist() == ["France, kin_of: Q0"]


def test_a_table_is_read_in_words_and_stays_as_it_was(toy):
    prompts = make_prompts(toy, "en").head(2)
    table = prompts[["prompt", "fact", "relation"]]
    table = pd.concat([table, pd.DataFrame([["x/y", "x", "P0"]], columns=table.columns)], ignore_index=True)
    before = table.copy()
    named = with_words(table, toy)
    assert named["fact"].tolist() == ["France, capital: Paris"] * 2 + ["x"]
    assert named["prompt"].tolist()[0] == "France, capital: Paris (en-1)"
    assert named["prompt"].tolist()[2] == "x/y" and named["relation"].tolist()[1:] == ["P36 capital", "P0"]
    pd.testing.assert_frame_equal(table, before)


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
