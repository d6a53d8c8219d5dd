"""What removing neurons really does, and how well each rule's scores tell it.

A neuron's score is meant to say how much of P(answer) is its own. Silence it at the blank, alone, and P falls
by an exact amount, without any path or integral. Of a prompt, hundreds of neurons are removed one by one, in
the kernel's way: behind its layer a neuron's removal is one copy of the blank's token. The rules are judged
by that: is the order the same, are the strongest found, is the score the amount; and what happens when the
strongest are removed together.

An answer of several pieces is judged by the mean of P over its pieces, as its scores are means. Where P is
above :data:`SURE` it hardly moves whatever one removes, and its gradient vanishes: there scores and removals
are those of the log-odds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from ..base import QUIET
from ..model.acting import Scaling
from ..model.answers import PATIENCE, answers, questions_of
from ..model.language_model import LanguageModel
from ..model.memory import in_parts, rows_at_once
from ..model.rows import Row
from .attribute import attribution_map
from .error_control import TOLERANCE
from .kernel import values_at
from .precision import computing_in, rounds_products
from .prefixes import entered
from .reading import exact_type
from .targets import Target
from .walk import Walk, everywhere

#: Prompts whose answer is more probable are judged by their log-odds.
SURE = 0.95
#: So many neurons, those whose removal costs most, should be found; and their amounts are compared.
TOP = 30


def usual_rules(model: LanguageModel) -> dict[str, dict[str, Any]]:
    """Rules by name, as ``attribute`` takes them: the papers', the cheapest, and those of a known error."""
    rules: dict[str, dict[str, Any]] = {
        "gradient": {"rule": "gradient"},
        "right, 20": {"rule": "right", "steps": 20},
        "left, 20": {"rule": "left", "steps": 20},
        "midpoint, 20": {"rule": "midpoint", "steps": 20},
        "gauss-legendre, 4": {"rule": "gauss-legendre", "steps": 4},
    }
    if model.norms_output:
        return rules | {"held norm": {"norm": "held"}}
    return rules if rounds_products(model) else rules | {"tolerance": {"tolerance": TOLERANCE}}


class Removals(Walk):
    """A walk whose copies lack one neuron each.

    Args:
        plan: layer -> base row and neuron of every copy, both (copy,).
        dtype: what values are kept in.
    """

    def __init__(self, plan: dict[int, tuple[torch.Tensor, torch.Tensor]], dtype: torch.dtype) -> None:
        super().__init__(plan, None)
        self.dtype = dtype

    def leaf(self, layer: int) -> torch.Tensor:
        """How far the copies' neurons are from their values: one of each is at nothing."""
        rows, neurons = self.plan[layer]
        leaf = torch.zeros(len(rows), self.values[layer].shape[1], dtype=self.dtype, device=rows.device)
        leaf[torch.arange(len(rows), device=rows.device), neurons] = -self.values[layer][rows, neurons]
        return leaf


def removed(
    model: LanguageModel,
    rows: list[Row],
    neurons: np.ndarray,
    *,
    odds: bool = False,
    batch_size: int | None = None,
) -> np.ndarray:
    """By how much the removal of each neuron, alone, lowers the mean of P over the rows: (n,).

    Args:
        model: whose.
        rows: of one prompt, one per piece of its answer.
        neurons: layer and neuron, (n, 2).
        odds: of the log-odds instead of P.
        batch_size: neurons per pass.
    """
    order = np.lexsort((neurons[:, 1], neurons[:, 0]))
    target, exact = Target(model, rows, "log-odds" if odds else "probability"), exact_type(model)
    each = torch.arange(len(rows), device=model.device)

    def lost_without(some: Sequence[np.ndarray]) -> np.ndarray:
        pairs, plan = np.stack(some), {}
        for layer in np.unique(pairs[:, 0]):
            here = torch.as_tensor(pairs[pairs[:, 0] == layer, 1], device=model.device)
            plan[int(layer)] = (each.repeat(len(here)), here.repeat_interleave(len(rows)))
        with computing_in(model), target.installed():
            found = values_at(entered(model, rows), Removals(plan, exact), target).double().cpu()
        return (found[: len(rows)] - found[len(rows) :].view(-1, len(rows))).mean(1).numpy()

    at_once = batch_size or 4 * rows_at_once(model)
    lost = np.empty(len(neurons))
    lost[order] = np.concatenate([some for _, some in in_parts(lost_without, list(neurons[order]), at_once)])
    return lost


def removed_together(
    model: LanguageModel, rows: list[Row], sets: Sequence[np.ndarray], *, odds: bool = False
) -> np.ndarray:
    """By how much the removal of each set of neurons, (n, 2), lowers the mean of P over the rows: (set,)."""
    acting = [None, *(Scaling(pairs, 0.0) for pairs in sets)]
    questions = [[row] for _ in acting for row in rows]
    found = answers(model, questions, [act for act in acting for _ in rows], progress=False)["p"].to_numpy()
    values = np.log(found) - np.log1p(-found) if odds else found
    means = values.reshape(len(acting), len(rows)).mean(1)
    return means[0] - means[1:]


def judged_by_removal(
    model: LanguageModel,
    prompts: pd.DataFrame,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    strongest: int = 200,
    random: int = 300,
    sizes: Sequence[int] = (2, 3, 5, 10),
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How well rules' scores tell what the removal of neurons does.

    Of each prompt these single neurons are removed: the union of every rule's strongest, by size, and some at
    random.

    Args:
        model: which to judge them in.
        prompts: :func:`kn_utils.make_prompts`; each costs about a thousand short forward passes.
        rules: name -> arguments of :func:`kn_utils.attribution_map`; ``None``: :func:`usual_rules`.
        strongest: neurons of each rule.
        random: neurons at random.
        sizes: of the sets of each rule's strongest that are removed together.
        seed: of the random neurons.
        progress: whether a bar is shown.

    Returns:
        ``prompt, probability, target, rule, measure, value``; the target is ``answer`` or, where P is above
        :data:`SURE`, ``log-odds``. Measures: ``rank`` correlation (Spearman's) of scores and losses;
        ``found``, the share of the :data:`TOP` neurons of greatest loss among as many of greatest score;
        ``error``, the mean difference of score and loss, ``error of the top``, that of the neurons of
        greatest loss, and ``error of sets``, that of a set's summed scores and its loss, the mean over sizes
        (all over P; of log-odds as they are); ``loss of 5``, what the removal of the five strongest takes (of
        P, or log-odds).

    Example:
        >>> from kn_utils import load_facts, load_model, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en").head(1)
        >>> rules = {"gradient": {"rule": "gradient"}}
        >>> table = judged_by_removal(load_model("mini"), prompts, rules, strongest=40, random=20)
        >>> bool(table.set_index("measure").loc["rank", "value"] > 0.8)
        True
    """
    rules = usual_rules(model) if rules is None else rules
    lines: list[dict[str, Any]] = []
    questions = questions_of(model, prompts)
    bar = partial(tqdm, desc="remove", unit="prompt", delay=PATIENCE, disable=not progress or QUIET)
    for number, rows in enumerate(bar(questions)):
        p = float(answers(model, [[row] for row in rows], progress=False)["p"].mean())
        odds = p > SURE
        prompt, target, unit = prompts.iloc[[number]], "log-odds" if odds else "answer", 1.0 if odds else p
        maps = {
            rule: attribution_map(model, prompt, target=target, **options)[0].double().numpy()
            for rule, options in rules.items()
        }
        name = prompt["prompt"].item()
        draw = np.random.default_rng([seed, *name.encode()])  # whatever the other prompts are
        drawn = draw.choice(model.n_layers * model.n_neurons, random, replace=False)
        chosen = [_strongest(np.abs(scores), strongest) for scores in maps.values()]
        neurons = np.unique(np.concatenate([*chosen, _pairs(drawn, model.n_neurons)]), axis=0)
        lost = removed(model, rows, neurons, odds=odds)
        sets = {rule: [_strongest(scores, size) for size in sizes] for rule, scores in maps.items()}
        together = removed_together(model, rows, [one for own in sets.values() for one in own], odds=odds)
        for (rule, scores), own in zip(maps.items(), together.reshape(len(maps), -1), strict=True):
            told = np.array([scores[tuple(one.T)].sum() for one in sets[rule]])
            measures = _agreement(scores[tuple(neurons.T)], lost, unit)
            measures["error of sets"] = float(np.abs(told - own).mean() / unit)
            if 5 in sizes:
                measures["loss of 5"] = float(own[list(sizes).index(5)] / unit)
            note = {"prompt": name, "probability": p, "target": target, "rule": rule}
            lines += [{**note, "measure": measure, "value": value} for measure, value in measures.items()]
    columns = ["prompt", "probability", "target", "rule", "measure", "value"]
    return pd.DataFrame(lines, columns=columns)


def _agreement(scores: np.ndarray, lost: np.ndarray, unit: float) -> dict[str, float]:
    """Scores and losses of the same neurons, (n,)."""
    greatest, told = (set(np.argsort(-values, kind="stable")[:TOP]) for values in (lost, scores))
    top = sorted(greatest)
    return {
        "rank": float(stats.spearmanr(scores, lost).statistic),
        "found": len(greatest & told) / len(greatest),
        "error": float(np.abs(scores - lost).mean() / unit),
        "error of the top": float(np.abs(scores[top] - lost[top]).mean() / unit),
    }


def _strongest(scores: np.ndarray, number: int) -> np.ndarray:
    """Layer and neuron of the greatest values of a map, (number, 2)."""
    return _pairs(np.argsort(-scores, axis=None, kind="stable")[:number], scores.shape[1])


def _pairs(flat: np.ndarray, width: int) -> np.ndarray:
    return np.stack(np.divmod(flat, width), 1)


def paths(
    model: LanguageModel, prompt: pd.DataFrame, *, points: int = 41, held: bool = False
) -> pd.DataFrame:
    """P(answer) along each layer's path from nothing to the neurons' values.

    Args:
        model: whose.
        prompt: a table of one row; of an answer of several pieces the first is asked for.
        points: places on the path.
        held: the norm of a feed-forward output keeps its scale.

    Returns:
        ``layer, a, p``.
    """
    row = questions_of(model, prompt)[0][0]
    target, exact = Target(model, [row]), exact_type(model)
    places = torch.linspace(0, 1, points, dtype=exact, device=model.device)
    tables = []
    for layer in range(model.n_layers):
        walk = Walk(everywhere(places, 1, [layer]), None, held)
        with computing_in(model), target.installed():
            p = values_at(entered(model, [row]), walk, target)[1:]
        tables.append(pd.DataFrame({"layer": layer, "a": places.cpu(), "p": p.cpu()}))
    return pd.concat(tables, ignore_index=True)


def kinds_of_paths(table: pd.DataFrame) -> dict[str, int]:
    """Of :func:`paths` the layers to show.

    Of the half on which P moves most, the ``smoothest``, whose largest step between neighbours is the
    smallest part of P's way, and the ``steepest``, whose is the largest; and the ``flattest``, on which P
    moves least.
    """
    wide = table.pivot(index="layer", columns="a", values="p")
    p, layers = wide.to_numpy(float), wide.index.to_numpy()
    way = p.max(1) - p.min(1)
    step = np.abs(np.diff(p, axis=1)).max(1) / np.where(way > 0, way, np.inf)
    order = np.argsort(way, kind="stable")
    moving = order[len(order) // 2 :]
    places = {"smoothest": moving[step[moving].argmin()], "steepest": moving[step[moving].argmax()]}
    return {kind: int(layers[place]) for kind, place in (places | {"flattest": order[0]}).items()}
