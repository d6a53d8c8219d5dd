"""PARAREL_en and BingDistantTREx, from small files of our own in the published formats."""

from __future__ import annotations

import json

import pytest
from small_files import BAGS, PAIRS, PATTERNS, VOCABULARY, cache, json_lines  # noqa: F401

from kn_utils import load_facts, load_passages, make_prompts
from kn_utils.data.facts import DataError

PUBLISHED = {
    "P36": [["England", "London"], ["France/Gaul: a land", "Paris"], ["England", "London"]],
    "P9": [["Ōita", "café"]],
}


def wordings(number: int) -> list[dict]:
    return [
        {"pattern": f"[X] is {i} to [Y] .", "lemma": "is", "extended_lemma": "is", "tense": "present"}
        for i in range(number)
    ]


@pytest.fixture
def pararel(cache):  # noqa: F811
    cache.add(
        "pararel",
        {
            PAIRS: json.dumps(PUBLISHED, indent=2, ensure_ascii=False).encode(),
            f"{PATTERNS}/P36.jsonl": json_lines(*wordings(5), end="\r\n", last=False),
            f"{PATTERNS}/P9.jsonl": json_lines(*wordings(4)),
            f"{PATTERNS}/P17.jsonl": json_lines(*wordings(3)),
        },
    )
    cache.add(
        "pararel_vocabulary",
        {
            f"{VOCABULARY}/{relation}.jsonl": json_lines(
                *({"sub_label": f"{relation}s{i}", "obj_label": "o", "uuid": str(i)} for i in range(number))
            )
            for relation, number in (("P36", 2), ("P9", 0), ("P17", 1), ("P31", 1))
        },
    )
    return cache


def test_facts_by_hand(pararel):
    data = load_facts("pararel")
    assert data.facts.to_numpy().tolist() == [
        ["P36:England:London", "P36", "England", "London"],
        ["P36:France/Gaul: a land:Paris", "P36", "France/Gaul: a land", "Paris"],
        ["P36:England:London#2", "P36", "England", "London"],
        ["P9:Ōita:café", "P9", "Ōita", "café"],
    ]
    assert data.relations == ["P9", "P36"] and data.languages == ["en"]
    assert (data.entities["entity"] == data.entities["label"]).all() and len(data.entities) == 6
    prompts = make_prompts(data)
    assert len(prompts) == 3 * 5 + 4 and prompts["prompt"].is_unique
    assert prompts.loc[0, ["text", "answer"]].tolist() == ["England is 0 to [Y] .", "London"]
    assert prompts["fact"].drop_duplicates().tolist() == data.facts["fact"].tolist()


@pytest.mark.slow
def test_a_relation_reads_only_its_own_files(pararel):
    (pararel.root / f"{PATTERNS}/P36.jsonl").unlink()
    assert load_facts("pararel", relations=["P9"]).facts["fact"].tolist() == ["P9:Ōita:café"]
    with pytest.raises(DataError, match=r"cannot download .*P36\.jsonl"):
        load_facts("pararel")


def test_relations_with_few_wordings_are_left_out_and_counted(pararel):
    data = load_facts("pararel", min_wordings=5)
    assert data.relations == ["P36"] and data.origin["left_out"] == {
        "relations with too few wordings": ["P9"]
    }
    with pytest.raises(DataError, match="P9 has 4 wordings; min_wordings=5 leaves it out"):
        load_facts("pararel", relations=["P9"], min_wordings=5)


def test_the_filtered_facts(pararel):
    data = load_facts("pararel:facts=vocabulary")
    assert data.facts["fact"].tolist() == ["P36:P36s0:o", "P36:P36s1:o"]  # P9's file is empty
    assert data.origin["left_out"] == {"relations with too few wordings": ["P17"]}
    every = load_facts("pararel", facts="vocabulary", min_wordings=1)
    assert every.relations == ["P17", "P36"]  # P31 has facts, but no wording
    assert len(make_prompts(every)) == 2 * 5 + 3
    with pytest.raises(DataError, match="unknown relation 'P17' in data set 'pararel'; known: P36, P9"):
        load_facts("pararel", relations=["P17"])


def test_origin_says_whose_they_are(pararel):
    origin = load_facts("pararel", facts="vocabulary").origin
    assert set(origin["commits"]) == {"Hunter-DDM/knowledge-neurons", "yanaiela/pararel"}
    assert "CC BY-NC 4.0" in origin["licence"] and origin["terms"] == ["non-commercial"]
    assert origin["options"] == {"facts": "vocabulary", "min_wordings": 4}
    assert origin["noted"]["facts that repeat another"] == 0
    assert load_facts("pararel").origin["noted"]["facts that repeat another"] == 1


# Sentences

SENTENCES = [
    {"th_bags": ["London is in england."], "h_bags": ["England lost.", "Old England \u2013 “so”"]},
    {"th_bags": [], "h_bags": []},
    {"th_bags": ["ENGLAND, London"], "h_bags": []},
]


def add_sentences(cache, bags):  # noqa: F811
    content = json.dumps(bags, indent=2, ensure_ascii=False).encode()
    cache.add("bing_distant", {f"{BAGS}/final_distant_allbags_P36_new.json": content})


def test_sentences_stand_beside_the_facts_in_their_order(pararel):
    add_sentences(pararel, SENTENCES)
    assert load_passages("bing_distant", ["P36"]).to_numpy().tolist() == [
        ["P36-1", "P36", "P36:England:London", "both", "London is in england."],
        ["P36-2", "P36", "P36:England:London", "head", "England lost."],
        ["P36-3", "P36", "P36:England:London", "head", "Old England – “so”"],
        ["P36-4", "P36", "P36:England:London#2", "both", "ENGLAND, London"],
    ]
    data = load_facts("bing_distant", relations=["P36"])
    assert data.dataset == "bing_distant" and data.facts.equals(
        load_facts("pararel", relations=["P36"]).facts
    )
    assert data.origin["terms"] == ["non-commercial", "no licence stated"]


def test_sentences_that_do_not_fit_the_facts_are_refused(pararel):
    add_sentences(pararel, SENTENCES[:2])
    with pytest.raises(DataError, match="holds 2 facts; PARAREL_en has 3 of P36"):
        load_passages("bing_distant", ["P36"])
    add_sentences(pararel, [SENTENCES[1], *SENTENCES[:2]])  # shifted by one: the second subject is France
    with pytest.raises(DataError, match="does not fit PARAREL_en's P36"):
        load_passages("bing_distant", ["P36"])


def test_a_file_of_sentences_that_ends_early_is_refused(pararel):
    whole = json.dumps(SENTENCES).encode()
    pararel.add("bing_distant", {f"{BAGS}/final_distant_allbags_P36_new.json": whole[:-20]})
    with pytest.raises(DataError, match="P36_new.json is not whole .*; delete it and run again"):
        load_passages("bing_distant", ["P36"])
