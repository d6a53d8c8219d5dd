"""Prompts: wordings filled with the names of facts, and drawing some of them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..checks import ParameterError, check_numbers, check_table, check_texts
from .facts import COLUMNS, OBJECT, SUBJECT, DataError, Facts, refuse_broken


def make_prompts(
    facts: Facts,
    language: str = "en",
    relation: str = "all",
    *,
    wordings: int | None = None,
    masked: str | None = None,
) -> pd.DataFrame:
    """Fill the wordings of a language (or of ``"all"``) with the facts' labels.

    Args:
        facts: a data set.
        language: one language, or ``"all"``: a fact's bag then holds its wordings in every language.
        relation: one relation, or ``"all"``.
        wordings: at most so many wordings per language, the first ones; ``None`` takes all.
            ``language="all", wordings=1`` is the shape of the multilingual paper's data.
        masked: ``"object"`` (the blank is ``[Y]``) or ``"subject"`` (the blank is ``[X]``). ``None``: what
            the data set says of each fact (its column ``masked``), the object where it says nothing.

    Returns:
        prompts, sorted by fact, then language and wording. A fact without a label in a language has no prompt
        there.

    Raises:
        DataError: unknown language or relation; a wording without its slots; a fact, a label or a wording
            that is there twice or empty.

    Example:
        >>> from kn_utils import load_facts, make_prompts
        >>> prompts = make_prompts(load_facts(relations=["P36"]), "en", wordings=1)
        >>> prompts.loc[0, ["text", "answer"]].tolist()
        ['The capital of Germany is [Y].', 'Berlin']
    """
    if not isinstance(facts, Facts):
        raise ParameterError(f"facts is a {type(facts).__name__}; load some by load_facts(dataset).")
    check_texts(language=language, relation=relation)
    check_numbers(wordings=wordings)
    if masked not in (None, "object", "subject"):
        raise DataError(f"masked={masked!r}; it is 'object' or 'subject'.")
    refuse_broken(facts)
    chosen = facts.select(
        None if language == "all" else [language], None if relation == "all" else [relation]
    )
    templates = chosen.templates
    for row in templates.itertuples():
        if SUBJECT not in row.text or OBJECT not in row.text:
            raise DataError(f"wording {row.template}: {row.text!r} lacks {SUBJECT} or {OBJECT}.")
    if wordings is not None:
        templates = templates[templates.groupby(["relation", "language"]).cumcount() < wordings]
    labels = chosen.entities.loc[chosen.entities["label"] != "", ["entity", "language", "label"]]
    order = chosen.facts.assign(_fact=range(len(chosen.facts)))
    if masked is not None or "masked" not in order:
        order = order.assign(masked=masked or "object")
    table = order.merge(templates.assign(_wording=range(len(templates))), on="relation")
    for role in ("subject", "object"):
        side = labels.rename(columns={"entity": role, "label": f"{role}_label"})
        table = table.merge(side, on=[role, "language"])
    table = table.sort_values(["_fact", "_wording"], kind="stable").reset_index(drop=True)
    by_object = table["masked"] == "object"
    slot = by_object.map({True: SUBJECT, False: OBJECT})
    shown = table["subject_label"].where(by_object, table["object_label"])
    text = [t.replace(s, label) for t, s, label in zip(table["text"], slot, shown, strict=True)]
    return pd.DataFrame(
        {
            "prompt": table["fact"] + "/" + table["template"] + by_object.map({True: "", False: "/subject"}),
            "fact": table["fact"],
            "relation": table["relation"],
            "language": table["language"],
            "template": table["template"],
            "text": pd.Series(text, dtype=table["text"].dtype),
            "answer": table["object_label"].where(by_object, table["subject_label"]),
            "masked": table["masked"],
        }
    )


def from_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Prompts from a plain table of texts and answers; what the table says itself is kept.

    Args:
        table: ``text`` with its blank written ``[Y]``, ``answer``; any other column of prompts.

    Returns:
        prompts: ``prompt`` is the text with its answer, and every row is a ``fact`` of its own unless the
        table says otherwise.

    Raises:
        DataError: a text without its blank, an answer that is none.
    """
    if isinstance(table, pd.DataFrame) and not {"text", "answer"} <= set(table.columns):
        return table  # whoever asks for more says what is missing
    check_table("prompts", table, "text answer")
    if set(COLUMNS["prompts"]) <= set(table.columns):
        return table
    by_object = table["text"].str.contains(OBJECT, regex=False)
    masked = table["masked"] if "masked" in table else by_object.map({True: "object", False: "subject"})
    blanks = masked.map({"object": OBJECT, "subject": SUBJECT}).fillna(OBJECT)
    whole = []
    for row, (text, blank, answer) in enumerate(zip(table["text"], blanks, table["answer"], strict=True)):
        if text.count(blank) != 1:
            raise DataError(f"prompts, row {row}: {text!r} should hold its blank {blank} once.")
        whole.append(text.replace(blank, answer))
    usual = {"prompt": whole, "fact": whole, "relation": "own", "language": "own", "template": "own"}
    made = table.assign(masked=masked, **{name: value for name, value in usual.items() if name not in table})
    others = [name for name in table.columns if name not in COLUMNS["prompts"]]
    return made[[*COLUMNS["prompts"], *others]]


def bag_sizes(shapes: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How large bags are.

    Args:
        shapes: name of a kind of bag -> its prompts.

    Returns:
        ``bag, prompts, facts, prompts per fact``.
    """
    rows = []
    for name, prompts in shapes.items():
        facts = prompts["fact"].nunique()
        each = prompts.groupby("fact").size().mean()
        rows.append({"bag": name, "prompts": len(prompts), "facts": facts, "prompts per fact": each})
    return pd.DataFrame(rows)


def shown_names(prompts: pd.DataFrame, facts: Facts) -> pd.Series:
    """The name in each prompt's text: the subject's, or the object's where the subject is asked for.

    Returns:
        indexed as ``prompts``; missing for a fact or a name that the data set does not hold.
    """
    sides = facts.facts.set_index("fact")[["subject", "object"]]
    asked_subject = (prompts["masked"] == "subject").to_numpy()
    known = sides.reindex(prompts["fact"])
    entity = known["subject"].where(~asked_subject, known["object"])
    label = facts.entities.drop_duplicates(["entity", "language"]).set_index(["entity", "language"])["label"]
    where = pd.MultiIndex.from_arrays([entity.to_numpy(), prompts["language"].to_numpy()])
    return pd.Series(label.reindex(where).to_numpy(), index=prompts.index, dtype=object)


def draw(
    prompts: pd.DataFrame, wordings: int = 1, *, facts: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Draw some prompts of a table.

    Args:
        prompts: the table.
        wordings: so many of every fact.
        facts: at most so many of every relation; ``None``: all.
        seed: of the draw.
    """
    mixed = prompts.sample(frac=1, random_state=seed)
    if facts is not None:
        chosen = mixed.drop_duplicates("fact").groupby("relation", sort=False).head(facts)["fact"]
        mixed = mixed[mixed["fact"].isin(chosen)]
    return mixed.groupby("fact", sort=False).head(wordings).sort_index().reset_index(drop=True)
