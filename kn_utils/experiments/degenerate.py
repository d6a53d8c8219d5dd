"""What pairs and sets of a fact's neurons are worth together: asked of the model, many facts to a pass.

Every set of neurons is an intervention on a question of its own, so sets of all facts share a batch.
*Located* are the neurons that other wordings of the fact have found; they are silenced in one that had no
say.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..base import StudyError
from ..checks import ASKED, check_model, check_prompts, check_table
from ..model.acting import Scaling
from ..model.answers import answers, questions_of
from ..model.language_model import LanguageModel
from ..model.typed import typed_answers
from ..neurons.choose import lent, pairs_by_fact, random_neurons
from ..neurons.degenerate import MARGIN, SLACK, Searched, Silenced, additive, search
from ..statistics.changes import log_odds

#: Who a fact's own neurons are compared with: as many of the asked wording's strongest that other wordings
#: did not find, those of a fact of the relation with another answer, and random ones of the same layers.
OWN, UNLOCATED, ANOTHER, RANDOM = "own", "as strong, not located", "another answer", "random, same layers"


class SetsError(StudyError):
    """Sets of neurons that cannot be asked about."""


def probabilities_without(
    model: LanguageModel,
    prompts: pd.DataFrame,
    places: Sequence[int],
    silenced: Sequence[np.ndarray],
    *,
    candidates: Sequence[Sequence[str]] | None = None,
    batch_size: int | None = None,
    label: str = "silence",
) -> np.ndarray:
    """P(answer) with sets of neurons silenced, each in a question of its own: (set,).

    Args:
        model: which to ask.
        prompts: the questions.
        places: which of them each set is silenced in.
        silenced: layer and neuron, (n, 2), of each set; none may be in it.
        candidates: of each prompt; then P of the answer among them.
        batch_size, label: as :func:`kn_utils.model.answers.answers` takes them.
    """
    acting = [Scaling(pairs, 0.0) if len(pairs) else None for pairs in silenced]
    asking: dict[str, Any] = {"batch_size": batch_size, "label": label}
    if candidates is not None:
        asked, among = prompts.iloc[list(places)], [candidates[i] for i in places]
        told = typed_answers(model, asked.reset_index(drop=True), among, acting, **asking)
        return told["typed_probability"].to_numpy()
    questions = questions_of(model, prompts)
    return answers(model, [questions[i] for i in places], acting, **asking)["p"].to_numpy()


def pairs_silenced(
    model: LanguageModel,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    kind: str = OWN,
    candidates: Sequence[Sequence[str]] | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Silence every pair of a fact's neurons, and each of them alone.

    Args:
        model: which to ask.
        prompts: one of each fact.
        neurons: ``fact, layer, neuron``; facts without a prompt, or with one neuron, are left out.
        kind: what the neurons are, for the table.
        candidates, batch_size: as :func:`probabilities_without` takes them.

    Returns:
        a row per pair: ``fact, relation, language, kind, a_layer, a_neuron, b_layer, b_neuron`` and P(answer)
        ``p`` with nothing silenced, ``p_a``, ``p_b`` and ``p_ab``.
    """
    sets = _asked_sets(model, prompts, neurons, least=2)
    places: list[int] = []
    silenced: list[np.ndarray] = []
    rows: list[list[Any]] = []
    for place, own in sets.items():
        both = list(combinations(range(len(own)), 2))
        named: list[tuple[int, ...]] = [(), *((i,) for i in range(len(own))), *both]
        line = {members: len(silenced) + n for n, members in enumerate(named)}
        silenced += [own[list(members)] for members in named]
        places += [place] * len(named)
        keys = prompts.iloc[place][["fact", "relation", "language"]].tolist()
        for a, b in both:
            rows.append([*keys, kind, *own[a], *own[b], line[()], line[a,], line[b,], line[a, b]])
    names = ["p", "p_a", "p_b", "p_ab"]
    columns = ["fact", "relation", "language", "kind", "a_layer", "a_neuron", "b_layer", "b_neuron", *names]
    table = pd.DataFrame(rows, columns=columns)
    if rows:
        asking: dict[str, Any] = {"candidates": candidates, "batch_size": batch_size, "label": "pairs"}
        p = probabilities_without(model, prompts, places, silenced, **asking)
        table[names] = p[table[names].to_numpy(int)]
    return table


def sets_searched(
    model: LanguageModel,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    kind: str = OWN,
    slack: float = SLACK,
    margin: float = MARGIN,
    candidates: Sequence[Sequence[str]] | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Search every fact's neurons for sets that stand in for one another, all facts side by side.

    Values are log-odds of P(answer). See :mod:`kn_utils.neurons.degenerate` for what is searched.

    Args:
        model, prompts, neurons, kind, candidates, batch_size: as :func:`pairs_silenced` takes them; a fact
            with one neuron is searched as well.
        slack, margin: as :func:`kn_utils.neurons.degenerate.search` takes them.

    Returns:
        a row per fact: ``fact, relation, language, kind, n`` (neurons), ``before`` (log-odds), ``carried``
        (by how much silencing all of them lowers it), ``summed`` (single losses added up), ``order``,
        ``size`` (of the first sufficient set), ``left`` (the share of what they carry that those outside it
        carry alone), ``redundant`` (whether two sets are), ``harmful``; and of the additive null
        ``order_additive, size_additive, left_additive, redundant_additive``. Sizes and shares are missing
        where the neurons carry nothing.
    """
    sets = _asked_sets(model, prompts, neurons, least=1)
    shares = {"slack": slack, "margin": margin}
    running = {place: search(len(own), **shares) for place, own in sets.items()}
    wanted: dict[int, list[Silenced]] = {place: next(one) for place, one in running.items()}
    known: dict[tuple[int, Silenced], float] = {}
    found: dict[int, Searched] = {}
    asking: dict[str, Any] = {"candidates": candidates, "batch_size": batch_size, "label": "sets"}
    while wanted:
        new = [(place, gone) for place, asked in wanted.items() for gone in asked]
        new = [one for one in dict.fromkeys(new) if one not in known]
        if new:
            silenced = [sets[place][sorted(gone)] for place, gone in new]
            p = probabilities_without(model, prompts, [place for place, _ in new], silenced, **asking)
            known |= dict(zip(new, log_odds(p).tolist(), strict=True))
        for place, asked in list(wanted.items()):
            try:
                wanted[place] = running[place].send([known[place, gone] for gone in asked])
            except StopIteration as end:
                found[place] = end.value
                del wanted[place]
    rows = []
    for place, one in found.items():
        keys = dict(prompts.iloc[place][["fact", "relation", "language"]])
        rows.append({**keys, "kind": kind, **_told(one), **_told_additive(additive(one, **shares))})
    return pd.DataFrame(rows, columns=COLUMNS)


#: Columns of :func:`sets_searched`.
COLUMNS = (
    "fact relation language kind n before carried summed order size left redundant harmful "
    "order_additive size_additive left_additive redundant_additive"
).split()


def _told(one: Searched) -> dict[str, Any]:
    return {
        "n": len(one.losses),
        "before": one.full,
        "carried": one.full - one.none,
        "summed": float(one.losses.sum()),
        "order": one.order,
        "size": float(len(one.found[0])) if one.found else np.nan,
        "left": one.left,
        "redundant": bool(one.redundant[0]),
        "harmful": one.harmful,
    }


def _told_additive(one: Searched) -> dict[str, Any]:
    told = _told(one)
    return {f"{name}_additive": told[name] for name in ("order", "size", "left", "redundant")}


def _asked_sets(
    model: LanguageModel, prompts: pd.DataFrame, neurons: pd.DataFrame, least: int
) -> dict[int, np.ndarray]:
    """Prompt's place -> its fact's neurons, (n, 2), of facts with at least so many."""
    check_model(model)
    check_prompts(prompts, f"{ASKED} fact relation language")
    check_table("neurons", neurons, "fact layer neuron", unique="fact layer neuron")
    if (again := prompts["fact"].duplicated()).any():
        raise SetsError(f"{prompts['fact'][again].iloc[0]} has several prompts; draw one of each fact.")
    sets = pairs_by_fact(neurons)
    return {
        place: sets[fact]
        for place, fact in enumerate(prompts["fact"])
        if fact in sets and len(sets[fact]) >= least
    }


def located_kinds(
    located: pd.DataFrame,
    strongest: pd.DataFrame,
    prompts: pd.DataFrame,
    shape: tuple[int, int],
    k: int,
    *,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """A fact's located neurons, and those they are compared with.

    Args:
        located: ``fact, relation, layer, neuron, score``: at most ``k`` of each fact, of other wordings.
        strongest: the same of the wordings that are asked, more of them.
        prompts: that are asked; they say which facts have the same answer.
        shape: layers, and neurons of each.
        k: of the asked wordings' own at most so many.
        seed: of other facts and random neurons.

    Returns:
        name -> ``fact, relation, layer, neuron``; a kind of which there is none is not there.
    """
    columns = ["fact", "relation", "layer", "neuron"]
    own = located.loc[located["score"] > 0, columns].reset_index(drop=True)
    kinds = {
        OWN: own,
        UNLOCATED: not_located(strongest[strongest["score"] > 0], own, k)[columns],
        ANOTHER: lent(own, prompts, relation="same", answer="other", seed=seed),
        RANDOM: random_neurons(own, shape, same_layers=True, seed=seed),
    }
    return {name: table for name, table in kinds.items() if len(table)}


def not_located(strongest: pd.DataFrame, located: pd.DataFrame, k: int) -> pd.DataFrame:
    """Of the asked wordings' strongest neurons the ``k`` first of each fact that are not located.

    Args:
        strongest: ``fact, relation, layer, neuron, score``, of the wordings that are asked.
        located: ``fact, layer, neuron``, of the others.
        k: at most so many of each fact.
    """
    keys = ["fact", "layer", "neuron"]
    known = pd.MultiIndex.from_frame(located[keys])
    free = strongest[~pd.MultiIndex.from_frame(strongest[keys]).isin(known)]
    free = free.sort_values(["score", "layer", "neuron"], ascending=[False, True, True], kind="stable")
    best = free.groupby("fact", sort=False).head(k)
    return best.sort_values(keys).reset_index(drop=True)
