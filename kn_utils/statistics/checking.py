"""Do scores tell true claims from false ones, and do neurons' scores add to the model's probability?

Every fact has one true and one false claim. The **AUROC** is the share of pairs of a true and a false claim
in which the true one has the higher score (ties count half): 0.5 is chance, and no threshold is needed.
Directions, thresholds and weights are those of the *other* half of the facts.

As published, precision and recall were exchanged: the released script counts rejected true claims as false
positives and accepted false ones as false negatives, so that what it prints as precision is recall and the
other way round; F1 is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm

from .intervals import resample, with_percentiles

#: Weight of the squared coefficients of a logistic model (not of its constant), per claim.
RIDGE = 1e-2
COLUMNS = ["value", "low", "high", "n"]


def auroc(true: np.ndarray, false: np.ndarray) -> float:
    """The share of pairs in which the true claim scores higher; ties count half.

    Example:
        >>> auroc(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
        0.875
    """
    return float(beats(np.asarray(true, float), np.asarray(false, float)).mean())


def beats(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Every pair of a value of each, (true, false): 1 where the first is higher, 0.5 where they are alike."""
    apart = true[:, None] - false[None]
    return (apart > 0) + 0.5 * (apart == 0)


def paired(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per fact: ``fact, relation, half, true, false``; facts with a missing value are left out."""
    wide = scores.pivot(index=["fact", "relation", "half"], columns="true", values="value")
    wide = wide.reindex(columns=[False, True]).dropna()
    return wide.rename(columns={True: "true", False: "false"}).rename_axis(columns=None).reset_index()


def directed(facts: pd.DataFrame) -> pd.DataFrame:
    """The same with values turned round in a half where, in the other one, true claims score lower."""
    turned = facts.copy()
    for half in facts["half"].unique():
        others = facts[facts["half"] != half]
        if len(others) and auroc(others["true"].to_numpy(), others["false"].to_numpy()) < 0.5:
            here = (facts["half"] == half).to_numpy()
            turned.loc[here, ["true", "false"]] *= -1
    return turned


def checking(scores: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How well each score tells true claims from false ones.

    Args:
        scores: ``split, score, prompt, fact, relation, true, half, value``
            (:mod:`kn_utils.statistics.claims`).
        seed: of the intervals, which resample facts.

    Returns:
        ``split, score, measure, value, low, high, n`` (n facts). Measures: ``AUROC`` (in the direction that
        the other half gives), ``AUROC within relations`` (pairs of one relation and half only), ``AUROC, high
        is true`` (the published direction), ``true above its twin`` (of one fact's claims). At the threshold
        that is best in the other half: ``balanced accuracy``, ``precision``, ``recall``, ``F1``.
    """
    rows = []
    for (split, score), part in scores.groupby(["split", "score"], sort=False):
        facts = paired(part)
        if facts.empty:
            continue
        weights = resample(len(facts), seed)
        plain, found = facts, directed(facts)
        together = _together(facts)
        values = {
            "AUROC": _auroc_of(found, weights),
            "AUROC within relations": _auroc_of(found, weights, together),
            "AUROC, high is true": _auroc_of(plain, weights),
            "true above its twin": _twins(found, weights),
            **_rates_of(counted(found), weights),
        }
        keys = {"split": split, "score": score}
        rows += [{**keys, "measure": measure, **one} for measure, one in values.items()]
    return pd.DataFrame(rows, columns=["split", "score", "measure", *COLUMNS])


def _together(facts: pd.DataFrame) -> np.ndarray:
    """Which facts are of one relation and half, (fact, fact)."""
    group = facts.groupby(["relation", "half"], sort=False).ngroup().to_numpy()
    return (group[:, None] == group[None]).astype(float)


def _auroc_of(facts: pd.DataFrame, weights: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """The AUROC with an interval; ``mask`` (fact, fact) says which pairs count."""
    higher = beats(facts["true"].to_numpy(), facts["false"].to_numpy())
    mask = np.ones_like(higher) if mask is None else mask
    over, under = (np.einsum("rf,rf->r", weights @ matrix, weights) for matrix in (higher * mask, mask))
    drawn = over / under
    return with_percentiles((higher * mask).sum() / mask.sum(), drawn, len(facts))


def _twins(facts: pd.DataFrame, weights: np.ndarray) -> dict[str, float]:
    higher = (facts["true"] > facts["false"]) + 0.5 * (facts["true"] == facts["false"])
    drawn = weights @ higher.to_numpy(float) / len(facts)
    return with_percentiles(float(higher.mean()), drawn, len(facts))


def best_threshold(true: np.ndarray, false: np.ndarray) -> float:
    """The value from which claims are best accepted (balanced accuracy); the lowest of several."""
    values = np.unique(np.concatenate([true, false]))
    accuracy = [((true >= value).mean() + (false < value).mean()) / 2 for value in values]
    return float(values[int(np.argmax(accuracy))])


def counted(facts: pd.DataFrame) -> pd.DataFrame:
    """Per fact whether its claims are accepted at the threshold of the other half: ``hit``, ``alarm``.

    ``hit``: the true one is; ``alarm``: the false one is. Without another half none is accepted.
    """
    told = facts.assign(hit=0.0, alarm=0.0)
    for half in facts["half"].unique():
        here, others = (facts["half"] == half).to_numpy(), facts[facts["half"] != half]
        if len(others):
            edge = best_threshold(others["true"].to_numpy(), others["false"].to_numpy())
            told.loc[here, "hit"] = (facts.loc[here, "true"] >= edge).astype(float)
            told.loc[here, "alarm"] = (facts.loc[here, "false"] >= edge).astype(float)
    return told


def rates(hits: np.ndarray, alarms: np.ndarray, facts: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of accepted claims, one true and one false of each fact, from their numbers."""
    accepted = hits + alarms
    precision = np.divide(hits, accepted, out=np.zeros_like(hits), where=accepted > 0)
    return {
        "balanced accuracy": (hits + facts - alarms) / (2 * facts),
        "precision": precision,
        "recall": hits / facts,
        "F1": 2 * hits / (accepted + facts),
    }


def _rates_of(told: pd.DataFrame, weights: np.ndarray) -> dict[str, dict[str, float]]:
    """:func:`rates` of ``hit`` and ``alarm`` per fact, with intervals."""
    accepted = told[["hit", "alarm"]].to_numpy(float)
    whole = rates(accepted[:, :1].sum(0), accepted[:, 1:].sum(0), np.array([float(len(told))]))
    sums = weights @ accepted
    drawn = rates(sums[:, 0], sums[:, 1], weights.sum(1))
    return {name: with_percentiles(float(whole[name][0]), drawn[name], len(told)) for name in whole}


def at_threshold(scores: pd.DataFrame, edge: float, *, seed: int = 0) -> pd.DataFrame:
    """Claims accepted from a fixed value on, as published (1e-6); and what the released script prints.

    Args:
        scores: as :func:`checking` takes them.
        edge: claims that score as high are accepted.
        seed: of the intervals, which resample facts.

    Returns:
        ``split, score, measure, value, low, high, n``: ``balanced accuracy``, ``precision``, ``recall``,
        ``F1``; ``precision, as printed`` and ``recall, as printed``, which are the other one.
    """
    rows = []
    for (split, score), part in scores.groupby(["split", "score"], sort=False):
        facts = paired(part)
        told = facts.assign(
            hit=(facts["true"] >= edge).astype(float), alarm=(facts["false"] >= edge).astype(float)
        )
        if len(told):
            values = _rates_of(told, resample(len(told), seed))
            values["precision, as printed"] = values["recall"]
            values["recall, as printed"] = values["precision"]
            rows += [{"split": split, "score": score, "measure": name, **one} for name, one in values.items()]
    return pd.DataFrame(rows, columns=["split", "score", "measure", *COLUMNS])


def differences(scores: pd.DataFrame, base: str, *, seed: int = 0) -> pd.DataFrame:
    """The AUROC of every score less that of another one, for the same claims.

    Args:
        scores: as :func:`checking` takes them.
        base: the score that is subtracted.
        seed: of the intervals, which resample facts.

    Returns:
        ``split, score, value, low, high, n``.
    """
    rows = []
    for split, part in scores.groupby("split", sort=False):
        own = directed(paired(part[part["score"] == base])).set_index("fact")
        for score, other in part[part["score"] != base].groupby("score", sort=False):
            facts = directed(paired(other)).set_index("fact")
            both = facts.index.intersection(own.index, sort=False)
            if len(both):
                keys = {"split": split, "score": score}
                rows.append({**keys, **_gained(own.loc[both], facts.loc[both], seed)})
    return pd.DataFrame(rows, columns=["split", "score", *COLUMNS])


def _gained(base: pd.DataFrame, more: pd.DataFrame, seed: int) -> dict[str, float]:
    """AUROC of the second less that of the first, the same facts in the same order."""
    apart = sum(
        sign * beats(part["true"].to_numpy(), part["false"].to_numpy())
        for sign, part in ((-1, base), (1, more))
    )
    weights = resample(len(base), seed)
    drawn = np.einsum("rf,rf->r", weights @ apart, weights) / weights.sum(1) ** 2
    return with_percentiles(float(np.mean(apart)), drawn, len(base))


def added(
    scores: pd.DataFrame, base: Sequence[str], extra: Mapping[str, Iterable[str]], *, seed: int = 0
) -> pd.DataFrame:
    """The test that decides: do scores add to others? Nested logistic models, weighed on the other half.

    The claims of one half are judged by a logistic model of the base scores, and by one of these and more,
    both fitted on the other half. Scores enter as normal scores of their ranks there; a missing one as 0.

    Args:
        scores: as :func:`checking` takes them.
        base: the scores that both models have. Facts that lack one of them are left out.
        extra: name -> the scores that the larger model has besides.
        seed: of the intervals, which resample facts.

    Returns:
        ``split, added, measure, value, low, high, n``: ``AUROC without``, ``AUROC with``, ``AUROC gained``,
        and ``log-likelihood gained``, in nats per claim. A gain whose interval holds 0 is none.
    """
    rows = []
    for split, part in scores.groupby("split", sort=False):
        wide = part.pivot(index=["fact", "half", "true"], columns="score", values="value").reset_index()
        wide = wide[wide.reindex(columns=list(base)).notna().all(axis=1)]
        wide = wide[wide.groupby("fact")["fact"].transform("size") == 2].sort_values(["fact", "true"])
        small = _judged(wide, list(base))
        for name, more in extra.items():
            there = [score for score in more if score in wide]
            if not there or small is None:
                continue
            large = _judged(wide, [*base, *there])
            assert large is not None
            rows += [{"split": split, "added": name, **one} for one in _compared(small, large, seed)]
    return pd.DataFrame(rows, columns=["split", "added", "measure", *COLUMNS])


def _compared(small: pd.DataFrame, large: pd.DataFrame, seed: int) -> list[dict[str, float | str]]:
    """Measures of :func:`added` of two judgements of the same facts."""
    weights = resample(len(small), seed)
    nats = (large["nats"] - small["nats"]).to_numpy()
    return [
        {"measure": "AUROC without", **_auroc_of(small, weights)},
        {"measure": "AUROC with", **_auroc_of(large, weights)},
        {"measure": "AUROC gained", **_gained(small, large, seed)},
        {
            "measure": "log-likelihood gained",
            **with_percentiles(float(nats.mean()), weights @ nats / len(nats), len(nats)),
        },
    ]


def _judged(wide: pd.DataFrame, names: list[str]) -> pd.DataFrame | None:
    """Per fact the log-odds of its claims by a model of the other half, and its mean log-likelihood.

    ``None`` where a half is missing.
    """
    half, truth = wide["half"].to_numpy(), wide["true"].to_numpy(float)
    if len(np.unique(half)) < 2:
        return None
    told = np.zeros(len(wide))
    for one in (0, 1):
        here = half == one
        columns = [normal_scores(wide.loc[~here, n].to_numpy(float), wide[n].to_numpy(float)) for n in names]
        x = np.stack(columns, 1)
        told[here] = np.column_stack([np.ones(here.sum()), x[here]]) @ logistic(x[~here], truth[~here])
    odds = told.reshape(-1, 2)  # sorted: the false claim first
    nats = np.log(expit(odds * [-1, 1])).mean(1)
    return pd.DataFrame(
        {"fact": wide["fact"].to_numpy()[::2], "false": odds[:, 0], "true": odds[:, 1], "nats": nats}
    )


def normal_scores(fitted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values by their place among the fitted ones, as normal deviates; missing ones are 0."""
    known = np.sort(fitted[~np.isnan(fitted)])
    below = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2
    places = norm.ppf((below + 0.5) / (len(known) + 1))
    return np.where(np.isnan(values), 0.0, places)


def logistic(x: np.ndarray, y: np.ndarray, ridge: float = RIDGE, rounds: int = 50) -> np.ndarray:
    """Coefficients of a logistic model by Newton's method: the constant first, then the columns of x.

    Minimises the mean of -ln P(y) plus ``ridge / 2`` times the sum of squared coefficients.
    """
    design = np.column_stack([np.ones(len(x)), x])
    weight = np.append(0.0, np.full(x.shape[1], ridge))
    beta = np.zeros(design.shape[1])
    for _ in range(rounds):
        p = expit(design @ beta)
        slope = design.T @ (p - y) / len(y) + weight * beta
        curve = (design * (p * (1 - p))[:, None]).T @ design / len(y) + np.diag(weight + 1e-12)
        step = np.linalg.solve(curve, slope)
        beta = beta - step
        if np.abs(step).max() < 1e-10:
            break
    return beta
