"""The one way from pieces to answers: P, rank and first choices, question by question, under any
intervention.

A *question* is the rows of one prompt, one per piece of its answer (:func:`kn_utils.model.rows.encode`). Its
answer's probability is the product over the pieces, each given those before; its rank (1 = top) is the worst
piece's among the vocabulary; it is *right* if every piece is the model's first choice, so that filling the
blanks from left to right gives the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..base import QUIET
from .hooks import InterventionError, SlotChange, check_neurons, replace_at, slots_changed
from .language_model import LanguageModel
from .memory import in_parts, rows_at_once
from .rows import Row

PATIENCE = 3  # seconds before a progress bar shows


@dataclass(frozen=True)
class Scaling:
    """Neurons (n, 2), layer and neuron, that are multiplied by a factor at the blank (0 silences, 2
    doubles)."""

    neurons: np.ndarray
    factor: float


#: What acts on the model while it answers a question.
Intervention = Scaling | SlotChange


def questions_of(model: LanguageModel, prompts: pd.DataFrame, unknown: str = "refuse") -> list[list[Row]]:
    """Each prompt's rows, one per piece of its answer."""
    questions: list[list[Row]] = [[] for _ in range(len(prompts))]
    for row in model.encode(prompts, unknown):
        questions[row.prompt].append(row)
    return questions


def answers(
    model: LanguageModel,
    questions: Sequence[list[Row]],
    acting: Sequence[Intervention | None] | None = None,
    *,
    batch_size: int | None = None,
    label: str = "ask",
    progress: bool = True,
) -> pd.DataFrame:
    """Ask many questions, each under an intervention of its own.

    Args:
        acting: one per question; ``None``: nothing acts (on one of them, on any).
        batch_size: texts per pass; ``None`` suits the device. A batch that does not fit into memory is
            halved.
        label, progress: of the bar, which shows after some seconds.

    Returns:
        a row per question: ``p``, ``rank`` (the worst piece's), ``first`` (a tuple: the first choice for each
        piece, given the pieces before it), ``right``.
    """
    if acting is not None and len(acting) != len(questions):
        raise InterventionError(
            f"{len(acting)} interventions for {len(questions)} questions; each needs one or None."
        )
    texts = list(_texts(model, questions, acting))
    texts.sort(key=lambda text: len(text.ids))  # a stable sort: questions of one length stay in their order
    sizes = [len(question) for question in questions]
    starts = np.r_[0, np.cumsum(sizes)[:-1]].astype(int) if questions else np.zeros(0, int)
    p, rank, top = np.zeros(sum(sizes)), np.zeros(sum(sizes), int), np.zeros(sum(sizes), int)
    with tqdm(
        total=len(texts), desc=label, unit="text", delay=PATIENCE, disable=not progress or QUIET
    ) as bar:
        for batch, found in in_parts(lambda b: _ask(model, b), texts, batch_size or rows_at_once(model)):
            place = [starts[text.question] + piece for text in batch for piece in text.pieces]
            p[place], rank[place], top[place] = found
            bar.update(len(batch))
    wanted = np.array([row.target for question in questions for row in question], int)
    if not len(starts):
        empty = {"p": [], "rank": [], "first": [], "right": []}
        return pd.DataFrame(empty).astype({"p": float, "rank": int, "right": bool})
    return pd.DataFrame(
        {
            "p": np.multiply.reduceat(p, starts),
            "rank": np.maximum.reduceat(rank, starts),
            "first": [tuple(top[s : s + n].tolist()) for s, n in zip(starts, sizes, strict=True)],
            "right": np.logical_and.reduceat(top == wanted, starts),
        }
    )


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
        prompts: :func:`kn_utils.make_prompts`.
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
    questions = questions_of(model, prompts, unknown)
    found = answers(model, questions, batch_size=batch_size, progress=progress)
    single = [len(question) == 1 for question in questions]
    table = pd.DataFrame(
        {
            "prompt": prompts["prompt"].to_numpy(),
            "probability": found["p"],
            "rank": pd.array(
                [r if one else pd.NA for r, one in zip(found["rank"], single, strict=True)], "Int64"
            ),
            "correct": found["right"],
            "predicted": [model.tokenizer.decode(list(pieces)) for pieces in found["first"]],
        }
    )
    return table.astype(
        {"prompt": "str", "correct": bool, "predicted": "str"}
    )  # also where there is no prompt


@dataclass(frozen=True)
class _Text:
    """What goes through the model once: the ids, where it is read, what is asked for there, and what acts."""

    question: int
    pieces: list[int]
    ids: list[int]
    positions: list[int]
    targets: list[int]
    acting: Intervention | None


def _texts(
    model: LanguageModel, questions: Sequence[list[Row]], acting: Sequence[Intervention | None] | None
) -> Iterator[_Text]:
    """A left-to-right model reads all pieces of an answer in one text, unless neurons are scaled at each
    blank alone."""
    for number, rows in enumerate(questions):
        act = None if acting is None else acting[number]
        if model.causal and not isinstance(act, Scaling):
            where, wanted = [row.position for row in rows], [row.target for row in rows]
            yield _Text(number, list(range(len(rows))), rows[-1].ids, where, wanted, act)
        else:
            for piece, row in enumerate(rows):
                yield _Text(number, [piece], row.ids, [row.position], [row.target], act)


@torch.no_grad()
def _ask(model: LanguageModel, texts: Sequence[_Text]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, rank and first choice for every place that the texts are read at, text by text."""
    inputs, at, _ = model.batch([Row(0, text.ids, text.positions[0], text.targets[0]) for text in texts])
    row = torch.tensor([i for i, text in enumerate(texts) for _ in text.pieces], device=model.device)
    position = torch.tensor([place for text in texts for place in text.positions], device=model.device)
    wanted = torch.tensor([[target] for text in texts for target in text.targets], device=model.device)
    with acting_on(model, at, [text.acting for text in texts]):
        logits = model.logits(inputs, position, row)
    right = logits.gather(1, wanted)
    p = logits.double().log_softmax(-1).gather(1, wanted)[:, 0].exp()
    rank = 1 + (logits > right).sum(1)
    return p.cpu().numpy(), rank.cpu().numpy(), logits.argmax(1).cpu().numpy()


@contextmanager
def acting_on(
    model: LanguageModel, at: torch.Tensor, acting: Sequence[Intervention | None]
) -> Iterator[None]:
    """Inside, each row of a batch whose blanks are at ``at`` (row,) runs under its own intervention."""
    scalings = [(row, act) for row, act in enumerate(acting) if isinstance(act, Scaling)]
    with ExitStack() as stack:
        if scalings:
            stack.enter_context(replace_at(model, _factors(model, scalings), at))
        if any(isinstance(act, SlotChange) for act in acting):
            changes = [act if isinstance(act, SlotChange) else None for act in acting]
            stack.enter_context(slots_changed(model, changes))
        yield


def _factors(model: LanguageModel, scalings: list[tuple[int, Scaling]]) -> dict:
    """Layer -> what multiplies each row's own neurons in it."""
    for _, act in scalings:
        check_neurons(model, act.neurons)
    row = np.repeat([row for row, _ in scalings], [len(act.neurons) for _, act in scalings])
    pairs = np.concatenate([act.neurons for _, act in scalings])
    factor = np.repeat([act.factor for _, act in scalings], [len(act.neurons) for _, act in scalings])

    def scaled(layer: int) -> object:
        here = pairs[:, 0] == layer
        rows, columns = (torch.as_tensor(x[here], device=model.device) for x in (row, pairs[:, 1]))
        factors = torch.as_tensor(factor[here], dtype=model.dtype, device=model.device)

        def replace(values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            values[rows, columns] *= factors
            return values

        return replace

    return {int(layer): scaled(layer) for layer in np.unique(pairs[:, 0])}
