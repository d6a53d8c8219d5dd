"""The published files themselves: every count, and prompts compared with plain loops over the raw files.

Runs where ``KN_RAW`` names a folder with the unpacked files (``mlama1.1/``, ``jzbjyb/``, ...); skipped
elsewhere.
"""

from __future__ import annotations

import csv
import json
import os
import resource
from collections import Counter
from pathlib import Path

import pytest

from kn_utils import load_facts, load_passages, make_prompts
from kn_utils.data.downloads import catalogue
from kn_utils.data.facts import coverage
from kn_utils.data.sources import trex_multilingual
from kn_utils.data.sources.mlama import candidates

RAW = Path(os.environ.get("KN_RAW", ""))
SIX = ["en", "nl", "ja", "vi", "zh", "ko"]
STAND_IN = RAW / "substitutes/TREx_unicode_escape.six_langs.substitute.txt"

pytestmark = pytest.mark.skipif(
    "KN_RAW" not in os.environ, reason="KN_RAW names no folder with the published files"
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A cache that leads to the raw files, so that nothing is written among them."""
    root = tmp_path_factory.mktemp("cache")
    for place in RAW.iterdir():
        if place.is_dir():
            (root / place.name).symlink_to(place)
    before = os.environ.get("KN_DATA")
    os.environ["KN_DATA"] = str(root)
    catalogue.index.cache_clear()
    yield root
    os.environ.pop("KN_DATA") if before is None else os.environ.update(KN_DATA=before)


def raw_lines(path: Path | str) -> list[dict]:
    return [json.loads(line) for line in (RAW / path).read_text(encoding="utf-8").split("\n") if line]


# PARAREL_en

PARAREL = {  # relation: wordings, facts (counted independently of this code)
    "P19": (13, 944),
    "P20": (8, 953),
    "P27": (9, 966),
    "P30": (4, 975),
    "P36": (14, 703),
    "P37": (9, 966),
    "P39": (6, 892),
    "P47": (9, 922),
    "P101": (13, 696),
    "P103": (4, 977),
    "P106": (11, 958),
    "P108": (4, 383),
    "P127": (4, 687),
    "P136": (6, 931),
    "P138": (20, 645),
    "P140": (4, 473),
    "P159": (10, 967),
    "P176": (12, 982),
    "P178": (16, 592),
    "P190": (4, 995),
    "P264": (17, 429),
    "P279": (4, 964),
    "P364": (6, 856),
    "P407": (18, 877),
    "P413": (6, 952),
    "P449": (11, 881),
    "P463": (5, 225),
    "P495": (17, 909),
    "P530": (9, 996),
    "P740": (14, 936),
    "P937": (5, 954),
    "P1303": (4, 949),
    "P1376": (14, 234),
    "P1412": (8, 969),
}


def test_pararel_is_rebuilt_exactly_in_little_memory():
    data = load_facts("pararel")
    prompts = make_prompts(data)
    assert (len(data.relations), len(data.templates), len(data.facts), len(prompts)) == (
        34,
        318,
        27738,
        253448,
    )
    assert data.facts["fact"].is_unique and prompts["prompt"].is_unique
    assert len(data.facts[["relation", "subject", "object"]].drop_duplicates()) == 27717
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2e6  # kB: 2 GB


def test_pararel_prompts_are_those_of_a_plain_loop():
    home = RAW / "Hunter-DDM/knowledge-neurons/data/PARAREL"
    pairs = json.loads((home / "query_pairs.json").read_text(encoding="utf-8"))
    wanted = [
        (relation, row["pattern"].replace("[X]", subject), answer)
        for relation, facts in pairs.items()
        for subject, answer in facts
        for row in raw_lines(home / f"raw_data/patterns/{relation}.jsonl")
    ]
    found = make_prompts(load_facts("pararel"))
    assert list(zip(found["relation"], found["text"], found["answer"], strict=True)) == wanted


def test_pararel_per_relation():
    counts = coverage(load_facts("pararel")).set_index("relation")
    assert {row.Index: (row.wordings, row.facts) for row in counts.itertuples()} == PARAREL


@pytest.mark.parametrize(
    ("least", "relations", "facts", "prompts"), [(4, 34, 23749, 215929), (1, 39, 27610, 224674)]
)
def test_pararel_filtered(least, relations, facts, prompts):
    data = load_facts("pararel", facts="vocabulary", min_wordings=least)
    assert (len(data.relations), len(data.facts), len(make_prompts(data))) == (relations, facts, prompts)


# mLAMA

MLAMA = {"en": 33981, "nl": 29334, "ja": 22920, "vi": 11425, "zh": 21449, "ko": 14217}


def test_mlama_counts():
    data = load_facts("mlama")
    counts = coverage(data)
    assert counts.groupby("language")["facts"].sum().to_dict() == MLAMA
    assert len(data.facts) == 33982 and len(data.relations) == 41 and (counts["wordings"] == 1).all()
    rows = {(r["sub_uri"], r["obj_uri"]): r["obj_label"] for r in raw_lines("mlama1.1/ko/P19.jsonl")}
    found = make_prompts(data, "ko", "P19")
    subjects = data.facts.set_index("fact").loc[found["fact"], ["subject", "object"]].apply(tuple, axis=1)
    assert dict(zip(subjects, found["answer"], strict=True)) == rows


@pytest.mark.parametrize(("least", "facts"), [(6, 9327), (4, 19121)])
def test_mlama_and_the_clean_build_hold_the_same_facts(least, facts):
    data = load_facts("mlama", min_languages=least)
    assert (
        data.facts.equals(load_facts("trex_multilingual", min_languages=least).facts)
        and len(data.facts) == facts
    )


def test_mlama_candidates():
    found = candidates(load_facts("mlama"))
    sizes = found.groupby(["relation", "language"])["object"].nunique()
    for relation, language in (("P36", "vi"), ("P530", "zh"), ("P1412", "en")):
        rows = raw_lines(f"mlama1.1/{language}/{relation}.jsonl")
        part = found[(found["relation"] == relation) & (found["language"] == language)]
        assert set(part["label"]) == {row["obj_label"] for row in rows}
        assert sizes[relation, language] == len({row["obj_uri"] for row in rows})


# mParaRel


@pytest.mark.parametrize(("chinese", "wordings"), [("hans", 334), ("hant", 264)])
def test_mpararel_counts(chinese, wordings):
    data = load_facts("mpararel", chinese=chinese)
    counts = coverage(data)
    per_language = data.templates.groupby("language").size().to_dict()
    assert per_language == {"en": 328, "nl": 390, "ja": 331, "vi": 363, "zh": wordings, "ko": 311}
    relations = data.templates.groupby("language")["relation"].nunique().to_dict()
    assert relations == {
        "en": 38,
        "nl": 38,
        "ja": 38,
        "vi": 37,
        "zh": 38 if chinese == "hans" else 37,
        "ko": 37,
    }
    home = "coastalcph/mpararel/data/mpararel_reviewed/tuples"
    for row in counts.itertuples():
        folder = f"zh-{chinese}" if row.language == "zh" else row.language
        if row.relation in ("P36", "P103") and row.wordings:
            assert row.facts == len(raw_lines(f"{home}/{folder}/{row.relation}.jsonl"))
    assert data.facts["fact"].is_unique


# T-REx_multilingual


@pytest.mark.parametrize(("least", "facts"), [(None, 9327), (6, 9327), (5, 13965), (4, 19121)])
def test_clean_build(least, facts):
    data = load_facts("trex_multilingual", min_languages=least)
    assert (len(data.relations), len(data.facts), len(data.templates)) == (41, facts, 41 * 6)
    assert data.languages == SIX and data.facts["fact"].is_unique
    if facts == 9327:
        assert len(make_prompts(data, "all")) == 9327 * 6


RELEASED = {  # at least 4 of six, all six; names filled in from X-FACTR's lists
    "P27": (491, 126),
    "P31": (502, 103),
    "P39": (1090, 408),
    "P47": (2971, 1988),
    "P101": (852, 398),
    "P106": (1737, 436),
    "P108": (251, 69),
    "P178": (501, 233),
    "P190": (5561, 5143),
    "P463": (1308, 790),
    "P527": (1937, 1038),
    "P530": (5923, 5922),
    "P937": (837, 329),
    "P1001": (446, 174),
    "P1303": (703, 199),
    "P1412": (707, 242),
}


@pytest.mark.parametrize(
    ("aliases", "least", "facts"), [(True, 4, 25817), (True, 6, 17598), (False, 4, 22592), (False, 6, 15037)]
)
def test_released_build_with_the_stand_in_labels(aliases, least, facts):
    data = load_facts(
        "trex_multilingual", build="released", labels=str(STAND_IN), aliases=aliases, min_languages=least
    )
    assert len(data.facts) == facts and data.facts["fact"].is_unique
    share = (data.facts["masked"] == "object").mean()
    assert abs(share - 0.5) < 4 * 0.5 / facts**0.5
    if aliases:
        per_relation = data.facts["relation"].value_counts().to_dict()
        assert per_relation == {relation: both[least == 6] for relation, both in RELEASED.items()}
    if facts == 25817:
        assert len(make_prompts(data, "all")) == 142556


def test_released_build_is_that_of_the_notebook():
    """The loop of the multilingual study's getData.ipynb, with our coin in place of its unseeded one."""
    home = RAW / "jzbjyb/X-FACTR/data"
    with (home / "TREx_prompts.csv").open(encoding="utf-8", newline="") as file:
        texts = {row["pid"]: row for row in csv.DictReader(file)}
    names: dict[str, dict[str, str]] = {}
    for line in STAND_IN.read_text(encoding="utf-8").splitlines():
        entity, *items = line.split("\t")
        names[entity] = {item.rsplit("@", 1)[1]: item.rsplit("@", 1)[0][1:-1] for item in items}
    found = load_facts("trex_multilingual", build="released", labels=str(STAND_IN), min_languages=4)
    sides = dict(zip(found.facts["fact"], found.facts["masked"], strict=True))
    wanted = []
    for line in (home / "TREx_multi_rel.txt").read_text(encoding="utf-8").splitlines():
        subject, relation, objects = line.split("\t")
        for answer in objects.split(" "):
            bag = []
            for language in SIX:
                if language in names[subject] and language in names[answer]:
                    one, other = names[subject][language], names[answer][language]
                    text = texts[relation][language]
                    if sides.get(f"{relation}:{subject}:{answer}") == "object":
                        bag.append((text.replace("[X]", one), other))
                    else:
                        bag.append((text.replace("[Y]", other), one))
            wanted += bag if len(bag) > 3 else []
    prompts = make_prompts(found, "all")
    assert list(zip(prompts["text"], prompts["answer"], strict=True)) == wanted


def test_prompts_of_all_languages_of_xfactr():
    kept, left_out = trex_multilingual._wordings(trex_multilingual.LANGUAGES, list(_relations()))
    plain = Counter(language for _, language, _ in kept)
    wanted = {
        "fr": 7,
        "ru": 4,
        "es": 29,
        "mr": 37,
        "he": 9,
        "tr": 19,
        "hu": 18,
        "bn": 11,
        "war": 45,
        "mg": 45,
    }
    complete = {language: 46 for language in "en zh nl ko vi yo ja tl sw pa ilo ceb".split()}
    assert plain == wanted | complete  # Greek has none
    assert [text.split(":")[0] for text in left_out["broken wordings, which lack a slot"]] == [
        "P47 in he",
        "P449 in war",
        "P31 in mg",
    ]
    assert sum(len(one) for one in left_out.values()) == 23 * 46 - sum(plain.values())


def _relations() -> list[str]:
    return [row["relation"] for row in raw_lines("jzbjyb/X-FACTR/data/TREx-relations.jsonl")]


# BingDistantTREx


def test_sentences_per_relation():
    found = load_passages("bing_distant", ["P108", "P463", "P1376"])
    assert found.groupby(["relation", "kind"]).size().to_dict() == {
        ("P108", "both"): 3660,
        ("P108", "head"): 3823,
        ("P1376", "both"): 2226,
        ("P1376", "head"): 2336,
        ("P463", "both"): 1611,
        ("P463", "head"): 2150,
    }
    facts = load_facts("bing_distant", relations=["P108", "P463", "P1376"]).facts.set_index("fact")
    both = found[found["kind"] == "both"]
    pairs = facts.loc[both["fact"]]
    for subject, answer, text in zip(pairs["subject"], pairs["object"], both["text"], strict=True):
        assert subject.casefold() in text.casefold() and answer.casefold() in text.casefold()
    assert found["passage"].is_unique and found.groupby(["fact", "kind"]).size().max() == 10
