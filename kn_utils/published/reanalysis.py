"""Our reading of the outputs that the multilingual study released: its Table II, and what it rests on.

Everything here is computed from :mod:`kn_utils.published.released` with this project's statistics and
refinement. :mod:`kn_utils.published.recomputed` keeps the resulting tables, for where the released files are
not at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from ..base import LANGUAGES
from ..data.facts import relation_number
from ..neurons.refine import Refined, refine_bags
from ..statistics.counts import counts_per_fact, layer_histogram
from ..statistics.intervals import interval
from ..statistics.sharing import intersections, table_2
from . import released

#: How the released neurons were refined: a floor of three prompts, eight passes (so seven moves of the share)
#: whatever they give.
RELEASED_REFINEMENT: dict[str, Any] = {
    "threshold": 0.2,
    "share": 0.7,
    "step": 0.05,
    "target": (2, 5),
    "floor": 3,
    "rounds": 7,
}
#: SHA-256 of the released ``results/MultilingualTRExf/kn/kn_bag-P108.json`` (4,050 bytes).
REFINED_P108 = "89801a0142f0467318f9570a53335b8240e868de1fa34516ddc08094bd0c5249"
LAYERS = 12
#: What we quote of ``edit.txt``, the one released result of updating facts; which relations, and how many
#: edits, it does not say.
EDITING = {
    "share of edits whose answer changed": "ori_changed",
    "share of edits with the new answer first": "success_updated",
    "share of edits with the new answer among the first five": "success_updated_5",
    "mean rank of the new answer, before": "tgt_ori_rank",
    "mean rank of the new answer, after": "tgt_new_rank",
    "perplexity within the relation, before": "ori_inner_ppl",
    "perplexity within the relation, after": "new_inner_ppl",
    "perplexity of other relations, before": "ori_inter_ppl",
    "perplexity of other relations, after": "new_inter_ppl",
}


def compute() -> dict[str, pd.DataFrame]:
    """All tables, from the files in the cache."""
    scores, prompts = released.scores()
    refined = refine_bags(scores, prompts, **RELEASED_REFINEMENT, keep=released.KEEP)
    found = {"PARAREL_en": released.refined("PARAREL_en"), "T-REx_multilingual": _multilingual(refined)}
    return {
        "table_2": table_2(found, name="dataset"),
        "coverage": coverage(found),
        "layers": _by_dataset(found, _layers),
        "most_shared": _by_dataset(found, most_shared),
        "refinement": refinement(refined),
        "unknown": unknown(prompts),
        "target": target(scores, prompts),
        "capitals": capitals(found["PARAREL_en"]),
        "editing": editing(),
    }


def _multilingual(p108: Refined) -> Refined:
    """The five relations of T-REx_multilingual: four as released, P108 as refined here.

    P108 comes out the same as released, byte for byte (:func:`refinement`).
    """
    read = released.refined("T-REx_multilingual", ["P27", "P31", "P1001", "P1303"])
    model = released.settings("T-REx_multilingual")["bert_model"]
    own = p108.neurons.assign(share=float("nan"), model=model)  # no share, as in the released ones
    bags = pd.concat([read.bags, p108.bags], ignore_index=True)
    bags = bags.sort_values("relation", key=lambda names: names.map(relation_number), kind="stable")
    neurons = pd.concat([read.neurons, own], ignore_index=True)
    return Refined(neurons, bags.reset_index(drop=True), p108.passes)


def _layers(refined: Refined) -> pd.DataFrame:
    return layer_histogram(refined.neurons, refined.bags, n_layers=LAYERS)


def _by_dataset(found: Mapping[str, Refined], make: Callable[[Refined], pd.DataFrame]) -> pd.DataFrame:
    """What ``make`` gives of each data set, one below the other, with ``dataset``."""
    tables = [make(refined).assign(dataset=name) for name, refined in found.items()]
    return pd.concat(tables, ignore_index=True)


def coverage(found: Mapping[str, Refined]) -> pd.DataFrame:
    """What the numbers rest on: relations, facts, facts without a neuron, neurons; and the baseline's."""
    rows = []
    for dataset, (neurons, bags, _) in found.items():
        counts, baseline = counts_per_fact(neurons, bags), released.refined(dataset, kind="activation")
        settings = released.settings(dataset)
        rows.append(
            {
                "dataset": dataset,
                "model": settings["bert_model"],
                "lower-cased": settings["do_lower_case"],
                "relations": counts["relation"].nunique(),
                "facts": len(counts),
                "without a neuron": int((counts["neurons"] == 0).sum()),
                "neurons": len(neurons),
                "different ones": len(neurons.drop_duplicates(["layer", "neuron"])),
                "baseline neurons": len(baseline.neurons),
                "baseline facts": len(baseline.bags),
            }
        )
    return pd.DataFrame(rows)


def most_shared(refined: Refined, k: int = 5) -> pd.DataFrame:
    """The neurons that most facts hold: ``layer, neuron, facts, share, relations`` (share of all facts)."""
    by_neuron = refined.neurons.groupby(["layer", "neuron"])
    held = by_neuron.agg(facts=("fact", "size"), relations=("relation", "nunique")).reset_index()
    held["share"] = held["facts"] / len(refined.bags)
    held = held.sort_values(["facts", "layer", "neuron"], ascending=[False, True, True])
    return held.head(k).reset_index(drop=True)


def refinement(refined: Refined) -> pd.DataFrame:
    """How P108's share moved, and whether the result is the released file.

    Returns:
        ``pass, share, mean, taken, released``.
    """
    same = hashlib.sha256(released.written(refined).encode()).hexdigest() == REFINED_P108
    table = refined.passes.drop(columns="relation")
    return table.assign(released=same & table["taken"])


def unknown(prompts: pd.DataFrame) -> pd.DataFrame:
    """Unknown tokens in P108's prompts and answers, a row per language and one for all of them.

    Columns count: ``tokens`` leaves out [CLS] and [SEP]; ``nothing else``: prompts of only [UNK], [MASK] and
    the full stop; ``several words``, ``capital``: answers with a space, with an upper-case letter; an uncased
    vocabulary has neither.
    """
    rows = prompts.assign(inside=prompts["tokens"].map(lambda tokens: tokens[1:-1]))
    unknown = rows["inside"].map(lambda tokens: tokens.count(released.UNKNOWN))
    nothing_else = {released.UNKNOWN, released.MASK, "."}
    marks = {
        "prompts with unknown": unknown > 0,
        "nothing else": rows["inside"].map(lambda tokens: set(tokens) <= nothing_else),
        "several words": rows["answer"].str.contains(" "),
        "capital": rows["answer"] != rows["answer"].str.lower(),
        "predicted unknown": rows["predicted"] == released.UNKNOWN,
    }
    numbers = {"prompts": 1, "tokens": rows["inside"].map(len), "unknown": unknown}
    numbers |= {name: mark.astype(int) for name, mark in marks.items()}
    table = pd.DataFrame({"language": rows["language"], **numbers})
    counts = table.groupby("language").sum().loc[list(LANGUAGES)]
    return pd.concat([counts, counts.sum().rename("all").to_frame().T.rename_axis("language")]).reset_index()


def target(scores: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Was the answer, or [UNK], the target of attribution?

    The released script looks an answer up whole, as one token. Two prompts of the same tokens with different
    answers then have different scores, unless both answers were looked up as the same id; and different
    strings share an id only as the unknown token. So identical scores prove it for both answers, and then for
    every prompt with one of them.

    Returns:
        ``quantity, value``.
    """
    said = {
        name: tuple(zip(rows["layer"], rows["neuron"], rows["score"], strict=True))
        for name, rows in scores.groupby("prompt")
    }
    rows = prompts[["prompt", "answer"]].assign(
        tokens=prompts["tokens"].map(tuple), scores=prompts["prompt"].map(said)
    )
    groups = rows.groupby("tokens", sort=False).agg(
        prompts=("prompt", "size"), answers=("answer", "nunique"), score_sets=("scores", "nunique")
    )
    several = groups[groups["answers"] > 1]
    alike = several["score_sets"] == 1
    shared = rows.groupby(["tokens", "scores"])["answer"].transform("nunique") > 1
    proved = rows["answer"].isin(rows.loc[shared, "answer"])
    unwritable = rows["answer"].str.contains(" ") | (rows["answer"] != rows["answer"].str.lower())
    values = {
        "prompts": len(rows),
        "different token sequences": len(groups),
        "different sets of scores": rows["scores"].nunique(),
        "token sequences asked with several answers": len(several),
        "prompts of those": int(several["prompts"].sum()),
        "of those sequences, with identical scores whatever the answer": int(alike.sum()),
        "most answers for one token sequence": int(groups["answers"].max()),
        "different answers": rows["answer"].nunique(),
        "answers proved to be unknown": rows.loc[proved, "answer"].nunique(),
        "prompts whose target is proved to be unknown": int(proved.sum()),
        "the same, counting answers with a capital or a space": int((proved | unwritable).sum()),
    }
    return pd.DataFrame(values.items(), columns=["quantity", "value"])


def capitals(refined: Refined) -> pd.DataFrame:
    """PARAREL_en by whether the answer has an upper-case letter, which an uncased vocabulary cannot hold.

    Returns:
        ``relation, capital, measure, value, low, high, n, answers``; measure = neurons per fact, shared
        within a relation; n facts with so many different answers.
    """
    rows = []
    for relation, bags in refined.bags.groupby("relation", sort=False):
        answers = pd.Series(released.answers(relation), index=bags["fact"])
        capital = answers != answers.str.lower()
        for which in (True, False):
            chosen = answers[capital == which]
            if chosen.empty:
                continue
            part = [table[table["fact"].isin(chosen.index)] for table in (refined.neurons, bags)]
            shared = intersections(*part).iloc[0][["value", "low", "high", "n"]]
            measures = {
                "neurons per fact": interval(counts_per_fact(*part)["neurons"]),
                "shared within a relation": shared.to_dict(),
            }
            common = {"relation": relation, "capital": which}
            rows += [
                {**common, "measure": name, **values, "answers": chosen.nunique()}
                for name, values in measures.items()
            ]
    return pd.DataFrame(rows)


def editing() -> pd.DataFrame:
    """The authors' own figures of updating facts, named: ``quantity, value``."""
    said = released.edit()
    return pd.DataFrame([(name, said[key]) for name, key in EDITING.items()], columns=["quantity", "value"])
