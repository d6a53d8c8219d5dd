"""The bundled facts in ``data/mini``: written for this project, in six languages (see its README)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from ...base import DATA
from ..downloads.identity import BUNDLED
from ..facts import DataError, Facts, find_problems, read_table, refuse_unknown

FOLDER = DATA / "mini"


@cache
def read(folder: str | Path = FOLDER) -> Facts:
    """The bundled tables, checked.

    Raises:
        DataError: a table is missing or something is wrong with it.
    """
    folder = Path(folder)
    tables = {kind: read_table(folder / f"{kind}.csv", kind) for kind in ("entities", "facts", "templates")}
    data = Facts("mini", **tables, origin={"dataset": "mini", "licence": "CC0-1.0"})
    problems = find_problems(data)
    if problems:
        raise DataError(f"{folder}: {len(problems)} problems, the first: {problems[0]}.")
    return data


def load(languages: list[str] | None = None, relations: list[str] | None = None) -> Facts:
    """The bundled facts, or the chosen languages and relations of them."""
    return read().select(languages, relations)


def teaching(folder: str | Path = FOLDER) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the bundled models were taught, both the same.

    Returns:
        ``fact, taught`` (``all``, a language, or ``never``), and ``template, taught``.
    """
    folder = Path(folder)
    facts = pd.read_csv(folder / "teaching_facts.csv", dtype=str)
    wordings = pd.read_csv(folder / "teaching_wordings.csv", dtype={"template": str, "taught": bool})
    return facts, wordings


def is_taught(model: str, dataset: str) -> bool:
    """Whether :func:`teaching` says what this model was taught of this data set.

    Args:
        model, dataset: as the parameters of a study name them.

    Example:
        >>> from kn_utils.data.sources.mini import is_taught
        >>> is_taught("mini-causal", "mini"), is_taught("gemma3", "mini")
        (True, False)
    """
    return model in BUNDLED and dataset == "mini"


def mark_teaching(prompts: pd.DataFrame, *, known: bool = True) -> pd.DataFrame:
    """Prompts, marked by what the bundled models were taught.

    Args:
        prompts: ``fact, language, template``.
        known: whether these are the bundled facts, and the model was taught them (:func:`is_taught`).

    Returns:
        the prompts with ``group`` (taught in ``all`` languages, in ``this`` one only, in ``another`` only,
        ``never``) and ``wording`` (``seen``, ``unseen``). Where teaching is not known all are of one group,
        ``all facts``, and one kind of wording, ``as given``.
    """
    if not known:
        return prompts.assign(group="all facts", wording="as given")
    taught, wordings = teaching()
    how = prompts["fact"].map(taught.set_index("fact")["taught"])
    group = how.where(how.isin(["all", "never"]), "another").mask(how == prompts["language"], "this")
    seen = prompts["template"].map(wordings.set_index("template")["taught"])
    return prompts.assign(group=group, wording=seen.map({True: "seen", False: "unseen"}))


def taught_apart(each: int = 5, *, seed: int = 0) -> pd.DataFrame:
    """All facts that the bundled model was taught in one language only, or never, and some taught in all.

    Args:
        each: of those taught in all languages so many of every relation.
        seed: of the draw.

    Returns:
        ``fact, relation, taught, group``: ``all``, ``one`` or ``never``.
    """
    taught = teaching()[0].merge(read().facts[["fact", "relation"]], on="fact")
    taught = taught.assign(group=taught["taught"].where(taught["taught"].isin(["all", "never"]), "one"))
    whole = taught[taught["group"] == "all"].groupby("relation").sample(each, random_state=seed)
    return pd.concat([whole, taught[taught["group"] != "all"]], ignore_index=True)


def passages(relations: list[str] | None = None, folder: str | Path = FOLDER) -> pd.DataFrame:
    """Sentences for the activation study.

    Returns:
        ``passage, relation, fact, kind, text``; ``kind`` is ``both``, ``head`` or ``neither``.
    """
    table = pd.read_csv(Path(folder) / "passages.csv", dtype=str, keep_default_na=False)
    if relations is None:
        return table
    refuse_unknown("mini", "relation", relations, list(table["relation"].unique()))
    return table[table["relation"].isin(relations)].reset_index(drop=True)
