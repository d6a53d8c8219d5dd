"""Facts of one's own: a folder of three tables, one simple table, plain texts; where something is wrong."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from conftest import make_model

from kn_utils import answer_probability, ask, attribute, attribution_map, load_facts, make_prompts
from kn_utils.base import DATA
from kn_utils.checks import DataError, ParameterError
from kn_utils.data.facts import Facts, coverage
from kn_utils.data.prompts import from_texts
from kn_utils.data.sources import DATASETS, parse, provenance
from kn_utils.run.command import listed, read_options

ENTITIES = "entity,language,label\nfr,en,France\nfr,nl,Frankrijk\npa,en,Paris\npa,nl,Parijs\n"
FACTS = "relation,subject,object\ncapital_of,fr,pa\n"
TEMPLATES = (
    "relation,language,text\ncapital_of,en,The capital of [X] is [Y].\ncapital_of,nl,[Y] ligt in [X].\n"
)
HEAD = "subject,object,relation,language,prompt\n"


def folder(place: Path, entities: str = ENTITIES, facts: str = FACTS, templates: str = TEMPLATES) -> str:
    for name, text in (("entities", entities), ("facts", facts), ("templates", templates)):
        (place / f"{name}.csv").write_bytes(text.encode())
    return str(place)


def simple(place: Path, rows: str) -> str:
    (place / "table.csv").write_bytes((HEAD + rows).encode())
    return str(place / "table.csv")


def test_a_folder_becomes_facts_and_prompts(tmp_path):
    facts = load_facts(folder(tmp_path))
    assert (facts.languages, facts.relations) == (["en", "nl"], ["capital_of"])
    assert facts.facts["fact"].tolist() == ["capital_of:fr:pa"]
    prompts = make_prompts(facts, "all", "capital_of")
    assert prompts["text"].tolist() == ["The capital of France is [Y].", "[Y] ligt in Frankrijk."]
    assert prompts["answer"].tolist() == ["Paris", "Parijs"] and prompts["prompt"].is_unique
    assert load_facts(str(tmp_path), languages=["nl"]).languages == ["nl"]
    with pytest.raises(DataError, match="unknown relation 'P36' .* known: capital_of"):
        load_facts(str(tmp_path), relations=["P36"])


def test_ids_that_are_given_are_kept(tmp_path):
    facts = "fact,relation,subject,object,note\nmine 1,capital_of,fr,pa,seen\n"
    templates = "template,relation,language,text\nw9,capital_of,en,The capital of [X] is [Y].\n"
    prompts = make_prompts(load_facts(folder(tmp_path, facts=facts, templates=templates)))
    assert prompts["prompt"].tolist() == ["mine 1/w9"]


def test_a_simple_table_names_things_by_their_names(tmp_path):
    rows = "France,Paris,capital_of,en,The capital of [X] is [Y].\n"
    rows += "Japan,Tokyo,capital_of,en,The capital of Japan is [Y].\n"
    rows += "France,Paris,capital_of,en,[Y] governs France.\n"
    prompts = make_prompts(load_facts(simple(tmp_path, rows)), "en")
    assert sorted(prompts["text"]) == sorted(
        [
            "The capital of France is [Y].",
            "[Y] governs France.",
            "The capital of Japan is [Y].",
            "[Y] governs Japan.",
        ]
    )
    assert set(zip(prompts["fact"], prompts["answer"], strict=True)) == {
        ("capital_of:France:Paris", "Paris"),
        ("capital_of:Japan:Tokyo", "Tokyo"),
    }


def test_the_bundled_example_is_whole():
    for place in (DATA / "own_example", DATA / "own_example" / "simple.csv"):
        facts = load_facts(str(place))
        table = coverage(facts)
        assert (table["facts"] == 3).all() and not facts.origin["left_out"]
        assert provenance(facts)["what"].tolist()[:2] == ["relations", "facts"]


def test_names_are_brought_to_nfc_and_a_byte_order_mark_is_no_name(tmp_path):
    loose = unicodedata.normalize("NFD", "Azië")
    assert loose != "Azië"
    entities = "\ufeff" + ENTITIES.replace("Frankrijk", loose).replace("\n", "\r\n")
    labels = load_facts(folder(tmp_path, entities)).entities["label"]
    assert labels.tolist() == ["France", "Azië", "Paris", "Parijs"]


def test_a_fact_without_a_label_in_one_language_is_asked_in_the_other_and_counted(tmp_path):
    facts = load_facts(folder(tmp_path, ENTITIES.replace("pa,nl,Parijs\n", "")))
    assert facts.origin["left_out"] == {"facts without both labels in nl": ["capital_of:fr:pa"]}
    assert make_prompts(facts, "all")["language"].tolist() == ["en"]


WRONG = {
    "empty label": (
        {"entities": ENTITIES.replace("France", " ")},
        "entities.csv, line 2, column label: empty",
    ),
    "spaces": ({"entities": ENTITIES.replace("Paris", " Paris")}, "line 4, column label: white space"),
    "slot": ({"entities": ENTITIES.replace("Paris", "[Y]")}, "line 4, column label: '[Y]' holds a slot"),
    "twice": (
        {"entities": ENTITIES + "pa,en,Lutetia\n"},
        "entities.csv, line 6, column language: 'pa en' stands in line 4",
    ),
    "no column": (
        {"entities": ENTITIES.replace("label", "name")},
        "line 1: column 'label' is missing; there is: entity",
    ),
    "semicolons": ({"facts": FACTS.replace(",", ";")}, "facts.csv, line 1: column 'relation' is missing"),
    "two columns": ({"facts": FACTS.replace("object", "subject")}, "facts.csv, line 1: "),
    "a comma": ({"templates": TEMPLATES.replace("capital of", "capital, of")}, "line 2: 4 cells, 3 columns"),
    "open quote": ({"templates": TEMPLATES.replace("The", '"The')}, "no CSV"),
    "no slot": (
        {"templates": TEMPLATES.replace("[X]", "it", 1)},
        "templates.csv, line 2, column text: needs [X] once",
    ),
    "slot twice": (
        {"templates": TEMPLATES.replace("is [Y]", "[Y] [Y]")},
        "line 2, column text: needs [Y] once",
    ),
    "wording twice": ({"templates": TEMPLATES + "capital_of,nl,[Y] ligt in [X].\n"}, "line 4, column text:"),
    "fact twice": ({"facts": FACTS + "capital_of,fr,pa\n"}, "facts.csv, line 3, column fact"),
    "stranger": (
        {"facts": FACTS + "capital_of,jp,pa\n"},
        "facts.csv, line 3, column subject: 'jp' has no label",
    ),
    "no wording": ({"facts": FACTS + "mayor,fr,pa\n"}, "line 3, column relation: 'mayor' has no wording"),
    "no fact": (
        {"templates": TEMPLATES + "mayor,en,[X] [Y]\n"},
        "line 4, column relation: 'mayor' has no fact",
    ),
    "taken": (
        {"facts": FACTS.replace("capital_of", "tables")},
        "facts.csv, line 2, column relation: 'tables'",
    ),
    "path": ({"facts": FACTS.replace("capital_of", "../x")}, "line 2, column relation: '../x' cannot name"),
    "language": (
        {"entities": ENTITIES.replace("fr,en", "fr,EN")},
        "line 2, column language: 'EN' is no lang",
    ),
    "nowhere": ({"entities": "entity,language,label\nfr,en,France\npa,nl,Parijs\n"}, "in no language"),
    "no rows": ({"facts": "relation,subject,object\n\n"}, "holds no rows"),
    "nothing": ({"facts": ""}, "there is: nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_file_line_and_column(name, tmp_path):
    tables, words = WRONG[name]
    with pytest.raises(DataError) as caught:
        load_facts(folder(tmp_path, **tables))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_problems_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"line 2, column label: empty \(1 more problems\)"):
        load_facts(folder(tmp_path, ENTITIES.replace("France", "").replace("Parijs", "")))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("France,Paris,capital_of,en,Its capital is [Y].\n", "table.csv, line 2, column prompt: needs [X]"),
        ("France,,capital_of,en,The capital of [X] is [Y].\n", "line 2, column object: empty"),
        ("France,Paris,capital_of,en,[X] [Y]\nFrance,Paris,capital_of,en,[X] [Y]\n", "line 3: the same fact"),
        ("France,Paris,capital_of,en,The capital of [X] is Paris.\n", "needs [Y] once"),
    ],
)
def test_what_is_wrong_with_a_simple_table(rows, words, tmp_path):
    with pytest.raises(DataError) as caught:
        load_facts(simple(tmp_path, rows))
    assert words in str(caught.value)


def test_not_utf8_is_said_with_its_line(tmp_path):
    place = folder(tmp_path)
    (tmp_path / "entities.csv").write_bytes(ENTITIES.replace("Frankrijk", "Azië").encode("latin-1"))
    with pytest.raises(DataError, match=r"entities.csv, line 3: not UTF-8"):
        load_facts(place)
    (tmp_path / "facts.csv").unlink()
    (tmp_path / "entities.csv").write_text(ENTITIES)
    with pytest.raises(DataError, match=r"facts.csv is missing; it should hold the columns relation, "):
        load_facts(place)


def test_a_place_is_a_path_and_a_published_name_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    (tmp_path / "mine").mkdir()
    assert parse("mini") == ("mini", {}) and "own" not in DATASETS
    assert parse("mine") == ("own", {"place": "mine"})
    assert parse("./mini")[0] == parse("~/x")[0] == parse("a/b.csv")[0] == "own"
    with pytest.raises(DataError, match="unknown dataset 'nothing'; known: mini, pararel"):
        parse("nothing")
    with pytest.raises(DataError, match="there is no folder or table './nothing'"):
        load_facts("./nothing")


def test_relations_may_be_repeated_or_stand_between_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path)
    given = ["--relation", "P36,P17", "--relation", "P36", "--relation", "P19", "--dataset", "."]
    (plan,) = read_options([*given, "--model", "mini"])[0].plans
    assert plan.relations == ["P36", "P17", "P19"] and plan.dataset == str(tmp_path)
    assert listed(None, ["all"]) == ["all"]


def broken(data: Facts, **changed: pd.DataFrame) -> Facts:
    tables = {name: getattr(data, name) for name in ("entities", "facts", "templates")} | changed
    return Facts("broken", **tables)


def test_make_prompts_refuses_tables_that_would_double_prompts(toy):
    again = {
        name: pd.concat([table, table.head(1)])
        for name, table in (("entities", toy.entities), ("facts", toy.facts), ("templates", toy.templates))
    }
    for name, table in again.items():
        with pytest.raises(DataError, match=f"^{name} hold .* more than once"):
            make_prompts(broken(toy, **{name: table}))
    with pytest.raises(DataError, match="the label of Q142 in en is '  '"):
        make_prompts(broken(toy, entities=toy.entities.replace({"label": {"France": "  "}})))
    with pytest.raises(DataError, match="facts, row 0.*subject is None"):
        make_prompts(broken(toy, facts=toy.facts.assign(subject=None)))


@pytest.mark.slow
def test_texts_and_answers_are_asked_and_attributed_as_prompts_are(bert, prompts):
    plain = prompts[["text", "answer"]]
    filled = [
        text.replace("[Y]", answer) for text, answer in zip(plain["text"], plain["answer"], strict=True)
    ]
    asked, usual = (answer_probability(bert, table, progress=False) for table in (plain, prompts))
    assert asked["prompt"].tolist() == filled
    pd.testing.assert_frame_equal(asked.drop(columns="prompt"), usual.drop(columns="prompt"))
    assert (attribution_map(bert, plain) == attribution_map(bert, prompts)).all()
    mine, theirs = (attribute(bert, table, progress=False) for table in (plain, prompts))
    assert mine["score"].tolist() == theirs["score"].tolist() and set(mine["prompt"]) <= set(filled)
    one = ask(bert, plain["text"].tolist(), plain["answer"].tolist())
    pd.testing.assert_frame_equal(one, asked)


def test_what_a_plain_table_says_itself_is_kept(prompts):
    table = pd.DataFrame({"text": ["[X] is in France."], "answer": ["Paris"], "fact": ["f"], "mine": [3]})
    (row,) = from_texts(table).to_dict("records")
    assert (row["fact"], row["mine"], row["masked"], row["prompt"]) == (
        "f",
        3,
        "subject",
        "Paris is in France.",
    )
    assert from_texts(prompts) is prompts


@pytest.mark.parametrize(
    ("text", "answer", "words"),
    [
        ("The capital of France is", "Paris", "should hold its blank [X] once"),
        ("[Y] and [Y]", "Paris", "should hold its blank [Y] once"),
        ("The capital of France is [Y].", "", "answer is ''"),
        ("", "Paris", "text is ''"),
    ],
)
def test_a_text_that_cannot_be_asked(bert, text, answer, words):
    with pytest.raises(DataError) as caught:
        ask(bert, text, answer)
    assert words in str(caught.value)


def test_several_answers_of_one_text():
    model = make_model("gpt2")
    asked = ask(model, "The capital of France is [Y].", ["Paris", "India"])
    assert asked["prompt"].tolist() == ["The capital of France is Paris.", "The capital of France is India."]
    with pytest.raises(ParameterError, match="3 answers for 2 texts"):
        ask(model, ["a [Y]", "b [Y]"], ["x", "y", "z"])
