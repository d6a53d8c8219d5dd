"""Neurons of several languages against their nulls: planted structure, and everything by a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kn_utils.statistics import intervals
from kn_utils.statistics.independent import (
    counts_of_cases,
    groups_of_facts,
    independent_counts,
    layer_shares,
    main_counts,
    written_in,
)

LANGUAGES = ("en", "nl", "zh")
WIDTH = 400


def study(shared: str, relations: int = 3, each: int = 6) -> tuple[dict, pd.DataFrame, pd.Series]:
    """Facts with three random neurons in every language, and one that is shared as it is said.

    ``fact``: by the languages of each fact; ``relation``: by all facts of a relation; ``answer``: by the
    facts of one answer, two in each relation; ``nothing``.
    """
    random = np.random.default_rng(0)
    rows = {name: [] for name in LANGUAGES}
    asked, answers = [], {}
    for r in range(relations):
        for i in range(each):
            fact = f"P{r}:{i}"
            answers[fact] = f"a{i // 2}"
            for name in LANGUAGES:
                asked.append((fact, f"P{r}", name))
                own = random.choice(300, 3, replace=False).tolist()
                planted = {"fact": 300 + 7 * r + i, "relation": 300 + r, "answer": 300 + 7 * r + i // 2}
                own += [planted[shared]] if shared in planted else []
                rows[name] += [(fact, f"P{r}", 1, n) for n in own]
    columns = ["fact", "relation", "layer", "neuron"]
    sets = {name: pd.DataFrame(own, columns=columns) for name, own in rows.items()}
    return sets, pd.DataFrame(asked, columns=["fact", "relation", "language"]), pd.Series(answers)


def counts(shared: str) -> pd.DataFrame:
    sets, asked, answer = study(shared)
    return independent_counts(sets, asked, WIDTH, answer=answer).set_index("at_least")


def test_a_neuron_of_each_fact_is_found_beyond_all_nulls():
    row = counts("fact").loc[3]
    assert row["value"] >= 1 and row["other_fact"] < 0.2 and row["p_relation"] < 0.001
    assert row["value_answer"] >= 1 and row["same_answer"] < 0.6 and row["p_answer"] < 0.001
    assert row["empty_share"] == 0


def test_a_neuron_of_the_relation_is_shared_as_much_by_other_facts():
    row = counts("relation").loc[3]
    assert row["value"] >= 1 and row["other_fact"] == pytest.approx(row["value"], abs=0.02)
    assert row["p_relation"] > 0.5 and row["chance"] < 0.01


def test_a_neuron_of_the_answer_is_beyond_the_relation_but_not_beyond_the_answer():
    row = counts("answer").loc[3]
    assert row["p_relation"] < 0.001 and row["other_fact"] < 0.5
    assert row["same_answer"] == pytest.approx(row["value_answer"], abs=0.02) and row["p_answer"] > 0.5
    assert row["n_answer"] == 18


def test_nothing_shared_gives_nothing():
    table = counts("nothing")
    assert table.loc[3, "value"] < 0.2 and table.loc[2, "p_relation"] > 0.01
    assert table.loc[1, "value"] == pytest.approx(9, abs=0.3)


@pytest.mark.slow
def test_every_number_of_one_row_by_a_plain_loop(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    sets, asked, answer = study("answer", relations=2, each=4)
    gone = asked["fact"].eq("P0:1") & asked["language"].eq("zh")  # not asked in zh, so it has nothing there
    asked, sets["zh"] = asked[~gone], sets["zh"][sets["zh"]["fact"] != "P0:1"]
    sets["nl"] = sets["nl"][sets["nl"]["fact"] != "P1:0"]  # asked, but without a neuron
    table = independent_counts(sets, asked, WIDTH, answer=answer, leave_out=["P1:3"]).set_index("at_least")
    facts = [fact for fact in asked["fact"].unique() if fact != "P1:3"]
    for s in (1, 2, 3):
        can = [f for f in facts if (asked["fact"] == f).sum() >= s]
        number, expected = {}, {}
        for fact in can:
            own = [set(t.loc[t["fact"] == fact, "neuron"]) for t in sets.values()]
            number[fact] = sum(sum(n in one for one in own) >= s for n in set().union(*own))
            share = [len(one) / WIDTH for one in own]
            ways = 0.0
            for pattern in np.ndindex(2, 2, 2):
                if sum(pattern) >= s:
                    ways += np.prod([p if bit else 1 - p for p, bit in zip(share, pattern, strict=True)])
            expected[fact] = WIDTH * ways
        row = table.loc[s]
        assert row["n"] == len(can)
        assert row["value"] == pytest.approx(np.mean(list(number.values())))
        assert row["chance"] == pytest.approx(np.mean(list(expected.values())))
        assert row["empty_share"] == pytest.approx(np.mean([n == 0 for n in number.values()]))
        drawn = np.array([by_hand(sets, asked, can, facts, s, seed) for seed in range(300)])
        assert row["other_fact"] == pytest.approx(
            drawn.mean() / len(can), abs=4 * drawn.std() / len(can) / 12
        )


def by_hand(sets, asked, can, facts, s: int, seed: int) -> int:
    """T_s times n after facts changed names within relations, in every language but the first."""
    random = np.random.default_rng(seed)
    held: dict[tuple[str, int], int] = {}
    for k, (language, own) in enumerate(sets.items()):
        here = [f for f in facts if ((asked["fact"] == f) & (asked["language"] == language)).any()]
        names = dict(zip(here, here, strict=True))
        if k:
            for relation in ("P0", "P1"):
                some = [f for f in here if f.startswith(relation)]
                names |= dict(zip(some, random.permutation(some), strict=True))
        for row in own[own["fact"].isin(here)].itertuples():
            key = (names[row.fact], row.neuron)
            held[key] = held.get(key, 0) + 1
    return sum(count >= s and fact in can for (fact, _), count in held.items())


def test_how_languages_write_a_name_counts_the_nearest_pair():
    names = pd.DataFrame(
        [
            ("a", "en", "Oslo"),
            ("a", "nl", "Oslo"),
            ("a", "zh", "奥斯陆"),
            ("b", "zh", "东京"),
            ("b", "ja", "東京"),
            ("b", "en", "Tokyo"),
            ("c", "en", "Paris"),
            ("c", "ja", "パリ"),
            ("d", "en", "Rome"),
        ],
        columns=["fact", "language", "answer"],
    )
    assert written_in(names, ["en", "nl", "ja", "zh"]).to_dict() == {
        "a": "alike",
        "b": "shared characters",
        "c": "differently",
    }
    assert written_in(names, ["en", "zh"]).to_dict() == {"a": "differently", "b": "differently"}


@pytest.mark.slow
def test_cases_groups_and_layers_are_those_of_each():
    sets, asked, answer = study("fact", relations=2, each=4)
    names = pd.DataFrame(
        [(f, n, f if f == "P0:0" or n == "zh" else n + f) for f in answer.index for n in LANGUAGES],
        columns=["fact", "language", "answer"],
    )
    right = pd.Series(True, answer.index)
    right["P0:1"] = False
    groups = groups_of_facts(LANGUAGES, names, right)
    assert set(groups) == {
        ("all", "every fact"),
        ("all", "written differently"),
        ("all", "right in every language"),
        ("all", "wrong in some language"),
        ("Latin letters", "every fact"),
        ("Latin letters", "written differently"),
    }  # Chinese is alone
    assert groups["all", "written differently"][1] == ["P0:0"]
    assert groups["all", "right in every language"][1] == ["P0:1"]
    cases = {
        ("answer", *key): {"sets": {n: sets[n] for n in chosen}, "asked": asked, "leave_out": gone}
        for key, (chosen, gone) in groups.items()
    }
    heads = ["target", "group", "facts"]
    table = counts_of_cases(cases, heads, WIDTH, answer=answer, seed=3)
    for (target, group, facts), own in table.groupby(heads, sort=False):
        case = cases[target, group, facts]
        given = {"answer": answer, "seed": 3, "leave_out": case["leave_out"]}
        one = independent_counts(case["sets"], asked, WIDTH, **given)
        mine = own[list(one)].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, one)
        assert (own["per language"] == 4).all()
    main = main_counts(table)
    assert set(main["neurons"]) == {"the same fact", "another fact"} and len(main) == 4
    first = table[(table["at_least"] == 2) & (table["facts"] == "every fact")].iloc[0]
    rows = main[main["where"] == "every fact, found for answer"].set_index("neurons")
    assert rows.loc["the same fact", "value"] == first["value"]
    assert rows.loc["another fact", "value"] == first["other_fact"]
    assert np.isnan(rows.loc["another fact", "low"])
    shares = layer_shares({"en": sets["en"], "nl": sets["nl"].assign(layer=2)}, 3)
    assert shares["in 1 or more"].tolist() == [0, 0.5, 0.5] and shares["in 2 or more"].sum() == 0
