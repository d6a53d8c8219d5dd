"""Reports of decoded answers, recall and consistency, against plain loops and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.statistics import intervals
from kn_utils.statistics.consistency import languages_that_know, rank_consistency, right_together
from kn_utils.statistics.decoded import decode_report, decoded_recall, left_out, normalised, says


class Known:
    """Two capitals of one country, a name with an alias, and Chinese."""

    entities = pd.DataFrame(
        [
            ("Q90", "en", "Paris", "City of Light|Paname"),
            ("Q90", "zh", "巴黎", ""),
            ("Q1", "en", "New Delhi", ""),
            ("Q2", "en", "La Paz", ""),
            ("Q3", "en", "Sucre", "Ciudad de Plata"),
        ],
        columns=["entity", "language", "label", "aliases"],
    )
    facts = pd.DataFrame(
        [
            ("f1", "P36", "Q142", "Q90"),
            ("f2", "P36", "Q668", "Q1"),
            ("f3", "P36", "Q750", "Q2"),
            ("f4", "P36", "Q750", "Q3"),
        ],
        columns=["fact", "relation", "subject", "object"],
    )


def prompts_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    told = [
        (f"{fact}/{language}", fact, "P36", language, answer, "object") for fact, language, answer in rows
    ]
    return pd.DataFrame(told, columns=["prompt", "fact", "relation", "language", "answer", "masked"])


def decoded_of(
    prompts: pd.DataFrame, texts: dict[str, dict[int, str]], chosen: dict[str, int], gold, end="blanks"
):
    rows = []
    for prompt in prompts.itertuples():
        for masks, text in texts[prompt.prompt].items():
            about = {name: getattr(prompt, name) for name in ("prompt", "fact", "relation", "language")}
            rows.append(
                {**about, "masks": masks, "text": text, "settled": masks < 3, "end": end}
                | {"gold_pieces": gold[prompt.prompt], "chosen": chosen[prompt.prompt] == masks}
            )
    table = pd.DataFrame(rows)
    return table.assign(gold_pieces=pd.array(table["gold_pieces"], "Int64"))


ASKED = prompts_of(
    ("f1", "en", "Paris"), ("f2", "en", "New Delhi"), ("f3", "en", "La Paz"), ("f1", "zh", "巴黎")
)
TEXTS = {
    "f1/en": {1: "paris.", 2: "Paname city", 3: "City of Light"},
    "f2/en": {1: "Delhi", 2: "New  Delhi", 3: "New Delhi City"},
    "f3/en": {1: "Sucre", 2: "La Paz", 3: "a b c"},
    "f1/zh": {1: "黎", 2: "巴 黎", 3: "巴黎市"},
}
GOLD = {"f1/en": 1, "f2/en": 2, "f3/en": 4, "f1/zh": None}


def test_a_report_by_hand():
    chosen = {"f1/en": 3, "f2/en": 1, "f3/en": 1, "f1/zh": 2}
    decoded = decoded_of(ASKED, TEXTS, chosen, GOLD)
    report = decode_report(decoded, ASKED, Known).set_index("prompt")
    assert report["accepted"].to_dict() == {
        "f1/en": "alias",
        "f2/en": "",
        "f3/en": "another object",
        "f1/zh": "label",
    }
    assert report["right"].tolist() == [True, False, True, True]
    assert report["right_strict"].tolist() == [False, False, False, True]
    # f1: one blank gives "paris."; f2: two give the name; f3 has four pieces, which were not decoded.
    assert report["right_given_length"].tolist() == [True, True, False, False]
    assert report["length_right"].tolist() == [False, False, False, False]
    assert report["subset"].tolist() == ["single", "multi", "multi", ""]
    strict = decode_report(decoded, ASKED, Known, aliases=False).set_index("prompt")
    assert strict["right"].tolist() == [False, False, False, True]
    assert left_out(decoded).set_index("language").loc["en"].tolist() == [3, 0, 1, 1]
    assert left_out(decoded).set_index("language").loc["zh"].tolist() == [1, 1, 0, 0]


def test_an_answer_longer_than_all_blanks_stays_in_the_denominator():
    chosen = {"f1/en": 1, "f2/en": 2, "f3/en": 3, "f1/zh": 2}
    report = decode_report(decoded_of(ASKED, TEXTS, chosen, GOLD), ASKED, Known)
    recall = decoded_recall(report).set_index(["language", "subset", "measure"])
    assert recall.loc[("en", "all", "right"), ["value", "n"]].tolist() == pytest.approx([2 / 3, 3])
    assert recall.loc[("en", "multi", "given length"), ["value", "n"]].tolist() == [0.5, 2]
    assert recall.loc[("en", "multi", "length right"), "value"] == 0.5
    assert ("zh", "multi", "right") not in recall.index and ("zh", "single", "right") not in recall.index


def test_an_open_ended_answer_begins_with_the_name():
    asked = ASKED.head(3)
    texts = {"f1/en": {4: "Paris, the city"}, "f2/en": {4: "New Delhis"}, "f3/en": {4: "La Paz"}}
    decoded = decoded_of(asked, texts, dict.fromkeys(texts, 4), dict.fromkeys(texts, 1), end="limit")
    report = decode_report(decoded, asked, Known)
    assert report["right"].tolist() == [True, False, True]
    assert report["right_given_length"].isna().all()
    measures = set(decoded_recall(report)["measure"])
    assert measures == {"right", "strict", "length right"}


@pytest.mark.parametrize(
    ("text", "name", "language", "open_ended", "right"),
    [
        ("PARIS!", "Paris", "en", False, True),
        ("Paris city", "Paris", "en", False, False),
        ("Paris city", "Paris", "en", True, True),
        ("Parisian", "Paris", "en", True, False),
        ("巴黎。", "巴黎", "zh", False, True),
        ("巴黎是", "巴黎", "zh", True, True),
        ("巴", "巴黎", "zh", True, False),
        ("파리입니다", "파리", "ko", True, True),
        ("ﾊﾟﾘ", "パリ", "ja", False, True),
        ("...", "...", "en", False, False),
        ("", "Paris", "en", True, False),
    ],
)
def test_what_counts_as_a_name(text, name, language, open_ended, right):
    assert says(text, name, language, open_ended) is right


def test_names_are_compared_without_outer_signs_and_double_spaces():
    assert normalised("«The  Hague».") == "the hague"
    assert normalised("Washington, D.C.") == "washington, d.c"
    assert normalised("뉴 욕", "ko") == "뉴욕" and normalised("뉴 욕", "en") == "뉴 욕"


def random_report(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = []
    for relation, facts in (("P1", 5), ("P2", 3), ("P3", 4)):
        for fact in range(facts):
            pieces = 1 if relation == "P3" else int(random.integers(1, 3))
            for language in ("en", "nl"):
                for _ in range(2):
                    right = bool(random.integers(2))
                    rows.append((f"{relation}{fact}", relation, language, right, right, right, pieces))
    columns = ["fact", "relation", "language", "right", "right_strict", "right_given_length", "gold_pieces"]
    table = pd.DataFrame(rows, columns=columns).assign(length_right=True)
    table["subset"] = np.where(table["gold_pieces"] > 1, "multi", "single")
    return table.assign(right_given_length=table["right_given_length"].astype("boolean"))


@pytest.mark.slow
def test_recall_against_a_plain_loop(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    report = random_report()
    for row in decoded_recall(report).query("measure == 'right'").itertuples():
        part = report[report["language"] == row.language]
        part = part if row.subset == "all" else part[part["subset"] == row.subset]
        means, every = [], []
        for relation in ("P1", "P2", "P3"):
            facts = [
                np.mean([x.right for x in part.itertuples() if x.fact == fact])
                for fact in dict.fromkeys(part.loc[part["relation"] == relation, "fact"])
            ]
            every += facts
            means += [np.mean(facts)] if facts else []
        assert row.value == pytest.approx(np.mean(means)) and row.micro == pytest.approx(np.mean(every))
        assert row.empty_as_0 == pytest.approx(sum(means) / 3) and row.relations == len(means)
        assert row.n == len(every) and row.low <= row.value <= row.high
    multi = decoded_recall(report).query("subset == 'multi'")
    assert (multi["relations"] == 2).all() and (multi["empty_as_0"] < multi["value"]).any()


# Consistency


def plain_rankc(a: dict[str, float], b: dict[str, float]) -> float:
    """By its definition: sets of the j best."""
    names = sorted(set(a) & set(b))
    n = len(names)
    best = [sorted(names, key=lambda name: -scores[name]) for scores in (a, b)]
    weights = np.array([np.exp(n - j + 1) for j in range(1, n + 1)])
    weights /= weights.sum()
    shared = [len(set(best[0][:j]) & set(best[1][:j])) / j for j in range(1, n + 1)]
    return float(weights @ shared)


def random_scores(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = []
    for relation, facts, candidates in (("P1", 3, 6), ("P2", 2, 4)):
        for fact in range(facts):
            for language in ("en", "nl", "zh"):
                for candidate in range(candidates - (language == "zh")):
                    rows.append((f"{relation}{fact}", relation, language, f"c{candidate}", random.random()))
    return pd.DataFrame(rows, columns=["fact", "relation", "language", "candidate", "score"])


def test_rankc_against_its_definition():
    scores = random_scores()
    table = {
        key: dict(zip(part["candidate"], part["score"], strict=True))
        for key, part in scores.groupby(["fact", "language"])
    }
    facts = {"P1": ["P10", "P11", "P12"], "P2": ["P20", "P21"]}
    for row in rank_consistency(scores).itertuples():
        own = [
            plain_rankc(table[f, row.first], table[f, row.second]) for each in facts.values() for f in each
        ]
        others = [
            plain_rankc(table[f, row.first], table[g, row.second])
            for each in facts.values()
            for f in each
            for g in each
            if f != g
        ]
        assert row.value == pytest.approx(np.mean(own)) and row.chance == pytest.approx(np.mean(others))
        assert row.n == 5


def test_rankc_of_a_language_with_its_double_is_one():
    scores = random_scores().query("language == 'en'")
    both = pd.concat([scores, scores.assign(language="nl", score=3 * scores["score"] - 1)])
    assert rank_consistency(both)["value"].tolist() == pytest.approx([1.0])
    backwards = pd.concat([scores, scores.assign(language="nl", score=-scores["score"])])
    assert rank_consistency(backwards)["value"].iloc[0] < 0.2


def test_facts_known_together_by_hand():
    rows = [("a", 1, 1, 1), ("b", 1, 0, 0), ("c", 0, 0, 0), ("d", 1, 1, 0)]
    report = pd.DataFrame(
        [(fact, name, bool(x)) for fact, *xs in rows for name, x in zip(("en", "nl", "zh"), xs, strict=True)],
        columns=["fact", "language", "right"],
    )
    pairs = right_together(report).set_index(["first", "second"])
    assert pairs.loc[("en", "nl"), ["value", "n"]].tolist() == pytest.approx([2 / 3, 3])
    assert pairs.loc[("en", "zh"), "value"] == pytest.approx(1 / 3)
    assert pairs.loc[("en", "nl"), "chance"] == pytest.approx(0.375 / 0.875)
    table = languages_that_know(report)
    assert table["facts"].tolist() == [1, 1, 1, 1]
    assert table["share"].sum() == 1 and table["of known"].sum() == pytest.approx(1)
