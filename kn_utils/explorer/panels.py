"""The explorer's panels that look: answers and neurons, one neuron, the languages side by side."""

from __future__ import annotations

from typing import Protocol

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import plots
from ..plots.explorer import drawable
from .desk import Desk, css_names
from .languages import side_by_side
from .question import Question
from .state import Answers
from .tables import as_html, as_png, line, neuron_name

SHOWN = 8  # rows of a table of answers


class Panel(Protocol):
    """A tab of the explorer."""

    title: str
    box: w.Widget

    def show(self, desk: Desk) -> None:
        """Show the question on the desk, or its absence."""


def answer_tables(answers: Answers, question: Question) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is shown of answers: the first ones over the vocabulary, and among the candidates."""
    typed = answers.typed.head(SHOWN)
    if question.answer not in set(typed["answer"]):
        typed = pd.concat([typed, answers.typed[answers.typed["answer"] == question.answer]])
    return answers.plain.head(SHOWN).rename(columns={"probability": "P"}), typed.rename(
        columns={"probability": "P"}
    )


def layers_figure(desk: Desk) -> Figure:
    """The picture of layers of the question on the desk."""
    question = desk.asked()
    title = drawable(f"{question.text.replace('[Y]', '___')}  {question.answer}", question.fact)
    cloud, layers = desk.explorer.cloud(question), desk.explorer.model.n_layers
    return plots.neurons_in_layers(cloud, desk.neurons, desk.is_common, layers, title)


class AnswersPanel:
    """What the model answers, and where the neurons are that it leans on."""

    title = "Answers"

    def __init__(self) -> None:
        self.question, self.note = w.HTML(), w.HTML()
        self.plain, self.typed, self.neurons = w.HTML(), w.HTML(), w.HTML()
        self.picture = w.Image(format="png", layout=w.Layout(width="620px", height="auto"))
        css_names(plain=self.plain, typed=self.typed, neurons=self.neurons)
        css_names(picture=self.picture, question=self.question)
        left = w.HBox([self.plain, self.typed], layout=w.Layout(min_width="420px"))
        right = w.VBox([self.picture, self.neurons])
        both = w.HBox([left, right], layout=w.Layout(flex_flow="row wrap"))
        self.box = w.VBox([self.question, both, self.note])

    def show(self, desk: Desk) -> None:
        """Answers and neurons of the question on the desk."""
        question, before = desk.question, desk.before
        self.picture.layout.visibility = "visible" if question else "hidden"
        if question is None or before is None:
            for part in (self.question, self.note, self.plain, self.typed, self.neurons):
                part.value = ""
            return
        row = before.row
        p, typed_p = row["probability"], row["typed_probability"]
        told = f"P = {p:.3f}; among {row['candidates']} typed answers {typed_p:.3f}"
        self.question.value = line(f"{question.text}  Answer: {question.answer}. {told}.")
        plain, typed = answer_tables(before, question)
        right = (plain["answer"] == question.answer).to_numpy()
        self.plain.value = as_html(plain, "Plain", digits={"P": 3}, bars=["P"], bold=right)
        right = (typed["answer"] == question.answer).to_numpy()
        self.typed.value = as_html(typed, "Typed", digits={"P": 3}, bars=["P"], bold=right)
        self.show_neurons(desk, question)

    def show_neurons(self, desk: Desk, question: Question) -> None:
        """The picture of layers, and the table of neurons."""
        common = desk.is_common
        self.picture.value = as_png(layers_figure(desk))
        shared = desk.common.rename(columns={"share": "other answers"})
        table = desk.neurons.rename(columns={"share": "in wordings"})
        table = table.merge(shared, on=["layer", "neuron"], how="left")
        number = len(question.prompts)
        caption = f"The {len(table)} strongest, over {number} wording{'s' * (number != 1)}"
        digits: dict[str, int | str] = {"score": ".2g", "in wordings": 2, "activation": 2, "other answers": 2}
        self.neurons.value = as_html(table, caption, digits=digits, grey=common)
        self.note.value = line(
            "in wordings: share in which it has 0.2 of the largest score (the papers ask for 0.7). other "
            "answers: share of other relations' answers among whose strongest it is; grey from 0.1 on."
        )
        desk.tables["neurons"] = table
        desk.tables["answers"] = pd.concat(
            [
                own.assign(among=kind)
                for kind, own in zip(("vocabulary", "typed"), desk.before[1:], strict=True)
            ]
            if desk.before
            else []
        )


class NeuronPanel:
    """One neuron: what it writes, which facts it serves, which sentences switch it on."""

    title = "One neuron"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.choice = w.Dropdown(description="neuron")
        self.written, self.served, self.sentences, self.error = (w.HTML() for _ in range(4))
        self.look = w.Button(description="its sentences", tooltip="read it at the blanks of sentences")
        css_names(choice=self.choice, look=self.look)
        css_names(written=self.written, served=self.served, sentences=self.sentences)
        self.choice.observe(desk.guarded(self.one, self.error), "value")
        self.look.on_click(desk.guarded(self.read, self.error))
        below = w.HBox([self.written, self.served], layout=w.Layout(flex_flow="row wrap"))
        self.box = w.VBox([w.HBox([self.choice, self.look]), self.error, below, self.sentences])

    def show(self, desk: Desk) -> None:
        """The neurons of the question; the first of them is looked at when the tab is."""
        names = [
            (neuron_name(row.layer, row.neuron), (int(row.layer), int(row.neuron)))
            for row in desk.neurons.itertuples()
        ]
        with desk.quietly():
            self.choice.options = names
            self.choice.value = names[0][1] if names else None
        for part in (self.written, self.served, self.sentences, self.error):
            part.value = ""

    def one(self) -> str | None:
        """What the chosen neuron writes and serves."""
        desk, chosen = self.desk, self.choice.value
        self.sentences.value = ""
        if chosen is None:
            return None
        question = desk.asked()
        own = desk.neurons[(desk.neurons["layer"] == chosen[0]) & (desk.neurons["neuron"] == chosen[1])]
        table = desk.explorer.written(own)
        names = {"raises": "writes, if positive", "lowers": "writes, if negative"}
        pieces = table.rename(columns=names)[["rank", *names.values()]]
        active = own["activation"].iloc[0]
        caption = f"What its value slot writes (activation at this blank: {active:+.2f})"
        self.written.value = as_html(pieces, caption)
        served = desk.explorer.served(question, chosen[0], chosen[1], desk.progress)
        shown = served.rename(columns={"part": "part of the largest"})
        caption = f"Facts and wordings that lean on it ({question.language})"
        last = "part of the largest"
        self.served.value = as_html(shown, caption, digits={"score": ".2g", last: 2}, bars=[last])
        desk.tables |= {"written": table, "served": served}
        return ""

    def read(self) -> str | None:
        """The sentences in which the chosen neuron is most active, and least."""
        desk, chosen = self.desk, self.choice.value
        question = desk.asked()
        own = pd.DataFrame([chosen], columns=["layer", "neuron"])
        table = desk.explorer.sentences(question, own, desk.progress)
        if table.empty:
            self.sentences.value = line("This data set has no sentences.")
            return ""
        ends = pd.concat([table.head(5), table.tail(2)])[["activation", "hidden", "text"]]
        caption = f"Most and least active of {len(table)} English blanks"
        self.sentences.value = as_html(ends, caption, digits={"activation": 2})
        desk.tables["sentences"] = table
        return ""


class LanguagesPanel:
    """The fact in all languages side by side."""

    title = "Languages"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.go = w.Button(description="side by side", button_style="primary")
        self.answers, self.grid, self.error = w.HTML(), w.HTML(), w.HTML()
        css_names(abroad=self.go, spoken=self.answers, grid=self.grid)
        self.go.on_click(desk.guarded(self.ask, self.error))
        self.box = w.VBox([self.go, self.error, self.answers, self.grid])

    def show(self, desk: Desk) -> None:
        """Nothing, until it is asked for: it takes longer."""
        self.answers.value = self.grid.value = self.error.value = ""

    def ask(self) -> str | None:
        """Ask in every language, first the answers, then with common neurons greyed."""
        desk, question = self.desk, self.desk.asked()
        k = max(len(desk.neurons), 1)
        for compare in (False, True):
            found = side_by_side(desk.explorer, question.fact, k, desk.progress, compare=compare)
            spoken = found.answers.rename(columns={"probability": "P", "typed_probability": "P typed"})
            spoken = spoken.rename(columns={"typed_predicted": "first, typed"})
            digits, right = {"P": 3, "P typed": 3}, (spoken["answer"] == spoken["first, typed"]).to_numpy()
            self.answers.value = as_html(spoken, digits=digits, bars=["P typed"], bold=right)
            if found.absent:
                self.answers.value += line("Not asked: " + "; ".join(found.absent.values()))
            self.grid.value = self.marked(found.grid, k)
        desk.tables |= {"languages": found.answers, "languages_neurons": found.grid}
        return ""

    def marked(self, grid: pd.DataFrame, k: int) -> str:
        """The grid of neurons and languages: scores, bold what two languages or more have."""
        spoken = [name for name in grid.columns if name not in ("layer", "neuron", "languages", "common")]
        several = (grid["languages"] > 1).to_numpy()
        table = grid.rename(columns={"common": "other answers"})
        table["other answers"] = table["other answers"].replace(0, np.nan)
        shown = (several | (grid.groupby("languages").cumcount() < 3 * k)).to_numpy()
        caption = f"The {k} strongest neurons of each language (scores); bold: in two languages or more"
        digits = dict.fromkeys(spoken, ".2g") | {"other answers": ".2f"}
        grey = (grid["common"] > 0).to_numpy()
        html = as_html(table[shown], caption, digits=digits, bold=several[shown], grey=grey[shown])
        return html + line(
            "grey: many answers of other relations have it among their strongest too (the share beside it)."
        )
