"""mLAMA, mParaRel and both builds of T-REx_multilingual, from small files in the published formats."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from small_files import MPARAREL, XFACTR, cache, json_lines, zipped  # noqa: F401

from kn_utils import load_facts, make_prompts
from kn_utils.data.facts import DataError, coverage
from kn_utils.data.sources import trex_multilingual
from kn_utils.data.sources.mlama import candidates

LABELS = {  # three countries, three capitals; Vientiane has no name in Korean, Laos none in Dutch
    "Q142": {"en": "France", "nl": "Frankrijk", "ko": "프랑스", "zh": "法国"},
    "Q17": {"en": "Japan", "nl": "Japan", "ko": "일본", "zh": "日本"},
    "Q819": {"en": "Laos", "ko": "라오스", "zh": "老挝"},
    "Q90": {"en": "Paris", "nl": "Parijs", "ko": "파리", "zh": "巴黎"},
    "Q1490": {"en": "Tokyo @ night", "nl": "Tokio", "ko": "도쿄도", "zh": "东京"},
    "Q9326": {"en": "Vientiane", "nl": "Vientiane", "zh": "万象"},
}
FACTS = [("Q142", "Q90"), ("Q819", "Q9326"), ("Q17", "Q1490")]


def rows(language: str) -> list[dict]:
    return [
        {
            "sub_uri": s,
            "obj_uri": o,
            "obj_label": LABELS[o][language],
            "sub_label": LABELS[s][language],
            "lineid": i,
            "uuid": str(i),
        }
        for i, (s, o) in enumerate(FACTS)
        if language in LABELS[s] and language in LABELS[o]
    ]


def mlama_files() -> dict[str, bytes]:
    files = {}
    for language, text in (
        ("en", "[X]: [Y] ."),
        ("nl", "[X] en [Y]."),
        ("ko", "[X]는 [Y]."),
        ("zh", "[X]\u7684[Y]。"),
    ):
        templates = [{"relation": name, "template": text} for name in ("P19", "P36", "date_of_birth")]
        files[f"mlama1.1/{language}/P36.jsonl"] = json_lines(
            *rows(language), ascii=language != "ko", last=False
        )
        files[f"mlama1.1/{language}/P19.jsonl"] = b""
        files[f"mlama1.1/{language}/templates.jsonl"] = json_lines(*templates)
    return files


@pytest.fixture
def mlama(cache):  # noqa: F811
    cache.add("mlama", {"mlama1.1.zip": zipped(mlama_files())})
    return cache


# mLAMA


def test_mlama_from_its_archive(mlama):
    data = load_facts("mlama", languages=["ko", "en", "nl"], relations=["P36"])
    assert data.facts["fact"].tolist() == ["P36:Q142:Q90", "P36:Q819:Q9326", "P36:Q17:Q1490"]
    assert data.languages == ["ko", "en", "nl"]
    assert data.templates["template"].tolist() == [
        "P36-ko-1",
        "P36-en-1",
        "P36-nl-1",
    ]  # not the other relations'
    prompts = make_prompts(data, "all")
    assert prompts[["language", "text", "answer"]].to_numpy().tolist() == [
        ["ko", "프랑스는 [Y].", "파리"],
        ["en", "France: [Y] .", "Paris"],
        ["nl", "Frankrijk en [Y].", "Parijs"],
        ["en", "Laos: [Y] .", "Vientiane"],
        ["ko", "일본는 [Y].", "도쿄도"],
        ["en", "Japan: [Y] .", "Tokyo @ night"],
        ["nl", "Japan en [Y].", "Tokio"],
    ]
    unpacked = {path.relative_to(mlama.root).as_posix() for path in mlama.root.glob("mlama1.1/*/*")}
    assert unpacked == {
        f"mlama1.1/{lang}/{name}.jsonl" for lang in ("ko", "en", "nl") for name in ("P36", "templates")
    }
    assert data.origin["left_out"]["relations of GoogleRE"] and "CC BY-NC 4.0" in data.origin["licence"]


def test_mlama_needs_no_archive_where_it_was_unpacked_by_hand(cache):  # noqa: F811
    cache.add("mlama", {}, absent=("mlama1.1.zip",))
    for path, content in mlama_files().items():
        (cache.root / path).parent.mkdir(parents=True, exist_ok=True)
        (cache.root / path).write_bytes(content)
    assert len(load_facts("mlama", languages=["zh"], relations=["P36"]).facts) == 3


def test_a_relation_without_facts_in_a_language(mlama):
    data = load_facts("mlama", languages=["en"], relations=["P19"])
    assert len(data.facts) == 0 and data.origin["counts"]["facts"] == 0
    assert len(make_prompts(data, "en")) == 0


def test_candidates_are_the_objects_asked_for_in_a_language(mlama):
    data = load_facts("mlama", languages=["en", "nl", "ko"], relations=["P36"])
    found = candidates(data)
    assert list(found.columns) == ["relation", "language", "object", "label"]
    by_language = found.groupby("language")["label"].agg(set).to_dict()
    assert by_language == {
        "en": {"Paris", "Vientiane", "Tokyo @ night"},
        "nl": {"Parijs", "Tokio"},
        "ko": {"파리", "도쿄도"},
    }
    prompts = make_prompts(data, "all")
    for language, labels in by_language.items():
        assert labels == set(prompts.loc[prompts["language"] == language, "answer"])


# mParaRel


@pytest.fixture
def mpararel(cache):  # noqa: F811
    hant = {"Q142": "法國", "Q90": "巴黎"}
    files = {}
    for folder, texts in {
        "en": ["[X] has [Y]", "[Y] of [X]"],
        "nl": ["[X] en [Y]"],
        "zh-hans": ["[X]的[Y]", "[X] 的 [Y]"],
        "zh-hant": ["[X]與[Y]"],
    }.items():
        patterns = [{"pattern": text, "checked-by-human": text.startswith("[X]的")} for text in texts]
        files[f"{MPARAREL}/patterns/{folder}/P36.jsonl"] = json_lines(*patterns)
        facts = (
            rows("zh" if folder == "zh-hans" else folder)
            if folder != "zh-hant"
            else [
                {
                    "sub_uri": "Q142",
                    "obj_uri": "Q90",
                    "sub_label": hant["Q142"],
                    "obj_label": hant["Q90"],
                    "lineid": 0,
                }
            ]
        )
        files[f"{MPARAREL}/tuples/{folder}/P36.jsonl"] = json_lines(*facts)
        files[f"{MPARAREL}/tuples/{folder}/P19.jsonl"] = json_lines(*facts[:1])
    files[f"{MPARAREL}/patterns/en/P19.jsonl"] = json_lines(
        {"pattern": "[X] in [Y]", "checked-by-human": False}
    )
    cache.add("mpararel", files)
    return cache


def test_mpararel_has_several_wordings_per_language(mpararel):
    data = load_facts("mpararel", languages=["en", "zh", "nl"])
    assert data.templates["template"].tolist() == [
        "P36-en-1",
        "P36-en-2",
        "P19-en-1",
        "P36-zh-1",
        "P36-zh-2",
        "P36-nl-1",
    ]
    assert data.facts["fact"].tolist() == ["P36:Q142:Q90", "P36:Q819:Q9326", "P36:Q17:Q1490", "P19:Q142:Q90"]
    assert data.origin["left_out"] == {
        "relations without a wording": ["P19 in zh", "P19 in nl"],
        "facts in too few languages": 0,
    }
    assert data.origin["noted"]["wordings checked by a person"] == 1
    assert data.origin["noted"]["wordings that repeat another but for spaces"] == 1
    counts = coverage(data).set_index(["relation", "language"])
    assert counts.loc[("P36", "nl"), ["facts", "wordings", "prompts"]].tolist() == [2, 1, 2]
    assert counts.loc[("P19", "zh"), ["facts", "prompts"]].tolist() == [0, 0]


def test_chinese_is_written_in_two_ways(mpararel):
    usual = make_prompts(load_facts("mpararel", languages=["zh"], relations=["P36"]), "zh")
    assert usual["text"].tolist()[:2] == ["法国的[Y]", "法国 的 [Y]"]
    hant = make_prompts(load_facts("mpararel:chinese=hant", languages=["zh"], relations=["P36"]), "zh")
    assert hant["text"].tolist() == ["法國與[Y]"] and hant["language"].tolist() == ["zh"]
    both = make_prompts(load_facts("mpararel", languages=["zh-hant", "zh-hans"], relations=["P36"]), "all")
    first = both[both["fact"] == "P36:Q142:Q90"]
    assert first["language"].tolist() == ["zh-hant", "zh-hans", "zh-hans"]
    assert first["text"].tolist() == [*hant["text"], *usual["text"][:2]] and first["prompt"].is_unique


@pytest.mark.parametrize(("least", "wanted"), [(1, 3), (2, 2), (3, 2), (4, 2)])
def test_facts_may_have_to_be_there_in_several_languages(mpararel, mlama, least, wanted):
    for dataset, languages in (("mpararel", ["en", "nl"]), ("mlama", ["en", "ko"])):
        data = load_facts(f"{dataset}:min_languages={least}", languages=languages, relations=["P36"])
        prompts = make_prompts(data, "all")
        per_fact = prompts.groupby("fact")["language"].nunique()
        assert len(data.facts) == len(per_fact) == wanted and (per_fact >= min(least, 2)).all()
        assert data.origin["left_out"]["facts in too few languages"] == 3 - wanted


# T-REx_multilingual

CODES = "en zh fr el nl ru ko es mr vi he tr yo ja hu bn war tl sw mg pa ilo ceb".split()
CAPITAL = dict.fromkeys(CODES, " [X] x [Y]") | {
    "en": "[Y], capital of [X] .",
    "nl": "[X] en [Y] .",
    "ko": "[X]는 [Y].",
    "ru": "[X.Nom] - [Y.NOM] .",
    "fr": "[DEF;X] [X] a [Y] .",
    "el": "[DEF;X] [X.Nom] [Y.Nom] .",
    "es": "[X] [es;X-Number=SG|son;X-Number=PL] [Y] .",
    "tr": "[X] [Y;be] .",
    "hu": "[X] [Y.IN+ESS] .",
    "he": "[Х] [Y] .",
    "war": "[X bad] ha [Y] .",
    "mg": "[Y] dia [Y] .",
}
CITIZEN = dict.fromkeys(CODES, "[X] x [Y]") | {"en": "[X] is [Y] citizen ."}


def prompts_csv() -> bytes:
    """CRLF between the lines, none after the last, cells with commas quoted."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        [
            ["pid", "relation", *CODES],
            ["P36", "capital", *CAPITAL.values()],
            ["P27", "country, of citizenship", *CITIZEN.values()],
        ]
    )
    return text.getvalue().removesuffix("\r\n").encode()


LABEL_FILE = (
    'Q1\t"Ann "A" Lee"@en\t"@nn @ home"@nl\t"안나"@ko\t"Anne"@fr\n'
    'Q2\t"Bob\tTab"@en\t"Bob"@nl\r\n'
    'Q3\t"Chad"@en\t"Tsjaad"@nl\t"차드"@ko\t""@fr\n'
    'Q4\t"Denmark"@en-gb\n'
    "Q5\n"
    'Q6\t"Fiji"@en\t"Fiji"@nl'
)
MULTI_REL = "Q1\tP27\tQ3 Q6\nQ2\tP27\tQ3\nQ4\tP27\tQ6\nQ5\tP39\tQ6"


@pytest.fixture
def xfactr(mlama):
    mlama.add(
        "xfactr",
        {
            f"{XFACTR}/TREx_prompts.csv": prompts_csv(),
            f"{XFACTR}/TREx_multi_rel.txt": MULTI_REL.encode(),
            f"{XFACTR}/TREx_unicode_escape.txt": LABEL_FILE.encode(),
            f"{XFACTR}/alias/TREx/nl.txt": b"Q4\t \tAap\tDenemarken\nQ3\tChad\nQ77\tx",
            f"{XFACTR}/alias/mTRExf/nl.txt": b"Q4\tZ\nQ6\tF",
            f"{XFACTR}/alias/mTRExf/ko.txt": "Q6\t피지\n".encode(),
        },
    )
    return mlama


def released(**options):
    return load_facts("trex_multilingual", relations=["P27"], build="released", **options)


def test_released_build_by_hand(xfactr):
    data = released(languages=["en", "nl", "ko"], min_languages=2)
    assert data.facts["fact"].tolist() == ["P27:Q1:Q3", "P27:Q1:Q6", "P27:Q2:Q3"]
    labels = data.entities.set_index(["entity", "language"])["label"]
    assert (
        labels["Q1", "en"] == 'Ann "A" Lee'
        and labels["Q1", "nl"] == "@nn @ home"
        and labels["Q2", "en"] == "Bob\tTab"
    )
    prompts = make_prompts(data, "en", masked="object")
    assert prompts["text"].tolist() == [
        'Ann "A" Lee is [Y] citizen .',
        'Ann "A" Lee is [Y] citizen .',
        "Bob\tTab is [Y] citizen .",
    ]
    assert prompts["answer"].tolist() == ["Chad", "Fiji", "Chad"]
    assert data.origin["left_out"] == {"facts in too few languages": 1}


@pytest.mark.parametrize(
    ("least", "wanted"), [(None, ["Q1:Q3"]), (3, ["Q1:Q3"]), (9, ["Q1:Q3"]), (1, ["Q1:Q3", "Q1:Q6", "Q2:Q3"])]
)
def test_facts_need_labels_in_so_many_languages(xfactr, least, wanted):
    data = released(languages=["en", "nl", "ko"], min_languages=least)
    assert data.facts["fact"].tolist() == [f"P27:{pair}" for pair in wanted]


@pytest.mark.slow
def test_the_coin_belongs_to_the_fact(xfactr):
    sides = {}
    for seed in range(40):
        data = released(languages=["en", "nl"], min_languages=1, seed=seed)
        sides[seed] = dict(zip(data.facts["fact"], data.facts["masked"], strict=True))
        fewer = released(languages=["en", "nl", "ko"], seed=seed).facts
        assert dict(zip(fewer["fact"], fewer["masked"], strict=True)).items() <= sides[seed].items()
        prompts = make_prompts(data, "all")
        assert (prompts["masked"] == prompts["fact"].map(sides[seed])).all()
        blank = prompts["masked"].map({"object": "[Y]", "subject": "[X]"})
        assert all(slot in text for slot, text in zip(blank, prompts["text"], strict=True))
    thrown = pd.DataFrame(sides).T
    assert thrown.nunique().eq(2).all() and not thrown["P27:Q1:Q3"].equals(thrown["P27:Q2:Q3"])
    assert 0.3 < (thrown == "object").to_numpy().mean() < 0.7


def test_lists_of_names_fill_in_where_asked(xfactr):
    data = released(languages=["en", "nl", "ko"], min_languages=1, aliases=True)
    labels = data.entities.set_index(["entity", "language"])["label"]
    assert labels["Q4", "nl"] == "Aap"  # the first of the list, whatever it is
    assert labels["Q3", "nl"] == "Tsjaad" and labels["Q6", "nl"] == "Fiji" and labels["Q6", "ko"] == "피지"
    assert data.origin["labels taken from lists of names"] == {"en": 0, "nl": 1, "ko": 1}
    assert "P27:Q4:Q6" in set(data.facts["fact"]) and "Q77" not in set(data.entities["entity"])


def test_a_label_file_of_ones_own(xfactr, tmp_path):
    (tmp_path / "own.txt").write_text('Q1\t"A"@fr\nQ3\t"B"@fr\n', encoding="utf-8")
    data = released(languages=["fr"], labels=str(tmp_path / "own.txt"))
    assert data.facts["fact"].tolist() == ["P27:Q1:Q3"] and data.origin["options"]["labels"] == str(
        tmp_path / "own.txt"
    )
    with pytest.raises(DataError, match=r"no fact has labels in en \(.*own\.txt\)"):
        released(languages=["en"], labels=str(tmp_path / "own.txt"))
    with pytest.raises(DataError, match="none.txt is missing; labels= names a file in the format of"):
        released(labels=str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="no fact has labels in fr"):  # Chad's is empty
        released(languages=["fr", "en"])


def test_clean_build_by_hand(xfactr):
    data = load_facts("trex_multilingual", languages=["en", "nl", "ko"], relations=["P36"], min_languages=2)
    assert data.facts["fact"].tolist() == ["P36:Q142:Q90", "P36:Q17:Q1490"] and "masked" not in data.facts
    assert make_prompts(data, "all").loc[:2, "text"].tolist() == [
        "[Y], capital of France .",
        "Frankrijk en [Y] .",
        "프랑스는 [Y].",
    ]
    assert data.origin["options"] == {"build": "clean", "min_languages": 2}
    assert {"jzbjyb/X-FACTR"} == set(data.origin["commits"]) and "non-commercial" in data.origin["terms"]


def test_mark_up_is_left_out_and_counted_never_filled(xfactr):
    kept, left_out = trex_multilingual._wordings(trex_multilingual.LANGUAGES, ["P36"])
    assert {language for _, language, _ in kept} == set(CODES) - set("fr el es tr hu he war mg".split())
    assert (
        dict((language, text) for _, language, text in kept)["ru"] == "[X] - [Y] ."
    )  # the nominative is the label
    assert left_out == {
        "wordings with inflection mark-up": [
            "P36 in fr: [DEF;X] [X] a [Y] .",
            "P36 in el: [DEF;X] [X] [Y] .",
            "P36 in es: [X] [es;X-Number=SG|son;X-Number=PL] [Y] .",
            "P36 in tr: [X] [Y;be] .",
            "P36 in hu: [X] [Y.IN+ESS] .",
        ],
        "broken wordings, which lack a slot": [
            "P36 in he: [Х] [Y] .",
            "P36 in war: [X bad] ha [Y] .",
            "P36 in mg: [Y] dia [Y] .",
        ],
    }
