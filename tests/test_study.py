"""The study's tables: stored once, grown when more is asked for, shared between processes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest

from kn_utils import Study, StudyParameters, answer_probability, attribute, make_prompts, questions
from kn_utils import scored as pipeline
from kn_utils.attribution.attribute import score_tables
from kn_utils.attribution.quadrature import AttributionError
from kn_utils.attribution.streaming import prompts_file
from kn_utils.base import StudyError
from kn_utils.model.edits import ValueEdit
from kn_utils.model.typed import typed_answers
from kn_utils.neurons.choose import strongest
from kn_utils.neurons.refine import RefinementError
from kn_utils.store.locks import alone
from kn_utils.store.tables import load_table, save_table


def study(folder, **more) -> Study:
    return Study(StudyParameters(**{"relation": "P36", "facts_per_relation": 2, "out": str(folder), **more}))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the scores of four facts, for tests that only read them."""
    folder = tmp_path_factory.mktemp("stored")
    four = study(folder, facts_per_relation=4)
    for method in ("integrated-gradients", "activation"):
        four.scores(method=method)
    return folder


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many prompts each call of attribute was given."""
    numbers: list[int] = []

    def counting(model, prompts, **options):
        numbers.append(len(prompts))
        return attribute(model, prompts, **options)

    monkeypatch.setattr(pipeline, "attribute", counting)
    return numbers


@pytest.mark.slow
def test_more_facts_compute_only_the_new_prompts_and_give_what_one_run_gives(tmp_path, asked):
    small = study(tmp_path / "grown")
    first = small.scores()
    large = study(tmp_path / "grown", facts_per_relation=4)
    grown = large.scores()
    n_small, n_large = len(small.prompts()), len(large.prompts())
    assert asked == [n_small, n_large - n_small]
    once = study(tmp_path / "once", facts_per_relation=4).scores()
    assert (grown["prompt"].unique() == large.prompts()["prompt"]).all()
    pd.testing.assert_frame_equal(grown, once, rtol=1e-5, check_exact=False)
    per_prompt = large.score_tables().prompts
    assert list(per_prompt) == ["prompt", "probability", "maximum", "gap", "error", "points", "sums"]
    assert list(per_prompt["prompt"]) == list(large.prompts()["prompt"])
    # and what was there stays as it was, for the first study as well
    pd.testing.assert_frame_equal(small.scores(), first)
    assert len(asked) == 3 and not list((tmp_path / "grown" / "tables").glob("*more*"))


@pytest.mark.slow
def test_a_prompt_is_scored_once_whichever_bag_it_is_in(tmp_path, asked):
    one = study(tmp_path)
    alone = {language: one.scores(language) for language in one.languages}
    before = len(asked)
    mixed = one.score_tables("all")
    assert len(asked) == before == len(one.languages)
    prompts = one.prompts("all")
    assert mixed.prompts["prompt"].tolist() == prompts["prompt"].tolist()
    assert mixed.scores["prompt"].drop_duplicates().tolist() == prompts["prompt"].tolist()
    for language, scores in alone.items():
        own = prompts.loc[prompts["language"] == language, "prompt"]
        here, there = (table[table["prompt"].isin(own)] for table in (mixed.scores, scores))
        pd.testing.assert_frame_equal(here.reset_index(drop=True), there.reset_index(drop=True))
    # and what the mixed bags computed serves a language by itself
    other = study(tmp_path / "mixed first", language="all")
    other.scores("all")
    asked.clear()
    other.scores("en")
    assert asked == [len(other.prompts("en")) - other.prompts("all")["language"].eq("en").sum()]


@pytest.mark.slow
def test_scores_are_those_of_the_parameters(tmp_path, asked, capsys):
    study(tmp_path).scores()
    study(tmp_path, steps=2).scores()
    assert len(asked) == 2 and "steps changed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_completeness_gap_is_computed_only_where_it_is_asked_for(tmp_path, asked):
    without = study(tmp_path).score_tables()
    assert without.prompts["gap"].isna().all()
    with_gap = study(tmp_path, facts_per_relation=4)
    found = with_gap.score_tables(gap=True)
    truth = score_tables(with_gap.model, with_gap.prompts(), gap=True, progress=False)
    pd.testing.assert_frame_equal(found.prompts, truth.prompts, check_exact=False, rtol=1e-6, atol=1e-12)
    pd.testing.assert_frame_equal(found.scores, truth.scores, check_exact=False, rtol=1e-5)
    # it stays with the scores, which serve both questions from then on
    kept = study(tmp_path).score_tables()
    assert len(asked) == 2 and kept.prompts["gap"].notna().all()
    columns = ["prompt", "layer", "neuron"]
    pd.testing.assert_frame_equal(kept.scores[columns], without.scores[columns])
    # the activation baseline has no gap, and is not computed again for want of one
    for gap in (False, True):
        study(tmp_path).score_tables(method="activation", gap=gap)
    assert len(asked) == 3


@pytest.mark.slow
def test_a_run_stopped_between_the_two_files_of_a_grown_table_is_mended(tmp_path, asked):
    small, large = study(tmp_path), study(tmp_path, facts_per_relation=4)
    small.scores()
    path = tmp_path / "tables" / "scores.parquet"
    before, origin = load_table(prompts_file(path))
    whole = large.scores()
    save_table(before, prompts_file(path), origin)  # the prompts' table as it was before
    again = large.scores()
    assert asked[1] == asked[2] == len(large.prompts()) - len(small.prompts())
    pd.testing.assert_frame_equal(again, whole)


@pytest.mark.slow
def test_probabilities_grow_too(tmp_path, monkeypatch):
    small, large = study(tmp_path), study(tmp_path, facts_per_relation=4)
    numbers = []

    def counting(model, prompts, candidates, **options):
        numbers.append(len(prompts))
        return typed_answers(model, prompts, candidates, **options)

    monkeypatch.setattr(questions, "typed_answers", counting)
    small.probabilities()
    found = large.probabilities()
    assert numbers == [len(small.prompts()), len(large.prompts()) - len(small.prompts())]
    plain = answer_probability(large.model, large.prompts())
    assert list(found["prompt"]) == list(plain["prompt"]) == list(large.prompts()["prompt"])
    pd.testing.assert_series_equal(found["probability"], plain["probability"], rtol=1e-9)
    assert found["predicted"].tolist() == plain["predicted"].tolist()


@pytest.mark.slow
def test_no_prompts_give_no_rows_with_the_columns_of_any(tmp_path):
    small = study(tmp_path)
    for ask in (small.probabilities, small.scores):
        table = ask()
        none = ask(prompts=small.prompts().iloc[:0])
        assert len(table) and not len(none) and (none.dtypes == table.dtypes).all()
    fresh = study(tmp_path / "fresh")  # nothing is stored yet
    with pytest.raises(AttributionError, match="no prompts"):
        fresh.scores(prompts=fresh.prompts().iloc[:0])
    fresh.probabilities(prompts=fresh.prompts().iloc[:0])
    pd.testing.assert_frame_equal(fresh.probabilities(), small.probabilities())


def test_languages_are_those_in_which_a_fact_of_the_study_has_names(tmp_path):
    whole = study(tmp_path)
    assert whole.languages == ["en", "nl", "ja", "vi", "zh", "ko"]
    subjects = set(whole.facts.facts["subject"])
    entities = whole.everything.entities
    part = study(tmp_path)
    unnamed = entities["entity"].isin(subjects) & (entities["language"] == "vi")
    part.everything = replace(part.everything, entities=entities[~unnamed])
    part.facts = replace(part.everything, facts=whole.facts.facts)
    assert part.languages == ["en", "nl", "ja", "zh", "ko"]


@pytest.mark.slow
def test_of_two_notebooks_that_need_a_table_one_computes_and_the_other_waits(tmp_path, monkeypatch, capsys):
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def slow(model, prompts, **options):
        calls.append(len(prompts))
        begun.set()
        assert go_on.wait(20)
        return attribute(model, prompts, **options)

    monkeypatch.setattr(pipeline, "attribute", slow)
    tables = {}
    both = [
        threading.Thread(target=lambda i=i: tables.update({i: study(tmp_path).scores()})) for i in range(2)
    ]
    both[0].start()
    assert begun.wait(20)
    both[1].start()
    while "waiting" not in (told := capsys.readouterr().err):
        time.sleep(0.02)
    go_on.set()
    for thread in both:
        thread.join(60)
    assert len(calls) == 1 and "scores.parquet" in told
    pd.testing.assert_frame_equal(tables[0], tables[1])


@pytest.mark.slow
def test_what_is_stored_is_read_while_another_process_adds_to_it(tmp_path, capsys):
    held = {"scores": study(tmp_path).scores(), "probabilities": study(tmp_path).probabilities()}
    tables, found = tmp_path / "tables", {}
    reading = [
        threading.Thread(
            target=lambda name=name: found.update({name: getattr(study(tmp_path), name)()}), daemon=True
        )
        for name in held
    ]
    capsys.readouterr()
    with alone(tables / ".scores.parquet.lock", ""), alone(tables / ".probabilities.parquet.lock", ""):
        for thread in reading:
            thread.start()
        for thread in reading:
            thread.join(60)
        for name, table in held.items():
            pd.testing.assert_frame_equal(found[name], table)
    assert "waiting" not in capsys.readouterr().err


@pytest.mark.slow
def test_halves_are_other_wordings_of_the_same_facts(tmp_path):
    one = study(tmp_path)
    found, held = one.halves()
    wordings = list(dict.fromkeys(make_prompts(one.facts, "en")["template"]))
    assert set(found["template"]) == set(wordings[::2]) and set(held["template"]) == set(wordings[1::2])
    assert set(found["fact"]) == set(held["fact"]) == set(one.facts.facts["fact"])
    assert len(found) + len(held) == len(one.prompts())
    found, held = one.halves("all")
    pd.testing.assert_frame_equal(found, one.prompts("all"))
    assert (held.groupby(["fact", "language"]).size() == 1).all() and set(held["language"]) == set(
        found["language"]
    )
    assert not set(held["prompt"]) & set(found["prompt"])
    few, other = study(tmp_path, wordings=1).halves()
    assert set(few["template"]) == {wordings[0]} and set(other["template"]) == {wordings[1]}


@pytest.mark.slow
def test_neurons_of_a_half_come_from_its_prompts_alone(stored):
    one = study(stored)
    found, held = one.halves()
    here, there = one.neurons(prompts=found), one.neurons(prompts=held)
    assert set(one.bags(prompts=found)["fact"]) == set(found["fact"]) and not here.equals(there)
    sizes = found.groupby("fact").size()
    assert ((here["share"] * here["fact"].map(sizes)).round(6) % 1 == 0).all()


@pytest.mark.slow
def test_bags_name_every_fact_asked_about_and_how_the_share_settled(stored):
    one = study(stored, facts_per_relation=4)
    refined = one.refined()
    pd.testing.assert_frame_equal(one.neurons(), refined.neurons)
    pd.testing.assert_frame_equal(one.bags(), refined.bags)
    prompts = one.prompts()
    assert refined.bags.set_index("fact")["prompts"].to_dict() == prompts.groupby("fact").size().to_dict()
    assert (refined.neurons["share"] >= refined.bags["share"].unique().item() - 1e-9).all()
    # the mean that the last pass reports is over all of them
    mean = refined.passes.set_index("taken").loc[True, "mean"]
    assert mean == pytest.approx(len(refined.neurons) / 4, abs=1e-6)


@pytest.mark.slow
def test_a_threshold_below_what_the_study_keeps_is_refused(tmp_path):
    with pytest.raises(RefinementError, match=r"threshold 0.2 is below the stored scores' keep=0.3"):
        study(tmp_path, keep=0.3, facts_per_relation=1, wordings=1).neurons()


@pytest.mark.slow
def test_only_the_kinds_asked_for_are_computed(tmp_path, stored, asked):
    every = study(stored).kinds()
    before = len(asked)
    few = study(tmp_path / "few").kinds(only=["same-layer", "knowledge"])
    assert list(few) == ["same-layer", "knowledge"] and len(asked) == before + 1  # no activation baseline
    for kind, neurons in few.items():
        pd.testing.assert_frame_equal(neurons, every[kind])


@pytest.mark.slow
def test_strongest_neurons_of_a_fact_do_not_depend_on_the_others_asked_for(stored):
    one = study(stored, facts_per_relation=4)
    every = one.strongest(2)
    assert (every.groupby("fact").size() == 2).all() and set(every["fact"]) == set(one.facts.facts["fact"])
    prompts = one.prompts()
    fact = prompts["fact"].iloc[0]
    alone = one.strongest(2, prompts=prompts[prompts["fact"] == fact])
    pd.testing.assert_frame_equal(alone, every[every["fact"] == fact].reset_index(drop=True))
    assert not one.strongest(2, method="activation").equals(every)


@pytest.mark.slow
def test_kinds_have_as_many_random_neurons_as_knowledge_neurons(stored):
    kinds = study(stored).kinds()
    assert list(kinds) == ["knowledge", "activation", "random", "same-layer"]
    count = kinds["knowledge"].groupby("fact").size()
    for kind in ("random", "same-layer"):
        assert kinds[kind].groupby("fact").size().equals(count)
        assert not kinds[kind].drop_duplicates(["fact", "layer", "neuron"]).shape[0] < len(kinds[kind])
    layers = [kinds[kind].groupby("fact")["layer"].apply(sorted) for kind in ("knowledge", "same-layer")]
    assert layers[0].equals(layers[1])


@pytest.mark.slow
def test_a_case_is_computed_once_and_again_when_what_it_is_made_from_changes(tmp_path):
    calls = []

    @stand_in
    def count(model, prompts, *, kind, force=None, progress=False):
        calls.append(kind)
        return prompts[["prompt"]].assign(kind=kind, layers=model.n_layers)

    one, prompts = study(tmp_path), study(tmp_path).prompts()
    first = one.kept("cases, a b", count, prompts, kind="a", force=ValueEdit(1, 2))
    pd.testing.assert_frame_equal(
        one.kept("cases, a b", count, prompts, kind="a", force=ValueEdit(1, 2)), first
    )
    one.kept("cases, a b", count, prompts, kind="a", force=ValueEdit(1, 2), progress=True)
    assert calls == ["a"] and (tmp_path / "tables" / "cases" / "cases-a-b.parquet").is_file()
    one.kept("cases, a b", count, prompts, kind="b", force=ValueEdit(1, 2))
    one.kept("cases, a b", count, prompts, kind="b", force=ValueEdit(1, 3))
    one.kept("cases, a b", count, prompts.iloc[1:], kind="b", force=ValueEdit(1, 3))
    study(tmp_path, dtype="float32").kept(
        "cases, a b", count, prompts.iloc[1:], kind="b", force=ValueEdit(1, 3)
    )
    assert calls == ["a", "b", "b", "b", "b"]


def stand_in(function):
    """A function that counts as one of the package, so that its code has a digest."""
    function.__module__, function.__qualname__ = answer_probability.__module__, "answer_probability"
    return function


@pytest.mark.slow
def test_cases_are_kept_one_by_one_and_go_on_after_an_interruption(tmp_path):
    calls, failing = [], {"b"}

    @stand_in
    def count(model, prompts, *, kind, factor):
        if kind in failing:
            raise KeyboardInterrupt
        calls.append(kind)
        return prompts[["prompt"]].head(2).assign(kind=kind, factor=factor)

    one, prompts = study(tmp_path), study(tmp_path).prompts()
    cases = {("x", "a"): {"kind": "a"}, ("x", "b"): {"kind": "b"}, ("y", "c"): {"kind": "c"}}
    asking = {"cases": cases, "factor": 2.0}
    with pytest.raises(KeyboardInterrupt):
        one.kept_cases("cases", count, prompts, **asking)
    failing.clear()
    found = one.kept_cases("cases", count, prompts, columns=["place", "kind"], **asking)
    assert calls == ["a", "b", "c"]  # a was there
    assert found["place"].tolist() == ["x", "x", "x", "x", "y", "y"] and found.index.tolist() == list(
        range(6)
    )
    assert found["kind"].tolist() == list("aabbcc") and (found["factor"] == 2).all()
    files = sorted(path.name for path in (tmp_path / "tables" / "cases").glob("*.parquet"))
    assert files == ["cases-x-a.parquet", "cases-x-b.parquet", "cases-y-c.parquet"]
    # a case whose options change is computed again, alone
    cases[("x", "b")] = {"kind": "d"}
    one.kept_cases("cases", count, prompts, **asking)
    assert calls == ["a", "b", "c", "d"]
    single = one.kept_cases("one", count, prompts, cases={7: {"kind": "a"}}, columns="number", factor=1.0)
    assert single["number"].tolist() == [7, 7]
    with pytest.raises(StudyError, match="none: there is no case to compute"):
        one.kept_cases("none", count, prompts, cases={})
    with pytest.raises(ValueError):  # as many columns as a name has parts
        one.kept_cases("cases", count, prompts, columns="kind", **asking)


def test_the_summary_holds_named_numbers(tmp_path):
    rows = pd.DataFrame({"measure": ["P", "P"], "where": ["here", None], "value": [0.5, 1.0], "more": 1})
    path = study(tmp_path).summarise("06", "Title", rows.assign(low=0.25, high=float("nan"), n=3))
    content = json.loads(path.read_text(encoding="utf-8"))
    empty = {"measure": "P", "neurons": "", "where": "", "value": 1.0, "low": 0.25, "high": None, "n": 3}
    assert content["title"] == "Title" and content["rows"] == [empty | {"where": "here", "value": 0.5}, empty]


def test_the_rule_is_that_of_the_parameters_whatever_the_model(tmp_path):
    plain = {"relation": "P36", "out": str(tmp_path)}
    for model in ("mini", "/some/folder"):
        usual = Study(StudyParameters(**plain, model=model)).rule
        assert usual == {"rule": "auto", "steps": None}
        four = Study(StudyParameters(**plain, model=model, rule="gauss-legendre", steps=4)).rule
        assert four == {"rule": "gauss-legendre", "steps": 4}


@pytest.mark.slow
def test_located_neurons_come_from_other_wordings_than_the_one_that_is_asked(stored):
    one = study(stored, facts_per_relation=4)
    given = one.located_sets(4, "en", wordings=2)
    asked, own = given["prompts"], given["kinds"]["own"]
    known = one.knowledge("en")
    assert (
        set(asked["fact"]) <= set(known.loc[known["known"], "fact"]) and not asked["fact"].duplicated().any()
    )
    found, held = one.halves("en")
    assert set(asked["prompt"]) <= set(held["prompt"]) and given["candidates"] is None
    scores = one.scores("en")
    for fact, part in own.groupby("fact"):
        prompts = found.loc[found["fact"] == fact, "prompt"].head(2)
        mean = scores[scores["prompt"].isin(prompts)].groupby(["layer", "neuron"])["score"].sum() / len(
            prompts
        )
        best = mean.sort_values(ascending=False).head(4).index
        assert set(zip(part["layer"], part["neuron"], strict=True)) == set(best)
    typed = study(stored, facts_per_relation=4, target="typed").located_sets(4, "en", wordings=2, facts=1)
    assert len(typed["prompts"]) == 1 == len(typed["candidates"])


@pytest.mark.slow
def test_where_no_fact_is_known_nothing_is_located(tmp_path, monkeypatch):
    one = study(tmp_path)
    nothing = one.knowledge("en").assign(known=False)
    monkeypatch.setattr(Study, "knowledge", lambda self, language: nothing)
    assert one.located_sets(4, "en")["kinds"] == {}


@pytest.mark.slow
def test_rankings_and_thresholds_of_several_languages_are_those_of_each(tmp_path):
    one = study(tmp_path, rule="gradient", language="all")
    every = pd.concat([one.prompts(name).groupby("fact").head(2) for name in ("en", "zh")], ignore_index=True)
    ranked = one.ranked(every, k=7)
    assert list(ranked)[:5] == ["language", "fact", "relation", "layer", "neuron"]
    sets = one.by_threshold(every, 0.3)
    for language, own in every.groupby("language"):
        asked = own.reset_index(drop=True)
        scores = one.scores(language, prompts=asked)
        wanted = strongest(scores, asked, None, None, 7)
        mine = ranked[ranked["language"] == language].drop(columns="language").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, wanted)
        top = scores.groupby("prompt")["score"].transform("max")
        held = scores[scores["score"] >= 0.3 * top].merge(asked[["prompt", "fact"]], on="prompt")
        number = held.groupby(["fact", "layer", "neuron"]).size()
        both = {key for key, count in number.items() if count / 2 >= 0.7}
        found = sets[language][["fact", "layer", "neuron"]]
        assert set(map(tuple, found.to_numpy().tolist())) == both
    # scores of a rule that was asked for lie beside the usual ones
    assert (tmp_path / "zh" / "tables" / "scores-gradient.parquet").is_file()
    assert not (tmp_path / "zh" / "tables" / "scores.parquet").exists()


@pytest.mark.slow
def test_wordings_that_find_and_one_held_out_of_every_language(tmp_path):
    one = study(tmp_path, language="all", wordings=2)
    found, held = one.found_and_held()
    assert not set(found["prompt"]) & set(held["prompt"])
    assert not held.duplicated(["fact", "language"]).any() and set(held["language"]) == set(one.languages)
    assert (found.groupby(["fact", "language"]).size() == 2).all()
