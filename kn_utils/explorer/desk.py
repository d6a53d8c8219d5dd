"""What panels share: the question on the table, what was found for it, one line that speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd

from ..base import StudyError
from ..model.edits import ValueEdit
from .question import Question
from .state import Answers, Explorer
from .tables import line

NO_COMMON = pd.DataFrame({"layer": [], "neuron": [], "share": []})


def css_names(**widgets: w.DOMWidget) -> None:
    """Give widgets names of a page's elements, ``kn-<name>``: for styles, and for programs that click."""
    for name, widget in widgets.items():
        widget.add_class("kn-" + name.replace("_", "-"))


def is_common(neurons: pd.DataFrame, common: pd.DataFrame) -> np.ndarray:
    """Which of these neurons are among the common ones."""
    where = ["layer", "neuron"]
    return pd.MultiIndex.from_frame(neurons[where]).isin(pd.MultiIndex.from_frame(common[where]))


class Desk:
    """The session of one look around.

    Attributes:
        explorer: of which model.
        question, before, neurons, common: what is asked, what is answered before anything acts, the neurons
            found, those of them that many facts share; without a question ``None`` and empty tables.
        factors: what sliders say, (layer, neuron) -> factor.
        edit, new: the last edit and its new answer.
        tables: what the panels show, by name, for export.
        status, bar: one line of text, and how far something is.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.status = w.HTML(line("Pick a fact, or type one."))
        css_names(status=self.status)
        self.bar = w.IntProgress(min=0, layout=w.Layout(width="260px", visibility="hidden"))
        self.quiet, self.lock = False, RLock()
        self.clear()

    def clear(self) -> None:
        """No question is on the table."""
        self.question: Question | None = None
        self.before: Answers | None = None
        self.neurons = pd.DataFrame(columns=["layer", "neuron", "score", "share", "activation"])
        self.common = NO_COMMON
        self.factors: dict[tuple[int, int], float] = {}
        self.edit: ValueEdit | None = None
        self.new: str | None = None
        self.tables: dict[str, pd.DataFrame] = {}

    @property
    def is_common(self) -> Any:
        """Which of the neurons many facts share, (neuron,)."""
        return is_common(self.neurons, self.common)

    def asked(self) -> Question:
        """The question on the table.

        Raises:
            StudyError: there is none.
        """
        if self.question is None:
            raise StudyError("pick a fact or type one first.")
        return self.question

    def say(self, text: str, kind: str = "note") -> None:
        """Put one line where people look."""
        self.status.value = line(text, kind)

    def progress(self, done: int, of_all: int, what: str) -> None:
        """Show how far something is; the bar goes when it is done."""
        self.bar.max, self.bar.value, self.bar.description = max(of_all, 1), done, ""
        self.bar.layout.visibility = "visible" if done < of_all else "hidden"
        if done < of_all:
            self.say(f"{what}: {done} of {of_all}")

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Inside, widgets that are changed call nobody."""
        kept, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = kept

    def guarded(self, act: Callable[[], str | None], place: w.HTML | None = None) -> Callable[..., None]:
        """A handler of events: what goes wrong is one line, in ``place`` or in the status line.

        Events may come in several threads (:mod:`kn_utils.explorer.alone`); one is handled after the other.

        Args:
            act: does the work and gives what is to be said when it is done; ``None``: nothing new.
            place: where errors are said; ``None``: the status line.
        """

        def handler(*_: Any) -> None:
            with self.lock:
                if not self.quiet:
                    self._handle(act, place)

        return handler

    def _handle(self, act: Callable[[], str | None], place: w.HTML | None) -> None:
        if place is not None:
            place.value = ""
        try:
            told = act()
        except StudyError as error:
            told = None
            (place or self.status).value = line(str(error), "error")
        except Exception as error:  # a person at a widget sees one line, whatever happened
            told = None
            (place or self.status).value = line(f"{type(error).__name__}: {error}", "error")
        finally:
            self.bar.layout.visibility = "hidden"
        if told is not None:
            self.say(told)
        elif place is not None and place.value:
            self.say("")
