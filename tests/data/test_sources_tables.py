"""What the loaders share: reading lines, the tables' own checks, options, and what is told of a data set."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pandas as pd
import pytest

from kn_utils import ParameterError, load_facts, load_passages, make_prompts
from kn_utils.data.facts import COLUMNS, DataError, coverage
from kn_utils.data.sources import parse
from kn_utils.data.sources.tables import (
    choose_languages,
    choose_relations,
    provenance,
    read_facts,
    read_json_lines,
    read_lines,
    tables,
)

LABELS = {
    ("Q1", "en"): "one",
    ("Q1", "nl"): "een",
    ("Q2", "en"): "two",
    ("Q2", "nl"): "twee",
    ("Q3", "en"): "Two",
    ("Q9", "en"): "unused",
}
TRIPLES = [("P36", "Q1", "Q2"), ("P36", "Q1", "Q3"), ("P9", "Q2", "Q1"), ("P36", "Q1", "Q2")]
WORDINGS = [
    ("P36", "nl", "[X] bij [Y]."),
    ("P36", "en", "[X] of [Y]."),
    ("P36", "en", "[X]  of [Y] ."),
    ("P9", "en", "[Y]: [X]"),
]


def small(labels=LABELS, triples=TRIPLES, wordings=WORDINGS, masked=None):
    return tables("small", labels, triples, wordings, {"dataset": "small"}, masked)


# Lines


@pytest.mark.parametrize("text", ["a\nb\n", "a\nb", "a\r\nb\r\n", "a\r\n\r\nb", "\n\na\nb\n \n"])
def test_lines_of_every_ending(tmp_path, text):
    path = tmp_path / "lines.txt"
    path.write_bytes(text.encode())
    assert list(read_lines(path)) == ["a", "b"]


def test_an_unusual_separator_ends_no_line(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("a\u2028b\x85c\n", encoding="utf-8")
    assert list(read_lines(path)) == ["a\u2028b\x85c"]


def test_an_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b"")
    assert list(read_json_lines(path, ["a"])) == []


def test_escapes_are_read_as_what_they_stand_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rb'{"a": "\u745e\u5178", "b": "x\ty", "c": 1}')
    assert list(read_json_lines(path, ["b", "a"])) == [("x\ty", "瑞典")]


@pytest.mark.parametrize("line", ["not json", '{"a": 1}', "[1, 2]"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1, "b": 2}}\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: expected JSON with a, b"):
        list(read_json_lines(path, ["a", "b"]))


def tuples(path, *rows):
    keys = ("sub_uri", "sub_label", "obj_uri", "obj_label", "lineid")
    path.write_text(
        "".join(f"{dict(zip(keys, row, strict=True))}\n".replace("'", '"') for row in rows), encoding="utf-8"
    )
    return path


def test_facts_of_several_languages_are_joined_by_their_number(tmp_path):
    en = tuples(tmp_path / "en", ("Q1", "one", "Q2", "two", 0), ("Q3", "three", "Q2", "two", 7))
    nl = tuples(tmp_path / "nl", ("Q4", "vier", "Q2", "twee", 3), ("Q3", "drie", "Q2", "twee", 7))
    triples, labels = read_facts(
        {("P36", "en"): en, ("P36", "nl"): nl, ("P9", "nl"): tuples(tmp_path / "empty")}
    )
    assert triples == [("P36", "Q1", "Q2"), ("P36", "Q4", "Q2"), ("P36", "Q3", "Q2")]
    assert labels["Q3", "nl"] == "drie" and ("Q1", "nl") not in labels and len(labels) == 6


def test_one_number_for_two_facts_is_refused(tmp_path):
    en, nl = (
        tuples(tmp_path / "en", ("Q1", "a", "Q2", "b", 0)),
        tuples(tmp_path / "nl", ("Q1", "a", "Q3", "c", 0)),
    )
    with pytest.raises(DataError, match="lineid 0 is another fact than in the other languages"):
        read_facts({("P36", "en"): en, ("P36", "nl"): nl})


# Tables


def test_tables_by_hand():
    data = small()
    assert data.facts.to_numpy().tolist() == [
        ["P36:Q1:Q2", "P36", "Q1", "Q2"],
        ["P36:Q1:Q3", "P36", "Q1", "Q3"],
        ["P9:Q2:Q1", "P9", "Q2", "Q1"],
        ["P36:Q1:Q2#2", "P36", "Q1", "Q2"],
    ]
    assert data.templates.to_numpy().tolist() == [
        ["P36", "nl", "P36-nl-1", "[X] bij [Y]."],
        ["P36", "en", "P36-en-1", "[X] of [Y]."],
        ["P36", "en", "P36-en-2", "[X]  of [Y] ."],
        ["P9", "en", "P9-en-1", "[Y]: [X]"],
    ]
    assert data.entities["label"].tolist() == ["een", "twee", "one", "two", "Two"]  # only what facts use
    assert data.origin["counts"] == {"relations": 2, "facts": 4, "wordings": 4, "entities": 3, "labels": 5}
    assert data.origin["noted"] == {
        "facts that repeat another": 1,
        "subjects with several objects": 1,
        "labels that several entities of a language share": 1,
        "wordings that repeat another but for spaces": 1,
    }
    for kind in ("entities", "facts", "templates"):
        assert list(getattr(data, kind).columns) == COLUMNS[kind]


@pytest.mark.parametrize("text", ["[X] is", "[X] [X] [Y]", "[Y] of [X] and [Y]", "[Y]"])
def test_a_wording_needs_both_slots_once(text):
    with pytest.raises(DataError, match="wording of P9 in en lacks"):
        small(wordings=[*WORDINGS, ("P9", "en", text)])


@pytest.mark.parametrize("label", ["", " ", "a [X]", "[Y]"])
def test_a_label_that_cannot_be_used(label):
    with pytest.raises(DataError, match="label of Q2 in en cannot be used"):
        small({**LABELS, ("Q2", "en"): label})


def test_two_facts_never_share_an_id():
    with pytest.raises(DataError, match="two facts are called P1:a:b#2"):
        small({}, [("P1", "a", "b#2"), ("P1", "a", "b"), ("P1", "a", "b")])


# Which side is asked for


def test_a_data_set_may_say_which_side_is_asked_for():
    data = small(masked=["object", "subject", "subject", "object"])
    found = make_prompts(data, "en")
    assert found[["text", "answer", "masked"]].to_numpy().tolist() == [
        ["one of [Y].", "two", "object"],
        ["one  of [Y] .", "two", "object"],
        ["[X] of Two.", "one", "subject"],
        ["[X]  of Two .", "one", "subject"],
        ["one: [X]", "two", "subject"],
        ["one of [Y].", "two", "object"],
        ["one  of [Y] .", "two", "object"],
    ]
    assert found["prompt"].is_unique and found["prompt"].str.endswith("/subject").tolist() == [
        0,
        0,
        1,
        1,
        1,
        0,
        0,
    ]
    for side in ("object", "subject"):  # what is asked of make_prompts goes before what the data set says
        assert make_prompts(data, "en", masked=side).equals(make_prompts(small(), "en", masked=side))


# Coverage


@pytest.mark.slow
def test_coverage_counts_what_make_prompts_makes(toy):
    for data in (toy, small(), small(wordings=WORDINGS[:1]), load_facts("mini", relations=["P36", "P30"])):
        counts = coverage(data).set_index(["relation", "language"])
        prompts = make_prompts(data, "all")
        for relation, language in itertools.product(data.relations, data.languages):
            part = prompts[(prompts["relation"] == relation) & (prompts["language"] == language)]
            row = counts.loc[(relation, language)]
            assert (row["prompts"], row["facts"]) == (len(part), part["fact"].nunique())
            assert row["wordings"] == part["template"].nunique() or row["facts"] == 0
        assert len(counts) == len(data.relations) * len(data.languages)


def test_coverage_counts_different_answers():
    assert coverage(small()).set_index(["relation", "language"])["answers"].to_dict() == {
        ("P9", "nl"): 0,
        ("P9", "en"): 1,
        ("P36", "nl"): 1,
        ("P36", "en"): 2,
    }


# Options and choices


def test_options_behind_the_name():
    assert parse("mini") == ("mini", {})
    assert parse("trex_multilingual:build=released,min_languages=4") == (
        "trex_multilingual",
        {"build": "released", "min_languages": "4"},
    )
    assert parse("mlama:languages=de+fr,relations=P36")[1] == {
        "languages": ["de", "fr"],
        "relations": ["P36"],
    }
    spelt, given = (
        load_facts("mini:languages=ja+en,relations=P36"),
        load_facts(languages=["ja", "en"], relations=["P36"]),
    )
    assert spelt.facts.equals(given.facts) and spelt.languages == given.languages == ["en", "ja"]
    assert load_facts("mini:languages=ja", languages=["ko"]).languages == ["ko"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "trex",
            "unknown dataset 'trex'; known: mini, pararel, trex_multilingual, mpararel, mlama, bing_distant, "
            "or the path of facts of your own.",
        ),
        ("pararel:fact=all", "unknown option 'fact' in data set 'pararel'; known: facts, min_wordings."),
        ("bing_distant:build=clean", "unknown option 'build' in data set 'bing_distant'; known: none."),
        (
            "pararel:facts",
            "dataset 'pararel:facts': 'facts' should be option=value, options separated by commas.",
        ),
        ("pararel:", "dataset 'pararel:': '' should be option=value, options separated by commas."),
        ("pararel:facts=none", "data set 'pararel', facts='none': Input should be 'all' or 'vocabulary'."),
        ("mpararel:chinese=zh", "data set 'mpararel', chinese='zh': Input should be 'hans' or 'hant'."),
        ("trex_multilingual:build=all", "build='all': Input should be 'clean' or 'released'."),
        ("trex_multilingual:min_languages=0", "min_languages='0': Input should be greater than 0."),
        ("trex_multilingual:min_languages=x", "min_languages='x': Input should be a valid integer"),
        ("mlama:languages=xx", "unknown language 'xx' in data set 'mlama'; known: af, ar,"),
        ("mlama:relations=P1", "unknown relation 'P1' in data set 'mlama'; known: P19, P20,"),
        (
            "mpararel:languages=de",
            "unknown language 'de' in data set 'mpararel'; known: en, nl, ja, vi, zh, ko, zh-hans, zh-hant.",
        ),
        (
            "trex_multilingual:languages=de",
            "unknown language 'de' in data set 'trex_multilingual'; known: en, zh, fr, el,",
        ),
        (
            "trex_multilingual:languages=sw",
            "unknown language 'sw' in data set 'trex_multilingual'; known: en, zh, fr, el,",
        ),
        (
            "trex_multilingual:build=released,relations=P36",
            "unknown relation 'P36' in data set 'trex_multilingual'; known: P27,",
        ),
        ("pararel:languages=nl", "unknown language 'nl' in data set 'pararel'; known: en."),
        ("bing_distant:languages=nl", "unknown language 'nl' in data set 'pararel'; known: en."),
        ("trex_multilingual:seed=1", "labels, aliases and seed belong to build='released'."),
    ],
)
def test_a_wrong_choice_is_one_line_that_says_what_is_known(dataset, message):
    with pytest.raises(DataError) as caught:
        load_facts(dataset)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_language_must_be_in_a_list():
    with pytest.raises(ParameterError, match="languages='en'; it is a list of names"):
        load_facts("mlama", languages="en")


def test_relations_come_in_the_published_order_languages_in_the_asked_one():
    assert choose_relations("d", ["P1", "P2"], ["P3", "P2", "P1"]) == ["P2", "P1"]
    assert choose_relations("d", None, ["P3", "P2"]) == ["P3", "P2"]
    assert choose_languages("d", ["ko", "en", "ko"], ["en", "ko", "nl"]) == ["ko", "en"]
    assert choose_languages("d", None, ["ko", "zh", "vi", "ja", "nl", "en"]) == [
        "en",
        "nl",
        "ja",
        "vi",
        "zh",
        "ko",
    ]


# Passages and what is told


def test_passages_of_mini_by_relation():
    every, one = load_passages(), load_passages("mini", ["P36"])
    assert list(one.columns) == ["passage", "relation", "fact", "kind", "text"]
    assert one["passage"].tolist() == every.loc[every["relation"] == "P36", "passage"].tolist() and len(one)
    with pytest.raises(DataError, match="unknown relation 'P1' in data set 'mini'"):
        load_passages("mini", ["P1"])
    with pytest.raises(DataError, match="data set 'mlama' has no passages; these have: mini, bing_distant"):
        load_passages("mlama")
    none = load_passages("mlama", missing_ok=True)
    assert none.empty and list(none) == list(one)
    pd.testing.assert_frame_equal(load_passages("mini", ["P36"], missing_ok=True), one)


def test_provenance_tells_counts_and_examples():
    data = small()
    data = replace(
        data,
        origin={
            **data.origin,
            "left_out": {"tired": 3, "broken": ["P1 in nl", "P2 in nl"], "odd": []},
            "terms": ["a", "b"],
        },
    )
    table = provenance(data).set_index("what")
    assert table.loc["facts", ["part", "number"]].tolist() == ["counts", 4]
    assert table.loc["tired", ["part", "number", "detail"]].tolist() == ["left out", 3, ""]
    assert table.loc["broken", ["number", "detail"]].tolist() == [2, "P1 in nl"]
    assert table.loc["odd", ["number", "detail"]].tolist() == [0, ""]
    assert table.loc["terms", "detail"] == "a, b"
    assert pd.Index(table.loc[table["part"] == "noted"].index).equals(pd.Index(data.origin["noted"]))
