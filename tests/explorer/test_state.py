"""The tables behind the explorer against the calls that they stand for, made directly."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

from kn_utils import (
    StudyError,
    StudyParameters,
    answer_probability,
    attribute,
    load_facts,
    make_prompts,
    suppress,
    update_fact,
)
from kn_utils.base import ROOT
from kn_utils.data.prompts import from_texts
from kn_utils.data.words import in_words, labels_in
from kn_utils.explorer import state
from kn_utils.explorer.editing import NEW, OLD, OTHER, SAME, edit_of, edited
from kn_utils.explorer.languages import side_by_side
from kn_utils.explorer.program import program
from kn_utils.explorer.question import BLANKS, of_text, search, search_index
from kn_utils.explorer.state import Explorer, by_factor
from kn_utils.model.rows import encode
from kn_utils.model.typed import candidates_of, typed_answers

FRANCE = "P36:Q142:Q90"


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(StudyParameters(rule="gradient"))


@pytest.fixture(scope="module")
def every() -> pd.DataFrame:
    return make_prompts(load_facts(), "all")


@pytest.fixture(scope="module")
def question(explorer):
    return explorer.ask_fact(FRANCE, "en")


@pytest.mark.slow
def test_two_threads_do_not_see_each_others_silenced_neurons(explorer, question, monkeypatch):
    plain = explorer.answers(question)
    silent = {tuple(pair): 0.0 for pair in explorer.neurons(question)[["layer", "neuron"]].to_numpy()}
    ask, inside, go, found = state.typed_distribution, threading.Event(), threading.Event(), {}

    def held(*given):
        if not inside.is_set():  # the first to come, its neurons silenced, waits here
            inside.set()
            assert go.wait(20)
        return ask(*given)

    def answer(name, factors):
        found[name] = explorer.answers(question, factors)

    monkeypatch.setattr(state, "typed_distribution", held)
    threads = [threading.Thread(target=answer, args=one) for one in (("silent", silent), ("plain", None))]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    threads[1].join(0.5)
    assert "plain" not in found, "it did not wait"
    go.set()
    for thread in threads:
        thread.join(20)
    pd.testing.assert_series_equal(found["plain"].row, plain.row)
    assert found["silent"].row["probability"] < 0.7 * plain.row["probability"]


@pytest.mark.slow
def test_state_needs_no_widgets():
    code = "import sys, kn_utils.explorer.state, kn_utils.explorer.editing, kn_utils.explorer.program, "
    code += "kn_utils.explorer.languages; print('ipywidgets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


# Search and questions


def test_facts_are_found_in_every_language_and_by_other_names(explorer):
    for typed in (
        "France capital",
        "法国 巴黎",
        "フランス capital",
        "프랑스 파리",
        "Frankrijk Parijs capital",
    ):
        assert FRANCE in set(explorer.found(typed, "en")["fact"]), typed
    assert explorer.found("FRANCE Capital", "en")["label"].tolist()[0] == "France, capital: Paris"
    assert explorer.found("capital france", "zh")["label"].tolist() == ["法国, capital: 巴黎"]
    index = search_index(explorer.facts)
    aliases = explorer.facts.entities.query("aliases != ''")
    subjects = aliases[aliases["entity"].isin(index["subject"])]
    row = subjects.iloc[0]
    assert row["entity"] in set(search(index, row["aliases"].split("|")[0])["subject"])


def test_all_facts_without_words_and_none_for_nonsense(explorer):
    index = search_index(explorer.facts)
    assert search(index, "  ")["fact"].tolist() == explorer.facts.facts["fact"].tolist()
    assert search(index, "no such thing").empty
    assert set(search(index, "", "P36")["relation"]) == {"P36"}


def test_subjects_called_so_come_before_those_that_begin_so(explorer):
    index = search_index(explorer.facts)
    entity = labels_in(explorer.facts, "en")
    found = entity.reindex(search(index, "paris")["subject"])
    first = [name.casefold() for name in found]
    order = [0 if name == "paris" else 1 if name.startswith("paris") else 2 for name in first]
    assert order == sorted(order)
    # A name in another language may begin so where the English one does not: the words decide, not the label.
    assert in_words(index.head(1), entity).iloc[0].count(":") == 1


@pytest.mark.slow
@pytest.mark.parametrize("blank", BLANKS)
def test_blanks_as_people_write_them(every, blank):
    own = of_text(every, f"The capital of Wakanda is {blank}.", "Paris", "en")
    assert own.text == "The capital of Wakanda is [Y]." and own.answer == "Paris"
    prompt = own.asked
    assert own.relation == "P36" and set(own.candidates) == set(candidates_of(prompt, every)[0])
    assert "P36" in own.note


def test_a_text_without_a_blank_has_it_at_its_end(every):
    own = of_text(every, " The capital  of Wakanda is", "Paris ", "en", "P17")
    assert own.text == "The capital of Wakanda is [Y]" and "end" in own.note and own.relation == "P17"


@pytest.mark.parametrize(("language", "stop"), [("en", "."), ("zh", "。")])
def test_a_masked_model_is_given_the_full_stop(explorer, language, stop):
    own = explorer.ask_text("Wakanda 的首都是", "巴黎", language)
    assert own.text == f"Wakanda 的首都是 [Y]{stop}"


def test_an_unknown_answer_competes_with_none(every):
    own = of_text(every, "The best cheese is [Y].", "Gouda", "en")
    assert own.candidates == ["Gouda"] and own.relation == "own"


def test_a_text_that_the_data_set_has_is_its_facts(explorer):
    own = explorer.ask_text("[Y] is the capital city of France.", "Paris", "en")
    assert own.fact == FRANCE and own.text == "[Y] is the capital city of France." and len(own.prompts) > 1
    other = explorer.ask_text("[Y] is the capital city of France.", "Berlin", "en")
    assert other.fact != FRANCE and len(other.prompts) == 1


@pytest.mark.parametrize(
    ("text", "answer"), [("", "Paris"), ("A [Y].", ""), ("[Y] and [Y]", "Paris"), ("[X] is [Y]", "Paris")]
)
def test_what_cannot_be_asked_is_said(explorer, text, answer):
    with pytest.raises(StudyError) as caught:
        explorer.ask_text(text, answer, "en")
    assert "\n" not in str(caught.value)


def test_facts_that_are_not_there_are_said(explorer):
    with pytest.raises(StudyError, match="no wording"):
        explorer.ask_fact("P36:Q0:Q0", "en")


@pytest.mark.slow
def test_quick_candidates_are_those_of_the_whole_data_set(explorer, every):
    some = every[every["language"].isin(["en", "ja"])].sample(12, random_state=1).reset_index(drop=True)
    for row, names in zip(range(len(some)), candidates_of(some, every), strict=True):
        own = explorer.ask_fact(some["fact"][row], some["language"][row])
        number = int(np.flatnonzero(own.prompts["prompt"] == some["prompt"][row])[0])
        assert explorer.ask_fact(own.fact, own.language, number).candidates == names


# Answers and neurons


@pytest.mark.slow
def test_answers_are_those_of_the_direct_calls(explorer, question, every):
    answers = explorer.answers(question)
    asked = every[every["prompt"] == question.asked["prompt"][0]].reset_index(drop=True)
    direct = typed_answers(explorer.model, asked, candidates_of(asked, every), progress=False).iloc[0]
    assert answers.row.to_dict() == direct.to_dict()
    assert answers.row["probability"] == answer_probability(explorer.model, asked)["probability"][0]
    assert answers.typed["probability"].sum() == pytest.approx(1, abs=1e-12)
    own = answers.typed.set_index("answer")["probability"]
    assert own["Paris"] == direct["typed_probability"] and own.index[0] == direct["typed_predicted"]
    # Each candidate asked for by itself: another way to the same table.
    for name in own.index[[0, 3, -1]]:
        one = typed_answers(explorer.model, asked.assign(answer=name), [question.candidates], progress=False)
        assert one["typed_probability"][0] == pytest.approx(own[name], rel=1e-9)
    # The whole vocabulary, from the model itself.
    (row,) = encode(explorer.model.tokenizer, asked, causal=False)
    inputs, at, _ = explorer.model.batch([row])
    p = explorer.model.logits(inputs, at)[0].double().softmax(0).sort(descending=True).values
    assert np.allclose(answers.plain["probability"], p[: len(answers.plain)].numpy(), rtol=1e-9)


def test_neurons_are_those_of_attribute(explorer, question):
    scores = attribute(explorer.model, question.prompts, rule="gradient", progress=False)
    mean = scores.groupby(["layer", "neuron"])["score"].sum() / len(question.prompts)
    best = mean.sort_values(ascending=False).head(5)
    found = explorer.neurons(question, 5)
    assert list(zip(found["layer"], found["neuron"], strict=True)) == best.index.tolist()
    assert np.allclose(found["score"], best)
    top = scores.groupby("prompt")["score"].transform("max")
    held = scores[scores["score"] >= 0.2 * top].groupby(["layer", "neuron"]).size() / len(question.prompts)
    assert found["share"].tolist() == [held.get(key, 0.0) for key in best.index]
    cloud = explorer.cloud(question)
    assert len(cloud) == len(mean) and cloud["score"].max() == pytest.approx(best.iloc[0])
    activation = attribute(explorer.model, question.asked, method="activation", keep=1e-6, progress=False)
    read = activation.set_index(["layer", "neuron"])["score"]
    assert found["activation"].tolist() == pytest.approx([read[key] for key in best.index], rel=1e-5)


@pytest.mark.slow
def test_silenced_answers_are_those_inside_suppress(explorer, question):
    neurons = explorer.neurons(question, 5)
    pairs = list(zip(neurons["layer"], neurons["neuron"], strict=True))
    after = explorer.answers(question, dict.fromkeys(pairs, 0.0))
    with suppress(explorer.model, neurons):
        direct = answer_probability(explorer.model, question.asked)["probability"][0]
    before = explorer.answers(question)
    assert after.row["probability"] == direct < before.row["probability"]
    same = explorer.answers(question, dict.fromkeys(pairs, 1.0))
    assert same.row.to_dict() == before.row.to_dict()


def test_factors_are_grouped():
    assert by_factor({(1, 2): 0, (3, 4): 1, (5, 6): 2.5, (7, 8): 0.0}) == {
        0.0: [(1, 2), (7, 8)],
        2.5: [(5, 6)],
    }


def test_a_prompt_is_attributed_once(explorer, question, monkeypatch):
    explorer.scores(question.prompts)
    monkeypatch.setattr("kn_utils.explorer.state.attribute", lambda *_, **__: pytest.fail("again"))
    assert set(explorer.scores(question.prompts)["prompt"]) == set(question.prompts["prompt"])


@pytest.mark.slow
def test_common_neurons_are_held_by_many_other_answers(explorer, question):
    common = explorer.shared_by_most(question, 5)
    others = explorer.others("en")
    assert others.groupby("relation").size().max() == 2 and others["prompt"].is_unique
    scores = explorer.scores(others)
    rank = scores.sort_values(["prompt", "score"], ascending=[True, False]).groupby("prompt").head(5)
    rank = rank.merge(others[["prompt", "fact", "relation"]], on="prompt")
    rank = rank[rank["relation"] != "P36"]
    answer = rank["fact"].str.rpartition(":")[2]
    held = answer.groupby([rank["layer"], rank["neuron"]]).nunique() / answer.nunique()
    count = answer.groupby([rank["layer"], rank["neuron"]]).nunique()
    expected = held[(held >= 0.1) & (count >= 3)]
    told = common.set_index(["layer", "neuron"])["share"]
    assert len(told) and told.sort_index().to_dict() == pytest.approx(expected.sort_index().to_dict())


@pytest.mark.slow
def test_a_neuron_serves_the_facts_whose_scores_it_is_among(explorer, question):
    neurons = explorer.neurons(question, 1)
    layer, neuron = int(neurons["layer"][0]), int(neurons["neuron"][0])
    served = explorer.served(question, layer, neuron, n=1000)
    looked = pd.concat([question.prompts, explorer.others("en", "P36")]).drop_duplicates("prompt")
    scores = explorer.scores(looked)
    top = scores.groupby("prompt")["score"].transform("max")
    expected = scores[
        (scores["layer"] == layer) & (scores["neuron"] == neuron) & (scores["score"] >= 0.2 * top)
    ]
    assert len(served) == len(expected) > len(question.prompts) / 2
    assert served["part"].is_monotonic_decreasing and served["part"].between(0.2, 1).all()
    assert "France, capital: Paris" in set(served["fact"])


@pytest.mark.slow
def test_sentences_are_read_at_their_blanks(explorer, question):
    neurons = explorer.neurons(question, 2)
    told = []
    table = explorer.sentences(question, neurons.head(1), lambda *step: told.append(step))
    assert (
        table["activation"].is_monotonic_decreasing and table["text"].str.contains("[Y]", regex=False).all()
    )
    assert told[-1][0] == told[-1][1] > 50
    row = table.iloc[0]
    prompt = from_texts(pd.DataFrame([{"text": row["text"], "answer": row["hidden"]}]))
    read = attribute(explorer.model, prompt, method="activation", keep=1e-6, progress=False)
    here = read[(read["layer"] == row["layer"]) & (read["neuron"] == row["neuron"])]["score"]
    pieces = len(encode(explorer.model.tokenizer, prompt, causal=False))
    if pieces == 1:  # else the score is the mean over blanks, the reading is at the first
        assert here.iloc[0] == pytest.approx(row["activation"], rel=1e-5)


# Languages


@pytest.mark.slow
def test_languages_side_by_side(explorer):
    found = side_by_side(explorer, FRANCE, 4)
    assert found.answers["language"].tolist() == list(explorer.facts.languages) and not found.absent
    spoken = found.answers["language"].tolist()
    assert (found.grid[spoken].notna().sum(axis=1) == found.grid["languages"]).all()
    assert (found.grid[spoken].notna().sum() == 4).all()
    assert found.grid["languages"].is_monotonic_decreasing
    common = explorer.common(spoken, 4).query("relation == 'P36'").set_index(["layer", "neuron"])["share"]
    for row in found.grid.itertuples():
        assert row.common == common.get((row.layer, row.neuron), 0)
    for row in found.answers.itertuples():
        asked = explorer.ask_fact(FRANCE, row.language)
        assert row.typed_probability == explorer.answers(asked).row["typed_probability"]
    with pytest.raises(StudyError, match="data set"):
        side_by_side(explorer, "a text of one's own")


# Edits


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True])
def test_an_edit_is_what_update_fact_does(explorer, question, signed):
    neurons = explorer.neurons(question, 5)
    edit = edit_of(4.0, signed=signed)
    found = edited(explorer, question, neurons, " Berlin", edit)
    rows = found.rows.set_index("where")
    before = explorer.answers(question)
    assert rows.loc[OLD, "before"] == pytest.approx(before.row["probability"], rel=1e-9)
    assert rows.loc[OLD, "typed_before"] == pytest.approx(before.row["typed_probability"], rel=1e-9)
    typed = rows.loc[[OLD, NEW], ["typed_before", "typed_after"]].sum()
    assert (typed < 1).all()  # old and new compete in one set of candidates
    assert (
        rows.loc[NEW, "after"] > rows.loc[NEW, "before"] and rows.loc[OLD, "after"] < rows.loc[OLD, "before"]
    )
    if not signed:
        with update_fact(explorer.model, neurons, old="Paris", new="Berlin", l1=0.5, l2=4.0) as model:
            for where, answer in ((OLD, "Paris"), (NEW, "Berlin")):
                asked = question.asked.assign(answer=answer)
                direct = answer_probability(model, asked)["probability"][0]
                assert rows.loc[where, "after"] == pytest.approx(direct, rel=1e-9)
    for where in (SAME, OTHER):
        own = found.rows[found.rows["where"] == where]
        cost = (np.log(own["before"]) - np.log(own["after"])).mean()
        told = found.costs.set_index("where").loc[where]
        assert told["facts"] == len(own) == 5 and told["nats"] == pytest.approx(cost)
    assert explorer.answers(question).row.to_dict() == before.row.to_dict()


@pytest.mark.parametrize("new", ["", "  ", "Paris"])
def test_an_edit_needs_a_new_answer(explorer, question, new):
    with pytest.raises(StudyError, match="new answer"):
        edited(explorer, question, explorer.neurons(question), new)


# The program


@pytest.mark.slow
@pytest.mark.parametrize(("own", "signed"), [(False, False), (True, True)])
def test_the_program_runs_and_gives_the_same_numbers(explorer, question, signed, own, capsys):
    if own:
        question = explorer.ask_text("The capital of Wakanda is [Y].", "Paris", "en")
    neurons = explorer.neurons(question, 4)
    pairs = [(int(a), int(b)) for a, b in zip(neurons["layer"], neurons["neuron"], strict=True)]
    factors = {pairs[0]: 0.0, pairs[1]: 2.5, pairs[2]: 1.0, pairs[3]: 0.0}
    edit = edit_of(4.0, signed=signed)
    study = explorer.study
    text = program(study.parameters, study.dtype, question, 4, factors, "Berlin", edit)
    space: dict[str, object] = {}
    exec(compile(text, "program", "exec", dont_inherit=True), space)
    told = space["neurons"].sort_values("score", ascending=False)
    assert told[["layer", "neuron"]].to_numpy().tolist() == [list(pair) for pair in pairs]
    assert np.allclose(told["score"], neurons["score"])
    before, after = explorer.answers(question).row, explorer.answers(question, factors).row
    for name in ("probability", "typed_probability"):
        assert space["before"][name][0] == pytest.approx(before[name], rel=1e-9)
        assert space["after"][name][0] == pytest.approx(after[name], rel=1e-9)
    rows = edited(explorer, question, neurons, "Berlin", edit).rows.set_index("where")
    assert space["edited"]["probability"][0] == pytest.approx(rows.loc[NEW, "after"], rel=1e-9)
    assert space["edited"]["typed_probability"][0] == pytest.approx(rows.loc[NEW, "typed_after"], rel=1e-9)
    assert max(map(len, text.splitlines())) < 400 and capsys.readouterr().out


def test_the_program_names_only_what_it_uses(explorer, question):
    text = program(explorer.study.parameters, explorer.study.dtype, question, 5)
    assert "amplify" not in text and "update_fact" not in text and "Request" not in text
