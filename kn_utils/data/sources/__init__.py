"""Published data sets, one file each, all returning the tables of :mod:`kn_utils.data.facts`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pandas as pd
from pydantic import ValidationError, validate_call

from ...checks import check_names, check_texts
from ..facts import DataError, Facts, refuse_unknown
from . import bing_distant, mini, mlama, mpararel, own, pararel, trex_multilingual
from .tables import provenance

__all__ = ["DATASETS", "load_facts", "load_passages", "parse", "provenance"]

#: Data set name -> function that reads it: ``load(languages, relations, *, options)``. A new data set is a
#: file beside this one and a row here.
DATASETS: dict[str, Callable[..., Facts]] = {
    "mini": mini.load,
    "pararel": pararel.load,
    "trex_multilingual": trex_multilingual.load,
    "mpararel": mpararel.load,
    "mlama": mlama.load,
    "bing_distant": bing_distant.load,
}
#: The same, with what reads facts of one's own.
LOADERS: dict[str, Callable[..., Facts]] = {**DATASETS, "own": own.load}
CHOICES = ("languages", "relations")  # what every data set is asked for; the rest are its own options
#: Data set name -> function that reads its sentences for the study of what switches neurons on.
PASSAGES: dict[str, Callable[..., pd.DataFrame]] = {
    "mini": mini.passages,
    "bing_distant": bing_distant.passages,
}


def load_facts(
    dataset: str = "mini",
    *,
    languages: list[str] | None = None,
    relations: list[str] | None = None,
    **options: Any,
) -> Facts:
    """A data set's ``entities, facts, templates``, or the chosen languages and relations of it.

    Args:
        dataset: a name in ``DATASETS``; its options may stand behind it, as a parameter of a notebook needs
            them: ``"trex_multilingual:build=released,min_languages=4"``, ``"mlama:languages=de+fr"``. Or the
            path of facts of your own, see :mod:`kn_utils.data.sources.own`.
        languages: such as ``["en", "nl"]``; ``None`` is the data set's usual ones.
        relations: such as ``["P36"]``; ``None`` is all.
        options: the data set's own, see the ``load`` function of its file.

    Raises:
        DataError: unknown data set, option, language or relation (the message lists the known ones); a broken
            table.

    Example:
        >>> from kn_utils import load_facts
        >>> facts = load_facts("mini", languages=["en"], relations=["P36"])
        >>> facts.languages, facts.relations
        (['en'], ['P36'])
    """
    check_texts(dataset=dataset)
    check_names(languages=languages, relations=relations)
    name, spelt = parse(dataset)
    known = [option for option in inspect.signature(LOADERS[name]).parameters if option not in CHOICES]
    given = {**spelt, **options}
    asked = {
        key: value for key, value in zip(CHOICES, (languages, relations), strict=True) if value is not None
    }
    refuse_unknown(name, "option", [key for key in given if key not in CHOICES], known)
    try:
        return validate_call(LOADERS[name])(**{**given, **asked})
    except ValidationError as error:  # of an option's type or value, before anything is read
        first = error.errors()[0]
        raise DataError(f"data set {name!r}, {first['loc'][0]}={first['input']!r}: {first['msg']}.") from None


def load_passages(
    dataset: str = "mini", relations: list[str] | None = None, *, missing_ok: bool = False
) -> pd.DataFrame:
    """Sentences about a data set's facts.

    Args:
        dataset: its name.
        relations: only these.
        missing_ok: a data set without such sentences is not refused but has an empty table.

    Returns:
        ``passage, relation, fact, kind, text``; ``kind`` is ``both`` (subject and object are in the
        sentence), ``head`` (the subject only) or ``neither``.

    Raises:
        DataError: a data set without such sentences, or an unknown relation.

    Example:
        >>> from kn_utils import load_passages
        >>> sorted(load_passages("mini", ["P36"])["kind"].unique())
        ['both', 'head', 'neither']
    """
    name, _ = parse(dataset)
    if name not in PASSAGES and missing_ok:
        return pd.DataFrame(columns=["passage", "relation", "fact", "kind", "text"], dtype="str")
    if name not in PASSAGES:
        raise DataError(f"data set {name!r} has no passages; these have: {', '.join(PASSAGES)}.")
    return PASSAGES[name](relations)


def parse(dataset: str) -> tuple[str, dict[str, Any]]:
    """Take a data set's name and its options apart.

    ``"mlama:languages=de+fr"`` becomes ``("mlama", {"languages": ["de", "fr"]})``, and the path of a folder
    or table ``("own", {"place": path})``.
    """
    name, colon, rest = dataset.partition(":")
    if name not in LOADERS and own.is_place(dataset):
        return "own", {"place": dataset}
    if name not in LOADERS:
        raise DataError(
            f"unknown dataset {name!r}; known: {', '.join(DATASETS)}, or the path of facts of your own."
        )
    options: dict[str, Any] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise DataError(
                f"dataset {dataset!r}: {part!r} should be option=value, options separated by commas."
            )
        options[key] = value.split("+") if key in CHOICES else value
    return name, options
