"""The bundled model knows what it was taught, without being certain, and its knowledge neurons matter."""

from __future__ import annotations

import numpy as np
import pytest

from kn_utils import (
    answer_probability,
    attribute,
    effects,
    intersections,
    load_facts,
    load_model,
    make_prompts,
)
from kn_utils.data.downloads.identity import BUNDLED
from kn_utils.data.sources.mini import mark_teaching
from kn_utils.neurons.choose import random_neurons
from kn_utils.neurons.refine import refine_bags
from kn_utils.statistics.changes import relative_change

MINI = BUNDLED["mini"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return load_model("mini")


@pytest.fixture(scope="module")
def asked(model):
    prompts = make_prompts(load_facts(), "all").sample(4000, random_state=0).reset_index(drop=True)
    never = make_prompts(load_facts(), "all")
    never = never[mark_teaching(never)["group"] == "never"].sample(500, random_state=0)
    both = mark_teaching(never).reset_index(drop=True), mark_teaching(prompts)
    return [part.merge(answer_probability(model, part), on="prompt") for part in both]


def test_recall_of_what_was_taught(asked):
    _, table = asked
    taught = table[table["group"].isin(["all", "this"]) & (table["wording"] == "seen")]
    by_language = taught.groupby("language")["correct"].mean()
    assert len(by_language) == 6 and by_language.min() >= 0.9, by_language
    assert taught["probability"].between(0, 1).all()
    means = taught.groupby("language")["probability"].mean()
    assert means.between(0.25, 0.7).all(), means


def test_what_was_never_taught_is_at_chance(asked):
    never, _ = asked
    facts = load_facts().facts
    most = facts.groupby("relation")["object"].agg(lambda column: column.value_counts(normalize=True).max())
    chance = never["relation"].map(most).mean()
    assert never["correct"].mean() <= chance + 0.1
    assert never["probability"].mean() < 0.15


def test_knowledge_neurons_matter(model):
    facts = load_facts().sample(5)
    prompts = make_prompts(facts, "en")
    neurons, bags, _ = refine_bags(attribute(model, prompts, progress=False), prompts)
    control = random_neurons(neurons, (model.n_layers, model.n_neurons))
    change = {
        (kind, operation): relative_change(
            effects(model, prompts, table, operation=operation, kind=kind), ["neurons"]
        )["value"][0]
        for kind, table in (("knowledge", neurons), ("random", control))
        for operation in ("suppress", "amplify")
    }
    assert change["knowledge", "suppress"] < -0.08
    assert abs(change["knowledge", "suppress"]) > 10 * abs(change["random", "suppress"])
    assert change["knowledge", "amplify"] > 0
    within, between = (intersections(neurons, bags, within=pairs) for pairs in ("relation", "other"))
    assert within["value"][0] > between["value"][0]


def test_the_model_in_git_is_small_and_its_card_is_there():
    assert (MINI / "model.safetensors").stat().st_size <= 16 * 2**20
    assert not list(MINI.glob("*.bin")) and not list(MINI.glob("*.pt"))
    card = (MINI / "README.md").read_text(encoding="utf-8")
    assert "not a pretrained language model" in card
    recipe = (MINI / "recipe.json").read_text(encoding="utf-8")
    assert np.all([name in recipe for name in ("seed", "noise", "steps")])
