"""Which texts switch neurons on: blanks in the right places, the right neurons read there, means by hand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import make_model
from oracles import neurons_at

from kn_utils import load_facts, load_model, load_passages, plots
from kn_utils.base import ROOT
from kn_utils.data.blanks import extremes, extremes_as_text, find_blanks, typical_facts, with_passages
from kn_utils.data.facts import DataError, Facts
from kn_utils.experiments.activating import ActivatingError, activations, unread
from kn_utils.model.rows import answer_pieces
from kn_utils.neurons.choose import lent
from kn_utils.statistics.activations import FACTS, RELATIONS, ActivationsError, contrasts, mean_activation
from kn_utils.statistics.intervals import interval


def table(rows, columns):
    return pd.DataFrame(rows, columns=columns)


def small(*facts: tuple[str, str, str]) -> Facts:
    """Facts (relation, subject, object) whose labels are their ids."""
    rows = [(f"{r}:{s}:{o}", r, s, o) for r, s, o in facts]
    names = dict.fromkeys(name for _, s, o in facts for name in (s, o))
    return Facts(
        "small",
        table([(name, "en", name, "") for name in names], ["entity", "language", "label", "aliases"]),
        table(rows, ["fact", "relation", "subject", "object"]),
        table([("P36", "en", "P36-en-1", "[X] [Y]")], ["relation", "language", "template", "text"]),
    )


def sentences(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Sentences as (fact, kind, text)."""
    return table(
        [(f"p{i}", fact.split(":")[0], fact, kind, text) for i, (fact, kind, text) in enumerate(rows)],
        ["passage", "relation", "fact", "kind", "text"],
    )


def blank(text: str, subject: str, answer: str, kind: str = "both") -> pd.DataFrame:
    facts = small(("P36", subject, answer))
    found, left = find_blanks(sentences((facts.facts["fact"][0], kind, text)), facts)
    return found.set_index("sentences"), left


def test_the_object_is_hidden_once_as_a_whole_word():
    found, left = blank("Parisians love Paris, and France loves Paris.", "France", "Paris")
    assert found.loc["both", "text"] == "Parisians love [Y], and France loves Paris."
    assert found.loc["both", "answer"] == "Paris" and left.empty
    found, _ = blank("France's Académie: l'É in Éire.", "France", "É")
    assert found.loc["both", "text"] == "France's Académie: l'[Y] in Éire."  # É of Éire is no word of its own


@pytest.mark.parametrize("name", ["C++", "Yahoo!", "St. John's (city)", "a.b", "$1", "[x]"])
def test_signs_in_names_are_no_patterns(name):
    found, _ = blank(f"Head wrote {name} in it.", "Head", name)
    assert found.loc["both", "text"] == "Head wrote [Y] in it." and found.loc["both", "answer"] == name
    found, _ = blank(f"{name} wrote Tail in it.", name, "Tail")
    assert found.loc["both", "text"] == f"{name} wrote [Y] in it."
    assert blank("aXb wrote Tail in it.", "a.b", "Tail")[0].empty


def test_the_object_inside_the_subject_is_not_the_answer():
    found, _ = blank("Bank of Japan is in Japan.", "Bank of Japan", "Japan")
    assert found.loc["both", "text"] == "Bank of Japan is in [Y]."
    found, left = blank("Bank of Japan rests.", "Bank of Japan", "Japan")
    assert found.empty and left.to_numpy().tolist() == [
        ["both", "object not named", 1],
        ["other word", "object not named", 1],
    ]
    found, _ = blank("Mexico has Mexico City.", "Mexico", "Mexico City")
    assert found.loc["both", "text"] == "Mexico has [Y]."


def test_other_capitals_count_where_there_is_no_exact_match():
    found, _ = blank("Guitar is what Bob plays.", "Bob", "guitar")
    assert found.loc["both", "text"] == "[Y] is what Bob plays." and found.loc["both", "answer"] == "Guitar"
    found, _ = blank("May Ann may sing.", "Ann", "may")
    assert found.loc["both", "text"] == "May Ann [Y] sing."


@pytest.mark.slow
def test_random_words_are_others_and_among_the_first():
    text = "Bob's guitar " + "la " * 60 + "end"
    hidden = {
        find_blanks(sentences(("P1:Bob:guitar", "both", text)), small(("P1", "Bob", "guitar")), seed=s)[0]
        .set_index("sentences")
        .loc["other word", "answer"]
        for s in range(20)
    }
    assert hidden == {"la"} or hidden == {"la", "s"}
    for s in range(20):
        found, _ = find_blanks(
            sentences(("P1:Bob:x", "head", "Bob ate up")), small(("P1", "Bob", "x")), seed=s
        )
        assert found["answer"].item() in ("ate", "up") and found["text"].item() in (
            "Bob [Y] up",
            "Bob ate [Y]",
        )
    found, _ = find_blanks(
        sentences(("P1:Bob:x", "head", "Bob one two three")), small(("P1", "Bob", "x")), words=2
    )
    assert found["answer"].item() == "one"


def test_what_is_left_out_is_counted():
    facts = small(("P1", "Bob", "guitar"))
    rows = [
        ("head", "Bob plays the guitar."),
        ("head", "Bob"),
        ("head", "He left."),
        ("head", "Bob [Y] left."),
        ("both", "Ann plays the guitar."),
        ("both", "Bob guitar"),
        ("neither", "It rains."),
    ]
    found, left = find_blanks(sentences(*[("P1:Bob:guitar", *row) for row in rows]), facts)
    assert found[["sentences", "text"]].to_numpy().tolist() == [["both", "Bob [Y]"]]
    counted = {(row.sentences, row.reason): row.number for row in left.itertuples()}
    assert counted == {
        ("head", "object named"): 1,
        ("head", "no other word"): 1,
        ("head", "subject not named"): 1,
        ("head", "a slot of ours in the text"): 1,
        ("both", "subject not named"): 1,
        ("other word", "subject not named"): 1,
        ("other word", "no other word"): 1,
    }


def test_random_sentences_are_about_other_facts_and_as_many():
    facts = small(("P1", "Bob", "guitar"), ("P2", "Ann", "Rome"))
    rows = [("P1:Bob:guitar", "both", f"Bob has guitar {i}.") for i in range(3)]
    rows += [("P2:Ann:Rome", "head", f"Ann is here {i}.") for i in range(4)] + [
        ("P2:Ann:Rome", "both", "Ann in Rome.")
    ]
    found, _ = find_blanks(sentences(*rows), facts)
    counts = found.groupby(["fact", "sentences"]).size()
    assert counts["P1:Bob:guitar", "random"] == 3 and counts["P2:Ann:Rome", "random"] == 1
    drawn = found[found["sentences"] == "random"]
    assert drawn.loc[drawn["fact"] == "P1:Bob:guitar", "text"].str.contains("Ann|here|is").all()
    assert drawn.loc[drawn["fact"] == "P2:Ann:Rome", "passage"].isin(["p0", "p1", "p2"]).all()
    again, _ = find_blanks(sentences(*rows), facts)
    assert again.equals(found)
    # what else is asked for changes no fact's own sentences
    alone, _ = find_blanks(sentences(*rows), small(("P1", "Bob", "guitar")))
    assert alone.equals(found[found["fact"] == "P1:Bob:guitar"].reset_index(drop=True))
    assert not find_blanks(sentences(*rows), facts, seed=1)[0].equals(found)


@pytest.mark.slow
def test_bundled_passages_all_get_their_blanks():
    data, passages = load_facts("mini"), load_passages("mini")
    facts = with_passages(data, passages)
    blanks, left = find_blanks(passages, facts)
    assert left.empty and len(facts.facts) == 120
    assert blanks["sentences"].value_counts().to_dict() == dict.fromkeys(
        ("both", "other word", "head", "random"), 240
    )
    label = data.entities.query("language == 'en'").set_index("entity")["label"]
    asked = blanks[blanks["sentences"] == "both"]
    wanted = asked["fact"].str.split(":").str[-1].map(label)
    assert (asked["answer"].str.casefold() == wanted.str.casefold()).all()
    assert (blanks["text"].str.count(r"\[Y\]") == 1).all() and blanks["prompt"].is_unique
    filled = [text.replace("[Y]", word) for text, word in zip(blanks["text"], blanks["answer"], strict=True)]
    assert (pd.Series(filled) == blanks["passage"].map(passages.set_index("passage")["text"])).all()


def test_only_facts_with_both_kinds_are_taken():
    facts = small(("P1", "a", "b"), ("P1", "c", "d"), ("P2", "e", "f"))
    passages = sentences(
        ("P1:a:b", "both", "a b"),
        ("P1:a:b", "head", "a"),
        ("P1:c:d", "both", "c d"),
        ("P1:c:d", "neither", "x"),
    )
    assert with_passages(facts, passages).facts["fact"].tolist() == ["P1:a:b"]
    assert with_passages(facts, passages.iloc[:0]).facts.empty
    many = with_passages(load_facts("mini"), load_passages("mini"), 3, seed=1)
    assert (many.facts.groupby("relation").size() == 3).all()


def test_lent_neurons_are_anothers():
    facts = ["P1:a:x", "P1:b:x", "P1:c:y", "P2:d:z"]
    neurons = table(
        [(f, f.split(":")[0], i, i) for i, f in enumerate(facts)], ["fact", "relation", "layer", "neuron"]
    )
    prompts = table(
        [(f, f.split(":")[0], "en", f.split(":")[2]) for f in facts],
        ["fact", "relation", "language", "answer"],
    )
    within = lent(neurons, prompts, relation="same").set_index("fact")["layer"].to_dict()
    assert within["P1:a:x"] == 2 and within["P1:b:x"] == 2 and within["P1:c:y"] in (0, 1)
    assert "P2:d:z" not in within
    other = lent(neurons, prompts, relation="other").set_index("fact")
    assert (other.loc[facts[:3], "layer"] == 3).all() and other.loc["P2:d:z", "layer"] in (0, 1, 2)
    assert other.loc[facts[0], "relation"] == "P1" and list(other) == ["relation", "layer", "neuron"]
    one = neurons["relation"] == "P1"
    assert lent(neurons[one], prompts[one], relation="other").empty


# Reading


@pytest.fixture(scope="module")
def model():
    return load_model("mini", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def blanks():
    passages = load_passages("mini", ["P36"])
    return find_blanks(passages, with_passages(load_facts("mini", relations=["P36"]), passages, 3))[0]


@pytest.fixture(scope="module")
def neurons(blanks):
    rows = [
        (fact, "P36", layer, 7 * i + layer)
        for i, fact in enumerate(blanks["fact"].unique())
        for layer in (1, 5)
    ]
    return table(rows, ["fact", "relation", "layer", "neuron"])


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["pieces", "one"])
def test_neurons_are_read_at_the_first_mask(model, blanks, neurons, masks):
    read = activations(
        model, blanks, {"knowledge": neurons, "other": neurons.assign(layer=3)}, masks=masks, progress=False
    )
    assert len(read) == len(blanks) * 4
    tokenizer = model.tokenizer
    several = 0
    for i in (0, 1, len(blanks) - 1, int(blanks["answer"].str.len().argmax())):
        row = blanks.iloc[i]
        before, after = row["text"].split("[Y]")
        many = len(answer_pieces(tokenizer, row["answer"], before, "allow")) if masks == "pieces" else 1
        several += many > 1
        ids = tokenizer(before + "[MASK]" * many + after)["input_ids"]
        at = ids.index(tokenizer.mask_token_id)
        some = read[(read["prompt"] == row["prompt"])]
        assert some["neurons"].tolist() == ["knowledge", "knowledge", "other", "other"]
        for one in some.itertuples():
            assert one.activation == pytest.approx(
                neurons_at(model, ids, at, one.layer)[one.neuron].item(), rel=1e-9, abs=1e-12
            )
    assert several or masks == "one"


@pytest.mark.slow
def test_the_batch_changes_nothing(model, blanks, neurons):
    one, many = (
        activations(model, blanks.head(9), {"k": neurons}, batch_size=size, progress=False)["activation"]
        for size in (1, 9)
    )
    assert one.to_numpy() == pytest.approx(many.to_numpy(), rel=1e-9, abs=1e-12) and one.std() > 0


def test_too_long_texts_and_own_masks_are_left_out_and_counted(model, blanks, neurons):
    long = blanks.head(3).assign(text=["word " * 3000 + "[Y]", "A [MASK] and [Y].", blanks["text"][2]])
    read = activations(model, long, {"k": neurons}, progress=False)
    assert read["prompt"].unique().tolist() == [long["prompt"][2]]
    assert unread(long, {"k": neurons}, read).index.tolist() == [0, 1]
    assert activations(model, long.head(1), {"k": neurons}, progress=False).empty


def test_a_left_to_right_model_reads_its_last_token():
    model = make_model("gpt2")
    blanks = table(
        [
            ("a", "p", "f", "P36", "both", "The capital is [Y].", "Paris"),
            ("b", "p", "f", "P36", "both", "[Y] is it.", "Paris"),
        ],
        ["prompt", "passage", "fact", "relation", "sentences", "text", "answer"],
    ).assign(masked="object")
    read = activations(
        model, blanks, {"k": table([("f", 1, 5)], ["fact", "layer", "neuron"])}, progress=False
    )
    ids = model.tokenizer("The capital is")["input_ids"]
    assert read["prompt"].tolist() == ["a"]
    assert read["activation"].item() == pytest.approx(
        neurons_at(model, ids, len(ids) - 1, 1)[5].item(), rel=1e-9
    )


def test_without_sentences_everything_is_empty(model, neurons):
    nothing, left = find_blanks(sentences(), small())
    assert nothing.empty and left.empty
    for kinds in ({}, {"knowledge": neurons}):
        read = activations(model, nothing, kinds, progress=False)
        assert read.empty and mean_activation(read).empty and contrasts(read, [("both", "head")]).empty
        assert typical_facts(read) == []
    with pytest.raises(ActivatingError, match="masks='x'"):
        activations(model, nothing, {}, masks="x")
    with pytest.raises(ActivationsError, match="of='x'"):
        contrasts(read, [], of="x")
    with pytest.raises(DataError, match="no activations of P1:a:b"):
        extremes(read, nothing, "P1:a:b")


# Means

#: Fact a of P1 has two neurons and two sentences, b one and one; c of P2 one neuron and one sentence.
READ = table(
    [
        ("a1", "a", "P1", "both", 0, 1, 1.0),
        ("a2", "a", "P1", "both", 0, 1, 3.0),
        ("a1", "a", "P1", "both", 1, 1, 0.0),
        ("a2", "a", "P1", "both", 1, 1, 2.0),
        ("b1", "b", "P1", "both", 0, 1, -3.0),
        ("c1", "c", "P2", "both", 2, 2, 4.0),
        ("a3", "a", "P1", "head", 0, 1, 0.5),
        ("a3", "a", "P1", "head", 1, 1, 0.5),
        ("b2", "b", "P1", "head", 0, 1, 0.0),
    ],
    ["prompt", "fact", "relation", "sentences", "layer", "neuron", "activation"],
).assign(neurons="knowledge", passage="")


def test_table_4_by_hand():
    means = mean_activation(READ).set_index(["sentences", "relation"])
    assert means.loc[("both", "P1"), "value"] == pytest.approx(
        (2 + 1 - 3) / 3
    )  # over (fact, neuron): a has two
    assert means.loc[("both", "P2"), "value"] == 4
    assert (
        means.loc[("both", RELATIONS), "value"] == pytest.approx(2)
        and means.loc[("both", RELATIONS), "n"] == 3
    )
    assert means.loc[("both", FACTS), "value"] == pytest.approx((1.5 - 3 + 4) / 3)
    assert means.loc[("head", RELATIONS), "value"] == pytest.approx(1 / 3)
    assert np.isnan(means.loc[("both", "P2"), "low"])


@pytest.mark.slow
def test_first_row_of_the_notebooks_table_by_a_loop(model, blanks, neurons):
    read = activations(model, blanks, {"knowledge": neurons}, progress=False)
    means = mean_activation(read)
    first = means[(means["sentences"] == "both") & (means["relation"] == RELATIONS)].iloc[0]
    per_neuron = []
    for fact, layer, neuron in neurons[["fact", "layer", "neuron"]].itertuples(index=False):
        values = []
        for row in blanks[(blanks["fact"] == fact) & (blanks["sentences"] == "both")].itertuples():
            before, after = row.text.split("[Y]")
            many = len(model.tokenizer(" " + row.answer, add_special_tokens=False)["input_ids"])
            ids = model.tokenizer(before + "[MASK]" * many + after)["input_ids"]
            values.append(
                neurons_at(model, ids, ids.index(model.tokenizer.mask_token_id), layer)[neuron].item()
            )
        per_neuron.append(np.mean(values))
    assert first["value"] == pytest.approx(np.mean(per_neuron), rel=1e-9) and first["n"] == 3


def test_contrasts_by_hand():
    found = contrasts(READ, [("both", "head"), ("both", "random")])
    row = found.iloc[0]
    assert (
        len(found) == 1 and row["contrast"] == "both - head" and row["n"] == 2
    )  # c has no head sentence, nobody a random one
    assert row["value"] == pytest.approx(np.mean([1.5 - 0.5, -3 - 0]))
    assert row["low"] == interval(np.array([1.0, -3.0]))["low"] and row["p"] == 1
    two = pd.concat([READ, READ.assign(neurons="lent", activation=READ["activation"] - 1)])
    by_kind = contrasts(two, [("knowledge", "lent")], of="neurons").set_index("sentences")
    assert by_kind["value"].tolist() == pytest.approx([1, 1]) and by_kind["n"].tolist() == [3, 2]


def test_extremes_and_the_facts_they_are_shown_for():
    blanks = table(
        [(p, "both", f"{p} [Y]", "w") for p in ("a1", "a2", "b1", "c1")] + [("a3", "head", "a3 [Y]", "w")],
        ["prompt", "sentences", "text", "answer"],
    )
    assert typical_facts(READ) == ["a", "c"] and typical_facts(READ, 1) == ["a"]
    found = extremes(READ, blanks, "a", n=1)
    assert found[["activation", "sentences", "text"]].to_numpy().tolist() == [
        [5.0, "both", "a2 [MASK]"],
        [1.0, "head", "a3 [MASK]"],
    ]
    assert len(extremes(READ, blanks, "a", n=2)) == 3
    lines = extremes_as_text(READ, blanks, ["a", "c"], {"a": "A in words"}, n=1).splitlines()
    assert lines[:3] == ["A in words", "  +5.00  both, hidden: w", "         a2 [MASK]"] and lines[5] == "c"
    assert extremes_as_text(READ, blanks, [], {}) == ""


# Pictures


def test_picture_per_relation():
    data = mean_activation(READ)
    figure = plots.activations(data, "title")
    axes = figure.axes[0]
    assert axes.get_ylabel() == "relation" and axes.get_xlabel().startswith("mean activation at the blank")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [FACTS, RELATIONS, "P2", "P1"]
    line = next(line for line in axes.lines if line.get_marker() == "o")
    assert line.get_xdata() == pytest.approx([2.5 / 3, 2, 4, 0], abs=1e-12)
    assert np.round(line.get_ydata()).tolist() == [0, 1, 2, 3]
    assert any(list(one.get_ydata()) == [1.5, 1.5] for one in axes.lines)  # between means and relations
    plt.close(figure)


def test_picture_per_kind():
    both = mean_activation(pd.concat([READ, READ.assign(neurons="another fact's", activation=1.0)]))
    figure = plots.activation_kinds(both[both["relation"] == RELATIONS], "title")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "another fact's knowledge neurons",
        "knowledge neurons",
    ]
    markers = {line.get_marker(): line.get_xdata() for line in axes.lines}
    assert markers["o"] == pytest.approx([1, 2]) and markers["s"] == pytest.approx([1, 1 / 3])
    plt.close(figure)


def test_the_notebook_is_there():
    assert (ROOT / "notebooks" / "09_activating_prompts.ipynb").is_file()
