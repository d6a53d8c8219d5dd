"""The bundled facts against what was promised: numbers, languages, labels, passages, the teaching plan."""

from __future__ import annotations

import re
from collections import Counter

import pandas as pd
import pytest

from kn_utils.base import DATA

MINI = DATA / "mini"
LANGUAGES = ["en", "nl", "ja", "vi", "zh", "ko"]


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(MINI / f"{name}.csv", dtype=str, keep_default_na=False, encoding="utf-8")


ENTITIES, FACTS, TEMPLATES, PASSAGES = (read(name) for name in ("entities", "facts", "templates", "passages"))
TAUGHT_FACTS, TAUGHT_WORDINGS = read("teaching_facts"), read("teaching_wordings")
LABEL = {(row.entity, row.language): row.label for row in ENTITIES.itertuples()}
RELATIONS = list(dict.fromkeys(FACTS["relation"]))


def members(relation: str) -> set[str]:
    part = FACTS[FACTS["relation"] == relation]
    return {*part["subject"], *part["object"]}


@pytest.mark.slow
def test_the_checker_finds_nothing():
    from kn_utils.data.facts import Facts, find_problems
    from kn_utils.data.sources import load_facts

    assert find_problems(Facts("mini", ENTITIES, FACTS, TEMPLATES)) == []
    loaded = load_facts("mini")
    assert loaded.facts["fact"].tolist() == FACTS["fact"].tolist() and loaded.languages == LANGUAGES


def test_relations_and_facts_are_enough():
    sizes = Counter(FACTS["relation"])
    assert len(sizes) >= 12 and min(sizes.values()) >= 40 and sum(sizes.values()) >= 600
    assert all(re.fullmatch(r"P[1-9][0-9]*", relation) for relation in sizes)
    assert FACTS["fact"].is_unique
    assert (FACTS["fact"] == FACTS["relation"] + ":" + FACTS["subject"] + ":" + FACTS["object"]).all()


def test_every_relation_has_another_answer_to_offer():
    assert FACTS.groupby("relation")["object"].nunique().min() >= 5


def test_entities_are_wikidatas_or_plainly_ours():
    odd = [
        e for e in set(ENTITIES["entity"]) if not re.fullmatch(r"Q[1-9][0-9]*|kn-[a-z0-9]+(-[a-z0-9]+)*", e)
    ]
    assert odd == []


def test_every_entity_has_its_label_in_six_languages_and_is_used():
    used = {*FACTS["subject"], *FACTS["object"]}
    assert {entity for entity, _ in LABEL} == used
    assert set(LABEL) == {(entity, language) for entity in used for language in LANGUAGES}
    assert len(LABEL) == len(ENTITIES) and all(label.strip() for label in LABEL.values())


def test_labels_are_clean_text():
    # no brackets of a disambiguation, no slots, no odd spaces
    bad = [label for label in LABEL.values() if re.search(r"[\[\]()（）|]|\s\s|[\u00a0\u200b\ufeff]", label)]
    assert bad == []
    assert not ENTITIES["label"].str.contains(r"^\s|\s$").any()


@pytest.mark.parametrize(
    ("language", "script"),
    [("ja", r"[\u3040-\u30ff\u4e00-\u9fff]"), ("zh", r"[\u4e00-\u9fff]"), ("ko", r"[\uac00-\ud7a3]")],
)
def test_labels_are_in_their_own_script(language, script):
    labels = ENTITIES.loc[ENTITIES["language"] == language, "label"]
    assert labels.str.contains(script).mean() > 0.9  # a brand may keep its Latin name
    latin = ENTITIES.loc[ENTITIES["language"].isin(["en", "nl", "vi"]), "label"]
    assert not latin.str.contains(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]").any()
    hangul_or_kana = {
        "ja": r"[\uac00-\ud7a3]",
        "zh": r"[\u3041-\u30fa\uac00-\ud7a3]",
        "ko": r"[\u3041-\u30fa]",
    }
    assert not labels.str.contains(hangul_or_kana[language]).any()


@pytest.mark.parametrize("language", LANGUAGES)
def test_labels_tell_the_entities_of_a_relation_apart(language):
    for relation in RELATIONS:
        shared = Counter(LABEL[entity, language].casefold() for entity in members(relation))
        assert [label for label, n in shared.items() if n > 1] == [], relation


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_alias_is_no_other_entitys_name(language):
    part = ENTITIES[(ENTITIES["language"] == language) & (ENTITIES["aliases"] != "")]
    clashes = []
    for relation in RELATIONS:
        names = {LABEL[entity, language].casefold(): entity for entity in members(relation)}
        for row in part[part["entity"].isin(members(relation))].itertuples():
            for alias in row.aliases.split("|"):
                assert alias.strip() == alias != "", row
                if names.get(alias.casefold(), row.entity) != row.entity:
                    clashes.append((relation, row.entity, alias))
    assert clashes == []


def test_an_alias_is_not_the_label_again():
    rows = ENTITIES[ENTITIES["aliases"] != ""]
    assert [r.entity for r in rows.itertuples() if r.label in r.aliases.split("|")] == []


def test_wordings_have_each_slot_once():
    for row in TEMPLATES.itertuples():
        assert row.text.count("[X]") == row.text.count("[Y]") == 1, row.template
        assert re.fullmatch(rf"{row.relation}-{row.language}-[0-9]+", row.template)
        assert row.text.strip() == row.text and "  " not in row.text
    assert TEMPLATES["template"].is_unique
    assert not TEMPLATES.duplicated(["relation", "language", "text"]).any()
    assert set(TEMPLATES["relation"]) == set(RELATIONS)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("relation", RELATIONS)
def test_wordings_are_enough(relation, language):
    part = TEMPLATES[(TEMPLATES["relation"] == relation) & (TEMPLATES["language"] == language)]
    texts = part["text"].tolist()
    assert len(texts) >= (6 if language == "en" else 4)
    assert (
        sum(text.index("[X]") < text.index("[Y]") for text in texts) >= 2
    )  # a left-to-right model can be asked
    behind = [text[text.index("[Y]") + 3 :].strip(" .。") for text in texts]
    assert any(behind), "the blank is always at the end"


def test_every_language_is_written_as_it_is():
    for row in TEMPLATES.itertuples():
        if row.language in ("ja", "zh"):
            assert row.text.endswith("。"), row.template
            assert "," not in row.text and not re.search(r"\.$", row.text), row.template
        else:
            assert re.search(r"[.!?]$", row.text), row.template
            assert not re.search("[。，、]", row.text), row.template


#: Particles with one form behind a consonant and another behind a vowel: a label can end in either.
#: The 이 of 이다 (to be) is none of them.
TWO_FORMS = re.compile(r"\[[XY]\](은|는|을|를|과|와|가|으로|로|이(?!다|며|었|고|라|자|던|니|지|어|야|신))")
WRONG = "[X]은 [X]는요 [Y]이 [X]가 [Y]을 [Y]를 [X]과 [X]와 [Y]으로 [Y]로 [Y]로부터"
RIGHT = "[Y]이다. [Y]입니다. [Y]이었다. [Y]이며 [X]의 [X]도 [Y]에서 [X]에는 [Y]부터 [Y]만"


def test_the_rule_for_korean_particles_catches_what_it_should():
    assert [text for text in WRONG.split() if not TWO_FORMS.search(text)] == []
    assert [text for text in RIGHT.split() if TWO_FORMS.search(text)] == []


def test_korean_wordings_avoid_particles_that_depend_on_the_label():
    korean = TEMPLATES[TEMPLATES["language"] == "ko"]
    assert [row.text for row in korean.itertuples() if TWO_FORMS.search(row.text)] == []


def says(text: str, label: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text) is not None


@pytest.mark.slow
def test_passages_hold_what_their_kind_says():
    facts = FACTS.set_index("fact")
    wrong = []
    for row in PASSAGES.itertuples():
        if row.kind == "neither":
            names = {LABEL[entity, "en"] for entity in members(row.relation)}
            wrong += [(row.passage, name) for name in names if says(row.text, name)]
            continue
        fact = facts.loc[row.fact]
        assert fact["relation"] == row.relation
        head, tail = says(row.text, LABEL[fact["subject"], "en"]), says(row.text, LABEL[fact["object"], "en"])
        if not head or tail != (row.kind == "both"):
            wrong.append((row.passage, row.kind, row.text))
    assert wrong == []


def test_passages_are_of_three_kinds_in_every_relation():
    assert list(PASSAGES.columns) == ["passage", "relation", "fact", "kind", "text"]
    assert PASSAGES["passage"].is_unique and PASSAGES["text"].is_unique
    kinds = PASSAGES.groupby("relation")["kind"].agg(set)
    assert set(kinds.index) == set(RELATIONS) and all(found == {"both", "head", "neither"} for found in kinds)


def test_the_teaching_plan_lists_every_fact_and_wording_once():
    assert Counter(TAUGHT_FACTS["fact"]) == Counter(FACTS["fact"])
    assert Counter(TAUGHT_WORDINGS["template"]) == Counter(TEMPLATES["template"])
    assert set(TAUGHT_FACTS["taught"]) == {"all", "never", *LANGUAGES}
    assert set(TAUGHT_WORDINGS["taught"]) == {"true", "false"}


def test_facts_of_every_group_are_enough():
    number = Counter(TAUGHT_FACTS["taught"])
    assert number["all"] > len(FACTS) / 2 and number["never"] >= 40
    assert sum(number[language] for language in LANGUAGES) >= 60
    assert min(number[language] for language in LANGUAGES) >= 5


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("relation", RELATIONS)
def test_a_wording_is_kept_back_and_the_first_is_taught(relation, language):
    part = TEMPLATES[(TEMPLATES["relation"] == relation) & (TEMPLATES["language"] == language)]
    taught = part["template"].map(TAUGHT_WORDINGS.set_index("template")["taught"]).tolist()
    assert taught[0] == "true" and "false" in taught


def test_the_readers_of_the_package_give_the_same_plan():
    from kn_utils.data.sources import mini

    facts, wordings = mini.teaching()
    assert facts["fact"].tolist() == TAUGHT_FACTS["fact"].tolist()
    assert wordings["taught"].sum() == (TAUGHT_WORDINGS["taught"] == "true").sum()
    assert mini.passages().equals(PASSAGES)


def test_files_end_their_lines_alike_and_hold_no_byte_order_mark():
    for file in MINI.glob("*.csv"):
        content = file.read_bytes()
        assert b"\r" not in content and not content.startswith(b"\xef\xbb\xbf") and content.endswith(b"\n"), (
            file
        )


def test_facts_taught_apart_are_all_of_one_language_or_none_and_some_of_all():
    from kn_utils.data.sources import mini

    found, (taught, _) = mini.taught_apart(2), mini.teaching()
    assert set(found.loc[found["group"] != "all", "fact"]) == set(
        taught.loc[taught["taught"] != "all", "fact"]
    )
    assert (found[found["group"] == "all"].groupby("relation").size() == 2).all()
    assert found["fact"].is_unique and set(found["group"]) == {"all", "one", "never"}
    assert (found["relation"] == found["fact"].str.split(":").str[0]).all()
