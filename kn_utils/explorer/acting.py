"""The explorer's panels that act: sliders on neurons, an edit, the program and files."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as w
import matplotlib.pyplot as plt

from .. import plots
from ..base import ROOT
from ..store.files import file_name
from ..store.tables import save_csv
from .desk import Desk, css_names
from .editing import edit_of, edited
from .panels import SHOWN, layers_figure
from .program import program
from .tables import as_html, line, neuron_name

MOST = 4.0  # times its value


class SlidersPanel:
    """Neurons silenced or amplified at the blank, and what the model answers then."""

    title = "Sliders"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.sliders = w.VBox()
        self.plain, self.typed, self.error = w.HTML(), w.HTML(), w.HTML()
        self.buttons = {
            name: w.Button(description=text, layout=w.Layout(width="auto"))
            for name, text in (("silence", "silence all"), ("double", "double all"), ("leave", "as they are"))
        }
        for name, factor in (("silence", 0.0), ("double", 2.0), ("leave", 1.0)):
            self.buttons[name].on_click(desk.guarded(self._all(factor), self.error))
        css_names(plain_after=self.plain, typed_after=self.typed, **self.buttons)
        left = w.VBox([w.HBox(list(self.buttons.values())), self.sliders, self.error])
        after = w.HBox([self.plain, self.typed])
        self.box = w.HBox([left, after], layout=w.Layout(flex_flow="row wrap"))

    def show(self, desk: Desk) -> None:
        """A slider for each neuron of the question, all at 1."""
        sliders = []
        for row in desk.neurons.itertuples():
            name = neuron_name(row.layer, row.neuron)
            one = w.FloatSlider(1.0, min=0.0, max=MOST, step=0.25, description=name, continuous_update=False)
            one.style.description_width, one.layout.width = "140px", "380px"
            css_names(slider=one)
            one.observe(desk.guarded(self.act, self.error), "value")
            sliders.append(one)
        self.sliders.children = tuple(sliders)
        self.error.value = self.plain.value = self.typed.value = ""

    def _all(self, factor: float) -> Callable[[], str | None]:
        def act() -> str | None:
            with self.desk.quietly():
                for slider in self.sliders.children:
                    slider.value = factor
            return self.act()

        return act

    def act(self) -> str | None:
        """Ask again with the neurons scaled as the sliders say."""
        desk, question = self.desk, self.desk.asked()
        pairs = desk.neurons[["layer", "neuron"]].itertuples(index=False, name=None)
        values = [slider.value for slider in self.sliders.children]
        desk.factors = dict(zip(((int(a), int(b)) for a, b in pairs), values, strict=True))
        after, before = desk.explorer.answers(question, desk.factors), desk.before
        assert before is not None  # there is a question
        both = before.typed.merge(after.typed, on="answer", suffixes=("_before", "_after"))
        plain = before.plain.merge(after.plain, on="answer", how="outer", suffixes=("_before", "_after"))
        desk.tables |= {"scaled": both}
        for place, table, head in ((self.plain, plain, "Plain"), (self.typed, both, "Typed")):
            shown = table.assign(top=table[["probability_before", "probability_after"]].max(axis=1))
            shown = shown.sort_values("top", ascending=False, kind="stable").head(SHOWN).drop(columns="top")
            shown = shown.set_axis(["answer", "P before", "P after"], axis=1)
            right = (shown["answer"] == question.answer).to_numpy()
            digits = {"P before": 3, "P after": 3}
            place.value = as_html(shown, head, digits=digits, bars=list(digits), bold=right)
        was, now = before.row, after.row
        said = f"P({question.answer}) {was['probability']:.3f} before, {now['probability']:.3f} after; "
        return said + f"typed {was['typed_probability']:.3f} before, {now['typed_probability']:.3f} after."


class EditPanel:
    """The fact edited through its neurons, and what that costs."""

    title = "Edit"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.new = w.Combobox(description="new answer", ensure_option=False, continuous_update=False)
        self.force = w.FloatLogSlider(8.0, base=2, min=-2, max=4, step=1, description="force")
        self.signed = w.Checkbox(False, description="follow the activation's sign", indent=False)
        self.go = w.Button(description="edit", button_style="primary")
        self.costs, self.rows, self.error = w.HTML(), w.HTML(), w.HTML()
        css_names(new=self.new, edit=self.go, costs=self.costs, edited=self.rows)
        self.go.on_click(desk.guarded(self.act, self.error))
        head = [self.new, self.force, self.signed, self.go]
        note = line(
            "The value slots of the question's neurons move away from the old answer and by the force, in "
            "units of their own length, towards the new one (8: as published). Nothing stays changed."
        )
        top = w.HBox(head, layout=w.Layout(flex_flow="row wrap"))
        self.box = w.VBox([w.HTML(note), top, self.error, self.costs, self.rows])

    def show(self, desk: Desk) -> None:
        """The candidates, for a new answer."""
        question = desk.question
        self.new.options = (
            [name for name in question.candidates if name != question.answer] if question else []
        )
        self.new.value = self.costs.value = self.rows.value = self.error.value = ""

    def act(self) -> str | None:
        """Edit, ask, show."""
        desk, question, new = self.desk, self.desk.asked(), self.new.value
        edit = edit_of(self.force.value, signed=self.signed.value)
        found = edited(desk.explorer, question, desk.neurons, new, edit)
        desk.edit, desk.new = edit, " ".join(new.split())
        desk.tables |= {"edited": found.rows, "edit_costs": found.costs}
        costs = found.costs.rename(columns={"nats": "nats lost"})
        self.costs.value = as_html(
            costs, "What it costs: mean rise of -ln P of neighbours' right answers", digits={"nats lost": 2}
        )
        names = {"before": "P before", "after": "P after", "first": "first after, typed"}
        names |= {"typed_before": "typed before", "typed_after": "typed after"}
        shown = found.rows.drop(columns="fact").rename(columns=names)
        digits = dict.fromkeys(["P before", "P after", "typed before", "typed after"], 3)
        mine = found.rows["where"].str.startswith("the question").to_numpy()
        self.rows.value = as_html(shown, digits=digits, bars=["typed before", "typed after"], bold=mine)
        first = found.rows["first"].iloc[0]
        done = "is first" if first == desk.new else f"is not first, {first} is"
        return f"After the edit {desk.new} {done} among the typed answers."


class CodePanel:
    """The calls that do the same, and files of what is shown."""

    title = "Program"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.write = w.Button(description="write the program", layout=w.Layout(width="auto"))
        self.export = w.Button(description="save tables and picture", layout=w.Layout(width="auto"))
        self.text = w.Textarea(layout=w.Layout(width="100%", height="330px"))
        self.files, self.error = w.HTML(), w.HTML()
        css_names(write=self.write, export=self.export, program=self.text, files=self.files)
        self.write.on_click(desk.guarded(self.written, self.error))
        self.export.on_click(desk.guarded(self.saved, self.error))
        self.box = w.VBox([w.HBox([self.write, self.export]), self.error, self.files, self.text])

    def show(self, desk: Desk) -> None:
        """Empty, until it is asked for."""
        self.text.value = self.files.value = self.error.value = ""

    def written(self) -> str | None:
        """Write the program."""
        desk, question = self.desk, self.desk.asked()
        study = desk.explorer.study
        k = max(len(desk.neurons), 1)
        acts = desk.factors, desk.new, desk.edit
        self.text.value = program(study.parameters, study.dtype, question, k, *acts)
        return ""

    def saved(self) -> str | None:
        """Save every table that was shown, and the picture, under the folder of results."""
        desk, question = self.desk, self.desk.asked()
        folder = desk.explorer.study.folder(question.language) / "explorer"
        stem = file_name(f"{question.fact} {question.language}")[:60]
        figure = layers_figure(desk)
        paths = [plots.save(figure, folder, f"{stem}-neurons")]
        plt.close(figure)
        for name, table in desk.tables.items():
            paths.append(save_csv(table, folder / f"{stem}-{name}.csv"))
        names = ", ".join(path.name for path in paths)
        place = folder.resolve()
        shown = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place
        self.files.value = line(f"In {shown}: {names}.")
        return ""
