"""Which texts switch a fact's knowledge neurons on (Dai et al. 2022, section 4.3, tables 3 and 4).

Sentences about a fact get a blank, and the fact's neurons are read there:

    both        subject and object are in the sentence, the object is hidden
    other word  the same sentences, a random word that belongs to neither is hidden: our control
    head        the subject is in the sentence, the object is not, a random word is hidden
    random      sentences about other facts, a random word is hidden

The blank is as long as what it hides (a mask per piece, as in our prompts) and is read at its first mask; the
papers' answers have one piece. Labels are found as whole words by Unicode's rules, which suits languages that
put spaces between words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..attribution.reading import read_neurons
from ..base import QUIET, StudyError
from ..data.facts import OBJECT, SUBJECT, Facts
from ..model.answers import rows_at_once
from ..model.language_model import LanguageModel
from ..model.rows import Row, encode
from ..neurons.choose import pairs_by_fact
from ..statistics.differences import difference_test
from ..statistics.intervals import column_means, interval

SENTENCES = ("both", "other word", "head", "random")
RELATIONS, FACTS = "mean of relations", "mean of facts"
COLUMNS = ["prompt", "passage", "fact", "relation", "sentences", "neurons", "layer", "neuron", "activation"]
WORD = re.compile(r"\w+(?:[-'’.]\w+)*")


class ActivatingError(StudyError):
    """Activations that were not read, or cannot be."""


def with_passages(
    facts: Facts, passages: pd.DataFrame, per_relation: int | None = None, seed: int = 0
) -> Facts:
    """Of a data set the facts that have sentences of both kinds (``both`` and ``head``), at most so many of
    each relation.

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
    labels = (
        facts.entities[facts.entities["language"] == language]
        .drop_duplicates("entity")
        .set_index("entity")["label"]
    )
    sides = facts.facts.assign(
        head=facts.facts["subject"].map(labels), tail=facts.facts["object"].map(labels)
    )
    texts = passages[["passage", "text"]].to_numpy()
    owner = passages["fact"].to_numpy()
    by_fact = dict(list(passages[passages["fact"].isin(sides["fact"])].groupby("fact", sort=False)))
    rows, left = [], []
    for fact in sides.itertuples():
        if not (isinstance(fact.head, str) and isinstance(fact.tail, str)):
            left.append(("both", f"no label in {language}"))
            continue
        found = []
        for passage in by_fact[fact.fact].itertuples() if fact.fact in by_fact else ():
            if passage.kind in ("both", "head"):
                parts = _blanks_of(
                    passage.text, fact.head, fact.tail, passage.kind, words, _random(seed, passage.passage)
                )
                found += [(passage.passage, *part) for part in parts]
        random = _random(seed, fact.fact)
        several = sum(name == "both" and span is not None for _, name, _, span, _ in found)
        for passage, text in texts[random.permutation(np.flatnonzero(owner != fact.fact))[:several]]:
            head, tail = _sides(text, fact.head, fact.tail)
            found.append((passage, "random", text, *_any_word(text, head + tail, words, random)))
        for passage, name, text, span, reason in found:
            if span is None:
                left.append((name, reason))
            else:
                start, end = span
                blanked = text[:start] + OBJECT + text[end:]
                rows.append(
                    (
                        f"{fact.fact}/{passage}/{name}",
                        passage,
                        fact.fact,
                        fact.relation,
                        name,
                        blanked,
                        text[start:end],
                    )
                )
    columns = ["prompt", "passage", "fact", "relation", "sentences", "text", "answer"]
    blanks = pd.DataFrame(rows, columns=columns).assign(masked="object")
    missed = (
        pd.DataFrame(left, columns=["sentences", "reason"])
        .value_counts(sort=False)
        .rename("number")
        .reset_index()
    )
    return blanks, missed


Span = tuple[int, int]
#: Kind of sentence, text, where its blank goes (or nowhere), and why not.
Part = tuple[str, str, Span | None, str]


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
    """Where the subject and the object are named; of names that overlap (Mexico, Mexico City) the longer one
    counts."""
    heads, tails = _named(text, head), _named(text, tail)
    inside = [
        span for span in tails if not any(_touch(span, h) and h[1] - h[0] >= span[1] - span[0] for h in heads)
    ]
    return [span for span in heads if not any(_touch(span, t) for t in inside)], inside


def _named(text: str, label: str) -> list[Span]:
    """The label as a whole word, as it is written or, where it is not, in other capitals."""
    pattern = rf"(?<!\w){re.escape(label)}(?!\w)"
    found = list(re.finditer(pattern, text)) or list(re.finditer(pattern, text, re.IGNORECASE))
    return [match.span() for match in found]


def _touch(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _any_word(
    text: str, taken: list[Span], words: int, random: np.random.Generator
) -> tuple[Span | None, str]:
    """A random word of the first ones, none of those taken."""
    spans = [match.span() for match in WORD.finditer(text)][:words]
    free = [span for span in spans if not any(_touch(span, one) for one in taken)]
    if SUBJECT in text or OBJECT in text:
        return None, "a slot of ours in the text"
    return (free[random.integers(len(free))], "") if free else (None, "no other word")


def _random(seed: int, name: str) -> np.random.Generator:
    """Its own numbers for every passage: what else is asked for changes none of them."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def lend(neurons: pd.DataFrame, *, within: bool, seed: int = 0) -> pd.DataFrame:
    """Give every fact the neurons of another one: of the same relation with another answer (``within``), or
    of another relation.

    Facts for which there is none are left out. The object is read from the fact's name (``P36:Q142:Q90``).
    """
    random = np.random.default_rng(seed)
    sets = dict(list(neurons.groupby("fact", sort=False)))
    relation = {fact: group["relation"].iloc[0] for fact, group in sets.items()}
    parts = []
    for fact in sets:
        same = [
            g
            for g in sets
            if (relation[g] == relation[fact]) == within and g.split(":")[-1] != fact.split(":")[-1]
        ]
        if same:
            parts.append(sets[same[random.integers(len(same))]].assign(fact=fact, relation=relation[fact]))
    return pd.concat(parts, ignore_index=True) if parts else neurons.iloc[:0]


def activations(
    model: LanguageModel,
    blanks: pd.DataFrame,
    neurons: Mapping[str, pd.DataFrame],
    *,
    masks: str = "pieces",
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Read every fact's neurons at the blanks of its sentences (after the non-linearity, with their sign).

    Args:
        neurons: kind -> table ``fact, layer, neuron``.
        masks: ``pieces``: as many as the hidden word has pieces; ``one``, as published.

    Returns:
        ``prompt, passage, fact, relation, sentences, neurons, layer, neuron, activation``;
        ``attrs["too_long"]``: how many sentences the model cannot take (or, of a left-to-right model, have
        nothing in front of their blank).
    """
    if masks not in ("pieces", "one"):
        raise ActivatingError(f"masks={masks!r}; it is 'pieces' or 'one'.")
    parts = [pd.DataFrame(columns=["fact", "layer", "neuron", "neurons"])] * (not neurons)
    parts += [table[["fact", "layer", "neuron"]].assign(neurons=kind) for kind, table in neurons.items()]
    kinds = pd.concat(parts, ignore_index=True)
    asked = blanks[blanks["fact"].isin(kinds["fact"])].reset_index(drop=True)
    rows, number = _rows(model, asked, masks)
    if not rows:
        return pd.DataFrame(columns=COLUMNS).astype({"activation": float})
    sets = {fact: group for fact, group in kinds.groupby("fact", sort=False)}
    places = pairs_by_fact(kinds)
    batch_size = batch_size or rows_at_once(model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    read: dict[int, np.ndarray] = {}
    for start in tqdm(range(0, len(order), batch_size), desc="read", disable=not progress or QUIET):
        batch = order[start : start + batch_size]
        values = read_neurons(model, [rows[i] for i in batch])[0].cpu().numpy()
        for value, i in zip(values, batch, strict=True):
            layer, neuron = places[asked["fact"][number[i]]].T
            read[i] = value[layer, neuron]
    parts = [
        sets[asked["fact"][n]][["neurons", "layer", "neuron"]].assign(activation=read[i], row=n)
        for i, n in enumerate(number)
    ]
    table = asked[["prompt", "passage", "fact", "relation", "sentences"]].merge(
        pd.concat(parts), left_index=True, right_on="row"
    )
    table = table.drop(columns="row").reset_index(drop=True)
    table.attrs["too_long"] = len(asked) - len(rows)
    return table


def _rows(model: LanguageModel, blanks: pd.DataFrame, masks: str) -> tuple[list[Row], list[int]]:
    """The first row of every sentence that the model can take, and the sentence's number."""
    limit = model.max_length
    own = model.tokenizer.mask_token
    if model.causal:
        can = ~blanks["text"].str.lstrip().str.startswith(OBJECT)
    else:
        can = ~blanks["text"].str.contains(own, regex=False)
        if masks == "one":  # an answer of one piece, whichever: it is not asked for
            blanks = blanks.assign(answer=own)
    numbers = np.flatnonzero(can)
    rows: dict[int, Row] = {}
    for row in encode(model.tokenizer, blanks[can], causal=model.causal, unknown="allow"):
        rows.setdefault(row.prompt, row)
    kept = [(row, int(numbers[i])) for i, row in rows.items() if limit is None or len(row.ids) <= limit]
    return [row for row, _ in kept], [number for _, number in kept]


def mean_activation(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The paper's Table 4: mean activation per kind of neurons, kind of sentences and relation.

    First a neuron's mean over a fact's sentences, then the mean over all (fact, neuron) of a relation, then
    over relations. A last row takes every fact alike instead.

    Returns:
        ``neurons, sentences, relation, value, low, high, n``; n facts; intervals from resampling facts
        (within their relation).
    """
    each = table.groupby(["neurons", "sentences", "fact", "relation", "layer", "neuron"], sort=False)[
        "activation"
    ].mean()
    facts = (
        each.groupby(level=["neurons", "sentences", "fact", "relation"], sort=False)
        .agg(["mean", "size"])
        .reset_index()
    )
    columns = ["neurons", "sentences", "relation", "value", "low", "high", "n"]
    parts = [pd.DataFrame(columns=columns)] if facts.empty else []
    for (kind, sentences), group in facts.groupby(["neurons", "sentences"], sort=False):
        values, weights = (
            group.pivot(index="fact", columns="relation", values=name) for name in ("mean", "size")
        )
        order = list(dict.fromkeys(group["relation"]))
        relation = group.set_index("fact")["relation"]
        found = column_means(
            values[order], relation, weights=weights[order].fillna(0), mean=RELATIONS, seed=seed
        )
        found.loc[len(found)] = {"column": FACTS, **interval(group["mean"], seed=seed)}
        parts.append(found.rename(columns={"column": "relation"}).assign(neurons=kind, sentences=sentences))
    return pd.concat(parts, ignore_index=True)[columns]


def contrasts(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, of: str = "sentences", seed: int = 0
) -> pd.DataFrame:
    """Is a fact's mean activation higher in one kind of ``sentences`` than in another (or of one kind of
    ``neurons``)?

    Returns:
        ``neurons`` (or ``sentences``), ``contrast, value, low, high, n, p``: mean over the facts that have
        both of the difference, and the p of its sign.
    """
    if of not in ("sentences", "neurons"):
        raise ActivatingError(f"of={of!r}; it is 'sentences' or 'neurons'.")
    other = "neurons" if of == "sentences" else "sentences"
    each = table.groupby([other, "fact", of, "layer", "neuron"], sort=False)["activation"].mean()
    facts = each.groupby(level=[other, "fact", of], sort=False).mean().unstack(of)
    rows = []
    for kind in facts.index.unique(other):
        group = facts.loc[kind]
        for first, second in pairs:
            if first in group and second in group:
                both = group[[first, second]].dropna()
                p = difference_test(both[first], both[second], seed=seed) if len(both) > 1 else np.nan
                found = interval(both[first] - both[second], seed=seed)
                rows.append({other: kind, "contrast": f"{first} - {second}", **found, "p": p})
    return pd.DataFrame(rows, columns=[other, "contrast", "value", "low", "high", "n", "p"])


def typical_facts(table: pd.DataFrame, relations: int = 2) -> list[str]:
    """Of the first relations the fact that has most sentences with its object (of equals the first)."""
    some = table[(table["neurons"] == "knowledge") & (table["sentences"] == "both")]
    many = some.groupby(["relation", "fact"], sort=False)["prompt"].nunique().reset_index()
    best = many.sort_values("prompt", ascending=False, kind="stable").drop_duplicates("relation")
    return best.sort_index()["fact"].head(relations).tolist()


def extremes(table: pd.DataFrame, blanks: pd.DataFrame, fact: str, *, n: int = 2) -> pd.DataFrame:
    """The paper's Table 3: a fact's sentences where its knowledge neurons, summed, are most and least active.

    Returns:
        ``activation, sentences, hidden, text``, the ``n`` highest and the ``n`` lowest, from high to low; the
        blank is ``[MASK]``.
    """
    some = table[(table["fact"] == fact) & (table["neurons"] == "knowledge")]
    if some.empty:
        raise ActivatingError(f"no activations of {fact}; has it neurons and sentences?")
    total = some.groupby("prompt", sort=False)["activation"].sum().sort_values(ascending=False, kind="stable")
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
