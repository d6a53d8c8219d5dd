"""Neurons of other languages: which sets are compared, and their effects against doing it by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model

from kn_utils.experiments import cross_lingual as cross
from kn_utils.experiments import edits_across as abroad
from kn_utils.experiments import language_sources as sources
from kn_utils.model.activity import TextsError, active_shares, as_arrays
from kn_utils.model.answers import answers, questions_of
from kn_utils.model.edits import FineTune, Request, ValueEdit, length_of_move
from kn_utils.model.hooks import SlotChange, read_at
from kn_utils.model.interventions import amplify
from kn_utils.model.rows import Row
from kn_utils.model.typed import candidates_of, typed_answers
from kn_utils.statistics.changes import log_odds

NEURON = ["fact", "relation", "layer", "neuron"]


@pytest.fixture
def world(prompts) -> dict[str, pd.DataFrame]:
    """Three facts, asked in English; Dutch, Japanese and Korean write the answers in another way."""
    asked = prompts[~prompts["text"].str.startswith("[Y]")].drop_duplicates("fact").reset_index(drop=True)
    parts = [asked]
    for name in ("nl", "ja", "ko"):
        other = asked.assign(language=name, prompt=asked["prompt"] + name)
        parts.append(
            other.assign(
                answer=[answer[::-1] for answer in asked["answer"]] if name != "ko" else asked["answer"]
            )
        )
    every = pd.concat(parts, ignore_index=True)
    facts = asked[["fact", "relation"]].assign(answer=["Q1", "Q2", "Q3"])
    random, rows = np.random.default_rng(0), []
    for name in ("en", "nl", "ja", "ko"):
        for number, fact in enumerate(asked["fact"]):
            own = [5 + number] + random.choice(
                np.arange(10, 40), 9, replace=False
            ).tolist()  # 5, 6, 7 everywhere
            for place, neuron in enumerate(own):
                rows.append((name, fact, "P36", place % 3, int(neuron), 1 - place / 20))
    found = pd.DataFrame(rows, columns=["language", *NEURON, "score"])
    return {"asked": asked, "every": every, "facts": facts, "found": found}


@pytest.mark.slow
def first_becomes_second(every: pd.DataFrame) -> pd.DataFrame:
    """The first fact in every language, to get the second one's answer."""
    changes = every[every["fact"] == every["fact"][0]].reset_index(drop=True)
    new = every[every["fact"] == every["fact"][1]].set_index("language")["answer"]
    return changes.assign(new=changes["language"].map(new))


def test_sources_of_neurons_and_who_is_left_out(world):
    found, every = world["found"], world["every"]
    made = sources.sources_for(found, "en", every, k=2)
    fact = world["asked"]["fact"][1]
    first = made[sources.INDEPENDENT].held(fact, fact)[0].tolist()
    assert first == [0, 6]  # what Dutch and Japanese share
    assert set(made) == {"en", "nl", "ja", "ko", *sources.SOURCES}
    assert made["ko"].written[fact] == "alike" and made["nl"].written[fact] == "differently"
    own = found[(found["fact"] == fact) & (found["language"] == "en")].head(2)[["layer", "neuron"]].to_numpy()
    assert made["en"].held(fact, fact)[:2].tolist() == own.tolist()
    # the target's own neurons, and those of a language that writes alike, are in no set of others
    changed = found.copy()
    changed.loc[changed["language"].isin(["en", "ko"]), "neuron"] += 5
    again = sources.sources_for(changed, "en", every, k=2)
    for name in (sources.INDEPENDENT, sources.GRADED, sources.TOGETHER, sources.AS_MANY):
        assert made[name].size == again[name].size, name
        assert made[name].held(fact, fact).tolist() == again[name].held(fact, fact).tolist(), name
    assert made[sources.ANY_SPELLING].written[fact] == "alike"
    assert (
        again[sources.ANY_SPELLING].held(fact, fact).tolist()
        != made[sources.ANY_SPELLING].held(fact, fact).tolist()
    )
    assert made[sources.TOGETHER].size[fact] == sources.WIDE * 2 == made[sources.AS_WIDE].size[fact]
    assert made[sources.AS_MANY].size == made[sources.INDEPENDENT].size == made[sources.SAME_AS_MANY].size


@pytest.mark.slow
def test_a_fact_of_one_other_language_has_no_neurons_of_several(world):
    found = world["found"]
    alone = found[found["language"].isin(["en", "nl"])]
    made = sources.sources_for(alone, "en", world["every"], k=2)
    for name in (sources.INDEPENDENT, sources.GRADED, sources.TOGETHER):
        assert not made[name].size, name
    with pytest.raises(cross.CrossLingualError, match="no prompt has neurons"):
        cross.silenced_across(
            make_model("bert"),
            world["asked"],
            alone,
            world["facts"],
            world["every"],
            sources=[sources.INDEPENDENT],
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_every_row_against_doing_it_by_hand(world, kind):
    model, asked = make_model(kind), world["asked"]
    generic = pd.DataFrame(
        {"relation": "P36", "layer": [0, 1, 2], "neuron": [41, 42, 43], "share": [0.9, 0.8, 0.7]}
    )
    table = cross.silenced_across(
        model, asked, world["found"], world["facts"], world["every"], more={"generic": generic}, k=2
    )
    names = candidates_of(asked, world["every"])
    before = typed_answers(model, asked, names).set_index("prompt")
    made = sources.sources_for(world["found"], "en", world["every"], k=2)
    donors = cross.OtherFacts(world["facts"], 0)
    checked = 0
    for row in table.itertuples():
        source, i = made[row.source], int(np.flatnonzero(asked["prompt"] == row.prompt)[0])
        if row.neurons == "own":
            pairs = source.held(row.fact, row.fact)[: row.size]
        elif row.neurons == "another answer":
            pairs = source.held(row.fact, donors.of(row.fact, "same", "other")[0])[: row.size]
        elif row.neurons == "generic":
            pairs = generic[["layer", "neuron"]].to_numpy()[: row.size]
        else:
            continue
        with amplify(model, pairs.tolist(), factor=0.0):
            after = typed_answers(model, asked.iloc[[i]].reset_index(drop=True), [names[i]])
        assert row.after == pytest.approx(after["probability"].iloc[0], rel=1e-7, abs=0)
        assert row.typed_after == pytest.approx(after["typed_probability"].iloc[0], rel=1e-7, abs=0)
        assert row.before == pytest.approx(before.loc[row.prompt, "probability"], rel=1e-9, abs=0)
        checked += 1
    assert checked > 40 and set(table["target"]) == {"en"}
    assert table["logit"].to_numpy() == pytest.approx(log_odds(table["after"]) - log_odds(table["before"]))
    pairs = table.groupby(["prompt", "source"])["size"].nunique()
    assert (pairs == 1).all()  # what is compared has one size
    random = table[table["neurons"] == "random, same layers"]
    assert len(random) == 3 and (random["source"] == sources.INDEPENDENT).all()


@pytest.mark.slow
def test_what_independent_neurons_are_compared_with(world):
    """The relation's: those of most other answers, the fact's own left out; the most active, chosen alike."""
    found, every, facts = world["found"], world["every"], world["facts"]
    fact, *rest = world["asked"]["fact"]
    planted = pd.DataFrame(
        [
            (language, owner, "P36", 1, neuron, 2.0)
            for language in ("nl", "ja")
            for owner, neuron in [(rest[0], 45), (rest[1], 45), (rest[0], 5)]
        ],
        columns=found.columns,
    )
    active = found.assign(neuron=found["neuron"].where(found["fact"] != fact, 47 - found["neuron"]))
    made = sources.sources_for(pd.concat([planted, found], ignore_index=True), "en", every, k=3)
    source = made[sources.INDEPENDENT]
    agreed = sources.agreed_on(active, "en", every, k=3)
    compared = cross._Compared(cross.OtherFacts(facts, 0), 48, 0, active=agreed)
    sets = dict(compared.sets(sources.INDEPENDENT, source, fact, "P36"))
    size = source.size[fact]
    own = set(map(tuple, sets["own"].tolist()))
    counts: dict[tuple[int, int], int] = {}
    for other in rest:
        for pair in map(tuple, source.held(other, other)[: source.size[other]].tolist()):
            counts[pair] = counts.get(pair, 0) + 1
    shared = [tuple(pair) for pair in sets[cross.SHARED].tolist()]
    assert shared[0] == (1, 45) and counts[1, 45] == 2  # the one that both other answers hold comes first
    assert not own & set(shared) and len(shared) == size
    assert all(counts[a] >= counts[b] for a, b in pairwise(shared))
    theirs = sources.sources_for(active, "en", every, k=3)[sources.INDEPENDENT].held(fact, fact)
    assert sets["most active"].tolist() == theirs[:size].tolist() != sets["own"].tolist()
    assert {len(one) for one in sets.values()} == {size}
    # a fact of the same answer counts with its answer, once
    twins = facts.assign(answer=["Q1", "Q2", "Q2"])
    compared = cross._Compared(cross.OtherFacts(twins, 0), 48, 0)
    alone = dict(compared.sets(sources.INDEPENDENT, source, fact, "P36"))[cross.SHARED]
    assert alone.tolist() == sorted(alone.tolist())  # one answer: all as often, so by layer and neuron


def test_random_neurons_lie_in_the_same_layers():
    own = np.array([[0, 1], [2, 5], [2, 6]])
    drawn = cross.drawn_like(own, 48, np.random.default_rng(0))
    assert sorted(drawn[:, 0]) == [0, 2, 2] and len(np.unique(drawn, axis=0)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_edits_from_other_languages_by_hand(world, kind):
    model, every = make_model(kind), world["every"]
    changes = first_becomes_second(every)
    table = abroad.edited_across(
        model, changes, world["found"], world["facts"], every, every, forces=(0.5, 2.0), k=2
    )
    assert set(table["source"]) == set(abroad.EDITED) and set(table["where"]) == {
        abroad.FACT,
        abroad.ANOTHER_FACT,
        abroad.SAME_RELATION,
    }
    # English: several other languages are Dutch and Japanese, their names and prompts
    seen = changes[changes["language"].isin(["nl", "ja"])]
    pairs = sources.sources_for(world["found"], "en", every, k=2)[sources.INDEPENDENT].held(
        changes["fact"][0], changes["fact"][0]
    )[:2]
    rows = [row for one in questions_of(model, seen.assign(answer=seen["new"])) for row in one]
    request = Request(pairs, seen["answer"].tolist(), seen["new"].tolist(), rows)
    mine = table[
        (table["source"] == abroad.SEVERAL) & (table["language"] == "en") & (table["where"] == abroad.FACT)
    ]
    asked = changes[changes["language"] == "en"]
    for force in (0.5, 2.0):
        (change,) = ValueEdit(force / 8, force, signed=True).changes(model, [request])
        after = answers(model, questions_of(model, asked.assign(answer=asked["new"])), [change])
        row = mine[mine["force"] == force].iloc[0]
        assert row["after"] == pytest.approx(after["p"][0], rel=1e-7, abs=0)
        nothing = answers(model, questions_of(model, asked.assign(answer=asked["new"])))
        assert row["before"] == pytest.approx(nothing["p"][0], rel=1e-9, abs=0)
        assert isinstance(change, SlotChange) and row["after"] != pytest.approx(
            row["before"], rel=1e-6, abs=0
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_trained_slots_go_as_far_as_the_force_says(world, kind):
    model, every = make_model(kind), world["every"]
    changes = first_becomes_second(every)
    whole = (model, changes, world["found"], world["facts"], every, every)
    table = abroad.edited_across(*whole, forces=(1.0, 3.0), k=2)
    asked = changes[changes["language"] == "en"]
    mine = table[(table["language"] == "en") & (table["where"] == abroad.FACT)]
    for source, languages in {abroad.OWN_LANGUAGE: ["en"], abroad.SEVERAL: ["nl", "ja"]}.items():
        seen = changes[changes["language"].isin(languages)]
        made = sources.sources_for(world["found"], "en", every, k=2)
        name = "en" if source == abroad.OWN_LANGUAGE else sources.INDEPENDENT
        pairs = made[name].held(changes["fact"][0], changes["fact"][0])[:2]
        rows = [row for one in questions_of(model, seen.assign(answer=seen["new"])) for row in one]
        request = Request(pairs, "", "", rows)
        (move,) = FineTune().changes(model, [request])
        rows_of = mine[mine["source"] == abroad.TRAINED[source]].set_index("force")
        for force in (1.0, 3.0):
            scaled = SlotChange(move.neurons, force * move.added / length_of_move(model, move))
            assert length_of_move(model, scaled) == pytest.approx(force)
            after = answers(model, questions_of(model, asked.assign(answer=asked["new"])), [scaled])
            assert rows_of.loc[force, "after"] == pytest.approx(after["p"][0], rel=1e-5, abs=0)
    without = abroad.edited_across(*whole, forces=(1.0, 3.0), k=2, trained=0)
    wanted = table[~table["source"].isin(abroad.TRAINED.values())].reset_index(drop=True)
    pd.testing.assert_frame_equal(without, wanted)


def test_training_that_teaches_nothing_is_no_move():
    model = make_model("bert")
    still = SlotChange(np.array([[0, 1], [2, 3]]), torch.zeros(2, model.value_slots(0).shape[1]))
    assert abroad._of_one_length(model, still) is None
    none = SlotChange(np.zeros((0, 2), int), torch.zeros(0, model.value_slots(0).shape[1]))
    assert abroad._of_one_length(model, none) is None
    moved = abroad._of_one_length(model, SlotChange(still.neurons, still.added + 3))
    assert length_of_move(model, moved) == pytest.approx(1)


def test_an_edit_needs_two_other_languages(world):
    every = world["every"]
    changes = every[every["language"].isin(["en", "nl"])].assign(new="Berlin")
    with pytest.raises(cross.CrossLingualError, match="no fact can be edited"):
        abroad.edited_across(make_model("bert"), changes, world["found"], world["facts"], every, every, k=2)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_shares_of_active_tokens_by_hand(kind):
    model = make_model(kind)
    texts = pd.DataFrame({"language": ["en", "en", "zh"], "text": ["The capital of France", "Paris", "法国"]})
    found = as_arrays(active_shares(model, texts, threshold=0.1))
    special = set(model.tokenizer.all_special_ids)
    for language, own in texts.groupby("language"):
        hits, tokens = np.zeros((model.n_layers, model.n_neurons)), 0
        for text in own["text"]:
            ids = model.tokenizer(text)["input_ids"]
            for place, piece in enumerate(ids):
                if piece in special:
                    continue
                inputs, at, _ = model.batch([Row(0, list(ids), place, 0)])
                with read_at(model, at) as values:
                    model.logits(inputs, at)
                hits += np.stack([layer[0].detach().numpy() > 0.1 for layer in values])
                tokens += 1
        np.testing.assert_allclose(found[language], hits / tokens)
    with pytest.raises(TextsError, match="no token to look at in xx"):
        active_shares(
            model, pd.DataFrame({"language": ["xx"], "text": [model.tokenizer.all_special_tokens[0]]})
        )


def test_texts_without_answers_and_the_order_of_rows():
    prompts = pd.DataFrame({"language": ["en", "en", "zh"], "text": ["[Y] is it.", "[Y] is it.", "[X]"]})
    assert cross.without_answers(prompts).values.tolist() == [["en", "is it."]]
    names = [sources.GRADED, "zh", sources.INDEPENDENT, "zh"]
    table = pd.DataFrame({"source": names, "found_for": list("baab")})
    ordered = cross.in_order(table)
    assert ordered.values.tolist() == [
        ["zh", "a"],
        [sources.INDEPENDENT, "a"],
        ["zh", "b"],
        [sources.GRADED, "b"],
    ]
