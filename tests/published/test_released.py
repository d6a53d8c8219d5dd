"""The released outputs: small files of our own, our analyses against plain loops, counts on the real ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from small_files import PAIRS, Cache, cache, json_lines  # noqa: F401

from kn_utils.base import LANGUAGES, ROOT, StudyError
from kn_utils.data.downloads import catalogue
from kn_utils.data.downloads import fetch as downloads
from kn_utils.data.facts import DataError
from kn_utils.neurons.refine import Refined, refine_bags
from kn_utils.published import reanalysis, released
from kn_utils.published import recomputed as published
from kn_utils.published.printed import beside, printed, printed_as_ours

MODEL = "bert-base-multilingual-uncased"
ARGUMENTS = {"bert_model": MODEL, "do_lower_case": False, "get_base": False, "batch_size": 20}
EDIT = """{'new_inner_ppl': 131.5,
 'new_inter_ppl': 90.9,
 'ori_changed': 0.0,
 'ori_inner_ppl': 67.4,
 'ori_inter_ppl': 44.5,
 'other_ppl_inc': [],
 'success_updated': 0.0,
 'success_updated_5': 0.8,
 'tgt_new_rank': 471.8,
 'tgt_ori_rank': 1767.9}
MR: 1767.9 -> 471.8 (up -1296.1)
inner PPL: 67.4 -> 131.5 (up 64.1)"""

#: Bags of two English relations. P101: two facts with capital answers that share two of their neurons, two
#: without that share none.
BAGS = {
    ("PARAREL_en", "P101"): [[[9, 1], [9, 2], [10, 5]], [[9, 1], [9, 2]], [[8, 4]], [[11, 7]]],
    ("PARAREL_en", "P108"): [[[9, 1]], []],
    ("PARAREL_en", "P463"): [[[9, 1], [0, 3]]],
    ("PARAREL_en", "P1376"): [[]],
    ("T-REx_multilingual", "P27"): [[[11, 7]], [[11, 7], [11, 8]]],
    ("T-REx_multilingual", "P31"): [[[11, 7]]],
    ("T-REx_multilingual", "P1001"): [[[11, 9]]],
    ("T-REx_multilingual", "P1303"): [[], [[11, 7]]],
}
ANSWERS = {
    "P101": ["Jazz", "Islam", "poetry", "law"],
    "P108": ["Apple", "IBM"],
    "P463": ["NATO"],
    "P1376": ["Peru"],
}


def seen(tokens: str, answer: str, triples: list, predicted: str = "he") -> list:
    """A prompt of the raw attribution file."""
    words = ["[CLS]", *tokens.split(), "[SEP]"]
    info = {"tokens": words, "relation": "P108(employer)", "gold_obj": answer, "pred_obj": predicted}
    return [info, {"pred": [], "ig_pred": [], "ig_gold": triples, "base": []}]


def bag(answers: list[str], triples: list[list], subject: bool = False) -> list:
    """Six prompts of a fact in the six languages; ``subject``: the person is asked for."""
    texts = ["[MASK] works for [UNK] ."] * 5 if subject else ["[UNK] works for [MASK] ."] * 5
    texts.append("[UNK] [MASK] [UNK] .")
    return [seen(text, answer, some) for text, answer, some in zip(texts, answers, triples, strict=True)]


LEAN = [[0, 5, 1.0], [11, 7, 0.5]]  # the scores of every prompt but the last bag's
OTHER = [[3, 3, 2.0], [11, 7, 0.9]]
SCORED = [
    bag(["BBC"] * 6, [LEAN] * 6),
    bag(["CNN"] * 4 + ["有线 电视", "씨엔엔"], [LEAN] * 6),
    bag(["Ann"] * 6, [OTHER] * 6, subject=True),
]


def small_files(bags: dict = BAGS, scored: list = SCORED, edit: str = EDIT) -> dict[str, bytes]:
    files = {released.place("T-REx_multilingual", "edit.txt"): edit.encode()}
    files[released.place("T-REx_multilingual", "TREx-all-P108.rlt.jsonl")] = json_lines(*scored)
    for dataset, release in released.RELEASES.items():
        files[released.place(dataset, "TREx-all.args.json")] = json.dumps(ARGUMENTS, indent=2).encode()
        for relation in release.relations:
            held = bags.get((dataset, relation))
            number = len(held) if held is not None else len(scored)
            files[released.place(dataset, f"kn/base_kn_bag-{relation}.json")] = json.dumps(
                [[]] * number, indent=2
            ).encode()
            if held is not None:
                files[released.place(dataset, f"kn/kn_bag-{relation}.json")] = json.dumps(
                    held, indent=2
                ).encode()
    return files


def pairs(answers: dict[str, list[str]] = ANSWERS) -> dict[str, bytes]:
    return {
        PAIRS: json.dumps(
            {name: [[f"S{i}", a] for i, a in enumerate(some)] for name, some in answers.items()}
        ).encode()
    }


@pytest.fixture
def small(cache: Cache) -> Cache:  # noqa: F811
    cache.add(
        "released", small_files(), absent=(released.place("T-REx_multilingual", "kn/kn_bag-P108.json"),)
    )
    cache.add("pararel", pairs())
    return cache


# Reading


def test_neurons_are_the_bags_in_their_order(small):
    table, bags, passes = released.refined("PARAREL_en", ["P101", "P108"])
    assert table[["fact", "relation", "layer", "neuron"]].to_numpy().tolist()[:4] == [
        ["P101:0", "P101", 9, 1],
        ["P101:0", "P101", 9, 2],
        ["P101:0", "P101", 10, 5],
        ["P101:1", "P101", 9, 1],
    ]
    assert set(table["language"]) == {"en"} and set(table["model"]) == {MODEL} and table["share"].isna().all()
    assert bags["fact"].tolist() == [*(f"P101:{i}" for i in range(4)), "P108:0", "P108:1"]
    assert bags["relation"].tolist() == ["P101"] * 4 + ["P108"] * 2 and set(bags["language"]) == {"en"}
    assert bags[["prompts", "share", "settled"]].isna().all(axis=None) and passes.empty
    for some in released.refined("T-REx_multilingual", ["P27"])[:2]:
        assert set(some["language"]) == {"all"}


def test_the_baselines_files_have_bags_and_no_neurons(small):
    baseline = released.refined("PARAREL_en", kind="activation")
    assert baseline.neurons.empty and len(baseline.bags) == 8


def test_a_file_is_written_again_byte_by_byte(small):
    file = small.root / released.place("PARAREL_en", "kn/kn_bag-P101.json")
    assert released.written(released.refined("PARAREL_en", ["P101"])) == file.read_text()


def test_unknown_names_are_refused(small):
    with pytest.raises(
        DataError, match="nothing was released for 'mini'; known: PARAREL_en, T-REx_multilingual"
    ):
        released.refined("mini")
    with pytest.raises(
        DataError, match="no neurons of 'P36' in PARAREL_en; released: P101, P108, P463, P1376"
    ):
        released.refined("PARAREL_en", ["P36"])
    with pytest.raises(DataError, match="scores of 'P27' were not released; those of P108 were"):
        released.scores("P27")


@pytest.mark.parametrize("pair", [[1, 2, 3], [1], [-1, 2], ["9", 2], [1.5, 2]])
def test_a_bag_that_holds_no_neurons_is_refused(cache, pair):  # noqa: F811
    cache.add("released", small_files({**BAGS, ("PARAREL_en", "P108"): [[[9, 1]], [pair]]}))
    with pytest.raises(DataError, match=r"kn_bag-P108.json: bag 1 holds .* not a layer and a neuron"):
        released.refined("PARAREL_en", ["P108"])


def test_a_file_that_is_no_json_is_named(cache):  # noqa: F811
    cache.add("released", {**small_files(), released.place("PARAREL_en", "kn/kn_bag-P108.json"): b"[[["})
    with pytest.raises(DataError, match=r"kn_bag-P108.json is not JSON"):
        released.refined("PARAREL_en", ["P108"])


def test_scores_and_prompts_of_the_raw_file(small):
    scores, prompts = released.scores()
    assert len(prompts) == 18 and prompts["language"].tolist() == list(LANGUAGES) * 3
    assert (
        prompts["masked"].tolist() == ["object"] * 12 + ["subject"] * 6
    )  # one choice per fact, also where Korean differs
    assert prompts["text"][0] == "[UNK] works for [Y] ." and prompts["text"][12] == "[X] works for [UNK] ."
    assert prompts["answer"][10] == "有线 电视" and prompts["predicted"][0] == "he"
    assert prompts["tokens"][0] == ["[CLS]", "[UNK]", "works", "for", "[MASK]", ".", "[SEP]"]
    assert scores.attrs == {"keep": 0.1} and released.settings("T-REx_multilingual")["bert_model"] == MODEL
    assert (
        scores[scores["prompt"] == prompts["prompt"][12]][["layer", "neuron", "score"]].to_numpy().tolist()
        == OTHER
    )
    assert set(scores["prompt"]) == set(prompts["prompt"]) and prompts["prompt"].is_unique


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (bag(["BBC"] * 6, [LEAN] * 6)[:5], "bag 1 holds 5 prompts; expected one in each of en, nl"),
        ([seen("[MASK] [MASK] .", "BBC", LEAN)] * 6, r"bag 1, en: .* should hold one \[MASK\]"),
        ([seen("works .", "BBC", LEAN)] * 6, r"bag 1, en: .* should hold one \[MASK\]"),
    ],
)
def test_a_bag_of_another_shape_is_refused(cache, broken, said):  # noqa: F811
    cache.add("released", small_files(scored=[SCORED[0], broken]))
    with pytest.raises(DataError, match=said):
        released.scores()


def test_results_of_updating_are_the_numbers_before_the_summary(small):
    assert released.edit()["success_updated_5"] == 0.8 and "other_ppl_inc" not in released.edit()
    table = reanalysis.editing().set_index("quantity")["value"]
    assert table["perplexity within the relation, after"] == 131.5 and len(table) == 9


# Our analyses against plain loops


def plain_refinement(bags: list[list[list]], passes: int = 8) -> list[list[list[int]]]:
    """The released procedure in plain words: count, compare with a moving share, stop after some passes."""
    share, kept = 0.7, []
    for _ in range(passes):
        kept = []
        for prompts in bags:
            count = Counter()
            for triples in prompts:
                top = max(score for *_, score in triples)
                count.update((layer, neuron) for layer, neuron, score in triples if score >= 0.2 * top)
            least = max(len(prompts) * round(share, 6), 3)
            kept.append(sorted(list(one) for one, times in count.items() if times >= least - 1e-9))
        mean = sum(map(len, kept)) / len(kept)
        if 2 <= mean <= 5:
            break
        share += 0.05 if mean > 5 else -0.05
    return kept


def random_bag(draw: np.random.Generator, often: dict[int, int]) -> list:
    """Six prompts; ``often`` says of how many prompts how many neurons are held.

    Some scores lie under the threshold.
    """
    held_by: list[list] = [[[0, 0, 1.0]] if i < 2 else [[1, 900 + i, 1.0]] for i in range(len(LANGUAGES))]
    number = 0
    for times, neurons in often.items():
        for _ in range(neurons):
            number += 1
            for prompt in draw.choice(len(LANGUAGES), times, replace=False):
                held_by[prompt].append([number % 12, number, float(draw.uniform(0.21, 1))])
            held_by[draw.integers(len(LANGUAGES))].append([5, 500 + number, float(draw.uniform(0.1, 0.19))])
    return [seen("[UNK] works for [MASK] .", "BBC", triples) for triples in held_by]


@pytest.mark.parametrize(
    ("often", "mean"),
    [
        ({5: 3, 2: 9}, 3),  # settles at once
        ({4: 3, 3: 9}, 3),  # settles after one move
        ({6: 3, 5: 4}, 3),  # too many at five of six, settles at all six
        ({4: 1, 3: 8}, 1),  # goes back and forth between four and three of six, and stops at four
        ({3: 1, 2: 9}, 1),  # too few down to the last pass
    ],
)
def test_our_refinement_with_the_released_settings_is_theirs(cache, often, mean):  # noqa: F811
    draw = np.random.default_rng(0)
    scored = [random_bag(draw, often) for _ in range(5)]
    cache.add("released", small_files(scored=scored))
    scores, prompts = released.scores()
    mine = refine_bags(scores, prompts, **reanalysis.RELEASED_REFINEMENT)
    plain = plain_refinement([[metrics["ig_gold"] for _, metrics in one] for one in scored])
    assert released.written(mine) == json.dumps(plain, indent=2)
    assert len(mine.neurons) == 5 * mean


def test_target_is_proved_only_by_identical_scores_of_different_answers(small):
    scores, prompts = released.scores()
    found = reanalysis.target(scores, prompts).set_index("quantity")["value"]
    # Two facts have the same five texts and, in Korean, a third the same text as they; that third has scores
    # of its own.
    assert (
        found["prompts"] == 18
        and found["different token sequences"] == 3
        and found["different sets of scores"] == 2
    )
    assert found["token sequences asked with several answers"] == 2  # works for [MASK]; the Korean one
    assert found["of those sequences, with identical scores whatever the answer"] == 1
    assert found["different answers"] == 5 and found["answers proved to be unknown"] == 4  # all but Ann
    assert found["prompts whose target is proved to be unknown"] == 12
    assert found["the same, counting answers with a capital or a space"] == 18
    # If the answers of those sequences had scores of their own, nothing would be proved.
    apart = scores.assign(
        score=scores["score"] + pd.factorize(scores["prompt"].map(prompts.set_index("prompt")["answer"]))[0]
    )
    found = reanalysis.target(apart, prompts).set_index("quantity")["value"]
    assert found["prompts whose target is proved to be unknown"] == 0
    assert found["of those sequences, with identical scores whatever the answer"] == 0


def test_unknown_tokens_by_hand(small):
    table = reanalysis.unknown(released.scores()[1]).set_index("language")
    assert table.loc["en"].tolist() == [3, 15, 3, 3, 0, 0, 3, 0]
    assert table.loc["ko"].tolist() == [3, 12, 6, 3, 3, 0, 2, 0]
    assert table.loc["zh", "several words"] == 1 and table.loc["all", "tokens"] == 5 * 15 + 12
    assert list(table.index) == [*LANGUAGES, "all"]


def test_capitals_divide_the_facts_of_a_relation(small):
    table = reanalysis.capitals(released.refined("PARAREL_en")).set_index(["relation", "capital", "measure"])
    assert table.loc[("P101", True, "neurons per fact"), "value"] == 2.5
    assert table.loc[("P101", True, "shared within a relation"), ["value", "n", "answers"]].tolist() == [
        2,
        2,
        2,
    ]
    assert table.loc[("P101", False, "shared within a relation"), "value"] == 0
    assert ("P108", False, "neurons per fact") not in table.index


def held(refined: Refined) -> dict[str, set]:
    neurons = refined.neurons
    return {
        fact: set(map(tuple, neurons.loc[neurons["fact"] == fact, ["layer", "neuron"]].to_numpy()))
        for fact in refined.bags["fact"]
    }


def plain_table_2(refined: Refined) -> tuple[float, float, float]:
    """Neurons per fact, shared within (all pairs), shared between (mean of the released drawing)."""
    own, relation_of = held(refined), dict(refined.bags[["fact", "relation"]].to_numpy())
    by_relation: dict[str, list[set]] = {}
    for fact, pairs_ in own.items():
        by_relation.setdefault(relation_of[fact], []).append(pairs_)
    within = [len(a & b) for some in by_relation.values() for a, b in combinations(some, 2)]
    between = [
        np.mean(
            [
                np.mean([len(one & other) for other in by_relation[name]])
                for name in by_relation
                if name != relation
            ]
        )
        for relation, some in by_relation.items()
        for one in some
    ]
    return float(np.mean([len(one) for one in own.values()])), float(np.mean(within)), float(np.mean(between))


@pytest.mark.slow
def test_table_two_against_plain_loops(small):
    tables = reanalysis.compute()
    whole = tables["table_2"].query("relation == 'all'").set_index(["dataset", "measure"])["value"]
    expected = plain_table_2(released.refined("PARAREL_en"))
    measures = ["neurons per fact", "shared within a relation", "shared between relations"]
    assert [whole["PARAREL_en", name] for name in measures] == pytest.approx(expected)
    counts = tables["coverage"].set_index("dataset")
    assert counts.loc[
        "PARAREL_en", ["relations", "facts", "without a neuron", "neurons", "different ones"]
    ].tolist() == [4, 8, 2, 10, 6]
    # P108 is refined from its scores: every prompt of a fact leans on the same neurons.
    assert counts.loc["T-REx_multilingual", ["relations", "facts"]].tolist() == [5, 9]
    assert counts.loc["T-REx_multilingual", "neurons"] == 6 + 3 * 2
    assert not tables["refinement"]["released"].any()  # these are not the released neurons
    order = tables["table_2"].query("dataset == 'T-REx_multilingual'")["relation"].drop_duplicates().tolist()
    assert order == ["all", "P27", "P31", "P108", "P1001", "P1303"]
    first = tables["most_shared"].query("dataset == 'PARAREL_en'").iloc[0]
    assert first[["layer", "neuron", "facts", "relations", "share"]].tolist() == [9, 1, 4, 3, 0.5]


# Stored and computed


def test_without_the_files_the_stored_figures_are_shown_and_no_network_is_asked(cache, monkeypatch):  # noqa: F811
    files = small_files()
    cache.add("released", {}, absent=(*files, released.place("T-REx_multilingual", "kn/kn_bag-P108.json")))
    cache.add("pararel", {}, absent=(PAIRS,))

    def refused(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(downloads, "_bring", refused)
    found = published.recomputed()
    assert found.source.startswith("Stored figures") and "download=True" in found.source
    assert set(found.tables) == set(published.load().tables)
    with pytest.raises(AssertionError, match="the network was asked"):
        published.recomputed(download=True)


@pytest.mark.slow
def test_with_the_files_everything_is_computed(small, tmp_path):
    found = published.recomputed()
    assert found.source.startswith("Computed now")
    assert list(found.tables) == list(published.load().tables)
    again = published.load(published.store(found.tables, found.origin, tmp_path / "stored.json"))
    assert again.origin == found.origin
    for name, table in found.tables.items():
        # JSON has no NaN; a missing value comes back as one
        pd.testing.assert_frame_equal(
            again[name], table.round(6), check_dtype=False, check_exact=False, atol=1e-9
        )


def test_stored_figures_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.json").write_text('{"origin": {}}')
    for name in ("broken.json", "missing.json"):
        with pytest.raises(
            StudyError, match=rf"{name} cannot be read .*python -m kn_utils.published.recomputed makes it"
        ):
            published.load(tmp_path / name)


def test_stored_figures_are_of_these_files_and_settings():
    assert published.load().origin == json.loads(json.dumps(published.origin()))


def test_printed_numbers_are_a_clean_table():
    rows = printed()
    assert list(rows) == "paper table model dataset relation quantity language value unit status note".split()
    assert rows["value"].notna().all() and set(rows["status"]) == {"printed", "recalled"}
    assert not rows.duplicated(
        ["paper", "table", "model", "dataset", "relation", "quantity", "language"]
    ).any()
    assert (rows[["paper", "table", "dataset", "quantity", "unit"]] != "").all().all()
    two = printed("Cai").query("table == 'Table II'").groupby("dataset")["value"].apply(list)
    assert two.to_dict() == {"PARAREL_en": [5.42, 2.85, 0.63], "T-REx_multilingual": [1.67, 0.62, 0.38]}
    with pytest.raises(
        StudyError, match="no printed numbers of 'Smith'; known: Cai, Dai et al. 2022, Chen et al. 2024"
    ):
        printed("Smith")


def test_the_papers_numbers_have_the_names_of_ours():
    ours = printed_as_ours("Dai et al. 2022")
    values = ours.set_index(["measure", "neurons", "where", "relation"])["value"]
    assert len(values) == len(printed("Dai et al. 2022")) and values.index.is_unique
    mean = ("mean over relations", "mean of relations")
    for measure, kind, value in [
        ("silenced", "knowledge", -29.03),
        ("doubled", "knowledge", 31.17),
        ("silenced", "activation", -1.47),
        ("doubled", "activation", -1.27),
    ]:
        assert values[f"change of P(right answer), {measure}", kind, *mean] == value
    assert values["success rate", "knowledge", "", "sampled facts"] == 34.4
    rises = printed_as_ours("Dai et al. 2022", "perplexity rise, slots zero")
    assert set(rises["where"]) == {"erased relation", "other relations"} and len(rises) == 8
    with pytest.raises(StudyError, match="no printed numbers of Dai et al. 2022 are called 'rise'; known: "):
        printed_as_ours("Dai et al. 2022", "rise")


def test_ours_stand_beside_the_papers_in_its_unit():
    rows = [
        ("success rate", "knowledge", "", 0.5, 0.4, 0.6, 9),
        ("perplexity within, rise", "random", "", 2.0, 1.0, 3.0, 9),
        ("success rate", "knowledge", "any known fact", 0.7, 0.6, 0.8, 9),
    ]
    numbers = pd.DataFrame(rows, columns=["measure", "neurons", "where", "value", "low", "high", "n"])
    both = beside(numbers, "Dai et al. 2022").set_index("measure")
    assert both[["paper", "value", "low", "high"]].T.to_dict("list") == {
        "success rate": [34.4, 50.0, 40.0, 60.0],
        "perplexity within, rise": [10.1, 2.0, 1.0, 3.0],
    }
    assert both.loc["success rate", "model"] == "BERT base cased"


def test_the_stored_table_two_rounds_to_the_printed_one():
    said = printed("Cai").query("table == 'Table II'").set_index(["dataset", "quantity"])["value"]
    stored = published.load()["table_2"].query("relation == 'all'").set_index(["dataset", "measure"])["value"]
    assert stored[said.index].round(2).to_dict() == said.to_dict()


def test_numbers_in_the_notebooks_prose_are_the_stored_ones():
    tables = published.load()
    target = tables["target"].set_index("quantity")["value"]
    capital = tables["capitals"].query("capital and measure == 'neurons per fact'")["n"].sum()
    shared = tables["most_shared"].query("dataset == 'T-REx_multilingual'")["facts"].head(2).sum()
    neurons, different = (
        tables["coverage"].set_index("dataset").loc["T-REx_multilingual", ["neurons", "different ones"]]
    )
    cells = nbformat.read(ROOT / "notebooks" / "10_published_results.ipynb", as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    proved = target["prompts whose target is proved to be unknown"]
    for said in (
        f"the target `[UNK]` for {proved} of the 426 prompts",
        f"{capital} of the 1,538 English facts",
        f"{shared} of its {neurons:,} neurons",
        f"The {neurons:,} neurons of the multilingual facts are {different} different ones",
        f"In all {target['token sequences asked with several answers']} sequences",
        f"up to {target['most answers for one token sequence']}",
    ):
        assert said in prose, said


# The released files themselves

RAW = Path(os.environ.get("KN_RAW", ""))
real = pytest.mark.skipif(
    "KN_RAW" not in os.environ, reason="KN_RAW names no folder with the published files"
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A cache that leads to the raw files, so that nothing is written among them; the folder of results."""
    root = tmp_path_factory.mktemp("cache")
    for name in ("Fuyao233", "Hunter-DDM"):
        (root / name).symlink_to(RAW / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KN_DATA", str(root))
        catalogue.index.cache_clear()
        yield RAW / released.REPOSITORY / "results"


@real
def test_stored_figures_are_what_the_files_give(raw):
    found, stored = published.recomputed(), published.load()
    assert found.source.startswith("Computed now")
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(table, stored[name], check_dtype=False, check_exact=False, atol=1e-6)


@real
def test_table_two_of_the_real_files_against_plain_loops(raw):
    stored = published.load()["table_2"].query("relation == 'all'").set_index(["dataset", "measure"])["value"]
    scores, prompts = released.scores()
    both = {
        "PARAREL_en": released.refined("PARAREL_en"),
        "T-REx_multilingual": reanalysis._multilingual(
            refine_bags(scores, prompts, **reanalysis.RELEASED_REFINEMENT)
        ),
    }
    for dataset, refined in both.items():
        assert not refined.neurons.duplicated(["fact", "layer", "neuron"]).any()
        measures = ("neurons per fact", "shared within a relation", "shared between relations")
        assert [stored[dataset, name] for name in measures] == pytest.approx(plain_table_2(refined), abs=1e-6)


@real
def test_drawing_as_the_released_script_does_gives_the_number_between(raw):
    by_relation: dict[str, list[set]] = {}
    for fact, pairs_ in held(released.refined("PARAREL_en")).items():
        by_relation.setdefault(fact.partition(":")[0], []).append(pairs_)
    draw = random.Random(0)
    drawn = [
        len(one & draw.choice(by_relation[draw.choice([name for name in by_relation if name != relation])]))
        for relation, some in by_relation.items()
        for one in some
        for _ in range(100)
    ]
    assert np.mean(drawn) == pytest.approx(0.6294, abs=4 * np.std(drawn) / len(drawn) ** 0.5)


@real
def test_refined_p108_is_the_released_file_byte_for_byte(raw):
    scores, prompts = released.scores()
    text = released.written(refine_bags(scores, prompts, **reanalysis.RELEASED_REFINEMENT))
    assert len(text) == 4050 and hashlib.sha256(text.encode()).hexdigest() == reanalysis.REFINED_P108
    listed = catalogue.index("released")[released.place("T-REx_multilingual", "kn/kn_bag-P108.json")]
    assert listed.checksum == f"sha256:{reanalysis.REFINED_P108}"
    lines = (raw / "MultilingualTRExf" / "TREx-all-P108.rlt.jsonl").read_text(encoding="utf-8").splitlines()
    plain = plain_refinement([[metrics["ig_gold"] for _, metrics in json.loads(line)] for line in lines])
    assert json.dumps(plain, indent=2) == text
    for other in (
        {"rounds": 6},
        {"threshold": 0.1},
        {"threshold": 0.3},
        {"floor": None, "share": 0.5, "target": None},
    ):
        assert (
            released.written(refine_bags(scores, prompts, **{**reanalysis.RELEASED_REFINEMENT, **other}))
            != text
        )


@real
def test_counts_of_the_real_files(raw):
    tables = published.load()
    counts = tables["coverage"].set_index("dataset")
    expected = {"PARAREL_en": [4, 1538, 39, 8340, 0, 1538], "T-REx_multilingual": [5, 654, 151, 1093, 0, 654]}
    names = ["relations", "facts", "without a neuron", "neurons", "baseline neurons", "baseline facts"]
    assert {name: counts.loc[name, names].tolist() for name in counts.index} == expected
    bags = {path.name: json.loads(path.read_text()) for path in raw.glob("*/kn/base_kn_bag-*.json")}
    assert len(bags) == 8 and not any(
        one for some in bags.values() for one in some
    )  # P108 is in both folders
    layers = tables["layers"].set_index(["dataset", "layer"])["value"]
    assert (100 * layers["PARAREL_en", 9]).round(1) == 48.6 and (
        100 * layers["T-REx_multilingual", 11]
    ).round(1) == 81.2
    top = tables["most_shared"].set_index("dataset")[["layer", "neuron", "facts"]]
    assert top.loc["PARAREL_en"].iloc[0].tolist() == [9, 2696, 716]
    assert top.loc["T-REx_multilingual"].head(2).to_numpy().tolist() == [[11, 3053, 318], [11, 2632, 248]]
    assert [tuple(row) for row in tables["refinement"][["share", "mean"]].round(3).to_numpy()] == [
        (0.7, 0),
        (0.65, 1.465),
        (0.6, 1.465),
        (0.55, 1.465),
        (0.5, 7.239),
        (0.55, 1.465),
        (0.5, 7.239),
        (0.55, 1.465),
    ]
    assert json.loads((raw / "multilingual" / "TREx-all.args.json").read_text())["bert_model"] == MODEL


@real
def test_unknown_tokens_of_the_real_file_counted_plainly(raw):
    lines = (raw / "MultilingualTRExf" / "TREx-all-P108.rlt.jsonl").read_text(encoding="utf-8").splitlines()
    bags = [json.loads(line) for line in lines]
    infos = [info for one in bags for info, _ in one]
    tokens = [token for info in infos for token in info["tokens"][1:-1]]
    assert (len(bags), len(infos), len(tokens), tokens.count("[UNK]")) == (71, 426, 3225, 942)
    whole = published.load()["unknown"].set_index("language").loc["all"]
    assert whole.to_dict() == {
        "prompts": 426,
        "tokens": 3225,
        "unknown": 942,
        "prompts with unknown": 361,
        "nothing else": 71,
        "several words": 172,
        "capital": 247,
        "predicted unknown": 132,
    }
    # The proof, with plain dictionaries.
    asked: dict[str, dict[str, set]] = {}
    for one in bags:
        for info, metrics in one:
            key = " ".join(info["tokens"])
            asked.setdefault(key, {}).setdefault(json.dumps(metrics["ig_gold"]), set()).add(info["gold_obj"])
    several = {key: by_score for key, by_score in asked.items() if len(set.union(*by_score.values())) > 1}
    assert (
        len(asked) == 123 and len(several) == 39 and all(len(by_score) == 1 for by_score in several.values())
    )
    proved = set.union(*(answers for by_score in several.values() for answers in by_score.values()))
    assert len(proved) == 165 and sum(info["gold_obj"] in proved for info in infos) == 390
    left = {info["gold_obj"] for info in infos} - proved
    assert [answer for answer in left if answer.isascii()] == ["Ptolemy"]
    masked = released.scores()[1].drop_duplicates("fact")["masked"].value_counts()
    assert masked.to_dict() == {"object": 39, "subject": 32}
