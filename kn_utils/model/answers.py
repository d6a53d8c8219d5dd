"""The one way from pieces to answers: P, rank and first choices of each question, under any intervention.

A *question* is the rows of one prompt, one per piece of its answer (:func:`kn_utils.model.rows.encode`). Its
answer's probability is the product over the pieces, each given those before; its rank (1 = top) is the worst
piece's among the vocabulary; it is *right* if every piece is the model's first choice, so that filling the
blanks from left to right gives the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..base import QUIET
from ..checks import check_model, check_numbers, check_prompts, check_words
from ..data.prompts import from_texts
from .hooks import (
    InterventionError,
    Replace,
    SlotChange,
    check_neurons,
    replace_at,
    rows_spread,
    slots_changed,
)
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .rows import ANYTHING_ELSE, Row

PATIENCE = 3  # seconds before a progress bar shows


@dataclass(frozen=True)
class Scaling:
    """Neurons (n, 2), layer and neuron, multiplied by a factor at the blank (0 silences, 2 doubles)."""

    neurons: np.ndarray
    factor: float


#: What acts on the model while it answers a question.
Intervention = Scaling | SlotChange


def questions_of(model: LanguageModel, prompts: pd.DataFrame, unknown: str = "refuse") -> list[list[Row]]:
    """Each prompt's rows, one per piece of its answer; ``unknown`` as in :func:`answer_probability`."""
    questions: list[list[Row]] = [[] for _ in range(len(prompts))]
    for row in model.encode(prompts, unknown):
        questions[row.prompt].append(row)
    return questions


def answers(
    model: LanguageModel,
    questions: Sequence[list[Row]],
    acting: Sequence[Intervention | None] | None = None,
    *,
    choices: Sequence[list[Row]] | None = None,
    batch_size: int | None = None,
    label: str = "ask",
    progress: bool = True,
) -> pd.DataFrame:
    """Ask many questions, each under an intervention of its own.

    Args:
        model: which to ask.
        questions: :func:`questions_of` the prompts.
        acting: one per question; ``None``: nothing acts (on one of them, on any).
        choices: per question further rows whose wanted piece competes with a few others only
            (:mod:`kn_utils.model.typed`); they are read in the same passes.
        batch_size: texts per pass; ``None`` suits the device. A batch that does not fit into memory is
            halved.
        label, progress: of the bar, which shows after some seconds.

    Returns:
        a row per question: ``p``, ``rank`` (the worst piece's), ``first`` (a tuple: the first choice for each
        piece, given the pieces before it), ``right``; with ``choices`` also ``shares``: per further row the
        probabilities of the pieces in its ``among``, which add up to 1.

    Raises:
        InterventionError: not one intervention, or not one list of choices, per question.
    """
    check_numbers(batch_size=batch_size)
    for name, given in (("interventions", acting), ("lists of choices", choices)):
        if given is not None and len(given) != len(questions):
            raise InterventionError(f"{len(given)} {name} for {len(questions)} questions; each needs one.")
    texts = list(_texts(model, questions, acting, choices))
    texts.sort(key=lambda text: (_lowest(model, text.acting), len(text.ids), text.ids))
    plain = {(q, i): _Read(np.nan, 0, 0) for q, rows in enumerate(questions) for i in range(len(rows))}
    shares: dict[tuple[int, int], np.ndarray] = {}
    hidden = not progress or QUIET
    with tqdm(total=len(texts), desc=label, unit="text", delay=PATIENCE, disable=hidden) as bar:
        for batch, read in in_parts(lambda part: _ask(model, part), texts, batch_size or rows_at_once(model)):
            plain |= read[0]
            shares |= read[1]
            bar.update(len(batch))
    joined = [_joined(rows, [plain[q, i] for i in range(len(rows))]) for q, rows in enumerate(questions)]
    table = pd.DataFrame(joined, columns=["p", "rank", "first", "right"])
    if choices is not None:
        table["shares"] = [[shares[q, i] for i in range(len(rows))] for q, rows in enumerate(choices)]
    return table.astype({"p": float, "rank": int, "right": bool})


class _Read(NamedTuple):
    """What the model says at one place: P of the wanted piece, its rank, the first choice."""

    p: float
    rank: int
    top: int


def _joined(rows: list[Row], pieces: list[_Read]) -> tuple[float, int, tuple[int, ...], bool]:
    """An answer from its pieces: P, the worst rank, the first choices, whether they are the answer."""
    first = tuple(int(piece.top) for piece in pieces)
    p = float(np.prod([piece.p for piece in pieces]))
    return p, max(int(piece.rank) for piece in pieces), first, first == tuple(row.target for row in rows)


def answer_probability(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    batch_size: int | None = None,
    unknown: str = "refuse",
    progress: bool = True,
) -> pd.DataFrame:
    """How probable each prompt's answer is.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`, or any table of ``text`` (its blank written ``[Y]``) and
            ``answer``.
        batch_size: texts per pass; ``None`` suits the device.
        unknown: ``"allow"`` to ask for the unknown token where the tokenizer cannot write an answer.

    Returns:
        ``prompt, probability, rank, correct, predicted`` in the order of ``prompts``. The probability of an
        answer of several pieces is the product over them, each given those before; ``rank`` (1 = top) is
        among the vocabulary and missing for several pieces; ``correct``: every piece is the model's first
        choice, so that filling the blanks from left to right gives the answer; ``predicted``: the first
        choices as text.

    Raises:
        DataError: an answer that the tokenizer cannot write.

    Example:
        >>> from kn_utils import answer_probability, load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(2)
        >>> answer_probability(load_model("mini"), prompts).columns.tolist()
        ['prompt', 'probability', 'rank', 'correct', 'predicted']
    """
    check_model(model)
    prompts = from_texts(prompts)
    check_prompts(prompts)
    check_words(("refuse", "allow"), unknown=unknown)
    questions = questions_of(model, prompts, unknown)
    table = answers(model, questions, batch_size=batch_size, progress=progress)
    return as_answered(model, prompts, table)


def as_answered(model: LanguageModel, prompts: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of :func:`answer_probability`, of a table of :func:`answers`."""
    ranks = [
        r if len(pieces) == 1 else pd.NA for r, pieces in zip(table["rank"], table["first"], strict=True)
    ]
    columns = {
        "prompt": prompts["prompt"].to_numpy(),
        "probability": table["p"],
        "rank": pd.array(ranks, "Int64"),
        "correct": table["right"],
        "predicted": [model.tokenizer.decode(list(pieces)) for pieces in table["first"]],
    }
    # The types also where there is no prompt.
    return pd.DataFrame(columns).astype({"prompt": "str", "correct": bool, "predicted": "str"})


@dataclass
class _Text:
    """What goes through the model once.

    Attributes:
        ids: its token ids.
        blank: the position at which scalings act.
        acting: what acts.
        plain, choices: the rows that are read in it, each with its name (question, number).

    A row is named by (question, number), plain ones and choices apart.
    """

    ids: list[int]
    blank: int
    acting: Intervention | None
    plain: list[tuple[tuple[int, int], Row]] = field(default_factory=list)
    choices: list[tuple[tuple[int, int], Row]] = field(default_factory=list)


def _texts(
    model: LanguageModel,
    questions: Sequence[list[Row]],
    acting: Sequence[Intervention | None] | None,
    choices: Sequence[list[Row]] | None,
) -> Iterator[_Text]:
    """Put rows that can be read in the same text into one.

    A left-to-right model reads all pieces of an answer in one text, unless neurons are scaled at each blank
    alone. Questions that one text answers under the same intervention, such as those for the old and for the
    new answer, share it.
    """
    # Inside suppress and amplify each piece is asked at a blank of its own as well.
    apart = model.hooked
    known: dict[tuple[tuple[int, ...], int, int], _Text] = {}
    for number, rows in enumerate(questions):
        act = None if acting is None else acting[number]
        nested = model.causal and not apart and not isinstance(act, Scaling)
        texts: list[_Text] = []
        kinds = (("plain", rows), ("choices", [] if choices is None else choices[number]))
        named = [(kind, (number, i), row) for kind, group in kinds for i, row in enumerate(group)]
        for kind, name, row in sorted(named, key=lambda entry: -len(entry[2].ids)):  # the longest first
            text = next((text for text in texts if _holds(text, row, nested)), None)
            if text is None:
                key = (tuple(row.ids), row.position, id(act))
                text = known.setdefault(key, _Text(row.ids, row.position, act))
                texts.append(text)
            (text.plain if kind == "plain" else text.choices).append((name, row))
    yield from known.values()


def _holds(text: _Text, row: Row, nested: bool) -> bool:
    """Whether a row can be read in this text."""
    if nested:
        return text.ids[: len(row.ids)] == row.ids
    return text.ids == row.ids and text.blank == row.position


def _lowest(model: LanguageModel, acting: Intervention | None) -> int:
    """The lowest layer that an intervention touches; the number of layers if it touches none."""
    return model.n_layers if acting is None or not len(acting.neurons) else int(acting.neurons[:, 0].min())


def _shared(model: LanguageModel, texts: Sequence[_Text]) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """The different texts among these, and which of them each is, (text,).

    Below the lowest layer that anything acts on they are run once. Inside ``suppress`` and ``amplify``, which
    find each row's blank themselves, none is shared.
    """
    ids = [tuple(text.ids) for text in texts]
    if model.hooked:
        return ids, torch.arange(len(ids), device=model.device)
    distinct = list(dict.fromkeys(ids))
    place = {text: n for n, text in enumerate(distinct)}
    return distinct, torch.tensor([place[text] for text in ids], device=model.device)


@torch.no_grad()
def _ask(
    model: LanguageModel, texts: Sequence[_Text]
) -> tuple[dict[tuple[int, int], _Read], dict[tuple[int, int], np.ndarray]]:
    """What the model says at every place where the texts are read."""
    distinct, own = _shared(model, texts)
    inputs, _, _ = model.batch([Row(0, list(ids), 0, 0) for ids in distinct])
    at = torch.tensor([text.blank for text in texts], device=model.device)
    read_at = ((i, row.position) for i, text in enumerate(texts) for _, row in text.plain + text.choices)
    places = list(dict.fromkeys(read_at))
    line = {place: n for n, place in enumerate(places)}
    index, position = (torch.tensor(x, device=model.device) for x in zip(*places, strict=True))
    with ExitStack() as stack:
        if len(distinct) < len(texts):
            lowest = min(_lowest(model, text.acting) for text in texts)
            stack.enter_context(rows_spread(model, min(lowest, model.n_layers - 1), own))
        stack.enter_context(acting_on(model, at, [text.acting for text in texts]))
        logits = model.logits(inputs, position, index)
    plain = {
        name: (line[i, row.position], row.target) for i, text in enumerate(texts) for name, row in text.plain
    }
    read: dict[tuple[int, int], _Read] = {}
    if plain:
        where, target = (torch.tensor(x, device=model.device) for x in zip(*plain.values(), strict=True))
        here = logits[where]
        right = here.gather(1, target[:, None])
        p = (right.double() - here.double().logsumexp(1, keepdim=True)).exp()[:, 0]
        values = zip(p.tolist(), (1 + (here > right).sum(1)).tolist(), here.argmax(1).tolist(), strict=True)
        read = {name: _Read(*value) for name, value in zip(plain, values, strict=True)}
    shares = {
        name: _share(logits[line[i, row.position]].double(), row.among)
        for i, text in enumerate(texts)
        for name, row in text.choices
    }
    return read, shares


def _share(logits: torch.Tensor, among: tuple[int, ...]) -> np.ndarray:
    """How the probability is shared between these pieces; ``ANYTHING_ELSE`` takes all others' part."""
    named = [piece for piece in among if piece != ANYTHING_ELSE]
    if len(named) == len(among):
        return logits[named].softmax(0).cpu().numpy()
    p = (logits[named] - logits.logsumexp(0)).exp().cpu().numpy()
    rest = iter(p)
    return np.array([max(0.0, 1 - p.sum()) if piece == ANYTHING_ELSE else next(rest) for piece in among])


@contextmanager
def acting_on(
    model: LanguageModel, at: torch.Tensor, acting: Sequence[Intervention | None]
) -> Iterator[None]:
    """Inside, each row of a batch, its blank at ``at`` (row,), runs under its own intervention."""
    scalings = [(row, act) for row, act in enumerate(acting) if isinstance(act, Scaling)]
    with ExitStack() as stack:
        if scalings:
            stack.enter_context(replace_at(model, _factors(model, scalings), at))
        if any(isinstance(act, SlotChange) for act in acting):
            changes = [act if isinstance(act, SlotChange) else None for act in acting]
            stack.enter_context(slots_changed(model, changes))
        yield


def _factors(model: LanguageModel, scalings: list[tuple[int, Scaling]]) -> dict[int, Replace]:
    """Layer -> what multiplies each row's own neurons in it."""
    for _, act in scalings:
        check_neurons(model, act.neurons)
    row = np.repeat([row for row, _ in scalings], [len(act.neurons) for _, act in scalings])
    pairs = np.concatenate([act.neurons for _, act in scalings])
    factor = np.repeat([act.factor for _, act in scalings], [len(act.neurons) for _, act in scalings])

    def scaled(layer: int) -> Replace:
        here = pairs[:, 0] == layer
        rows, columns = (torch.as_tensor(x[here], device=model.device) for x in (row, pairs[:, 1]))
        factors = torch.as_tensor(factor[here], dtype=model.dtype, device=model.device)

        def replace(values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            values[rows, columns] *= factors
            return values

        return replace

    return {int(layer): scaled(layer) for layer in np.unique(pairs[:, 0])}
