"""Fact checking judged: against loops, and with neurons that know something or nothing planted."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from kn_utils import plots
from kn_utils.statistics import checking as ck


def scores_of(seed: int = 0, n: int = 80, **strength: float) -> pd.DataFrame:
    """A true and a false claim of n facts; every score knows the truth as well as its strength says."""
    random = np.random.default_rng(seed)
    parts = []
    for score, by in strength.items():
        for true in (True, False):
            value = by * true + random.normal(size=n)
            facts = [f"f{i}" for i in range(n)]
            part = {
                "split": "by fact",
                "score": score,
                "prompt": [f"{f} {true}" for f in facts],
                "fact": facts,
            }
            part |= {"relation": ["P", "Q", "R", "S"] * (n // 4), "true": true, "value": value}
            parts.append(pd.DataFrame(part).assign(half=lambda t: np.arange(len(t)) // 4 % 2))
    return pd.concat(parts, ignore_index=True)


def values(scores: pd.DataFrame, score: str) -> dict[str, dict[bool, float]]:
    """fact -> true or not -> value."""
    told: dict[str, dict[bool, float]] = {}
    for row in scores[scores["score"] == score].itertuples():
        told.setdefault(row.fact, {})[bool(row.true)] = row.value
    return told


def plain_auroc(pairs) -> float:
    wins = [1.0 if t > f else 0.5 if t == f else 0.0 for t, f in pairs]
    return sum(wins) / len(wins)


def test_auroc_by_counting_pairs():
    random = np.random.default_rng(1)
    true, false = random.integers(0, 5, 20).astype(float), random.integers(0, 5, 30).astype(float)
    assert ck.auroc(true, false) == pytest.approx(plain_auroc([(t, f) for t in true for f in false]))


@pytest.mark.parametrize("strength", [1.0, -1.0, 0.0])
def test_every_measure_by_a_plain_loop(strength):
    scores = scores_of(3, 24, one=strength)
    found = ck.checking(scores).set_index("measure")
    told = values(scores, "one")
    half = scores.drop_duplicates("fact").set_index("fact")["half"].to_dict()
    relation = scores.drop_duplicates("fact").set_index("fact")["relation"].to_dict()
    sign = {}
    for side in (0, 1):
        other = [v for f, v in told.items() if half[f] != side]
        sign[side] = -1 if plain_auroc([(a[True], b[False]) for a in other for b in other]) < 0.5 else 1
    turned = {f: {t: sign[half[f]] * x for t, x in v.items()} for f, v in told.items()}

    def every_pair(table, alike=lambda a, b: True):
        return [(table[a][True], table[b][False]) for a in table for b in table if alike(a, b)]

    assert found.loc["AUROC", "value"] == pytest.approx(plain_auroc(every_pair(turned)))
    assert found.loc["AUROC, high is true", "value"] == pytest.approx(plain_auroc(every_pair(told)))
    near = every_pair(turned, lambda a, b: (half[a], relation[a]) == (half[b], relation[b]))
    assert found.loc["AUROC within relations", "value"] == pytest.approx(plain_auroc(near))
    twins = [(v[True], v[False]) for v in turned.values()]
    assert found.loc["true above its twin", "value"] == pytest.approx(plain_auroc(twins))
    hits = alarms = 0
    for side in (0, 1):
        # the direction of a half is fitted on the other one, and its threshold there in that direction
        other = [v for f, v in turned.items() if half[f] != side]
        best, edge = -1.0, None
        for candidate in sorted({x for v in other for x in v.values()}):
            right = sum((v[True] >= candidate) + (v[False] < candidate) for v in other)
            if right > best:
                best, edge = right, candidate
        mine = [v for f, v in turned.items() if half[f] == side]
        hits += sum(v[True] >= edge for v in mine)
        alarms += sum(v[False] >= edge for v in mine)
    n = len(told)
    assert found.loc["recall", "value"] == pytest.approx(hits / n)
    assert found.loc["precision", "value"] == pytest.approx(hits / max(hits + alarms, 1))
    assert found.loc["F1", "value"] == pytest.approx(2 * hits / (hits + alarms + n))
    assert found.loc["balanced accuracy", "value"] == pytest.approx((hits + n - alarms) / (2 * n))
    assert (found["n"] == n).all()
    inside = found[found.index != "AUROC, high is true"]
    assert ((inside["low"] <= inside["value"]) & (inside["value"] <= inside["high"])).all()


def test_accepting_everything_has_an_f1_of_two_thirds():
    scores = scores_of(0, 24, one=0.0)
    found = ck.at_threshold(scores, -100).set_index("measure")["value"]
    assert found["F1"] == pytest.approx(2 / 3) and found["balanced accuracy"] == 0.5


def test_the_released_script_exchanges_precision_and_recall():
    scores = scores_of(0, 24, one=1.0)
    found = ck.at_threshold(scores, 0.5).set_index("measure")["value"]
    told = values(scores, "one")
    tp, fn = sum(v[True] >= 0.5 for v in told.values()), sum(v[True] < 0.5 for v in told.values())
    fp = sum(v[False] >= 0.5 for v in told.values())
    assert found["precision"] == pytest.approx(tp / (tp + fp)) and found["recall"] == pytest.approx(
        tp / (tp + fn)
    )
    # as released: "FP" counts rejected true claims, "FN" accepted false ones
    assert found["precision, as printed"] == pytest.approx(tp / (tp + fn))
    assert found["recall, as printed"] == pytest.approx(tp / (tp + fp))


def test_directions_come_from_the_other_half():
    scores = scores_of(0, 40, one=-3.0)
    found = ck.checking(scores).set_index("measure")["value"]
    assert found["AUROC"] > 0.9 and found["AUROC, high is true"] < 0.1
    turned = scores.assign(value=scores["value"].where(scores["half"] == 0, -scores["value"]))
    assert ck.checking(turned).set_index("measure").loc["AUROC", "value"] < 0.2  # they do not agree


def test_facts_with_one_claim_are_left_out():
    scores = scores_of(0, 24, one=1.0)
    gone = scores.drop(index=scores[(scores["fact"] == "f0") & scores["true"]].index)
    assert ck.checking(gone)["n"].eq(23).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_logistic_model_is_where_the_likelihood_is_highest(seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(60, 3))
    y = (random.uniform(size=60) < expit(x @ [1.0, -2.0, 0.0] + 0.3)).astype(float)

    def loss(beta):
        odds = beta[0] + x @ beta[1:]
        return np.mean(np.logaddexp(0, odds) - y * odds) + ck.RIDGE / 2 * (beta[1:] ** 2).sum()

    wanted = minimize(loss, np.zeros(4), tol=1e-12).x
    assert ck.logistic(x, y) == pytest.approx(wanted, abs=1e-4)


def test_normal_scores_keep_the_order_and_missing_ones_are_nothing():
    found = ck.normal_scores(np.array([3.0, 1.0, 2.0]), np.array([0.0, 1.5, 2.0, 9.0, np.nan]))
    assert found[:4].tolist() == sorted(found[:4]) and found[4] == 0
    assert found[2] == pytest.approx(norm.ppf((1.5 + 0.5) / 4))


def test_what_knows_something_adds_and_what_knows_nothing_does_not():
    scores = scores_of(0, 200, base=0.8, knows=1.2, nothing=0.0)
    found = ck.added(scores, ["base"], {"knows": ["knows"], "nothing": ["nothing"], "absent": ["no such"]})
    told = found.set_index(["added", "measure"])
    assert set(found["added"]) == {"knows", "nothing"}
    for measure in ("AUROC gained", "log-likelihood gained"):
        assert told.loc[("knows", measure), "low"] > 0
        low, high = told.loc[("nothing", measure), ["low", "high"]]
        assert low <= 0.005 and abs(told.loc[("nothing", measure), "value"]) < 0.02 and high < 0.03
    gain = told.loc[("knows", "AUROC with"), "value"] - told.loc[("knows", "AUROC without"), "value"]
    assert told.loc[("knows", "AUROC gained"), "value"] == pytest.approx(gain)


def test_a_copy_of_the_base_adds_nothing():
    scores = scores_of(0, 120, base=1.0)
    both = pd.concat([scores, scores.assign(score="copy", value=3 * scores["value"])], ignore_index=True)
    told = ck.added(both, ["base"], {"copy": ["copy"]}).set_index("measure")["value"]
    assert told["AUROC gained"] == pytest.approx(0, abs=0.01)
    assert abs(told["log-likelihood gained"]) < 0.01


def test_nested_models_by_hand():
    """Each half judged by a model that scipy fits on the other one."""
    scores = scores_of(5, 40, base=0.8, more=0.6)
    found = ck.added(scores, ["base"], {"more": ["more"]}).set_index("measure")["value"]
    wide = scores.pivot(index=["fact", "half", "true"], columns="score", values="value").reset_index()
    nats = {}
    for names in (["base"], ["base", "more"]):
        total = 0.0
        for side in (0, 1):
            fit, judge = wide[wide["half"] != side], wide[wide["half"] == side]

            def placed(table, fit=fit, names=names):
                columns = []
                for name in names:
                    there = fit[name].to_numpy()
                    below = [((there < v).sum() + (there <= v).sum()) / 2 for v in table[name]]
                    columns.append(norm.ppf((np.array(below) + 0.5) / (len(there) + 1)))
                return np.stack(columns, 1)

            x, y = placed(fit), fit["true"].to_numpy(float)

            def loss(beta, x=x, y=y):
                odds = beta[0] + x @ beta[1:]
                return np.mean(np.logaddexp(0, odds) - y * odds) + ck.RIDGE / 2 * (beta[1:] ** 2).sum()

            beta = minimize(loss, np.zeros(1 + len(names)), tol=1e-12).x
            odds = beta[0] + placed(judge) @ beta[1:]
            total += np.log(expit(np.where(judge["true"], odds, -odds))).sum()
        nats[len(names)] = total / len(wide)
    assert found["log-likelihood gained"] == pytest.approx(nats[2] - nats[1], abs=1e-5)


def test_differences_are_of_the_same_claims():
    scores = scores_of(0, 40, base=1.0, other=0.5)
    scores = scores[~((scores["score"] == "other") & (scores["fact"] == "f1"))]
    row = ck.differences(scores, "base").iloc[0]
    without = scores[scores["fact"] != "f1"]
    both = ck.checking(without).set_index(["score", "measure"])["value"]
    assert row["n"] == 39
    assert row["value"] == pytest.approx(both["other", "AUROC"] - both["base", "AUROC"], abs=1e-9)
    assert row["low"] < row["value"] < row["high"]


def test_the_picture_shows_every_score():
    rows = [
        (split, score, 0.5 + 0.1 * i) for split in ("by fact", "by object") for i, score in enumerate("abc")
    ]
    table = pd.DataFrame(rows, columns=["split", "score", "value"])
    table = table.assign(low=table["value"] - 0.1, high=table["value"] + 0.05)
    gained = table[table["score"] != "a"].rename(columns={"score": "added"})
    figure = plots.checking(table, gained, "a model")
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["a", "b", "c"]
    for drawn, split in zip(left.containers, ("by fact", "by object"), strict=True):
        wanted = table.loc[table["split"] == split, "value"].to_numpy()
        assert drawn.lines[0].get_xydata()[:, 0] == pytest.approx(wanted)
    assert right.containers[0].lines[0].get_xydata()[1:, 0] == pytest.approx([60, 70])
    assert "AUROC" in left.get_xlabel() and "gained" in right.get_xlabel()
    plt.close(figure)
