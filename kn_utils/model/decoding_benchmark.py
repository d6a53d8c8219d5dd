"""How long decoding takes, and how much longer a plain port of the original loop.

``python -m kn_utils.model.decoding_benchmark`` prints seconds per 1,000 prompts and the ratio, per setting.
The port takes one prompt and one number of blanks at a time, one forward pass per step, the output head over
every token; both give the same answers, which is checked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import pandas as pd
import torch

from ..base import StudyError
from ..data.prompts import draw, make_prompts
from .decoding import decode, frames_of
from .language_model import LanguageModel
from .measuring import SHAPES, model_to_measure, peak
from .slots import banned_pieces

SETTINGS = (
    ("independent", "none"),
    ("order", "none"),
    ("confidence", "none"),
    ("independent", "order"),
    ("confidence", "confidence"),
)


class BenchmarkError(StudyError):
    """The port and ours do not agree: then a ratio says nothing."""


def seconds(
    model: LanguageModel,
    prompts: pd.DataFrame,
    settings: Sequence[tuple[str, str]] = SETTINGS,
    *,
    masks: int = 5,
) -> pd.DataFrame:
    """Time both.

    Returns:
        ``init, refine, prompts, ours, port, ratio``: seconds per 1,000 prompts.

    Raises:
        BenchmarkError: they do not write the same.
    """
    decode(model, prompts.head(2), masks=masks, progress=False)  # whatever is made at first use
    rows = []
    for init, refine in settings:
        start = time.perf_counter()
        ours = decode(model, prompts, masks=masks, init=init, refine=refine, progress=False)
        between = time.perf_counter()
        port = plain_port(model, prompts, init, refine, masks)
        end = time.perf_counter()
        if ours["ids"].tolist() != port:
            raise BenchmarkError(f"{init}, {refine}: the port of the original loop writes something else.")
        each = 1000 / len(prompts)
        times = {"ours": each * (between - start), "port": each * (end - between)}
        row = {"init": init, "refine": refine, "prompts": len(prompts), **times}
        rows.append({**row, "ratio": times["port"] / times["ours"]})
    return pd.DataFrame(rows)


def plain_port(
    model: LanguageModel, prompts: pd.DataFrame, init: str, refine: str, masks: int
) -> list[list[int]]:
    """The ids that the original's loop writes, for ``refine`` none, order or confidence."""
    banned = banned_pieces(model)
    return [
        _one(model, list(frame.ids), frame.slots, init, refine, banned)
        for frame in frames_of(model, prompts, masks, [None] * len(prompts))
    ]


@torch.no_grad()
def _one(
    model: LanguageModel, ids: list[int], slots: tuple[int, ...], init: str, refine: str, banned: torch.Tensor
) -> list[int]:
    """One prompt with one number of blanks."""
    mask, sure = model.tokenizer.mask_token_id, dict.fromkeys(slots, 0.0)

    def look() -> torch.Tensor:
        logits = model.model(input_ids=torch.tensor([ids], device=model.device)).logits[0].double()
        logp = logits.log_softmax(-1)
        logp[:, banned] = -torch.inf
        return logp

    def fill(logp: torch.Tensor, place: int) -> None:
        ids[place] = int(logp[place].argmax())
        sure[place] = float(logp[place].max())

    while still := [place for place in slots if ids[place] == mask]:
        logp = look()
        if init == "confidence":
            still = [max(still, key=lambda place: float(logp[place].max()))]
        for place in still if init == "independent" else still[:1]:
            fill(logp, place)
    calm = 0
    for turn in range(0 if refine == "none" or len(slots) == 1 else 2 * len(slots)):
        place = slots[turn % len(slots)] if refine == "order" else min(slots, key=lambda k: sure[k])
        old, ids[place] = ids[place], mask
        fill(look(), place)
        calm = calm + 1 if ids[place] == old else 0
        if calm == (len(slots) if refine == "order" else 1):
            break
    return [ids[place] for place in slots]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m kn_utils.model.decoding_benchmark", description="How long decoding takes."
    )
    parser.add_argument("--model", default="mini", help=f"{', '.join(SHAPES)}, a folder or a Hub id")
    parser.add_argument("--tokenizer", help="a folder; of a model with random weights (default: mini's)")
    parser.add_argument("--dataset", default="mini")
    parser.add_argument("--language", default="en")
    parser.add_argument("--prompts", type=int, default=60, help="drawn evenly from the relations")
    parser.add_argument("--masks", type=int, default=5)
    asked = parser.parse_args(arguments)
    from ..data.sources import load_facts  # needs libraries that the rest of the room does without

    start = time.perf_counter()
    every = make_prompts(load_facts(asked.dataset), asked.language)
    took = time.perf_counter() - start
    print(f"{asked.dataset}, {asked.language}: {len(every):,} prompts made in {took:.1f} s")
    prompts = one_by_relation(every).head(asked.prompts)
    model = model_to_measure(asked.model, tokenizer=asked.tokenizer)
    print(f"{model}, {len(prompts)} prompts, {torch.get_num_threads()} threads; seconds per 1,000 prompts")
    with peak(model.device) as most:
        table = seconds(model, prompts, masks=asked.masks)
    print(table.round(1).to_string(index=False))
    print("" if most[0] is None else f"most memory beyond the model's: {most[0]:,.0f} MiB")


def one_by_relation(prompts: pd.DataFrame) -> pd.DataFrame:
    """One wording of each fact, the first facts of all relations first, then their second ones."""
    drawn = draw(prompts)
    place = drawn.groupby("relation").cumcount()
    return drawn.iloc[place.argsort(kind="stable")].reset_index(drop=True)


if __name__ == "__main__":
    main()
