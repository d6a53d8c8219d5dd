"""Answers of several words: what a model writes where it is not told how long the answer is.

A masked model fills 1, 2, ... blanks, each number by itself, and one number is chosen (X-FACTR: Jiang et al.
2020). Blanks are first filled (``init``) ...

    independent   all at once
    order         from left to right, each given those before
    confidence    the surest first, each given those that stand

... and then perhaps again (``refine``), each given all others: ``order`` goes round until a whole round
changes nothing; ``confidence`` takes the least sure blank until it stays as it is; ``mask-predict`` opens the
n-1, then n-2, ... least sure ones at once. A left-to-right model goes on with the text until the answer ends.

Where the released program does something else than is done here, it can be asked for by name (``original``):

    stale           a blank that is filled again with the same piece keeps its old log-probability
    rank-beam       the b-th hypothesis of blanks filled together takes every blank's b-th piece, instead of
                    the b best combinations
    shared-rounds   ``rounds`` counts all passes of a prompt, those of ``init`` too (2 M of them by default)

and ``ban=False`` lets the mask, unknown and special tokens be answers. Three things have no name, because
they belong to no method: that all prompts of a batch go on until the slowest one has settled, random numbers
that break ties, and that where all blanks are certain the start of the text is opened in place of one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
from tqdm.auto import tqdm

from ..base import QUIET, StudyError
from ..data.facts import OBJECT, SUBJECT, DataError
from .acting import Intervention
from .answers import PATIENCE
from .decoding_causal import go_on
from .decoding_choice import CHOICES
from .decoding_choice import choose as choose_among
from .decoding_masked import Frame, Search, Way
from .language_model import LanguageModel
from .rows import encode

INIT = ("independent", "order", "confidence")
REFINE = ("none", "order", "confidence", "mask-predict")
ORIGINAL = ("stale", "rank-beam", "shared-rounds")
ABOUT = ["prompt", "fact", "relation", "language"]
COLUMNS = {
    "masks": int,
    "text": "str",
    "ids": object,
    "mean_logp": float,
    "sum_logp": float,
    "pll": float,
    "rounds": int,
    "settled": bool,
    "end": "str",
    "gold_pieces": "Int64",
}


class DecodingError(StudyError):
    """Decoding that cannot be had as asked."""


def decode(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    masks: int = 5,
    init: str = "confidence",
    refine: str = "none",
    rounds: int | None = None,
    beam: int = 1,
    choose: str = "mean",
    rescore: bool = False,
    ban: bool = True,
    original: Collection[str] = (),
    acting: Sequence[Intervention | None] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What a model writes in the blank, however many pieces it takes.

    Args:
        model: which to ask. Of a left-to-right model only ``masks``, ``beam``, ``choose`` (``mean`` or
            ``sum``, within a beam), ``ban`` and ``acting`` are used.
        prompts: :func:`kn_utils.make_prompts`; their answers serve for ``gold_pieces`` alone, and for the
            choices that say so.
        masks: the largest number of pieces; X-FACTR took 5 for en, fr, nl and es, 10 for others.
        init, refine: how blanks are filled, see above.
        rounds: of refinement at most; ``None``: twice the number of blanks. Those that have not come to rest
            by then, such as cycles, are not ``settled``.
        beam: hypotheses per prompt and number of blanks.
        choose: the number of blanks (:mod:`kn_utils.model.decoding_choice`).
        rescore: after every step take each blank's log-probability given all others.
        ban: whether the mask, unknown, special and unused tokens are kept out.
        original: what shall be as in the released program, see above.
        acting: per prompt what acts on the model (:class:`kn_utils.model.acting.Scaling` at every blank that
            is read). Inside ``suppress`` and ``amplify`` it is the first open blank alone.
        batch_size: texts per pass; ``None`` suits the device.
        progress: whether a bar shows after some seconds.

    Returns:
        ``prompt, fact, relation, language, masks, text, ids, mean_logp, sum_logp, pll, rounds, settled, end,
        gold_pieces, chosen``: of a masked model a row per prompt and number of blanks (``masks``), one of
        which is ``chosen``; of a left-to-right model a row per prompt. ``mean_logp, sum_logp``: of the
        blanks' log-probabilities, each when it was filled; ``pll``: the mean of those given all others
        (missing unless ``choose="pll"`` or ``rescore``); ``rounds``: passes; ``end``: what ended the answer
        (``blanks``; ``text, line, sentence, limit``); ``gold_pieces``: those of the right answer, missing
        where the tokenizer cannot write it. Numbers of blanks with which a text is too long for the model
        are left out.

    Raises:
        DecodingError: a setting that is not known.
        DataError: a prompt that cannot be asked.

    Example:
        >>> from kn_utils import decode, load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en", wordings=1).head(2)
        >>> decoded = decode(load_model("mini"), prompts, masks=2)
        >>> decoded[["masks", "text", "chosen"]].values.tolist()[0]
        [1, 'Berlin', True]
    """
    way = Way(init, refine, rounds, beam, rescore, ban, frozenset(original))
    _check(way, masks, choose, model)
    if acting is not None and len(acting) != len(prompts):
        raise DecodingError(f"{len(acting)} interventions for {len(prompts)} prompts; each needs one.")
    act = list(acting) if acting is not None else [None] * len(prompts)
    gold = [_gold(model, prompts.iloc[[i]]) for i in range(len(prompts))]
    if model.causal:
        table = _causal(model, prompts, way, masks, act, choose, batch_size)
    else:
        table = _masked(model, prompts, way, masks, act, choose == "pll", batch_size, progress)
    number = table.pop("number").to_numpy(int)
    table["gold_pieces"] = pd.array([gold[i] for i in number], "Int64")
    about = prompts[ABOUT].iloc[number].reset_index(drop=True)
    table = about.join(table.astype(COLUMNS)[list(COLUMNS)])
    return table.assign(chosen=True) if model.causal else choose_among(table, choose)


def _check(way: Way, masks: int, choose: str, model: LanguageModel) -> None:
    named = (
        ("init", [way.init], INIT),
        ("refine", [way.refine], REFINE),
        ("choose", [choose], ("mean", "sum") if model.causal else CHOICES),
        ("original", sorted(way.original), ORIGINAL),
    )
    for what, asked, known in named:
        for name in asked:
            if name not in known:
                raise DecodingError(f"{what}={name!r}; known: {', '.join(known)}.")
    for what, number in (("masks", masks), ("beam", way.beam), ("rounds", way.rounds)):
        if number is not None and number < (0 if what == "rounds" else 1):
            raise DecodingError(f"{what}={number}; at least {0 if what == 'rounds' else 1}.")


def _gold(model: LanguageModel, prompt: pd.DataFrame) -> int | None:
    """How many pieces the right answer has; ``None`` where the tokenizer cannot write it."""
    try:
        return len(encode(model.tokenizer, prompt, causal=model.causal))
    except DataError as error:
        if "cannot write the answer" not in str(error):
            raise
        return None


def answer_lengths(model: LanguageModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """How many pieces the right answers have.

    Returns:
        ``fact, relation, language, gold_pieces``, of each fact and language its first prompt's.
    """
    first = prompts.drop_duplicates(["fact", "language"])
    pieces = [_gold(model, first.iloc[[i]]) for i in range(len(first))]
    table = first[["fact", "relation", "language"]].reset_index(drop=True)
    return table.assign(gold_pieces=pd.array(pieces, "Int64"))


def frames_of(
    model: LanguageModel, prompts: pd.DataFrame, masks: int, acting: Sequence[Intervention | None]
) -> list[Frame]:
    """Every prompt with 1, 2, ... blanks, as far as the model takes texts of that length.

    Raises:
        DataError: a prompt without its blank, with a mask of its own, or too long with one blank.
    """
    tokenizer, frames = model.tokenizer, []
    asked = prompts[["prompt", "text", "masked"]].itertuples(index=False)
    for number, (name, text, masked) in enumerate(asked):
        blank = OBJECT if masked == "object" else SUBJECT
        if text.count(blank) != 1:
            raise DataError(f"prompt {name}: {text!r} should hold its blank {blank} once.")
        for n in range(1, masks + 1):
            ids = tokenizer(text.replace(blank, tokenizer.mask_token * n))["input_ids"]
            slots = tuple(i for i, token in enumerate(ids) if token == tokenizer.mask_token_id)
            if len(slots) != n:
                raise DataError(f"prompt {name}: {text!r} holds a mask token of its own.")
            if model.max_length is not None and len(ids) > model.max_length:
                if n == 1:
                    raise DataError(
                        f"prompt {name} has {len(ids)} tokens; the model takes {model.max_length}."
                    )
                break
            frames.append(Frame(number, ids, slots, acting[number]))
    return frames


def _masked(
    model: LanguageModel,
    prompts: pd.DataFrame,
    way: Way,
    masks: int,
    acting: Sequence[Intervention | None],
    pll: bool,
    batch_size: int | None,
    progress: bool,
) -> pd.DataFrame:
    frames = frames_of(model, prompts, masks, acting)
    if not frames:
        return pd.DataFrame(columns=["number", *COLUMNS])
    hidden = not progress or QUIET
    with tqdm(total=len(frames), desc="decode", unit="text", delay=PATIENCE, disable=hidden) as bar:
        filled = Search(model, frames, way, batch_size=batch_size, done=bar.update).run(pll or way.rescore)
    n = [len(frame.slots) for frame in frames]
    ids = [filled.tokens[i, : n[i]].tolist() for i in range(len(frames))]
    total = filled.logp.sum(1)
    return pd.DataFrame(
        {
            "number": [frame.prompt for frame in frames],
            "masks": n,
            "text": [model.tokenizer.decode(own).strip() for own in ids],
            "ids": ids,
            "mean_logp": total / n,
            "sum_logp": total,
            "pll": filled.pll,
            "rounds": filled.rounds,
            "settled": filled.settled,
            "end": "blanks",
            "gold_pieces": pd.NA,
        }
    )


def _causal(
    model: LanguageModel,
    prompts: pd.DataFrame,
    way: Way,
    most: int,
    acting: Sequence[Intervention | None],
    by: str,
    batch_size: int | None,
) -> pd.DataFrame:
    starts: dict[int, list[int]] = {}
    for row in model.encode(prompts, "allow"):
        starts.setdefault(row.prompt, row.ids)
    frames = [Frame(number, starts[number], (), acting[number]) for number in range(len(prompts))]
    written = go_on(model, frames, way, most, by=by, batch_size=batch_size)
    best = written.best
    return pd.DataFrame(
        {
            "number": range(len(frames)),
            "masks": [len(one.pieces) for one in best],
            "text": [one.text.strip() for one in best],
            "ids": [list(one.pieces) for one in best],
            "mean_logp": [sum(one.logp) / max(len(one.logp), 1) for one in best],
            "sum_logp": [sum(one.logp) for one in best],
            "pll": float("nan"),
            "rounds": written.rounds,
            "settled": [one.end != "limit" for one in best],
            "end": [one.end for one in best],
            "gold_pieces": pd.NA,
        }
    )
