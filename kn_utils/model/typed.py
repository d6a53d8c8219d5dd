"""Typed answers: the right answer against the other answers of its relation, instead of the whole vocabulary.

A base language model goes on with "the" or "a"; whether it *knows* a fact shows in how it shares its
probability between the names that could stand there. The *candidates* of a prompt are the answers of its
relation in its language, for the same side of the fact, but for others that are right for the same question.
Written in pieces they are a tree: where candidates part, the model's probability is shared between the pieces
that go on to one of them,

    share(piece | before) = P(piece | before) / sum over the pieces that candidates go on with,

and a candidate's typed probability is the product of these shares along its way, so they add up to 1. Where
names share their first pieces ("tiếng Anh", "tiếng Pháp") they are told apart where they differ. Where one
name ends and another goes on ("New York", "New York City"), ending has what the other pieces leave. A masked
model is given the number of blanks, so there the candidates are those with as many pieces as the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from ..checks import ASKED, ParameterError, check_model, check_table
from .acting import Intervention
from .answers import answers, as_answered, questions_of
from .language_model import LanguageModel
from .rows import ANYTHING_ELSE, Asked, Row, Writer, asked_of

#: Columns of :func:`typed_answers` behind those of ``answer_probability``.
TYPED = ["typed_probability", "typed_rank", "typed_correct", "typed_predicted", "candidates"]


@dataclass(frozen=True)
class Branch:
    """A place where candidates part.

    Attributes:
        row: the row that asks there; its ``among`` are the ways on.
        ways: piece -> the candidates behind it.
    """

    row: Row
    ways: dict[int, list[str]]


def candidates_of(prompts: pd.DataFrame, every: pd.DataFrame | None = None) -> list[list[str]]:
    """The candidates of each prompt, its answer among them.

    Args:
        prompts: those to ask.
        every: prompts that the answers are taken from, such as those of all facts of the data set; ``None``:
            ``prompts`` alone.
    """
    pool = prompts if every is None else pd.concat([prompts, every])
    side = ["relation", "language", "masked"]
    names = pool.groupby(side)["answer"].agg(lambda answers: sorted(set(answers))).to_dict()
    right = pool.groupby("text")["answer"].agg(set).to_dict()
    return [
        [name for name in names[tuple(row[1:4])] if name == row.answer or name not in right[row.text]]
        for row in prompts[[*side, "text", "answer"]].itertuples()
    ]


def branches(writer: Writer, asked: Asked, candidates: Sequence[str]) -> list[Branch]:
    """The places where the candidates of a prompt part.

    Left out are, for a masked model, candidates with another number of pieces than the answer.
    """
    pieces = {name: writer.pieces(asked._replace(answer=name)) for name in candidates}
    if not writer.causal:
        pieces = {name: own for name, own in pieces.items() if len(own) == len(pieces[asked.answer])}
    tree: list[Branch] = []
    _part(pieces, partial(writer.rows, 0, asked), 0, tree)
    return tree


def _part(
    pieces: dict[str, list[int]], rows_of: Callable[[list[int]], list[Row]], depth: int, tree: list[Branch]
) -> None:
    """Add the branches of the candidates that are alike in their first ``depth`` pieces."""
    ways: dict[int, list[str]] = {}
    for name, own in pieces.items():
        ways.setdefault(own[depth] if depth < len(own) else ANYTHING_ELSE, []).append(name)
    if len(ways) > 1:
        row = rows_of(max(pieces.values(), key=len))[depth]
        tree.append(Branch(Row(0, row.ids, row.position, row.target, tuple(ways)), ways))
    for piece, names in ways.items():
        if piece != ANYTHING_ELSE and len(names) > 1:
            _part({name: pieces[name] for name in names}, rows_of, depth + 1, tree)


def typed_answers(
    model: LanguageModel,
    prompts: pd.DataFrame,
    candidates: Sequence[Sequence[str]] | None = None,
    acting: Sequence[Intervention | None] | None = None,
    *,
    batch_size: int | None = None,
    label: str = "ask",
    progress: bool = True,
) -> pd.DataFrame:
    """How probable each prompt's answer is, over the vocabulary and among its candidates.

    Both are read in the same passes.

    Args:
        model: which to ask.
        prompts: :func:`kn_utils.make_prompts`.
        candidates: per prompt, :func:`candidates_of`; ``None``: the answers in ``prompts``.
        acting: an intervention per prompt, see :func:`kn_utils.model.answers.answers`.
        batch_size, label, progress: as :func:`kn_utils.model.answers.answers` takes them.

    Returns:
        ``prompt, probability, rank, correct, predicted`` as :func:`kn_utils.answer_probability`, and
        ``typed_probability`` (among the candidates), ``typed_rank`` (1 = top), ``typed_correct`` (it is the
        first choice among them), ``typed_predicted`` (that choice), ``candidates`` (how many: chance is 1 /
        candidates).

    Example:
        >>> from kn_utils import load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en")
        >>> candidates = candidates_of(prompts.head(2), prompts)
        >>> table = typed_answers(load_model("mini"), prompts.head(2), candidates)
        >>> bool((table["typed_probability"] >= table["probability"]).all())
        True
    """
    check_model(model)
    check_table("prompts", prompts, f"{ASKED} relation language")  # one may be asked several times
    given = candidates_of(prompts) if candidates is None else candidates
    if len(given) != len(prompts):
        raise ParameterError(f"{len(given)} lists of candidates for {len(prompts)} prompts; each needs one.")
    for prompt, answer, names in zip(prompts["prompt"], prompts["answer"], given, strict=True):
        if answer not in names:
            raise ParameterError(f"{prompt}: its answer {answer!r} is not among its candidates.")
    trees = _trees(model, prompts, given)
    table = answers(
        model,
        questions_of(model, prompts),
        acting,
        choices=[[branch.row for branch in tree] for tree in trees],
        batch_size=batch_size,
        label=label,
        progress=progress,
    )
    rows = []
    for answer, names, tree, shares in zip(prompts["answer"], given, trees, table["shares"], strict=True):
        typed = _probabilities(names, tree, shares, answer)
        mine = typed[answer]
        first = max(typed, key=lambda name: typed[name])
        rank = 1 + sum(p > mine for p in typed.values())
        rows.append((mine, rank, first == answer, first, len(typed)))
    kinds = {"typed_probability": float, "typed_rank": int, "typed_correct": bool, "typed_predicted": "str"}
    typed_part = pd.DataFrame(rows, columns=TYPED).astype(kinds | {"candidates": int})
    return pd.concat([as_answered(model, prompts, table), typed_part], axis=1)


def typed_distribution(
    model: LanguageModel, prompt: pd.DataFrame, candidates: Sequence[str] | None = None
) -> pd.DataFrame:
    """How a model shares its probability between the candidates of one prompt.

    Args:
        model: which to ask; it may stand inside :func:`kn_utils.suppress` and its like.
        prompt: a table of one row, as :func:`kn_utils.make_prompts` gives it.
        candidates: the answer's competitors and itself; ``None``: the answer alone.

    Returns:
        ``answer, probability``, the most probable first; they add up to 1. For a masked model the candidates
        are those with as many pieces as the answer.

    Example:
        >>> from kn_utils import load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en")
        >>> names = candidates_of(prompts.head(1), prompts)[0]
        >>> table = typed_distribution(load_model("mini"), prompts.head(1), names)
        >>> round(table["probability"].sum(), 6)
        1.0
    """
    check_model(model)
    check_table("prompts", prompt, f"{ASKED} relation language")
    if len(prompt) != 1:
        raise ParameterError(f"{len(prompt)} prompts; one is asked at a time.")
    answer = prompt["answer"].iloc[0]
    names = list(candidates) if candidates is not None else [answer]
    if answer not in names:
        raise ParameterError(f"the answer {answer!r} is not among its candidates.")
    (tree,) = _trees(model, prompt, [names])
    rows = [[branch.row for branch in tree]]
    told = answers(model, questions_of(model, prompt), choices=rows, progress=False)
    typed = _probabilities(names, tree, told["shares"].iloc[0], answer)
    table = pd.DataFrame({"answer": list(typed), "probability": list(typed.values())})
    return table.sort_values("probability", ascending=False, kind="stable").reset_index(drop=True)


def _trees(
    model: LanguageModel, prompts: pd.DataFrame, candidates: Sequence[Sequence[str]]
) -> list[list[Branch]]:
    """The branches of every prompt; a question that is put several times is written in pieces once."""
    keys = list(
        zip(prompts["text"], prompts["masked"], prompts["answer"], map(tuple, candidates), strict=True)
    )
    once = {key: i for i, key in reversed(list(enumerate(keys)))}
    asked, writer = asked_of(prompts), model.writer()
    trees = {key: branches(writer, asked[i], candidates[i]) for key, i in once.items()}
    return [trees[key] for key in keys]


def _probabilities(
    names: Sequence[str], tree: list[Branch], shares: list[np.ndarray], answer: str
) -> dict[str, float]:
    """Typed probability of every candidate that takes part."""
    member = {name for branch in tree for behind in branch.ways.values() for name in behind} | {answer}
    typed = {name: 1.0 for name in names if name in member}
    for branch, share in zip(tree, shares, strict=True):
        for piece, p in zip(branch.row.among, share, strict=True):
            for name in branch.ways[piece]:
                typed[name] *= float(p)
    return typed


def typed_rows(
    model: LanguageModel, prompts: pd.DataFrame, candidates: Sequence[Sequence[str]]
) -> list[list[Row]]:
    """Per prompt the rows on its answer's way where candidates part.

    They are the target of an attribution that asks for knowledge.

    The product over these rows of P(piece) / sum over ``among`` is the typed probability; a prompt whose
    answer has no competitor has no rows.
    """
    questions, writer = [], model.writer()
    for number, (asked, names) in enumerate(zip(asked_of(prompts), candidates, strict=True)):
        rows = []
        for branch in branches(writer, asked, names):
            for piece, behind in branch.ways.items():
                if asked.answer in behind:
                    own = branch.row
                    rows.append(Row(number, own.ids, own.position, piece, own.among))
        questions.append(rows)
    return questions


def has_competitor(
    model: LanguageModel, prompts: pd.DataFrame, candidates: Sequence[Sequence[str]] | None = None
) -> pd.Series:
    """Whether a prompt's answer competes with another of its candidates, in the order of ``prompts``.

    One that does not is certain, whatever the model knows: only other candidates with other pieces compete,
    and for a masked model with as many.

    Example:
        >>> from kn_utils import load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en")
        >>> candidates = candidates_of(prompts.head(2), prompts)
        >>> has_competitor(load_model("mini"), prompts.head(2), candidates).tolist()
        [True, True]
    """
    given = candidates_of(prompts) if candidates is None else candidates
    found, writer = [], model.writer()
    for asked, names in zip(asked_of(prompts), given, strict=True):
        own = writer.pieces(asked)
        # one by one: the first that competes will do
        others = (writer.pieces(asked._replace(answer=name)) for name in names)
        found.append(any(one != own and (model.causal or len(one) == len(own)) for one in others))
    return pd.Series(found, prompts.index, dtype=bool, name="has_competitor")
