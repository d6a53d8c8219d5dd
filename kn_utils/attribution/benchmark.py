"""The kernel beside the published procedure: same model, prompts and device, in one run.

``python -m kn_utils.attribution.benchmark`` measures it.

The published procedure is written plainly: for every layer a forward pass of ``steps`` copies of the text
over all its tokens, and the gradient back to that layer. Methods take turns, so that a machine that slows
down slows all of them; ratios are those of medians over rounds. A large matrix product, timed in every round,
says how fast the machine could be.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..base import DATA, ROOT
from ..data.facts import OBJECT, Facts, read_table
from ..data.prompts import make_prompts
from ..model.language_model import LanguageModel
from ..model.measuring import SHAPES, model_to_measure, peak, timed
from ..store.code import code_version
from ..store.files import save_json
from ..store.origin import git_commit
from .batching import Batch
from .judging import agreement
from .published_procedure import published
from .settings import ScoreSettings
from .streaming import score_batch

PARAREL = 253_448  # prompts of PARAREL_en


def kernel(model: LanguageModel, batches: list[Batch], settings: ScoreSettings) -> list[torch.Tensor]:
    """Scores (layer, neuron) per prompt by the kernel, in the order of the prompts."""
    room = settings.scorer(model)
    found: dict[int, torch.Tensor] = {}
    for batch in batches:
        found |= dict(zip(batch.prompts, score_batch(room, batch).scores, strict=True))
    return [found[number] for number in sorted(found)]


def compare(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    rounds: int = 3,
    padded: bool = False,
    precisions: tuple[str, ...] = (),
    exact: int = 3,
    say: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every method on the same prompts (answers of one piece).

    Returns:
        a table with a row per method (``seconds`` per prompt, ``ratio`` to the published procedure,
        ``memory`` in MiB, ``error``: largest difference from the exact integral over its largest score,
        ``jaccard`` of the sets at or above 0.2 of the maximum, both means over ``exact`` prompts, ``gflop``
        per prompt, ``share`` of the machine's matrix-product rate), and what else was measured.
    """
    rows = model.encode(prompts)
    papers, ours = ScoreSettings(rule="right", steps=20, gap=False), ScoreSettings(gap=False)
    plain = {
        "published": lambda: [published(model, row, "right", 20) for row in rows],
        "published, head at the blank": lambda: [
            published(model, row, "right", 20, head="blank") for row in rows
        ],
    }
    fast: dict[str, Callable[[], list[torch.Tensor]]] = {}
    named = {"kernel, papers' rule": papers, "kernel, default": ours}
    named |= {"kernel, default, with its gap": replace(ours, gap=True)}
    named |= {f"kernel, default, {precision}": replace(ours, precision=precision) for precision in precisions}
    for name, settings in named.items():
        cut = list(settings.batches(model, prompts))
        fast[name] = partial(kernel, model, cut, settings)
    methods = plain | fast
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    shares: dict[str, list[float]] = {name: [] for name in fast}
    rates: list[float] = []
    memory, flops, scores = {}, {}, {}
    for name, method in methods.items():  # not timed: it also warms up
        with peak(model.device) as most:
            scores[name] = [one.cpu() for one in method()]
        memory[name] = most[0]
    for name, method in fast.items():
        with FlopCounterMode(display=False) as counter:
            method()
        flops[name] = counter.get_total_flops() / len(rows)
    for number in range(rounds):
        for name, method in methods.items():
            before = product_rate(model)
            took = timed(method, model.device) / len(rows)
            rate = (before + product_rate(model)) / 2
            seconds[name].append(took)
            rates.append(rate)
            if name in shares:
                shares[name].append(flops[name] / took / rate)
            say(f"round {number + 1}: {name}: {took:.3g} s per prompt")
    if padded:
        name = "published, head at the blank, padded to 128"
        seconds[name] = [
            timed(lambda: published(model, rows[0], "right", 20, head="blank", padded=128), model.device)
        ]
        say(f"{name}: {seconds[name][0]:.3g} s for one prompt")
    truth = exact_scores(model, prompts.iloc[:exact])
    base = np.median(seconds["published"])
    table = pd.DataFrame(
        [
            {
                "method": name,
                "seconds": np.median(times),
                "ratio": base / np.median(times),
                "memory": memory.get(name),
                **(_means(scores[name][:exact], truth) if name in scores else {}),
                "gflop": flops.get(name, np.nan) / 1e9,
                "share": np.median(shares[name]) if name in shares else np.nan,
            }
            for name, times in seconds.items()
        ]
    )
    default = table.loc[table["method"] == "kernel, default", "seconds"].item()
    return table, {
        "lengths": [len(row.ids) for row in rows],
        "product_gflop_per_s": float(np.median(rates) / 1e9),
        "rounds": rounds,
        "exact_prompts": exact,
        "pararel_hours": default * PARAREL / 3600,
    }


def exact_scores(model: LanguageModel, prompts: pd.DataFrame, points: int = 32) -> list[torch.Tensor]:
    """The integral by a fine Gauss-Legendre rule in float64, on the CPU."""
    whole = LanguageModel(copy.deepcopy(model.model).cpu().double(), model.tokenizer)
    settings = ScoreSettings(steps=points, gap=False, batch_size=1)
    return kernel(whole, list(settings.batches(whole, prompts)), settings)


def _means(found: list[torch.Tensor], truth: list[torch.Tensor]) -> dict[str, float]:
    both = agreement(torch.stack(found).double(), torch.stack(truth))
    return {name: values.double().mean().item() for name, values in both.items()}


def product_rate(model: LanguageModel, rows: int = 3000) -> float:
    """Operations per second of a product of (rows, hidden) and (hidden, neurons): the best of three."""
    hidden = model.embeddings.shape[1]
    a = torch.randn(rows, hidden, device=model.device, dtype=model.dtype)
    b = torch.randn(hidden, model.n_neurons, device=model.device, dtype=model.dtype)
    return 2 * rows * hidden * model.n_neurons / min(timed(lambda: a @ b, model.device) for _ in range(3))


def bundled_facts() -> Facts:
    """Those of ``mini``, read without the libraries that other data sets need: a lent machine lacks them."""
    names = ("entities", "facts", "templates")
    return Facts("mini", **{name: read_table(DATA / "mini" / f"{name}.csv", name) for name in names})


def sample_prompts(model: LanguageModel, count: int) -> pd.DataFrame:
    """Prompts of the bundled wordings in all languages, of all lengths; answers of one piece."""
    prompts = make_prompts(bundled_facts(), "all").sample(frac=1, random_state=0)
    prompts = prompts[~prompts["text"].str.startswith(OBJECT)].head(
        40 * count
    )  # a left-to-right model needs a prefix
    pieces = pd.Series([row.prompt for row in model.encode(prompts)]).value_counts()
    prompts = prompts.iloc[sorted(pieces.index[pieces == 1])].reset_index(drop=True)
    size = [len(row.ids) for row in model.encode(prompts)]
    spread = np.argsort(size, kind="stable")[
        np.linspace(0, len(size) - 1, count + 2).round().astype(int)[1:-1]
    ]
    return prompts.iloc[spread].reset_index(drop=True)


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """The command: measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m kn_utils.attribution.benchmark", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--model", default="random-small", help=f"{', '.join(SHAPES)}, mini, a folder or a Hub id"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", type=int, default=3, help="prompts compared with the exact integral")
    parser.add_argument(
        "--precision", action="append", default=[], help="bfloat16 or tf32, beside float32; may be repeated"
    )
    parser.add_argument(
        "--padded", action="store_true", help="also the original script's padding to 128, on one prompt"
    )
    parser.add_argument("--threads", type=int, help="of the processor; default: torch's")
    parser.add_argument("--out", help="write the result as JSON")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    model = model_to_measure(given.model, given.device)
    table, more = compare(
        model,
        sample_prompts(model, given.prompts),
        rounds=given.rounds,
        padded=given.padded,
        precisions=tuple(given.precision),
        exact=min(given.exact, given.prompts),
        say=lambda text: print(text, file=sys.stderr),
    )
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}", na_rep=""))
    print(f"matrix product: {more['product_gflop_per_s']:.0f} GFLOP/s")
    print(f"PARAREL's {PARAREL:,} prompts at this speed: {more['pararel_hours']:.1f} hours")
    if given.out:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        content = {
            "model": given.model,
            "rows": rows,
            **more,
            "machine": machine(model.device),
            "code": code_version(),
            "commit": git_commit(),
        }
        save_json(content, given.out)
    return table


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def measured(folder: Path = ROOT / "figures") -> pd.DataFrame:
    """The stored tables of :func:`compare` (``figures/benchmark_*.json``), with ``model`` and ``device``."""
    tables = []
    for path in sorted(folder.glob("benchmark_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        tables.append(
            pd.DataFrame(content["rows"]).assign(model=content["model"], device=content["machine"]["device"])
        )
    return pd.concat(tables, ignore_index=True)


def markdown(table: pd.DataFrame) -> str:
    """The measured table as README shows it."""
    lines = [
        "| model | method | s per prompt | times faster | error | same neurons |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        exact = ["", ""] if pd.isna(row.error) else [f"{row.error:.1e}", f"{row.jaccard:.3f}"]
        lines.append(
            f"| {' | '.join([row.model, row.method, f'{row.seconds:.3g}', f'{row.ratio:.2g}', *exact])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
