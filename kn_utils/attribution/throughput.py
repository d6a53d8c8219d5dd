"""How many prompts a second go from a table to a file of scores, and how that grows with their number.

``python -m kn_utils.attribution.throughput`` measures it. Beside the whole way (encoding, passes, what is
kept, files) stands the kernel alone: the same batches, nothing copied or written.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.facts import OBJECT
from ..data.prompts import make_prompts
from ..model.language_model import LanguageModel
from ..model.measuring import SHAPES, model_to_measure, peak, timed
from ..store.code import code_version
from ..store.files import save_json
from ..store.origin import git_commit
from .attribute import attribute
from .batching import Batch, memory_budget
from .benchmark import PARAREL, bundled_facts, machine
from .settings import ScoreSettings
from .streaming import score_batch


def measure(
    model: LanguageModel, prompts: pd.DataFrame, *, alone: bool = True, **settings: Any
) -> dict[str, Any]:
    """Time :func:`kn_utils.attribute` from a table to a file.

    Args:
        model: whose neurons.
        prompts: a table; a first call of its first ones, not measured, warms up.
        alone: also time the kernel by itself.
        settings: of the scores.

    Returns:
        ``prompts``; ``seconds``; ``per_second``; ``memory`` in MiB, the most beyond what was taken before;
        ``scores`` kept per prompt; ``kernel``, seconds of the kernel alone, and ``ratio`` of the whole to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.parquet"
        attribute(model, prompts.head(64), progress=False, out=out.with_stem("warm"), **settings)
        run = partial(attribute, model, prompts, progress=False, out=out, **settings)
        with peak(model.device) as most:
            seconds = timed(run, model.device)
        kept = len(pd.read_parquet(out, columns=["layer"]))
    row: dict[str, Any] = {"prompts": len(prompts), "seconds": seconds}
    row["per_second"] = len(prompts) / seconds
    row |= {"memory": most[0], "scores": kept / len(prompts)}
    if alone:
        row["kernel"] = timed(partial(_kernel, model, _batches(model, prompts, settings)), model.device)
        row["ratio"] = seconds / row["kernel"]
    return row


def _batches(
    model: LanguageModel, prompts: pd.DataFrame, settings: dict[str, Any]
) -> tuple[ScoreSettings, list[Batch]]:
    chosen = ScoreSettings(**settings).resolved(model)
    budget = memory_budget(model, chosen.precision)
    return chosen, list(chosen.batches(model, chosen.asked(model, prompts), budget))


def _kernel(model: LanguageModel, given: tuple[ScoreSettings, list[Batch]]) -> None:
    settings, batches = given
    room = settings.scorer(model)
    for batch in batches:
        score_batch(room, batch, check=False)


def many_prompts(model: LanguageModel, count: int, language: str = "en") -> pd.DataFrame:
    """So many prompts of the bundled wordings, the same ones again under other names where these end."""
    prompts = make_prompts(bundled_facts(), language)
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith(OBJECT)]
    prompts = prompts.sample(frac=1, random_state=0)
    table = prompts.iloc[np.arange(count) % len(prompts)].reset_index(drop=True)
    table["prompt"] = [f"{name}#{number}" for number, name in enumerate(table["prompt"])]
    return table


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """The command: measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m kn_utils.attribution.throughput", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--model", default="mini", help=f"{', '.join(SHAPES)}, a folder or a Hub id")
    add("--device", default="auto")
    add("--prompts", type=int, nargs="+", default=[1000], help="how many; several numbers show the growth")
    add("--precision", nargs="+", default=["float32"], help="float32, tf32, bfloat16")
    add("--steps", type=int, help="points of a fixed rule; default: as attribute takes them")
    add("--out", help="write the result as JSON")
    asked = parser.parse_args(arguments)
    model = model_to_measure(asked.model, asked.device)
    rows = []
    for precision in asked.precision:
        for count in asked.prompts:
            settings = {"steps": asked.steps, "precision": precision}
            row = measure(model, many_prompts(model, count), **settings)
            rows.append({"model": asked.model, "precision": precision, **row})
            print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    table["pararel_minutes"] = PARAREL / table["per_second"] / 60
    if asked.out:
        made = {"rows": table.to_dict("records"), "steps": asked.steps, "machine": machine(model.device)}
        save_json({**made, "code": code_version(), "commit": git_commit()}, asked.out)
    return table


if __name__ == "__main__":
    main()
