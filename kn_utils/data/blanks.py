"""Sentences with a blank: where a fact's subject and object are named, and what is hidden.

The kinds are those of Dai et al. 2022, section 4.3:

    both        subject and object are in the sentence, the object is hidden
    other word  the same sentences, a random word that belongs to neither is hidden: our control
    head        the subject is in the sentence, the object is not, a random word is hidden
    random      sentences about other facts, a random word is hidden

Labels are found as whole words by Unicode's rules, which suits languages that put spaces between words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from .facts import OBJECT, SUBJECT, DataError, Facts

SENTENCES = ("both", "other word", "head", "random")
WORD = re.compile(r"\w+(?:[-'’.]\w+)*")

Span = tuple[int, int]
#: Kind of sentence, text, where its blank goes (or nowhere), and why not.
Part = tuple[str, str, Span | None, str]


def with_passages(
    facts: Facts, passages: pd.DataFrame, per_relation: int | None = None, seed: int = 0
) -> Facts:
    """The facts of a data set that have sentences of both kinds, ``both`` and ``head``.

    There are at most ``per_relation`` of each relation, drawn by the seed; there may be none.

    There may be none.
    """
    kinds = passages[passages["kind"].isin(["both", "head"])].groupby("fact")["kind"].nunique()
    told = facts.facts["fact"].isin(kinds.index[kinds == 2])
    kept = facts.facts[told].reset_index(drop=True)
    return Facts(facts.dataset, facts.entities, kept, facts.templates, facts.origin).sample(
        per_relation, seed
    )


def find_blanks(
    passages: pd.DataFrame, facts: Facts, *, language: str = "en", words: int = 50, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sentences with a blank for every fact.

    Args:
        passages: ``passage, relation, fact, kind, text`` (:func:`kn_utils.load_passages`).
        facts: whose sentences. Random ones are drawn from all of ``passages`` but the fact's own, as many as
            it has with its object.
        language: of the passages.
        words: random words are drawn from so many at the beginning of a text.

    Returns:
        blanks ``prompt, passage, fact, relation, sentences, text, answer, masked`` (the text's blank is
        written ``[Y]``, ``answer`` is what it hides), and what was left out: ``sentences, reason, number``.
    """
    own = facts.entities[facts.entities["language"] == language]
    labels = own.drop_duplicates("entity").set_index("entity")["label"]
    heads, tails = facts.facts["subject"].map(labels), facts.facts["object"].map(labels)
    sides = facts.facts.assign(head=heads, tail=tails)
    texts = passages[["passage", "text"]].to_numpy()
    owner = passages["fact"].to_numpy()
    by_fact = dict(list(passages[passages["fact"].isin(sides["fact"])].groupby("fact", sort=False)))
    rows, left = [], []
    for fact in sides.itertuples():
        if not (isinstance(fact.head, str) and isinstance(fact.tail, str)):
            left.append(("both", f"no label in {language}"))
            continue
        parts = []
        for passage in by_fact[fact.fact].itertuples() if fact.fact in by_fact else ():
            if passage.kind in ("both", "head"):
                random = _random(seed, passage.passage)
                blanks = _blanks_of(passage.text, fact.head, fact.tail, passage.kind, words, random)
                parts += [(passage.passage, *blank) for blank in blanks]
        random = _random(seed, fact.fact)
        several = sum(name == "both" and span is not None for _, name, _, span, _ in parts)
        for passage, text in texts[random.permutation(np.flatnonzero(owner != fact.fact))[:several]]:
            head, tail = _sides(text, fact.head, fact.tail)
            parts.append((passage, "random", text, *_any_word(text, head + tail, words, random)))
        for passage, name, text, span, reason in parts:
            if span is None:
                left.append((name, reason))
                continue
            hidden, blanked = text[slice(*span)], text[: span[0]] + OBJECT + text[span[1] :]
            where = (f"{fact.fact}/{passage}/{name}", passage, fact.fact, fact.relation, name)
            rows.append((*where, blanked, hidden))
    columns = ["prompt", "passage", "fact", "relation", "sentences", "text", "answer"]
    table = pd.DataFrame(rows, columns=columns).assign(masked="object")
    missed = pd.DataFrame(left, columns=["sentences", "reason"]).value_counts(sort=False)
    return table, missed.rename("number").reset_index()


def _blanks_of(
    text: str, head: str, tail: str, kind: str, words: int, random: np.random.Generator
) -> list[Part]:
    """The blanks of one sentence of a fact."""
    names = ("both", "other word") if kind == "both" else ("head",)
    if SUBJECT in text or OBJECT in text:
        return [(name, text, None, "a slot of ours in the text") for name in names]
    heads, tails = _sides(text, head, tail)
    if not heads:
        return [(name, text, None, "subject not named") for name in names]
    if kind == "head":
        if tails:
            return [("head", text, None, "object named")]
        return [("head", text, *_any_word(text, heads, words, random))]
    if not tails:
        return [(name, text, None, "object not named") for name in names]
    return [
        ("both", text, tails[0], ""),
        ("other word", text, *_any_word(text, heads + tails, words, random)),
    ]


def _sides(text: str, head: str, tail: str) -> tuple[list[Span], list[Span]]:
    """Where the subject and the object are named; of names that overlap (Mexico, Mexico City) the longer."""
    heads, tails = _named(text, head), _named(text, tail)
    inside = [
        span for span in tails if not any(_touch(span, h) and h[1] - h[0] >= span[1] - span[0] for h in heads)
    ]
    return [span for span in heads if not any(_touch(span, t) for t in inside)], inside


def _named(text: str, label: str) -> list[Span]:
    """The label as a whole word, as it is written or, where it is not, in other capitals."""
    pattern = rf"(?<!\w){re.escape(label)}(?!\w)"
    matches = list(re.finditer(pattern, text)) or list(re.finditer(pattern, text, re.IGNORECASE))
    return [match.span() for match in matches]


def _touch(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _any_word(
    text: str, taken: list[Span], words: int, random: np.random.Generator
) -> tuple[Span | None, str]:
    """A random word of the first ones, none of those taken."""
    spans = [match.span() for match in WORD.finditer(text)][:words]
    free = [span for span in spans if not any(_touch(span, other) for other in taken)]
    if SUBJECT in text or OBJECT in text:
        return None, "a slot of ours in the text"
    return (free[random.integers(len(free))], "") if free else (None, "no other word")


def _random(seed: int, name: str) -> np.random.Generator:
    """Its own numbers for every passage: what else is asked for changes none of them."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def typical_facts(table: pd.DataFrame, relations: int = 2) -> list[str]:
    """Of the first relations the fact that has most sentences with its object (of equals the first)."""
    told = table[(table["neurons"] == "knowledge") & (table["sentences"] == "both")]
    many = told.groupby(["relation", "fact"], sort=False)["prompt"].nunique().reset_index()
    best = many.sort_values("prompt", ascending=False, kind="stable").drop_duplicates("relation")
    return best.sort_index()["fact"].head(relations).tolist()


def extremes(table: pd.DataFrame, blanks: pd.DataFrame, fact: str, *, n: int = 2) -> pd.DataFrame:
    """The paper's Table 3: a fact's sentences where its knowledge neurons, summed, are most and least active.

    Returns:
        ``activation, sentences, hidden, text``, the ``n`` highest and the ``n`` lowest, from high to low; the
        blank is ``[MASK]``.
    """
    own = table[(table["fact"] == fact) & (table["neurons"] == "knowledge")]
    if own.empty:
        raise DataError(f"no activations of {fact}; has it neurons and sentences?")
    total = own.groupby("prompt", sort=False)["activation"].sum().sort_values(ascending=False, kind="stable")
    ends = total if len(total) <= 2 * n else pd.concat([total.head(n), total.tail(n)])
    text = blanks.set_index("prompt").loc[ends.index]
    return pd.DataFrame(
        {
            "activation": ends.to_numpy(),
            "sentences": text["sentences"].to_numpy(),
            "hidden": text["answer"].to_numpy(),
            "text": text["text"].str.replace(OBJECT, "[MASK]", regex=False).to_numpy(),
        }
    )


def extremes_as_text(
    table: pd.DataFrame, blanks: pd.DataFrame, facts: list[str], words: Mapping[str, str], *, n: int = 2
) -> str:
    """:func:`extremes` of each of these facts as text: the activation, the kind of sentence, the sentence.

    Args:
        table, blanks, n: as :func:`extremes` takes them.
        facts: which.
        words: fact -> what it is called (:func:`kn_utils.data.words.facts_in_words`).
    """
    lines = []
    for fact in facts:
        lines.append(words.get(fact, fact))
        for row in extremes(table, blanks, fact, n=n).itertuples():
            lines += [
                f"  {row.activation:+.2f}  {row.sentences}, hidden: {row.hidden}",
                f"         {row.text}",
            ]
    return "\n".join(lines)
