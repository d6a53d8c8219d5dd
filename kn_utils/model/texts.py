"""In which texts questions are read: as few as will do, each as short as will do.

A *question* is the rows of one prompt (:func:`kn_utils.model.rows.encode`). Rows that can be read in the
same text share it; texts of a left-to-right model that begin alike share what stands before the first place
that is read (:mod:`kn_utils.model.prefixes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .acting import Intervention, Scaling, lowest_layer
from .hooks import SlotChange
from .language_model import LanguageModel
from .prefixes import window
from .rows import Row

#: A row's name: the question's number, and the row's number among those of its kind.
Name = tuple[int, int]


@dataclass
class AskedText:
    """What goes through the model once.

    Attributes:
        ids: its token ids.
        blank: the position at which scalings act.
        start: the first position that is read; what stands before it may be shared.
        acting: what acts.
        plain, choices: the rows that are read in it, each with its name: those that are asked over the whole
            vocabulary, and those that compete with a few others only.
    """

    ids: list[int]
    blank: int
    start: int
    acting: Intervention | None
    plain: list[tuple[Name, Row]] = field(default_factory=list)
    choices: list[tuple[Name, Row]] = field(default_factory=list)

    @property
    def prefix(self) -> tuple[int, ...]:
        """What stands before the first place that is read."""
        return tuple(self.ids[: self.start])


def texts_of(
    model: LanguageModel,
    questions: Sequence[list[Row]],
    acting: Sequence[Intervention | None] | None,
    choices: Sequence[list[Row]] | None,
) -> list[AskedText]:
    """Put rows that can be read in the same text into one.

    A left-to-right model reads all pieces of an answer in one text, unless neurons are scaled at each blank
    alone. Questions that one text answers under the same intervention, such as those for the old and for the
    new answer, share it.
    """
    known: dict[tuple[tuple[int, ...], int, int], AskedText] = {}
    for number, rows in enumerate(questions):
        act = None if acting is None else acting[number]
        # Inside suppress and amplify each piece is asked at a blank of its own as well.
        nested = model.causal and not model.hooked and not isinstance(act, Scaling)
        texts: list[AskedText] = []
        kinds = (("plain", rows), ("choices", [] if choices is None else choices[number]))
        named = [(kind, (number, i), row) for kind, group in kinds for i, row in enumerate(group)]
        start = min((row.position for _, _, row in named), default=0)
        for kind, name, row in sorted(named, key=lambda entry: -len(entry[2].ids)):  # the longest first
            text = next((text for text in texts if _holds(text, row, nested)), None)
            if text is None:
                key = (tuple(row.ids), row.position, id(act))
                text = known.setdefault(key, AskedText(row.ids, row.position, start, act))
                text.start = min(text.start, start)
                texts.append(text)
            (text.plain if kind == "plain" else text.choices).append((name, row))
    return list(known.values())


def _holds(text: AskedText, row: Row, nested: bool) -> bool:
    """Whether a row can be read in this text."""
    if nested:
        return text.ids[: len(row.ids)] == row.ids
    return text.ids == row.ids and text.blank == row.position


def by_beginning(model: LanguageModel, texts: Sequence[AskedText]) -> tuple[list[AskedText], list[AskedText]]:
    """Texts in the order in which they are read best.

    Returns:
        those that share a beginning with another one that is read once, and those that are read whole: all of
        a masked model, those whose value slots change from their first token on, those that some layer does
        not see to their beginning, and all inside ``suppress`` and ``amplify``, which find the blank
        themselves.
    """
    shared, whole, reach = list[AskedText](), list[AskedText](), window(model)
    common = model.causal and not model.hooked
    number = Counter(text.prefix for text in texts if common)
    for text in texts:
        inside = reach is None or len(text.ids) <= reach
        behind = common and inside and number[text.prefix] > 1 and not isinstance(text.acting, SlotChange)
        (shared if behind else whole).append(text)
    shared.sort(key=lambda text: (len(text.ids) - text.start, text.start, text.prefix))
    whole.sort(key=lambda text: (lowest_layer(model, text.acting), len(text.ids), text.ids))
    return shared, whole


def in_which(keys: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The different ones among these, and which of them each is."""
    distinct = list(dict.fromkeys(keys))
    place = {key: n for n, key in enumerate(distinct)}
    return distinct, [place[key] for key in keys]


def places_of(texts: Sequence[AskedText]) -> dict[tuple[int, int], bool]:
    """Where texts are read: (text, position) -> whether over the whole vocabulary."""
    whole: dict[tuple[int, int], bool] = {}
    for i, text in enumerate(texts):
        for _, row in text.plain:
            whole[i, row.position] = True
        for _, row in text.choices:
            place = (i, row.position)
            whole[place] = whole.get(place, False) or not row.named
    return whole
