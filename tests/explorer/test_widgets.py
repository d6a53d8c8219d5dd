"""The explorer's widgets without a browser: their events are set off from here."""

from __future__ import annotations

import html
import re
import threading
from pathlib import Path

import pandas as pd
import pytest

from kn_utils import StudyError, explore
from kn_utils.explorer.tables import as_html
from kn_utils.explorer.view import ExplorerView

FRANCE, JAPAN = "P36:Q142:Q90", "P36:Q17:Q1490"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> ExplorerView:
    return explore("mini", fact=FRANCE, out=str(tmp_path_factory.mktemp("explorer")))


@pytest.fixture
def view(made) -> ExplorerView:
    made.language.value, made.k.value, made.search.value = "en", 5, ""
    return made.ask_fact(FRANCE)


def read(widget) -> str:
    """What a person reads in a widget of HTML."""
    shown = re.sub(r"<style.*?</style>", " ", widget.value, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown)).split())


@pytest.mark.slow
def test_of_events_in_two_threads_the_later_one_is_handled_later_and_has_the_last_word(view):
    """JupyterLab hands events over in threads: a click while a fact is being asked was done, then unsaid."""
    done, first_is_at_work, go = [], threading.Event(), threading.Event()

    def slow() -> str:
        first_is_at_work.set()
        assert go.wait(20)
        done.append("first")
        return "first"

    def quick() -> str:
        done.append("second")
        return "second"

    first, second = (threading.Thread(target=view.desk.guarded(act)) for act in (slow, quick))
    first.start()
    assert first_is_at_work.wait(20)
    second.start()
    second.join(0.3)
    assert done == [], "the second did not wait"
    go.set()
    first.join(20)
    second.join(20)
    assert done == ["first", "second"] and read(view.desk.status) == "second"


@pytest.mark.slow
def test_a_change_inside_quietly_keeps_no_other_threads_event_from_being_heard(view):
    heard, other = [], None
    with view.desk.lock, view.desk.quietly():
        other = threading.Thread(target=view.desk.guarded(lambda: heard.append("click")))
        other.start()
        other.join(0.3)
        assert heard == []
    other.join(20)
    assert heard == ["click"]


@pytest.mark.slow
def test_widgets_are_heard_again_after_an_error_inside_quietly(view):
    with pytest.raises(ValueError, match="odd"), view.desk.quietly():
        assert view.desk.quiet
        raise ValueError("odd")
    assert not view.desk.quiet


@pytest.mark.slow
def test_a_search_fills_the_list_and_a_choice_asks(view):
    view.search.value = "日本 capital"
    assert view.results.options == (("Japan, capital: Tokyo", JAPAN),)
    assert read(view.desk.status) == "1 facts found."
    view.results.value = JAPAN
    assert view.desk.question.fact == JAPAN
    row = view.desk.explorer.answers(view.desk.question).row
    assert f"P = {row['probability']:.3f}" in read(view.answers.question)
    assert "Tokyo" in read(view.answers.plain) and "Tokyo" in read(view.answers.typed)
    assert bytes(view.answers.picture.value).startswith(b"\x89PNG")
    for neuron in view.desk.neurons["neuron"]:
        assert str(neuron) in read(view.answers.neurons)
    view.search.value = "no such thing"
    assert view.results.options == () and "no such thing" in read(view.desk.status)
    assert view.desk.question.fact == JAPAN


@pytest.mark.slow
def test_wordings_languages_and_number_of_neurons_ask_again(view):
    view.wording.value = 1
    assert view.desk.question.number == 1 and view.desk.question.text == view.wording.options[1][0]
    view.language.value = "zh"
    assert view.desk.question.language == "zh" and view.desk.question.answer == "巴黎"
    assert "巴黎" in read(view.answers.typed)
    view.k.value = 3
    assert len(view.desk.neurons) == len(view.sliders.sliders.children) == 3


@pytest.mark.slow
def test_a_typed_fact_is_asked(view):
    view.text.value, view.answer.value = "The capital of Wakanda is", "Paris"
    view.ask.click()
    assert view.desk.question.text == "The capital of Wakanda is [Y]." and "end" in read(view.desk.status)
    assert view.wording.options == (("The capital of Wakanda is [Y].", 0),)
    view.languages.go.click()
    assert "data set" in read(view.languages.error)
    view.among.value = "P17"
    view.ask.click()
    assert view.desk.question.relation == "P17"
    view.among.value = ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("", "Paris", "type a text first."),
        ("The capital of France is [Y].", "", "type its answer first."),
        ("[Y] or [Y]", "Paris", "one blank"),
        ("The capital of France is [Y].", "\U0001f9c0\U0001f9c0", "cannot write"),
        ("word " * 700 + "[Y].", "Paris", "tokens"),
    ],
)
def test_wrong_input_is_one_line_in_place(view, text, answer, said):
    view.text.value, view.answer.value = text, answer
    view.ask.click()
    assert said in read(view.desk.status) and "kn-error" in view.desk.status.value
    assert "\n" not in view.desk.status.value and "Traceback" not in view.desk.status.value
    assert view.desk.question.fact == FRANCE  # what was asked before stays


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "no such model", "some/where/else", "mini/../../x"])
def test_a_model_that_is_not_there_is_one_line(view, name):
    view.model.value = name
    view.load.click()
    assert "kn-error" in view.desk.status.value and len(read(view.desk.status)) > 20
    assert view.desk.explorer.study.parameters.model == "mini" and view.desk.question.fact == FRANCE
    view.model.value = "mini"


@pytest.mark.slow
def test_another_model_is_asked_the_same(view):
    view.model.value = "mini-causal"
    view.load.click()
    assert view.desk.explorer.model.causal and view.desk.question.fact == FRANCE
    assert "Paris" in read(view.answers.typed)
    view.model.value = "mini"
    view.load.click()
    assert not view.desk.explorer.model.causal


@pytest.mark.slow
def test_one_neuron_is_looked_at_when_its_tab_is_seen(view):
    assert view.neuron.written.value == ""
    view.tabs.selected_index = 1
    strongest = view.desk.neurons.iloc[0]
    assert view.neuron.choice.value == (strongest["layer"], strongest["neuron"])
    written = view.desk.explorer.written(view.desk.neurons.head(1))
    assert all(piece in read(view.neuron.written) for piece in written["raises"])
    assert "The capital of France is [Y]." in read(view.neuron.served)
    view.neuron.look.click()
    assert read(view.neuron.sentences).count("[Y]") == 7 and read(view.neuron.error) == ""
    view.neuron.choice.value = view.neuron.choice.options[1][1]
    second = view.desk.explorer.written(view.desk.neurons.iloc[[1]])
    assert second["raises"][0] in read(view.neuron.written) and view.neuron.sentences.value == ""
    view.tabs.selected_index = 0


@pytest.mark.slow
def test_sliders_show_new_answers_beside_the_old(view):
    view.sliders.buttons["silence"].click()
    assert [slider.value for slider in view.sliders.sliders.children] == [0] * 5
    question, before = view.desk.question, view.desk.before
    after = view.desk.explorer.answers(question, view.desk.factors)
    for row, when in ((before.row, "before"), (after.row, "after")):
        assert f"{row['probability']:.3f} {when}" in read(view.desk.status)
    assert after.row["probability"] < 0.6 * before.row["probability"]
    shown = read(view.sliders.typed)
    assert f"Paris {before.typed['probability'][0]:.3f}" in shown
    for slider in view.sliders.sliders.children[1:]:
        slider.value = 1.0
    assert list(view.desk.factors.values()) == [0, 1, 1, 1, 1]
    view.sliders.buttons["double"].click()
    assert set(view.desk.factors.values()) == {2.0}
    view.sliders.buttons["leave"].click()
    told = re.findall(r"[\d.]+(?= before| after)", read(view.desk.status))
    assert told[0] == told[1] and told[2] == told[3]


@pytest.mark.slow
def test_languages_are_shown_and_shared_neurons_marked(view):
    view.languages.go.click()
    for language, answer in (("en", "Paris"), ("zh", "巴黎"), ("ko", "파리")):
        assert f"{language} " in read(view.languages.answers) and answer in read(view.languages.answers)
    grid = view.desk.tables["languages_neurons"]
    marks = view.languages.grid.value
    assert "font-weight: 700" in marks and (grid["languages"] > 1).any()
    assert ("#9b9b9b" in marks) == bool((grid["common"] > 0).any())


@pytest.mark.slow
def test_an_edit_is_shown_with_its_cost(view):
    view.edit.go.click()
    assert "new answer" in read(view.edit.error) and view.edit.rows.value == ""
    view.edit.new.value = "Berlin"
    view.edit.go.click()
    assert read(view.edit.error) == "" and "same relation 5" in read(view.edit.costs)
    rows = view.desk.tables["edited"]
    assert f"{rows['typed_after'][1]:.3f}" in read(view.edit.rows)
    assert "Berlin is first" in read(view.desk.status)
    view.edit.new.value = "\U0001f9c0\U0001f9c0"
    view.edit.go.click()
    assert "cannot write" in read(view.edit.error)


@pytest.mark.slow
def test_the_program_and_the_files(view):
    view.sliders.buttons["silence"].click()
    view.code.write.click()
    assert "amplify(model, [" in view.code.text.value and "update_fact" not in view.code.text.value
    compile(view.code.text.value, "program", "exec")
    view.code.export.click()
    folder = Path(view.desk.explorer.study.folder("en")) / "explorer"
    names = {path.name for path in folder.iterdir()}
    assert {"P36-Q142-Q90-en-neurons.png", "P36-Q142-Q90-en-neurons.pdf"} <= names
    assert all(name in read(view.code.files) for name in names if not name.endswith(".pdf"))
    kept = pd.read_csv(folder / "P36-Q142-Q90-en-answers.csv")
    typed = kept[kept["among"] == "typed"].set_index("answer")["probability"]
    assert typed["Paris"] == pytest.approx(view.desk.before.row["typed_probability"])


@pytest.mark.slow
def test_what_no_one_foresaw_is_one_line_too(view, monkeypatch):
    monkeypatch.setattr(view.desk.explorer, "answers", lambda *_: 1 / 0)
    view.wording.value = 1
    assert read(view.desk.status) == "ZeroDivisionError: division by zero"
    assert "kn-error" in view.desk.status.value


def test_nothing_is_asked_where_nothing_was_picked():
    fresh = explore("mini")
    for button, place in (
        (fresh.sliders.buttons["silence"], fresh.sliders.error),
        (fresh.languages.go, fresh.languages.error),
        (fresh.edit.go, fresh.edit.error),
        (fresh.code.write, fresh.code.error),
        (fresh.code.export, fresh.code.error),
        (fresh.neuron.look, fresh.neuron.error),
    ):
        button.click()
        assert "pick a fact" in read(place)
    assert "Run this notebook" in fresh.static()


@pytest.mark.slow
def test_without_a_kernel_tables_are_shown(view):
    shown = view._repr_mimebundle_()
    assert set(shown) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert "Kathmandu" in shown["text/html"] and "The capital of France is" in shown["text/plain"]


def test_explore_refuses_what_is_not_there():
    for wrong in ({"model": "no such model", "fact": FRANCE}, {"dataset": "no such"}, {"rule": "wrong"}):
        with pytest.raises(StudyError):
            explore(**wrong)


def test_a_table_shows_markup_as_text():
    table = pd.DataFrame({"<b>a": ["<script>x</script>"], "P": [0.5]})
    shown = as_html(table, "<i>c", digits={"P": 2}, bars=["P"])
    assert shown == as_html(table, "<i>c", digits={"P": 2}, bars=["P"])
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<i>" not in shown and "<b>" not in shown
