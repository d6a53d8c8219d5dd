"""Neurons held in several languages, graded, together, generic; against plain loops and the released rule."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from kn_utils.checks import DataError
from kn_utils.neurons import language_independent as li
from kn_utils.neurons.language_neurons import ActivityError, language_neurons


def table(*rows: tuple) -> pd.DataFrame:
    """Rows (fact, layer, neuron, score), all of one relation."""
    made = pd.DataFrame(rows, columns=["fact", "layer", "neuron", "score"])
    return made.assign(relation="P36")[["fact", "relation", "layer", "neuron", "score"]]


def drawn(seed: int, languages: int = 4, facts: int = 5) -> dict[str, pd.DataFrame]:
    """Sets of 1 to 6 of 12 neurons per fact and language; some facts have none."""
    random = np.random.default_rng(seed)
    made = {}
    for k in range(languages):
        rows = []
        for fact in range(facts):
            for place in random.choice(12, size=random.integers(0, 7), replace=False):
                rows.append((f"f{fact}", int(place // 6), int(place % 6), float(random.random() + 0.01)))
        made[f"l{k}"] = table(*rows)
    return made


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("least", [1, 2, 3, None])
def test_held_in_at_least_so_many_languages_against_a_loop(seed, least):
    given = drawn(seed)
    wanted = {}
    for name, own in given.items():
        for row in own.itertuples():
            wanted.setdefault((row.fact, row.layer, row.neuron), []).append(name)
    wanted = {key: which for key, which in wanted.items() if len(which) >= (least or len(given))}
    found = li.language_independent(given, at_least=least)
    assert dict(
        zip(zip(found["fact"], found["layer"], found["neuron"], strict=True), found["which"], strict=True)
    ) == {key: " ".join(which) for key, which in wanted.items()}
    assert (found["languages"] == found["which"].str.split().str.len()).all()


def test_more_languages_never_mean_more_neurons():
    given = drawn(7)
    sizes = [len(li.language_independent(given, at_least=s)) for s in range(1, 5)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[1] > 0


def test_one_language_gives_its_own_neurons():
    given = drawn(1, languages=1)["l0"]
    found = li.language_independent({"en": given})
    keys = ["fact", "layer", "neuron"]
    pd.testing.assert_frame_equal(found[keys], given[keys].sort_values(keys).reset_index(drop=True))


def test_a_neuron_twice_in_one_language_is_held_in_one():
    twice = table(("a", 1, 2, 0.5), ("a", 1, 2, 0.4))
    assert li.language_independent({"en": twice, "zh": table(("a", 3, 3, 1.0))}).empty


def released(folder, names: tuple[str, str]) -> dict[str, list[tuple[int, int]]]:
    """As get_cross_language_neurons does: files by language, joined on the fact, empty ones dropped."""
    both = []
    for name in names:
        found = {}
        for file in sorted((folder / name).glob("*neurons*.json")):
            found |= {
                one["uuid"]: {tuple(pair) for pair in one["neurons"]} for one in json.loads(file.read_text())
            }
        both.append(found)
    shared = {uuid: sorted(both[0][uuid] & both[1][uuid]) for uuid in both[0] if uuid in both[1]}
    return {uuid: pairs for uuid, pairs in shared.items() if pairs}


def test_of_two_languages_it_is_the_released_rule(tmp_path):
    given = dict(zip(("en", "zh"), drawn(3, languages=2, facts=9).values(), strict=True))
    for name, own in given.items():
        (tmp_path / name).mkdir()
        content = [
            {"uuid": fact, "neurons": bag[["layer", "neuron"]].values.tolist()}
            for fact, bag in own.groupby("fact")
        ]
        (tmp_path / name / "P36_neurons.json").write_text(json.dumps(content))
    wanted = released(tmp_path, ("en", "zh"))
    found = li.language_independent(given)
    ours = {
        fact: sorted(map(tuple, bag[["layer", "neuron"]].values.tolist()))
        for fact, bag in found.groupby("fact")
    }
    assert ours == wanted and wanted


def test_languages_that_are_not_there_are_refused():
    with pytest.raises(li.LanguagesError, match="no neurons of language 'fr'"):
        li.language_independent(drawn(0), ["l0", "fr"])
    with pytest.raises(li.LanguagesError, match="3 languages are needed.*there are: en, nl"):
        li.check_enough(["en", "nl"])
    li.check_enough(["en", "nl", "zh"])
    for wrong in (0, 5, True):
        with pytest.raises(li.LanguagesError, match="of 4 languages"):
            li.language_independent(drawn(0), at_least=wrong)
    with pytest.raises(DataError, match="neurons of en lack the column 'layer'"):
        li.language_independent({"en": pd.DataFrame({"fact": ["a"], "relation": "P36"})})


@pytest.mark.parametrize("c", [0.0, 1.0, 2.0])
def test_the_graded_score_against_a_loop(c):
    given = drawn(5)
    found = li.graded(given, c=c).set_index(["fact", "layer", "neuron"])["score"]
    for fact in {fact for own in given.values() for fact in own["fact"]}:
        here = {name: own[own["fact"] == fact] for name, own in given.items()}
        here = {name: own for name, own in here.items() if len(own)}
        for layer, neuron in product(range(2), range(6)):
            z = []
            for own in here.values():
                score = own.loc[(own["layer"] == layer) & (own["neuron"] == neuron), "score"]
                z.append(score.iloc[0] / own["score"].max() if len(score) else 0.0)
            if any(z):
                assert found[fact, layer, neuron] == pytest.approx(np.mean(z) - c * np.std(z), abs=1e-12)
            else:
                assert (fact, layer, neuron) not in found.index


def test_graded_prefers_what_languages_agree_on():
    en = table(("a", 0, 1, 1.0), ("a", 0, 2, 0.6))
    zh = table(("a", 0, 3, 1.0), ("a", 0, 2, 0.6))
    assert li.graded({"en": en, "zh": zh})["neuron"].tolist()[0] == 2


def test_most_held_counts_the_k_strongest_only_and_breaks_ties_by_the_grade():
    en = table(("a", 0, 1, 1.0), ("a", 0, 2, 0.9), ("a", 0, 3, 0.8))
    zh = table(("a", 0, 2, 1.0), ("a", 0, 4, 0.9), ("a", 0, 3, 0.8))
    found = li.most_held({"en": en, "zh": zh}, 2)
    held = dict(zip(found["neuron"], found["languages"], strict=True))
    assert held == {2: 2, 1: 1, 4: 1, 3: 0} and found["neuron"].tolist()[0] == 2
    assert found["neuron"].tolist()[-1] == 3  # both have it, neither among its two strongest


def test_in_turn_takes_each_language_s_strongest_first_and_none_twice():
    en = table(("a", 0, 1, 1.0), ("a", 0, 2, 0.9), ("b", 1, 5, 1.0))
    zh = table(("a", 0, 1, 1.0), ("a", 0, 4, 0.5))
    found = li.in_turn({"en": en, "zh": zh})
    assert found[found["fact"] == "a"]["neuron"].tolist() == [1, 2, 4]
    assert found[found["fact"] == "b"]["neuron"].tolist() == [5]


def test_generic_neurons_are_those_of_many_answers_of_other_relations():
    rows = [(f"P{r}", f"P{r}:f{i}", 0, 9) for r in range(3) for i in range(4)]  # in every set
    rows += [("P0", f"P0:f{i}", 1, 1) for i in range(4)]  # of one relation: generic for the others
    rows += [("P1", "P1:f0", 2, 2)]
    made = pd.DataFrame(rows, columns=["relation", "fact", "layer", "neuron"])
    answer = pd.Series({fact: fact[-2:] for fact in made["fact"]})  # the same four in all relations
    found = li.generic_by_relation({"en": made}, answer, common=0.5, least=3)
    by = {
        relation: set(zip(t["layer"], t["neuron"], strict=True)) for relation, t in found.groupby("relation")
    }
    assert by == {"P0": {(0, 9)}, "P1": {(0, 9), (1, 1)}, "P2": {(0, 9), (1, 1)}}
    one = pd.Series(dict.fromkeys(made["fact"], "France"))  # one answer's neurons are not generic
    assert li.generic_by_relation({"en": made}, one, common=0.5, least=3).empty
    left = li.without(made, found)
    assert not ((left["neuron"] == 9).any()) and ((left["relation"] == "P0") & (left["neuron"] == 1)).any()


def test_without_a_relation_neurons_go_everywhere():
    made = table(("a", 0, 1, 1.0), ("a", 0, 2, 0.9))
    assert li.without(made, pd.DataFrame({"layer": [0], "neuron": [1]}))["neuron"].tolist() == [2]


def test_language_neurons_against_the_formula():
    random = np.random.default_rng(0)
    active = {name: random.random((2, 50)) for name in ("en", "ja", "zh")}
    found = language_neurons(active, share=0.1, percentile=80)
    p = np.stack(list(active.values()))
    edge, entropy = np.percentile(p, 80), {}
    for layer, neuron in product(range(2), range(50)):
        own = p[:, layer, neuron]
        if (own > edge).any():
            entropy[layer, neuron] = -sum(q * np.log(q) for q in own / own.sum())
    wanted = sorted(entropy, key=entropy.get)[:10]
    assert list(zip(found["layer"], found["neuron"], strict=True)) == wanted
    for row in found.itertuples():
        owners = [name for name, one in active.items() if one[row.layer, row.neuron] > edge]
        assert row.languages.split() == owners
    with pytest.raises(ActivityError, match="1 languages"):
        language_neurons({"en": active["en"]})


def test_the_k_strongest_by_language():
    found = pd.concat([table(("a", 0, 1, 0.1), ("a", 0, 2, 0.9), ("a", 1, 0, 0.9))] * 2)
    found = found.assign(language=["en"] * 3 + ["zh"] * 3)
    sets = li.strongest_of(found, 2)
    assert list(sets) == ["en", "zh"] and sets["zh"]["neuron"].tolist() == [2, 0]
    assert len(li.strongest_of(found, 9)["en"]) == 3


def test_rankings_without_generic_neurons_and_how_many_they_were():
    rows = [
        ("en", f"P{r}:f{i}", f"P{r}", 0, n, score)
        for r in range(3)
        for i in range(4)
        for n, score in ((9, 1.0), (20 + 4 * r + i, 0.9), (40 + 4 * r + i, 0.8))
    ]
    found = pd.DataFrame(rows, columns=["language", "fact", "relation", "layer", "neuron", "score"])
    answer = pd.Series({fact: fact[-2:] for fact in found["fact"]})
    clean = li.without_generic(found, answer, 2)
    assert clean.taken == {"en": pytest.approx(0.5)} and set(clean.generic["neuron"]) == {9}
    assert 9 not in set(clean.found["neuron"]) and len(clean.found) == 24
    assert (clean.sets["en"].groupby("fact").size() == 2).all()  # the next one takes its place
