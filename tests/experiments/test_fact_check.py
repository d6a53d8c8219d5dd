"""Attributions to claims: means over each checker, by hand from the maps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import make_model

from kn_utils.attribution.attribute import attribution_map
from kn_utils.experiments.claims import claims_of
from kn_utils.experiments.fact_check import ALL, LARGEST, claim_attributions
from kn_utils.model.ranking import objects_of, rank_candidates
from kn_utils.statistics import claims as scoring
from kn_utils.statistics.checking import checking


@pytest.fixture(scope="module")
def claims(prompts) -> pd.DataFrame:
    asked = prompts.drop_duplicates("fact").reset_index(drop=True)
    whole = asked.assign(split="by fact", half=[0, 0, 1], true=True, question=asked["prompt"])
    turned = np.roll(asked["answer"].to_numpy(dtype=object), 1)
    both = pd.concat([whole, whole.assign(true=False, answer=turned)], ignore_index=True)
    return both.assign(prompt=both["question"] + " = " + both["answer"])


def some_sets() -> pd.DataFrame:
    rows = [
        ("k", split, half, "P36", layer, neuron)
        for split in ("by fact", "by object")
        for half in (0, 1)
        for layer, neuron in ((0, 3 + half), (2, 7))
    ]
    return pd.DataFrame(rows, columns=["set", "split", "half", "relation", "layer", "neuron"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_means_are_those_of_the_maps(claims, kind):
    model, sets = make_model(kind), some_sets()
    table = claim_attributions(model, claims, sets, at_once=4, rule="right", steps=3)
    for claim in claims.itertuples():
        prompt = claims[claims["prompt"] == claim.prompt]
        scores = attribution_map(model, prompt, rule="right", steps=3)[0].double().numpy()
        active = attribution_map(model, prompt, method="activation")[0].double().numpy()
        here = table[table["prompt"] == claim.prompt].set_index(["set", "split", "half"])
        assert len(here) == 2 + 4
        assert here.loc[(ALL, "", -1), "attribution"] == pytest.approx(scores.sum(), abs=1e-5)
        assert here.loc[(LARGEST, "", -1), "attribution"] == pytest.approx(scores.max(), abs=1e-5)
        for key, part in sets.groupby(["set", "split", "half"]):
            pairs = list(zip(part["layer"], part["neuron"], strict=True))
            for column, values in (("attribution", scores), ("activation", active)):
                wanted = sum(values[pair] for pair in pairs) / len(pairs)
                assert here.loc[key, column] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_scores_of_one_fact_by_a_plain_loop(toy, claims):
    """Probability, prior and rank of its claims, from single questions; and its checker's attribution."""
    model, sets = make_model("bert"), some_sets()
    asked = claims[claims["true"]].assign(prompt=lambda t: t["question"]).reset_index(drop=True)
    names = objects_of(toy)
    names = names[names["language"] == "en"]
    ranked = rank_candidates(model, asked, names, way="in order")
    told = claim_attributions(model, claims, sets, rule="right", steps=3)
    known = scoring.asked_probabilities(ranked, names)
    scores = pd.concat(
        [scoring.model_scores(claims, ranked, names), scoring.neuron_scores(claims, told, known)]
    )
    fact, half = asked["fact"][0], 0
    objects = asked["answer"].tolist()

    def log_p(text: str, name: str) -> tuple[float, int]:
        """ln P of a name as it stands alone in the text, and its pieces."""
        from oracles import plain_answer

        before, _, after = text.partition("[Y]")
        p, _, _, pieces = plain_answer(model, before, after, name)
        return float(np.log(p)), len(pieces)

    text = asked["text"][0]
    per_piece = {name: log_p(text, name)[0] / log_p(text, name)[1] for name in objects}
    others = [(row.text, row.answer) for row in asked.itertuples() if claims.loc[row.Index, "half"] != half]
    for claim in claims[claims["fact"] == fact].itertuples():
        own = scores[scores["prompt"] == claim.prompt].set_index("score")["value"]
        logp, pieces = log_p(text, claim.answer)
        assert own["probability"] == pytest.approx(logp / pieces)
        prior = [np.exp(log_p(other, claim.answer)[0]) for other, right in others if right != claim.answer]
        wanted = np.log(np.mean(prior)) if prior else np.nan
        assert own["prior alone"] == pytest.approx(wanted, nan_ok=True)
        assert own["prior-corrected"] == pytest.approx(logp - wanted, nan_ok=True)
        assert own["rank"] == -sum(value >= per_piece[claim.answer] for value in per_piece.values())
        scores_of = attribution_map(model, claims[claims["prompt"] == claim.prompt], rule="right", steps=3)[0]
        mean = float((scores_of[0, 3 + half] + scores_of[2, 7]) / 2)
        assert own["k, attribution"] == pytest.approx(mean, rel=1e-4, abs=1e-7)
        assert own["k, attribution / P"] == pytest.approx(mean / np.exp(logp), rel=1e-3)
        assert own[f"{ALL}, attribution"] == pytest.approx(float(scores_of.sum()), abs=1e-5)


@pytest.mark.slow
def test_the_prior_alone_is_at_chance_by_construction():
    random = np.random.default_rng(0)
    facts = [f"f{i}" for i in range(24)]
    asked = pd.DataFrame(
        {
            "prompt": facts,
            "fact": facts,
            "relation": ["P", "Q"] * 12,
            "language": "en",
            "text": [f"{fact} [Y]" for fact in facts],
            "answer": random.choice(list("abcdefgh"), 24),
        }
    )
    claims = claims_of(asked)
    labels = list("abcdefgh")
    names = pd.DataFrame(
        [(r, "en", f"Q{x}", x) for r in "PQ" for x in labels],
        columns=["relation", "language", "candidate", "label"],
    )
    ranked = asked[["prompt", "fact", "relation", "language"]].merge(
        names[["candidate"]].drop_duplicates(), how="cross"
    )
    ranked = ranked.assign(pieces=1, score=np.log(random.uniform(0.01, 0.9, len(ranked))))
    found = checking(scoring.model_scores(claims, ranked, names)).set_index(["split", "score", "measure"])[
        "value"
    ]
    for split in ("by fact", "by object"):
        assert found[split, "prior alone", "AUROC within relations"] == pytest.approx(0.5)
        assert found[split, "prior alone", "AUROC, high is true"] == pytest.approx(0.5)
