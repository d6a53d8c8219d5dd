"""What tokenizers do to prompts: against plain loops, and the stored figures against the real files."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import make_tokenizer
from transformers import BertTokenizerFast

from kn_utils import load_facts, make_prompts, plots
from kn_utils.model import tokenizer_report as room
from kn_utils.model.rows import answer_pieces, encode
from kn_utils.model.tokenizer_report import as_shares, shared_spellings, spelling_matrix, tokenizer_report
from kn_utils.published import tokenizer as figures
from kn_utils.published.tokenizer import store, stored_report

KN_RAW = os.environ.get("KN_RAW")
PIECES = ["pieces_1", "pieces_2", "pieces_3", "unwritable"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> BertTokenizerFast:
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] The capital of France India is New Del ##hi Paris ."
    words += " 的 首 都 是 巴 黎 德"
    place = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    place.write_text("\n".join(words.split()) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(place), do_lower_case=False)


def table(*rows: tuple[str, ...]) -> pd.DataFrame:
    """Prompts from (fact, language, text, answer, masked)."""
    prompts = pd.DataFrame(rows, columns=["fact", "language", "text", "answer", "masked"])
    return prompts.assign(relation="P36", template="", prompt=[f"p{n}" for n in range(len(rows))])


def plain(tokenizer, prompts: pd.DataFrame) -> pd.DataFrame:
    """The same counts, a prompt at a time, the answers' pieces from the rows that a model would be given."""
    counts: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(prompts.itertuples()):
        mine = counts.setdefault((row.language, row.relation), [0] * 6)
        blank = "[Y]" if row.masked == "object" else "[X]"
        pieces = [one.target for one in encode(tokenizer, prompts.iloc[[number]], unknown="allow")]
        text = tokenizer(row.text.replace(blank, tokenizer.mask_token))["input_ids"]
        mine[0] += 1
        mine[1] += tokenizer.unk_token_id in text
        mine[5 if tokenizer.unk_token_id in pieces else min(len(pieces), 3) + 1] += 1
    rows = [(*key, *values) for key, values in counts.items()]
    return pd.DataFrame(rows, columns=["language", "relation", "prompts", "unknown_text", *PIECES])


def test_report_by_hand(vocabulary):
    prompts = table(
        ("1", "en", "The capital of France is [Y].", "Paris", "object"),
        ("2", "en", "The capital of India is [Y].", "New Delhi", "object"),
        ("3", "en", "The capital of Laos is [Y].", "Vientiane", "object"),
        ("4", "en", "Paris is the capital of [X].", "France", "subject"),  # "the": unknown
        ("5", "en", "[Y] is The capital of India.", "New Del", "object"),
        ("1", "zh", "France的首都是[Y]。", "巴黎", "object"),  # the full stop is unknown
    )
    report = tokenizer_report(vocabulary, prompts)
    assert report.to_dict("list") == {
        "language": ["en", "zh"],
        "relation": ["P36", "P36"],
        "prompts": [5, 1],
        "unknown_text": [2, 1],
        "pieces_1": [2, 0],
        "pieces_2": [1, 1],
        "pieces_3": [1, 0],
        "unwritable": [1, 0],
    }


@pytest.mark.parametrize("masked", ["object", "subject"])
@pytest.mark.parametrize("batch", [3, 10_000])
def test_report_against_single_prompts(vocabulary, toy, masked, batch, monkeypatch):
    monkeypatch.setattr(room, "BATCH", batch)
    prompts = make_prompts(toy, "all", masked=masked)
    for tokenizer in (vocabulary, make_tokenizer()):
        report = tokenizer_report(tokenizer, prompts)
        pd.testing.assert_frame_equal(report, plain(tokenizer, prompts), check_dtype=False)
        assert (report[PIECES].sum(axis=1) == report["prompts"]).all()
    assert tokenizer_report(vocabulary, prompts)["unwritable"].sum() > 0


def test_report_of_a_tokenizer_without_mask_or_unknown_token(toy):
    tokenizer, prompts = make_tokenizer(causal=True), make_prompts(toy, "all")
    report = tokenizer_report(tokenizer, prompts).set_index("language")
    assert report[["unknown_text", "unwritable"]].to_numpy().sum() == 0
    for language, part in prompts.groupby("language"):
        lengths = [
            len(answer_pieces(tokenizer, row.answer, row.text.split("[Y]")[0], unknown="allow"))
            for row in part.itertuples()
        ]
        wanted = [sum(length == 1 for length in lengths), sum(length == 2 for length in lengths)]
        assert report.loc[language, ["pieces_1", "pieces_2"]].tolist() == wanted
        assert report.loc[language, "pieces_3"] == sum(length > 2 for length in lengths)


def test_shares_weigh_prompts_alike():
    report = pd.DataFrame(
        [("en", "P1", 1, 0, 1, 0, 0, 0), ("en", "P2", 3, 3, 0, 3, 0, 0), ("ko", "P1", 2, 0, 0, 0, 0, 2)],
        columns=["language", "relation", "prompts", "unknown_text", *PIECES],
    )
    shares = as_shares(report)
    assert shares.loc["en"].tolist() == [4, 0.75, 0.25, 0.75, 0, 0]
    assert shares[PIECES].sum(axis=1).tolist() == [1, 1]
    assert as_shares(report, ["relation"]).loc["P1", "unwritable"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_shared_spellings_against_a_loop():
    data = load_facts("mini", relations=["P36", "P103"])
    prompts = make_prompts(data, "all", wordings=2)
    found = shared_spellings(prompts).set_index(["relation", "language", "other"])
    label = {(row.entity, row.language): row.label for row in data.entities.itertuples()}
    for language, other in combinations(["en", "nl", "ja", "vi", "zh", "ko"], 2):
        for relation, part in data.facts.groupby("relation"):
            same = [label[one, language] == label[one, other] for one in part["object"]]
            assert found.loc[(relation, language, other)].tolist() == [len(same), sum(same)]
    assert found.loc[("P36", "en", "nl"), "same"] > 10, "many capitals are spelt alike"
    assert len(found) == 2 * 15


def test_shared_spellings_count_facts_that_both_languages_have():
    prompts = table(
        ("1", "ko", "[Y]", "A", "object"),
        ("1", "en", "[Y]", "A", "object"),
        ("1", "en", "[Y]!", "A", "object"),
        ("2", "en", "[Y]", "B", "object"),
        ("3", "ko", "[Y]", "c", "object"),
        ("3", "en", "[Y]", "C", "object"),
    )
    pairs = shared_spellings(prompts)
    assert pairs.to_numpy().tolist() == [["P36", "en", "ko", 2, 1]]
    matrix = spelling_matrix(pairs)
    assert matrix.to_dict() == {"en": {"en": 1.0, "ko": 0.5}, "ko": {"en": 0.5, "ko": 1.0}}
    assert shared_spellings(prompts[prompts["language"] == "en"]).empty


def test_stored_figures_add_up_and_say_where_they_come_from():
    report, origin = stored_report()
    pairs, _ = stored_report("spellings")
    assert (report[PIECES].sum(axis=1) == report["prompts"]).all() and (
        report["unknown_text"] <= report["prompts"]
    ).all()
    assert set(report["dataset"]) == set(pairs["dataset"]) == set(origin["datasets"])
    for dataset, note in origin["datasets"].items():
        assert report.loc[report["dataset"] == dataset, "prompts"].sum() == note["prompts"]
        assert report.loc[report["dataset"] == dataset, "relation"].nunique() == note["counts"]["relations"]
        assert note["licence"] and note["addresses"] and note["commits"]
    assert (pairs["same"] <= pairs["facts"]).all()
    assert origin["tokenizer"] == {"name": figures.MBERT, "pieces": 119547, "lower_case": False}
    assert not re.search(r"/(root|home|tmp)/", figures.STORED.with_suffix(".json").read_text())


@pytest.mark.slow
def test_what_is_stored_is_read_again(vocabulary, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "STORED", tmp_path / "report.csv")
    monkeypatch.setattr(figures, "SPELLINGS", tmp_path / "spellings.csv")
    facts = load_facts("mini", relations=["P36"]).sample(4)
    prompts = make_prompts(facts, "all")
    origin = {
        "options": {"labels": "/somewhere/labels.txt"},
        "addresses": [],
        "commits": {},
        "licence": "",
        "counts": {},
    }
    monkeypatch.setattr(figures, "load_facts", lambda asked: replace(facts, origin=origin))
    store(vocabulary, "by hand", {"some facts": "mini"})
    report, note = stored_report()
    pd.testing.assert_frame_equal(
        report.drop(columns="dataset"), tokenizer_report(vocabulary, prompts), check_dtype=False
    )
    pd.testing.assert_frame_equal(
        stored_report("spellings")[0].drop(columns="dataset"), shared_spellings(prompts), check_dtype=False
    )
    assert note["datasets"]["some facts"]["options"] == {"labels": "a stand-in, labels.txt"}


def test_figure_has_a_panel_per_data_set_and_a_bar_per_language_and_kind():
    report, _ = stored_report()
    shares = as_shares(report, ["dataset", "language"])
    figure = plots.answer_pieces(shares, "title")
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == list(
        dict.fromkeys(report["dataset"])
    )
    for axes in figure.axes:
        tops = [bar.get_y() + bar.get_height() for bar in axes.patches[-6:]]
        assert len(axes.patches) == 4 * 6 and tops == pytest.approx([1] * 6)
    plt.close(figure)


@pytest.mark.skipif(not KN_RAW, reason="KN_RAW does not point to the published files")
def test_stored_figures_are_those_of_the_published_files(tmp_path, monkeypatch):
    """mBERT's real vocabulary on some relations; answers that it cannot write against single prompts."""
    for place in Path(KN_RAW).iterdir():
        (tmp_path / place.name).symlink_to(place)
    monkeypatch.setenv("KN_DATA", str(tmp_path))
    tokenizer = BertTokenizerFast(
        f"{KN_RAW}/tokenizers/bert-base-multilingual-cased/vocab.txt", do_lower_case=False
    )
    for dataset, relations in (("mpararel", ["P36", "P103"]), ("trex_multilingual", ["P27", "P36", "P463"])):
        prompts = make_prompts(load_facts(dataset, relations=relations), "all")
        for kind, made in (
            ("report", tokenizer_report(tokenizer, prompts)),
            ("spellings", shared_spellings(prompts)),
        ):
            table, _ = stored_report(kind)
            table = table[(table["dataset"] == dataset) & table["relation"].isin(relations)].drop(
                columns="dataset"
            )
            key = ["relation", "language", *(["other"] if kind == "spellings" else [])]
            left, right = (one.sort_values(key, ignore_index=True) for one in (made, table))
            pd.testing.assert_frame_equal(left, right, check_dtype=False)
    part = make_prompts(load_facts("mpararel", languages=["ko"], relations=["P1376"]), "ko", wordings=1)
    pd.testing.assert_frame_equal(
        tokenizer_report(tokenizer, part), plain(tokenizer, part), check_dtype=False
    )
