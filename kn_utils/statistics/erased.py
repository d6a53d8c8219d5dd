"""What erasing relations did: the paper's table, its map of languages, and relations that share neurons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..base import StudyError
from .intervals import column_means

#: What a summary calls the facts that it is about.
OWN, OTHERS = "erased relation", "other relations"
MEAN = "mean of relations"
LEAST = 1e-300  # a probability of 0 has no logarithm


class ErasedError(StudyError):
    """A summary that there is not."""


def log_rise(effects: pd.DataFrame) -> pd.Series:
    """ln P before - ln P after of every row, in nats.

    Its mean over prompts is ln(perplexity after / perplexity before).
    """
    before, after = (np.log(effects[name].clip(lower=LEAST)) for name in ("before", "after"))
    return before - after


def summarise_erasing(
    effects: pd.DataFrame, by: Sequence[str] = ("neurons", "to"), *, per: str = "erased", seed: int = 0
) -> pd.DataFrame:
    """The paper's table: perplexity and accuracy of the erased and of the other relations, before and after.

    Every fact counts alike (a fact's prompts are averaged first). Perplexity is exp of the mean of -ln P, its
    rise (after - before) / before. The last relation is the mean over relations: of perplexities and rises
    the geometric mean.

    Args:
        effects: from :func:`kn_utils.experiments.erasing.erase_relations`.
        by: columns that tell runs apart.
        per: ``erased``: a row per relation that was erased; ``relation``: a row per relation that was *asked*
            about. With ``relation``, the rows of other relations say what erasing any of the others does to
            this one.

    Returns:
        ``*by, asked, relation, measure, value, low, high, n``; intervals from resampling facts within their
        relation. Measures: ``perplexity before``, ``perplexity after``, ``perplexity rise`` (1 = doubled),
        ``accuracy before``, ``accuracy after``, ``accuracy change``.
    """
    if per not in ("erased", "relation"):
        raise ErasedError(f"per={per!r}; it is 'erased' or 'relation'.")
    asked = np.where(effects["erased"] == effects["relation"], OWN, OTHERS)
    table = effects.assign(asked=asked, rise=log_rise(effects))
    table["surprise"] = -np.log(table["before"].clip(lower=LEAST))
    table["surprise_after"] = table["surprise"] + table["rise"]
    table["change"] = table["right_after"].astype(float) - table["right_before"].astype(float)
    relation = table.drop_duplicates("fact").set_index("fact")["relation"]
    measures = {
        "perplexity before": "surprise",
        "perplexity after": "surprise_after",
        "perplexity rise": "rise",
        "accuracy before": "right_before",
        "accuracy after": "right_after",
        "accuracy change": "change",
    }
    parts = []
    for key, group in table.groupby([*by, "asked"], sort=False):
        for measure, column in measures.items():
            values = group.assign(value=group[column].astype(float))
            each = values.groupby(["fact", per], sort=False)["value"].mean()
            means = column_means(each.unstack(sort=False), relation, mean=MEAN, seed=seed)
            means = means.rename(columns={"column": "relation"})
            if measure.startswith("perplexity"):
                ends = ["value", "low", "high"]
                means[ends] = np.exp(means[ends]) - (measure == "perplexity rise")
            means = means.assign(**dict(zip([*by, "asked"], key, strict=True)), measure=measure)
            parts.append(means[[*by, "asked", "relation", "measure", "value", "low", "high", "n"]])
    return pd.concat(parts, ignore_index=True)


def wide(summary: pd.DataFrame, measures: Sequence[str], *, digits: int = 2) -> pd.DataFrame:
    """A summary to look at: measures side by side as ``value [low, high]``.

    Columns that tell no rows apart are left out.
    """
    rows = summary[summary["measure"].isin(measures)]
    text = [
        f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]" for row in rows.itertuples()
    ]
    names = [name for name in rows.columns if name not in ("measure", "value", "low", "high", "n")]
    index = [name for name in names if rows[name].nunique() > 1] or names[-1:]
    cells = rows.assign(text=text)
    return cells.pivot_table(index=index, columns="measure", values="text", aggfunc="first", sort=False)


def languages_grid(effects: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """ln(perplexity after / before) of the erased relation, mean over relations, per source and language.

    Args:
        effects: of erased relations; ``neurons`` says where these were found (a language, or a control).

    Returns:
        ``source`` (what ``neurons`` said), ``language, value, low, high, n``; every fact counts alike within
        its relation.
    """
    table = effects.assign(rise=log_rise(effects))[effects["erased"] == effects["relation"]]
    rows = []
    for (source, language), group in table.groupby(["neurons", "language"], sort=False):
        each = group.groupby(["fact", "relation"], sort=False)["rise"].mean().unstack(sort=False)
        relation = group.drop_duplicates("fact").set_index("fact")["relation"]
        means = column_means(each, relation, mean=MEAN, seed=seed).drop(columns="column")
        rows.append({"source": source, "language": language, **means.to_dict("records")[-1]})
    return pd.DataFrame(rows)


def shared_sets(sets: pd.DataFrame) -> pd.DataFrame:
    """How many neurons the sets of two relations have in common, for every pair of relations.

    Returns:
        ``neurons, relation, other, size, shared``.
    """
    rows = []
    for kind, chosen in sets.groupby("neurons", sort=False):
        held = {
            name: set(zip(part["layer"], part["neuron"], strict=True))
            for name, part in chosen.groupby("relation", sort=False)
        }
        rows += [(kind, a, b, len(held[a]), len(held[a] & held[b])) for a in held for b in held if a != b]
    return pd.DataFrame(rows, columns=["neurons", "relation", "other", "size", "shared"])


def in_other_sets(sets: pd.DataFrame) -> pd.DataFrame:
    """Which share of a relation's set is in another relation's too.

    Returns:
        ``neurons, relation, size, share, closest, shared``: ``closest`` is the relation with which it has
        most in common, ``shared`` how many neurons that are.
    """
    held = sets.drop_duplicates(["neurons", "relation", "layer", "neuron"])
    number = held.groupby(["neurons", "layer", "neuron"])["relation"].transform("size")
    table = held.assign(share=(number > 1).astype(float)).groupby(["neurons", "relation"], sort=False)
    table = table.agg(size=("share", "size"), share=("share", "mean")).reset_index()
    pairs = shared_sets(held)
    closest = pairs.sort_values("shared", ascending=False, kind="stable")
    closest = closest.drop_duplicates(["neurons", "relation"])
    closest = closest.rename(columns={"other": "closest"})[["neurons", "relation", "closest", "shared"]]
    return table.merge(closest, how="left", on=["neurons", "relation"])


def damage_by_sharing(
    effects: pd.DataFrame, sets: pd.DataFrame, *, edges: Sequence[int] = (0, 1, 3, 5), seed: int = 0
) -> pd.DataFrame:
    """Do relations suffer that have neurons in common with the erased one?

    Args:
        edges: the least number of shared neurons of each row.

    Returns:
        ``shared, pairs, value, low, high, n``: number of pairs (erased, asked), mean of ln(perplexity after /
        before) over facts.
    """
    pairs = shared_sets(sets[sets["neurons"] == "knowledge"])
    damage = effects.assign(rise=log_rise(effects))[effects["neurons"] == "knowledge"]
    damage = damage.merge(
        pairs, left_on=["erased", "relation"], right_on=["relation", "other"], suffixes=("", "_erased")
    )
    rows = []
    for least, most in zip(edges, [*[edge - 1 for edge in edges[1:]], np.inf], strict=True):
        part = damage[damage["shared"].between(least, most)]
        if len(part):
            name = f"{least} or more" if most == np.inf else f"{least} to {most}"
            name = f"{least}" if least == most else name
            each = part.groupby("fact", sort=False)["rise"].mean().to_frame("all")
            relation = part.drop_duplicates("fact").set_index("fact")["relation"]
            (mean,) = column_means(each, relation, seed=seed).drop(columns="column").to_dict("records")
            rows.append({"shared": name, "pairs": len(part.drop_duplicates(["erased", "relation"])), **mean})
    return pd.DataFrame(rows, columns=["shared", "pairs", "value", "low", "high", "n"])


def as_another_relation(suffered: pd.DataFrame) -> pd.DataFrame:
    """What relations suffer when another one is erased, as a kind of neurons beside the others.

    Args:
        suffered: :func:`summarise_erasing` of knowledge neurons, ``per="relation"``.
    """
    rows = suffered[suffered["asked"] == OTHERS]
    return rows.assign(asked=OWN, neurons="another relation")


def first_choices(effects: pd.DataFrame, n: int = 6) -> pd.DataFrame:
    """What the model says most often about erased relations.

    Returns:
        a row per ``to``, a column per place (1 = most often): ``answer (times)``.
    """
    own = effects[effects["erased"] == effects["relation"]]
    columns = {}
    for to, group in own.groupby("to", sort=False):
        counts = group["predicted"].value_counts().head(n)
        said = [f"{word} ({number})" for word, number in counts.items()]
        columns[to] = pd.Series(said, range(1, len(said) + 1), dtype="str")
    return pd.DataFrame(columns).T.rename_axis("to")


def means_of_grid(grid: pd.DataFrame) -> pd.DataFrame:
    """The mean of the cells of a :func:`languages_grid`.

    Args:
        grid: with a column ``to``; the source ``random`` is no language.

    Returns:
        a row per ``to``; columns ``same language`` (asked in that of the neurons), ``other language`` and
        ``random``.
    """
    home = (grid["source"] == grid["language"]).map({True: "same language", False: "other language"})
    group = home.mask(grid["source"] == "random", "random")
    means = grid.assign(group=group).groupby(["to", "group"], sort=False)["value"].mean().unstack()
    return means.reindex(columns=["same language", "other language", "random"]).rename_axis(columns=None)
