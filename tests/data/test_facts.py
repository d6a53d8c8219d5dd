"""Tables, prompts, and where the blank is: tokens written by hand, whole sentences as a second opinion."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from conftest import make_tokenizer
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer

from kn_utils.data.facts import COLUMNS, DataError, Facts, find_problems, read_table
from kn_utils.data.prompts import make_prompts
from kn_utils.data.sources import load_facts
from kn_utils.model.rows import Row, encode

LANGUAGES = ("en", "nl", "ja", "vi", "zh", "ko")


@pytest.fixture
def six() -> Facts:
    """Two relations, three facts, two wordings in each of six languages; labels such as ``A1-en``."""
    entities = [(e, lang, f"{e}-{lang}", "") for e in ("A1", "A2", "A3", "B1", "B2") for lang in LANGUAGES]
    facts = [("P36", "A2", "B1"), ("P36", "A1", "B2"), ("P9", "A3", "B1")]
    templates = [
        (relation, lang, f"{relation}-{lang}-{i}", text)
        for relation in ("P36", "P9")
        for lang in LANGUAGES
        for i, text in ((1, f"{lang}: [X] of [Y]"), (2, f"{lang}: [Y], by [X]."))
    ]
    return Facts(
        "six",
        pd.DataFrame(entities, columns=COLUMNS["entities"]),
        pd.DataFrame([(":".join(f), *f) for f in facts], columns=COLUMNS["facts"]),
        pd.DataFrame(templates, columns=COLUMNS["templates"]),
    )


def with_rows(table: pd.DataFrame, *rows: tuple) -> pd.DataFrame:
    return pd.concat([table, pd.DataFrame(rows, columns=table.columns)], ignore_index=True)


def prompt(text: str, answer: str, masked: str = "object") -> pd.DataFrame:
    return pd.DataFrame({"prompt": ["p"], "text": [text], "answer": [answer], "masked": [masked]})


# Filling wordings


def test_prompts_of_a_language_by_hand(six):
    found = make_prompts(six, "ja", "P36")
    assert list(found.columns) == COLUMNS["prompts"]
    name = "P36:A2:B1"
    assert found.iloc[0].tolist() == [
        f"{name}/P36-ja-1",
        name,
        "P36",
        "ja",
        "P36-ja-1",
        "ja: A2-ja of [Y]",
        "B1-ja",
        "object",
    ]
    assert found["text"].tolist() == [
        "ja: A2-ja of [Y]",
        "ja: [Y], by A2-ja.",
        "ja: A1-ja of [Y]",
        "ja: [Y], by A1-ja.",
    ]


def test_the_subject_can_be_the_blank(six):
    found = make_prompts(six, "en", "P9", masked="subject")
    assert found["text"].tolist() == ["en: [X] of B1-en", "en: B1-en, by [X]."]
    assert found["answer"].tolist() == ["A3-en"] * 2 and found["masked"].tolist() == ["subject"] * 2
    assert found["prompt"].tolist() == ["P9:A3:B1/P9-en-1/subject", "P9:A3:B1/P9-en-2/subject"]


def test_all_languages_in_the_order_of_fact_language_wording(six):
    found = make_prompts(six, "all")
    wanted = [(f, lang, i) for f in six.facts["fact"] for lang in LANGUAGES for i in "12"]
    assert list(zip(found["fact"], found["language"], found["template"].str[-1], strict=True)) == wanted
    assert found["prompt"].is_unique and found.index.tolist() == list(range(36))


@pytest.mark.parametrize(("wordings", "number"), [(1, 1), (2, 2), (7, 2), (None, 2)])
def test_wordings_are_the_first_of_each_language(six, wordings, number):
    found = make_prompts(six, "all", wordings=wordings)
    assert (found.groupby(["fact", "language"]).size() == number).all() and found["language"].nunique() == 6
    assert set(found["template"].str[-1]) == set("12"[:number])


def test_a_missing_or_empty_label_leaves_the_prompt_out(six):
    gone = (six.entities["entity"] == "B2") & (six.entities["language"] == "ko")
    empty = (six.entities["entity"] == "A3") & (six.entities["language"] == "zh")
    entities = six.entities.mask(empty.to_numpy()[:, None] & (six.entities.columns == "label"), "")
    part = replace(six, entities=entities[~gone])
    full, found = make_prompts(six, "all"), make_prompts(part, "all")
    lost = set(full["prompt"]) - set(found["prompt"])
    assert lost == {"P36:A1:B2/P36-ko-1", "P36:A1:B2/P36-ko-2", "P9:A3:B1/P9-zh-1", "P9:A3:B1/P9-zh-2"}
    assert found["fact"].drop_duplicates().tolist() == six.facts["fact"].tolist()


def test_a_label_that_looks_like_a_slot_is_only_a_label(six):
    entities = six.entities.assign(label=six.entities["label"].str.replace("A3-en", r"a\1b", regex=False))
    found = make_prompts(replace(six, entities=entities), "en", "P9")
    assert found["text"][0] == r"en: a\1b of [Y]"


@pytest.mark.parametrize("text", ["[X] has no object", "[Y] has no subject"])
def test_a_wording_without_its_slot(six, text):
    templates = with_rows(six.templates, ("P9", "en", "P9-en-3", text))
    with pytest.raises(DataError) as caught:
        make_prompts(replace(six, templates=templates), "en")
    assert str(caught.value) == f"wording P9-en-3: {text!r} lacks [X] or [Y]."


def test_unknown_choices_name_what_is_known(six):
    with pytest.raises(
        DataError, match="unknown language 'fr' in data set 'six'; known: en, nl, ja, vi, zh, ko"
    ):
        make_prompts(six, "fr")
    with pytest.raises(DataError, match="unknown relation 'P999' in data set 'six'; known: P9, P36"):
        make_prompts(six, "en", "P999")
    with pytest.raises(DataError, match="masked='both'; it is 'object' or 'subject'"):
        make_prompts(six, masked="both")
    with pytest.raises(DataError, match="unknown dataset 'trex'; known: mini"):
        load_facts("trex")


def test_an_error_is_one_line_in_a_notebook():
    assert DataError("so it is.")._render_traceback_() == ["DataError: so it is."]


# The container


def test_select_keeps_what_is_asked_for(six):
    part = six.select(["zh", "en"], ["P9"])
    assert part.relations == ["P9"] and part.languages == ["en", "zh"]
    assert part.facts["fact"].tolist() == ["P9:A3:B1"] and set(part.entities["language"]) == {"en", "zh"}
    assert six.select().facts.equals(six.facts) and len(six.facts) == 3


def test_relations_are_sorted_by_number(six):
    assert six.relations == ["P9", "P36"] and six.languages == list(LANGUAGES)


def test_a_sample_is_seeded_and_of_every_relation():
    facts = pd.DataFrame(
        [(f"P{r}:S{i}:O", f"P{r}", f"S{i}", "O") for r in (1, 2) for i in range(30)], columns=COLUMNS["facts"]
    )
    none = pd.DataFrame(columns=COLUMNS["templates"])
    data = Facts("many", pd.DataFrame(columns=COLUMNS["entities"]), facts, none)
    first = data.sample(5, seed=1).facts
    assert first["relation"].value_counts().to_dict() == {"P1": 5, "P2": 5}
    assert first["fact"].is_unique and first["fact"].isin(facts["fact"]).all()
    assert data.sample(5, seed=1).facts.equals(first)
    assert not data.sample(5, seed=2).facts.equals(first)
    order = facts["fact"].tolist()
    assert first["fact"].map(order.index).is_monotonic_increasing
    assert data.sample(99).facts.equals(facts) and data.sample(None).facts.equals(facts)


def test_a_sample_takes_facts_that_can_be_asked_in_many_languages_first(six):
    facts = pd.DataFrame([(f"P1:S{i}:O", "P1", f"S{i}", "O") for i in range(30)], columns=COLUMNS["facts"])
    names = [(entity, "en", f"name of {entity}", "") for entity in ["O", *facts["subject"]]]
    names += [(entity, "nl", f"naam van {entity}", "") for entity in ("O", "S3", "S11", "S20")]
    names += [("S4", "nl", "", ""), ("S5", "ja", "no wording", ""), ("O", "ja", "no wording", "")]
    wordings = [
        ("P1", "en", "P1-en-1", "[X] is [Y]."),
        ("P1", "nl", "P1-nl-1", "[X] is [Y]."),
        ("P2", "ja", "P2-ja-1", "[X] [Y]"),
    ]
    tables = (
        pd.DataFrame(rows, columns=COLUMNS[name])
        for name, rows in (("entities", names), ("templates", wordings))
    )
    entities, templates = tables
    data = Facts("many", entities, facts, templates)
    samples = [set(data.sample(5, seed=seed).facts["subject"]) for seed in range(8)]
    assert all({"S3", "S11", "S20"} <= sample and len(sample) == 5 for sample in samples)
    assert len(set.union(*samples)) > 8, "the rest are drawn by the seed"
    assert set(data.sample(2).facts["subject"]) < {"S3", "S11", "S20"}


# Reading and checking


def test_read_table(tmp_path):
    path = tmp_path / "entities.csv"
    path.write_text('entity,language,label,aliases\nQ1,en,"NA, or null",\nQ2,en,007,x\n', encoding="utf-8")
    table = read_table(path, "entities")
    assert table.to_numpy().tolist() == [["Q1", "en", "NA, or null", ""], ["Q2", "en", "007", "x"]]


def test_a_missing_file_and_a_missing_column(tmp_path):
    with pytest.raises(
        DataError, match=r"facts\.csv is missing; it should hold the table of facts with columns"
    ):
        read_table(tmp_path / "facts.csv", "facts")
    (tmp_path / "facts.csv").write_text("fact,relation,subject\n")
    with pytest.raises(
        DataError, match=r"facts\.csv: column 'object' is missing; expected \['fact', 'relation'"
    ):
        read_table(tmp_path / "facts.csv", "facts")


def test_good_data_have_no_problems(six, toy):
    assert find_problems(six) == [] and find_problems(toy) == []


def relabelled(data: Facts, entity: str, language: str, label: str) -> Facts:
    entities = data.entities.copy()
    entities.loc[(entities["entity"] == entity) & (entities["language"] == language), "label"] = label
    return replace(data, entities=entities)


BROKEN = {
    "no label": (lambda d: replace(d, entities=d.entities.iloc[1:]), ["A1: no label in en"]),
    "empty label": (lambda d: relabelled(d, "A1", "nl", ""), ["A1: no label in nl"]),
    "blank label": (
        lambda d: relabelled(d, "A1", "nl", " "),
        ["A1 nl: white space around the label ' '", "A1: no label in nl"],
    ),
    "space": (lambda d: relabelled(d, "A1", "nl", "Aa "), ["A1 nl: white space around the label 'Aa '"]),
    "clash": (lambda d: relabelled(d, "B2", "vi", "b1-VI"), ["P36 vi: 'b1-vi' names B1, B2"]),
    "clash of subject and object": (
        lambda d: relabelled(d, "A3", "ko", "B1-ko"),
        ["P9 ko: 'b1-ko' names A3, B1"],
    ),
    "entity twice": (
        lambda d: replace(d, entities=with_rows(d.entities, ("A1", "ja", "another", ""))),
        ["duplicate A1 ja"],
    ),
    "fact twice": (
        lambda d: replace(d, facts=with_rows(d.facts, ("P9:A3:B1", "P9", "A3", "B1"))),
        ["duplicate P9:A3:B1", "P9:A3:B1: a second object for this subject"],
    ),
    "two objects": (
        lambda d: replace(d, facts=with_rows(d.facts, ("P9:A3:B2", "P9", "A3", "B2"))),
        ["P9:A3:B2: a second object for this subject"],
    ),
    "id": (
        lambda d: replace(d, facts=with_rows(d.facts, ("P9:A1:B1", "P9", "A1", "B2"))),
        ["P9:A1:B1: the id should be relation:subject:object"],
    ),
    "no [Y]": (
        lambda d: replace(d, templates=with_rows(d.templates, ("P9", "en", "P9-en-3", "[X] is."))),
        ["P9-en-3: needs [X] and [Y] once each: '[X] is.'"],
    ),
    "[X] twice": (
        lambda d: replace(d, templates=with_rows(d.templates, ("P9", "en", "P9-en-3", "[X], [X]: [Y]"))),
        ["P9-en-3: needs [X] and [Y] once each: '[X], [X]: [Y]'"],
    ),
    "wording twice": (
        lambda d: replace(d, templates=with_rows(d.templates, ("P9", "en", "P9-en-3", "en: [X] of [Y]"))),
        ["P9-en-3: wording repeated: 'en: [X] of [Y]'"],
    ),
    "wording's id twice": (
        lambda d: replace(d, templates=with_rows(d.templates, ("P9", "en", "P9-en-1", "[X] in [Y]"))),
        ["duplicate P9-en-1"],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_kind_of_problem_is_found(six, kind):
    breaks, wanted = BROKEN[kind]
    assert find_problems(breaks(six)) == wanted


def test_a_fact_without_object_is_found(six):
    found = find_problems(replace(six, facts=with_rows(six.facts, ("P9:A1:", "P9", "A1", ""))))
    assert "P9:A1:: a fact needs a subject and an object" in found


def test_the_same_label_in_two_relations_is_no_clash(six):
    assert find_problems(relabelled(six, "A3", "en", "A1-en")) == []


# Blanks of masked models

PIECES = {
    "Rome": ["Rome"],
    "Paris": ["Par", "##is"],
    "New Delhi": ["New", "Del", "##hi"],
    "Ouagadougou": ["Ou", "##aga", "##dou", "##gou"],
    "新德里": ["新", "德", "里"],
}
TEXTS = {  # the tokens in front of the blank, and behind it
    "the capital of India is [Y].": ("the capital of India is", "."),
    "[Y] is the capital of India": ("", "is the capital of India"),
    "India, they say, has [Y] of all.": ("India , they say , has", "of all ."),
    "of India [Y] is the capital, India has": ("of India", "is the capital , India has"),
    "印度的首都是[Y]。": ("印 度 的 首 都 是", "。"),
}


@pytest.fixture(scope="module")
def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer with a vocabulary written by hand."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {piece for pieces in PIECES.values() for piece in pieces}
    words |= {token for sides in TEXTS.values() for side in sides for token in side.split()}
    tokenizer = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(special + sorted(words))}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.mark.parametrize("answer", PIECES)
@pytest.mark.parametrize("text", TEXTS)
def test_masked_rows_by_hand(wordpiece, text, answer):
    before, after = (side.split() for side in TEXTS[text])
    pieces = PIECES[answer]
    rows = encode(wordpiece, prompt(text, answer))
    assert len(rows) == len(pieces)
    for j, row in enumerate(rows):
        hidden = ["[MASK]"] * (len(pieces) - j)
        wanted = ["[CLS]", *before, *pieces[:j], *hidden, *after, "[SEP]"]
        assert wordpiece.convert_ids_to_tokens(row.ids) == wanted
        assert row.position == 1 + len(before) + j
        assert wordpiece.convert_ids_to_tokens(row.target) == pieces[j]


def filled(row: Row) -> list[int]:
    """The ids with the wanted piece in its place."""
    return row.ids[: row.position] + [row.target] + row.ids[row.position + 1 :]


def test_the_last_row_filled_in_is_the_sentence(wordpiece):
    for text in TEXTS:
        for answer in PIECES:
            last = encode(wordpiece, prompt(text, answer))[-1]
            assert filled(last) == wordpiece(text.replace("[Y]", answer))["input_ids"]


def test_the_subject_as_blank(wordpiece):
    (row,) = encode(wordpiece, prompt("the capital of [X] is Rome.", "India", "subject"))
    assert wordpiece.convert_ids_to_tokens(row.ids)[4:7] == ["[MASK]", "is", "Rome"] and row.position == 4


def test_rows_are_numbered_by_prompt(wordpiece):
    text = "the capital of India is [Y]."
    three = pd.concat([prompt(text, answer) for answer in ("Paris", "Rome", "New Delhi")])
    assert [row.prompt for row in encode(wordpiece, three)] == [0, 0, 1, 2, 2, 2]
    assert encode(wordpiece, three.iloc[:0]) == []


def test_an_answer_with_the_unknown_token(wordpiece):
    table = prompt("the capital of India is [Y].", "New Ω")
    with pytest.raises(
        DataError, match=r"cannot write the answer 'New Ω' \(it becomes \[UNK\]\); .*unknown='allow'"
    ):
        encode(wordpiece, table)
    rows = encode(wordpiece, table, unknown="allow")
    assert wordpiece.convert_ids_to_tokens([row.target for row in rows]) == ["New", "[UNK]"]


@pytest.mark.parametrize("unknown", ["refuse", "allow"])
def test_an_answer_of_nothing(wordpiece, unknown):
    with pytest.raises(DataError, match="cannot write the answer ''"):
        encode(wordpiece, prompt("the capital of India is [Y].", ""), unknown=unknown)


def test_a_text_with_a_mask_of_its_own(wordpiece):
    with pytest.raises(
        DataError, match=r"prompt p: 'the \[MASK\] of India is \[Y\]' holds a mask token of its own"
    ):
        encode(wordpiece, prompt("the [MASK] of India is [Y]", "Rome"))


@pytest.mark.parametrize(
    ("text", "masked", "blank"),
    [
        ("India has Rome", "object", r"\[Y\]"),
        ("India has [Y]", "subject", r"\[X\]"),
        ("[Y] has [Y]", "object", r"\[Y\]"),
    ],
)
def test_a_text_without_its_blank_or_with_two(wordpiece, text, masked, blank):
    with pytest.raises(DataError, match=f"prompt p: .* should hold its blank {blank} once"):
        encode(wordpiece, prompt(text, "Rome", masked))


def test_too_long(wordpiece):
    table = prompt(
        "the capital of India is [Y].", "New Delhi"
    )  # [CLS], five words, three pieces, the stop, [SEP]
    assert len(encode(wordpiece, table, max_length=11)) == 3
    with pytest.raises(DataError, match="prompt p has 11 tokens; the model takes 10"):
        encode(wordpiece, table, max_length=10)


@pytest.fixture(scope="module")
def roberta() -> RobertaTokenizer:
    """Byte-level BPE with a mask that swallows the space before it, as RoBERTa is published."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["The capital of France is Paris."] * 3, trainer)
    bpe = json.loads(bpe.to_str())["model"]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(vocab=bpe["vocab"], merges=[tuple(m) for m in bpe["merges"]], mask_token=mask)


def test_a_byte_level_answer_takes_the_space_before_it(roberta):
    (row,) = encode(roberta, prompt("The capital of France is [Y].", "Paris"))
    tokens = ["<s>", "The", "Ġcapital", "Ġof", "ĠFrance", "Ġis", "<mask>", ".", "</s>"]
    assert roberta.convert_ids_to_tokens(row.ids) == tokens
    assert row.position == 6 and roberta.convert_ids_to_tokens(row.target) == "ĠParis"


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is [Y].",
        "[Y] is the capital of France.",
        "France: [Y].",
        "France ([Y]) is",
        "法国的首都是[Y]。",
    ],
)
@pytest.mark.parametrize("answer", ["Paris", "Rome", "巴黎"])
def test_a_byte_level_row_filled_in_is_the_sentence(roberta, text, answer):
    last = encode(roberta, prompt(text, answer))[-1]
    assert filled(last) == roberta(text.replace("[Y]", answer))["input_ids"]


@pytest.fixture(scope="module")
def xlmr() -> XLMRobertaTokenizer:
    """Unigram with Metaspace, as XLM-R is published."""
    words = (
        "▁The ▁capital ▁of ▁India ▁is ▁New ▁Del hi ▁ ▁Paris Paris 印度 的 首都 是 巴黎 新 德里 。 .".split()
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(w, 0.0) for w in special] + [(w, -1.0 - i / 10) for i, w in enumerate(dict.fromkeys(words))]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], mask_token=mask)


@pytest.mark.parametrize(
    ("text", "answer", "tokens"),
    [
        ("The capital of India is [Y].", "Paris", ["▁Paris"]),
        ("The capital of India is [Y].", "New Delhi", ["▁New", "▁Del", "hi"]),
        ("印度的首都是[Y]。", "巴黎", ["巴黎"]),
        ("印度的首都是[Y]。", "新德里", ["新", "德里"]),
        ("印度的首都是[Y]。", "Paris", ["Paris"]),
    ],
)
def test_a_metaspace_answer_is_written_as_it_stands_there(xlmr, text, answer, tokens):
    rows = encode(xlmr, prompt(text, answer))
    assert xlmr.convert_ids_to_tokens([row.target for row in rows]) == tokens
    sentence = xlmr(text.replace("[Y]", answer))["input_ids"]
    end = rows[-1].position + 1
    assert filled(rows[-1])[:end] == sentence[:end]
    assert [row.position for row in rows] == list(range(end - len(tokens), end))
    assert [row.ids.count(xlmr.mask_token_id) for row in rows] == list(range(len(tokens), 0, -1))


def test_a_metaspace_answer_at_the_start_of_a_text_begins_a_word(xlmr):
    (row,) = encode(xlmr, prompt("[Y] is The capital", "Paris"))
    assert filled(row) == xlmr("Paris is The capital")["input_ids"]


# Causal models


def gpt2() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(causal=True)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def closing(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, closing every text with its end token."""
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return tokenizer


CAUSAL = [
    ("The capital of France is [Y].", "The capital of France is", " Paris", "Paris"),
    ("The capital of France is [Y].", "The capital of France is", " New Delhi", "New Delhi"),
    ("France: [Y], as one says", "France:", " Ouagadougou", "Ouagadougou"),
    ("法国的首都是[Y]。", "法国的首都是", "巴黎", "巴黎"),
    ("The capital (of France) is “[Y]”.", "The capital (of France) is “", "Paris", "Paris"),
]


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("text", "before", "written", "answer"), CAUSAL)
def test_causal_rows_are_the_beginnings_of_the_text(text, before, written, answer, ends):
    plain = gpt2()
    given, pieces = plain(before)["input_ids"], plain(written)["input_ids"]
    assert plain.decode(given + pieces) == before + written
    tokenizer = closing(gpt2()) if ends else plain
    rows = encode(tokenizer, prompt(text, answer), causal=True)
    assert [row.ids for row in rows] == [given + pieces[:j] for j in range(len(pieces))]
    assert [row.position for row in rows] == [len(given) + j - 1 for j in range(len(pieces))]
    assert [row.target for row in rows] == pieces


def test_a_causal_tokenizer_that_opens_every_text():
    tokenizer = gpt2()
    plain = tokenizer("The capital is Paris")["input_ids"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    last = encode(tokenizer, prompt("The capital is [Y].", "Paris"), causal=True)[-1]
    assert last.ids + [last.target] == [0, *plain]


def test_a_causal_metaspace_tokenizer_in_both_scripts(xlmr):
    # XLM-R's tokenizer opens and closes every text; read from left to right, nothing closes it
    rows = encode(xlmr, prompt("The capital of India is [Y].", "New Delhi"), causal=True)
    assert xlmr.convert_ids_to_tokens([row.target for row in rows]) == ["▁New", "▁Del", "hi"]
    assert xlmr.convert_ids_to_tokens(rows[0].ids) == ["<s>", "▁The", "▁capital", "▁of", "▁India", "▁is"]
    rows = encode(xlmr, prompt("印度的首都是[Y]。", "新德里"), causal=True)
    assert xlmr.convert_ids_to_tokens([row.target for row in rows]) == ["新", "德里"]
    assert xlmr.convert_ids_to_tokens(rows[-1].ids) == ["<s>", "▁", "印度", "的", "首都", "是", "新"]


def test_an_answer_that_melts_into_the_text_is_asked_for_as_it_is_written_alone():
    # 是巴黎 as one token: the answer has no place of its own in the tokenized sentence
    vocab = {t: i for i, t in enumerate(["<end>", "国", "是", "巴", "黎", "是巴", "是巴黎"])}
    merges = [("是", "巴"), ("是巴", "黎")]
    bpe = Tokenizer(models.BPE(vocab, merges))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")
    assert tokenizer("国是巴黎").tokens() == ["国", "是巴黎"]
    rows = encode(tokenizer, prompt("国是[Y]", "巴黎"), causal=True)
    assert [(row.ids, row.target) for row in rows] == [([1, 2], 3), ([1, 2, 3], 4)]


def test_nothing_before_the_blank_and_no_token_to_begin_with():
    tokenizer = gpt2()
    tokenizer.bos_token = None
    with pytest.raises(
        DataError, match="prompt p: nothing stands before the blank, and a left-to-right model needs"
    ):
        encode(tokenizer, prompt("[Y] is the capital of France", "Paris"), causal=True)


def test_nothing_before_the_blank_with_a_token_to_begin_with():
    tokenizer = gpt2()
    rows = encode(tokenizer, prompt("[Y] is the capital of France", "Paris"), causal=True)
    assert rows[0].ids == [tokenizer.bos_token_id] and rows[0].position == 0
    assert tokenizer.decode([row.target for row in rows]).strip() == "Paris"


def test_a_causal_answer_with_the_unknown_token(xlmr):
    with pytest.raises(DataError, match="cannot write the answer 'Ω'"):
        encode(xlmr, prompt("The capital of India is [Y].", "Ω"), causal=True)
    rows = encode(xlmr, prompt("The capital of India is [Y].", "Ω"), causal=True, unknown="allow")
    assert xlmr.unk_token_id in [row.target for row in rows]


def test_a_causal_text_that_is_too_long_counts_up_to_the_last_piece():
    tokenizer = gpt2()
    n = len(tokenizer("France is Paris")["input_ids"]) - 1
    table = prompt("France is [Y], whatever one may say about it.", "Paris")
    assert encode(tokenizer, table, causal=True, max_length=n)
    with pytest.raises(DataError, match=f"prompt p has {n} tokens; the model takes {n - 1}"):
        encode(tokenizer, table, causal=True, max_length=n - 1)
