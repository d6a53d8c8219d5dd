"""The explorer as a person sees it: choose a model, pick or type a fact, look, act.

:func:`explore` makes it. It is ipywidgets throughout, so JupyterLab, a notebook, Colab and Voila show it;
where no kernel runs, its last table and picture are shown instead.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as w
from matplotlib.figure import Figure

from ..base import StudyError
from ..data.relations import title
from ..model.loading import at_hand
from ..plots.theme import use_theme
from ..run.parameters import StudyParameters
from .acting import CodePanel, EditPanel, SlidersPanel
from .desk import Desk, css_names
from .panels import AnswersPanel, LanguagesPanel, NeuronPanel, Panel, answer_tables, layers_figure
from .question import Question
from .state import Explorer
from .tables import as_html, line

MOST_FOUND = 60  # facts in the list
ANY = ""  # no value of its own: a menu shows nothing for None


class ExplorerView:
    """Widgets over an :class:`kn_utils.explorer.state.Explorer`; notebooks show it by its name.

    Attributes:
        desk: what is asked and found.
        root: the outermost widget.
    """

    def __init__(self, parameters: StudyParameters, k: int = 5) -> None:
        use_theme()
        self.desk = desk = Desk(Explorer(parameters))
        self.answers, self.neuron, self.languages = AnswersPanel(), NeuronPanel(desk), LanguagesPanel(desk)
        self.sliders, self.edit, self.code = SlidersPanel(desk), EditPanel(desk), CodePanel(desk)
        self.panels: list[Panel] = [
            self.answers,
            self.neuron,
            self.sliders,
            self.languages,
            self.edit,
            self.code,
        ]
        self._choices(k)
        self._pick()
        self._typed()
        self.tabs = w.Tab([panel.box for panel in self.panels], titles=[panel.title for panel in self.panels])
        css_names(tabs=self.tabs)
        self.tabs.observe(desk.guarded(self._opened), "selected_index")
        pick = w.VBox(
            [w.HTML("<b>Pick a fact</b>"), w.HBox([self.search, self.relation]), self.results, self.wording]
        )
        typed = w.VBox([w.HTML("<b>or type one</b>"), self.text, self.answer, self.among, self.ask])
        both = w.HBox([pick, typed], layout=w.Layout(flex_flow="row wrap", grid_gap="24px"))
        top = w.HBox([self.model, self.load, self.language, self.k], layout=w.Layout(flex_flow="row wrap"))
        speaks = w.HBox([desk.status, desk.bar])
        self.root = w.VBox([top, both, speaks, self.tabs])
        css_names(explorer=self.root)
        self._offer()

    # The widgets

    def _choices(self, k: int) -> None:
        """Which model, which language, how many neurons."""
        desk, parameters = self.desk, self.desk.explorer.study.parameters
        models = at_hand()
        names = models.loc[models["at hand"], "model"].tolist()
        self.model = w.Combobox(
            value=parameters.model, options=names, description="model", placeholder="name or folder"
        )
        self.load = w.Button(description="load", layout=w.Layout(width="70px"))
        spoken = desk.explorer.facts.languages
        self.language = w.Dropdown(options=spoken, description="language", layout=w.Layout(width="180px"))
        self.language.value = parameters.language if parameters.language in spoken else spoken[0]
        self.k = w.IntSlider(k, min=1, max=20, description="neurons", continuous_update=False)
        css_names(model=self.model, load=self.load, language=self.language, k=self.k)
        self.load.on_click(desk.guarded(self._loaded))
        self.language.observe(desk.guarded(self._spoken), "value")
        self.k.observe(desk.guarded(self._again), "value")

    def _pick(self) -> None:
        """Search, and what was found."""
        desk = self.desk
        self.search = w.Text(
            description="search", placeholder="Paris, 巴黎, capital", layout=w.Layout(width="246px")
        )
        relations = [("any relation", ANY), *((title(name), name) for name in desk.explorer.facts.relations)]
        self.relation = w.Dropdown(options=relations, layout=w.Layout(width="150px"))
        self.results = w.Select(rows=7, layout=w.Layout(width="400px"))
        self.wording = w.Dropdown(description="wording", layout=w.Layout(width="400px"))
        css_names(search=self.search, relation=self.relation, results=self.results)
        css_names(wording=self.wording)
        self.search.observe(desk.guarded(self._searched), "value")
        self.relation.observe(desk.guarded(self._searched), "value")
        self.results.observe(desk.guarded(self._picked), "value")
        self.wording.observe(desk.guarded(self._reworded), "value")

    def _typed(self) -> None:
        """A text of one's own."""
        desk, wide = self.desk, w.Layout(width="350px")
        self.text = w.Text(description="text", placeholder="The capital of France is [Y].", layout=wide)
        self.answer = w.Text(description="answer", placeholder="Paris", layout=wide)
        relations = [("guess from the text", ANY), *((title(r), r) for r in desk.explorer.facts.relations)]
        self.among = w.Dropdown(options=relations, description="answers of", layout=wide)
        self.ask = w.Button(description="ask", button_style="primary")
        css_names(text=self.text, answer=self.answer, among=self.among, ask=self.ask)
        self.ask.on_click(desk.guarded(self._asked))

    # What happens

    def _loaded(self) -> str:
        """Another model; the question stays on the table if it can be asked."""
        desk, name = self.desk, self.model.value.strip()
        desk.say(f"loading {name} ...")
        old = desk.explorer.study.parameters
        values = {"model": name, "revision": old.revision if name == old.model else None}
        made = Explorer(StudyParameters.check(**{**old.model_dump(), **values}))
        made.model  # noqa: B018 - what cannot be loaded is said here
        question, desk.explorer = desk.question, made
        desk.clear()
        self._show()
        if question is not None and question.fact in set(made.facts.facts["fact"]):
            return self._put(made.ask_fact(question.fact, self.language.value))
        return f"{name}: {made.model.n_layers} layers of {made.model.n_neurons} neurons."

    def _spoken(self) -> str | None:
        """Another language: names are shown in it, and a fact of the data set is asked in it."""
        question = self.desk.question
        self._offer()
        if question is None or question.fact not in set(self.desk.explorer.facts.facts["fact"]):
            return None
        return self._put(self.desk.explorer.ask_fact(question.fact, self.language.value))

    def _searched(self) -> str | None:
        number = self._offer()
        return f"{number} facts found." if number else f"no fact is called {self.search.value!r}."

    def _offer(self) -> int:
        """Fill the list of facts; gives how many there are."""
        desk = self.desk
        found = desk.explorer.found(self.search.value, self.language.value, self.relation.value or None)
        shown = found.head(MOST_FOUND)
        question = desk.question
        here = question is not None and question.fact in set(shown["fact"])
        with desk.quietly():
            self.results.options = list(zip(shown["label"], shown["fact"], strict=True))
            self.results.value = question.fact if here and question is not None else None
        return len(found)

    def _picked(self) -> str | None:
        fact = self.results.value
        return None if fact is None else self._put(self.desk.explorer.ask_fact(fact, self.language.value))

    def _reworded(self) -> str | None:
        question, number = self.desk.question, self.wording.value
        if question is None or number is None:
            return None
        if question.fact not in set(self.desk.explorer.facts.facts["fact"]):
            return None
        return self._put(self.desk.explorer.ask_fact(question.fact, question.language, number))

    def _asked(self) -> str:
        explorer, language = self.desk.explorer, self.language.value
        among = self.among.value or None
        told = self._put(explorer.ask_text(self.text.value, self.answer.value, language, among))
        self._offer()  # a fact picked before can be picked again
        return told

    def _again(self) -> str | None:
        question = self.desk.question
        return None if question is None else self._put(question)

    def _opened(self) -> str | None:
        """A tab was opened: one neuron is looked at when it is seen."""
        seen = self.panels[self.tabs.selected_index or 0]
        if seen is self.neuron and self.desk.question is not None and not self.neuron.written.value:
            return self.neuron.one()
        return None

    def _put(self, question: Question) -> str:
        """Put a question on the table: its answers and neurons at once, what others share after that."""
        desk = self.desk
        desk.say(f"asking {desk.explorer.study.parameters.model} ...")
        before = desk.explorer.answers(question)
        neurons = desk.explorer.neurons(question, self.k.value)
        desk.clear()
        desk.question, desk.before, desk.neurons = question, before, neurons
        self._show()
        desk.common = desk.explorer.shared_by_most(question, self.k.value, desk.progress)
        if desk.is_common.any():
            self.answers.show(desk)
        self._opened()
        return question.note

    def _show(self) -> None:
        """Every panel anew."""
        desk, question = self.desk, self.desk.question
        texts = [] if question is None else [(text, i) for i, text in enumerate(question.prompts["text"])]
        with desk.quietly():
            self.wording.options = texts
            self.wording.value = None if question is None else question.number
        for panel in self.panels:
            panel.show(desk)

    # For programs, and where no kernel runs

    def first_fact(self, typed: str) -> str:
        """The first fact that the search finds for what is typed; where it finds none the first of all."""
        for words in (typed, ""):
            found = self.desk.explorer.found(words, self.language.value)
            if len(found):
                return str(found["fact"].iloc[0])
        raise StudyError("the data set has no facts.")

    def ask_fact(self, fact: str) -> ExplorerView:
        """Ask for a fact of the data set, as if it were picked."""
        with self.desk.lock:
            self.desk.say(self._put(self.desk.explorer.ask_fact(fact, self.language.value)))
            self._offer()
        return self

    def figure(self) -> Figure:
        """The picture of layers of the question on the table."""
        with self.desk.lock:
            return layers_figure(self.desk)

    def static(self) -> str:
        """The answers as HTML that needs no kernel."""
        desk = self.desk
        if desk.question is None or desk.before is None:
            return line("Run this notebook to look around.")
        parts = zip(("Plain", "Typed"), answer_tables(desk.before, desk.question), strict=True)
        tables = [as_html(table, kind, digits={"P": 3}, bars=["P"]) for kind, table in parts]
        return line(desk.question.text) + '<div style="display: flex">' + "".join(tables) + "</div>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.root.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "text/html": self.static(),
            "text/plain": repr(self),
        }

    def __repr__(self) -> str:
        question = self.desk.question
        asked = "" if question is None else f", {question.text!r}"
        return f"Explorer({self.desk.explorer.study.parameters.model!r}{asked})"


def explore(
    model: str | StudyParameters = "mini", *, fact: str | None = None, k: int = 5, **settings: Any
) -> Any:
    """Widgets to look around in a model: its answers, its neurons, what they do.

    Args:
        model: a name, a folder, a Hub id; or all parameters of a study.
        fact: one of the data set's to begin with, such as ``P36:Q142:Q90``.
        k: how many neurons are shown.
        settings: other parameters (:class:`kn_utils.StudyParameters`), such as ``dataset``. Without
            ``rule``, scores are gradient x activation, the cheapest of the sound ones (notebook 03).

    Returns:
        what a notebook shows as widgets.

    Raises:
        StudyError: an unknown model, data set, language or fact.

    Example:
        >>> from kn_utils import explore
        >>> explore("mini", fact="P36:Q142:Q90")
        Explorer('mini', 'The capital of France is [Y].')
    """
    if isinstance(model, StudyParameters):
        if settings:
            raise StudyError("give a study's parameters, or a model and settings; not both.")
        view = ExplorerView(model, k)
    else:
        view = ExplorerView(StudyParameters.check(**{"model": model, "rule": "gradient", **settings}), k)
    return view if fact is None else view.ask_fact(fact)
