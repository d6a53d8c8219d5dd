"""Scores of claims: the model's own probability, that beside the prior, and what neurons say.

A claim is a question q and an object o, true or false. Per split of the facts in two halves

    probability              ln P(o | q), per piece
    prior-corrected          ln P(o | q) - ln mean of P(o | q') over the other half's questions q' to which o
                             is not the answer
    prior alone              that mean: it does not see q, so it must be at chance
    rank                     -rank of o among the relation's objects, by probability
    <set>, attribution       mean attribution of the relation's checker (found in the other half)
    <set>, activation        its mean activation: it hardly sees o, so it must be near chance
    <set>, attribution / P   the attribution as a share of P(o | q)

Nothing of a claim's own half says what its score is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

PROBABILITY, PRIOR, PRIOR_ALONE, RANK = "probability", "prior-corrected", "prior alone", "rank"
#: What every row of scores is named by.
KEYS = ["split", "prompt", "fact", "relation", "true", "half"]


def model_scores(claims: pd.DataFrame, ranked: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """What the model's probabilities say of claims.

    Args:
        claims: of :func:`kn_utils.experiments.claims.claims_of`.
        ranked: of :func:`kn_utils.model.ranking.rank_candidates`, for their questions.
        names: of :func:`kn_utils.model.ranking.objects_of`: what the candidates are called.

    Returns:
        ``split, score, prompt, fact, relation, true, half, value``. Claims whose object was not ranked have
        no row; without a question in the other half there is no prior.
    """
    known = asked_probabilities(ranked, names)
    known["order"] = known.groupby("question")["score"].rank(ascending=False, method="max")
    told = claims.merge(known.drop(columns="relation"), on=["question", "answer"])
    right = claims[claims["true"]].drop_duplicates(["split", "question"])
    asked = known.merge(
        right.rename(columns={"answer": "right"})[["split", "question", "half", "right"]], on="question"
    )
    asked = asked[asked["answer"] != asked["right"]].assign(half=1 - asked["half"])
    where = ["split", "relation", "half", "answer"]
    told = told.merge(asked.groupby(where)["p"].mean().rename("prior").reset_index(), on=where, how="left")
    scores = {
        PROBABILITY: told["score"],
        PRIOR: told["score"] * told["pieces"] - np.log(told["prior"]),
        PRIOR_ALONE: np.log(told["prior"]),
        RANK: -told["order"],
    }
    return _long([told[KEYS].assign(score=name, value=values) for name, values in scores.items()])


def asked_probabilities(ranked: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """P of every object of its relation for every question: ``question, relation, answer, pieces, score, p``.

    Args:
        ranked, names: as :func:`model_scores` takes them; ``score`` is ln P per piece.
    """
    known = ranked.merge(names, on=["relation", "language", "candidate"])
    known = known.rename(columns={"prompt": "question", "label": "answer"})
    known["p"] = np.exp(known["score"] * known["pieces"])
    return known[["question", "relation", "answer", "pieces", "score", "p"]]


def neuron_scores(
    claims: pd.DataFrame, told: pd.DataFrame, known: pd.DataFrame | None = None, *, suffix: str = ""
) -> pd.DataFrame:
    """What neurons say of claims, each claim by the checker that the other half has found.

    Args:
        claims: of :func:`kn_utils.experiments.claims.claims_of`.
        told: of :func:`kn_utils.experiments.fact_check.claim_attributions`.
        known: of :func:`asked_probabilities`; with it also attributions as shares of P.
        suffix: of the scores' names.

    Returns:
        as :func:`model_scores`.
    """
    whole = told[told["split"] == ""].drop(columns=["split", "half"]).merge(claims, on="prompt")
    table = pd.concat([told.merge(claims, on=["prompt", "split", "half"]), whole], ignore_index=True)
    if known is not None:
        p = known[["question", "answer", "p"]]
        table = table.merge(p, on=["question", "answer"], how="left")
        table["attribution / P"] = table["attribution"] / table["p"]
    parts = []
    for name, part in table.groupby("set", sort=False):
        for kind in ("attribution", "attribution / P", "activation"):
            if kind in part and part[kind].notna().any():
                parts.append(part[KEYS].assign(score=f"{name}, {kind}{suffix}", value=part[kind]))
    return _long(parts)


def _long(parts: list[pd.DataFrame]) -> pd.DataFrame:
    columns = ["split", "score", "prompt", "fact", "relation", "true", "half", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
