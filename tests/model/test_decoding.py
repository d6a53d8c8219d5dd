"""Decoding against plain loops over blanks, exhaustive search, and models made by hand."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import OWN, make_model

from kn_utils.model.acting import Scaling
from kn_utils.model.answers import answer_probability, answers, questions_of
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.decoding import INIT, REFINE, DecodingError, answer_lengths, decode
from kn_utils.model.decoding_causal import MARKS
from kn_utils.model.decoding_choice import CHOICES, ChoiceError, choose, length_prior
from kn_utils.model.interventions import suppress
from kn_utils.model.rows import Row
from kn_utils.model.slots import Text, banned_pieces, best_pieces, log_probabilities

TEXT = "The capital of France is [Y] Paris."
#: Left-to-right architectures of which the fixtures make a small model.
KINDS = [kind for kind in OWN if ARCHITECTURES[kind].causal]
PIECES = ["Paris", "Ger", "##many", "country", "the", "Delhi"]


def one_prompt(text: str = TEXT, answer: str = "Paris", **more) -> pd.DataFrame:
    told = {"prompt": "p", "fact": "f", "relation": "P36", "language": "en", "template": "t"}
    return pd.DataFrame([{**told, "text": text, "answer": answer, "masked": "object", **more}])


def by_hand(model, says):
    """The model with its words put into its mouth: ``says(ids, position)`` -> piece -> probability."""

    def logits(inputs, positions, rows=None):
        rows = range(len(positions)) if rows is None else rows.tolist()
        found = torch.full((len(positions), len(model.tokenizer)), -torch.inf, dtype=torch.float64)
        for line, (row, position) in enumerate(zip(rows, positions.tolist(), strict=True)):
            length = int(inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))[row].sum())
            told = says(inputs["input_ids"][row, :length].tolist(), position)
            rest = max(0.0, 1 - sum(told.values())) / (found.shape[1] - len(told))
            found[line] = np.log(rest) if rest > 1e-12 else -torch.inf  # spread over all other pieces
            for piece, p in told.items():
                found[line, piece] = np.log(p)
        return found

    model.logits = logits
    return model


# The oracle: one prompt, one number of blanks, one forward pass at a time


def plain_log(model, ids: list[int], at: int, banned: set[int] = frozenset()) -> torch.Tensor:
    logits = model.model(input_ids=torch.tensor([ids])).logits[0, at].double()
    logp = logits.log_softmax(-1)
    for piece in banned:
        logp[piece] = -torch.inf
    return logp


def plain_decode(model, text: str, n: int, init: str, refine: str, stale: bool, rounds: int) -> tuple:
    """Ids, their log-probabilities, passes, whether refinement ended: beam 1, written as it is told."""
    mask = model.tokenizer.mask_token_id
    banned = set(banned_pieces(model).tolist())
    ids = model.tokenizer(text.replace("[Y]", "[MASK]" * n))["input_ids"]
    at = [i for i, token in enumerate(ids) if token == mask]
    sure, passes = dict.fromkeys(at, 0.0), 0
    while mask in [ids[place] for place in at]:
        still = [place for place in at if ids[place] == mask]
        told = {place: plain_log(model, ids, place, banned).max(0) for place in still}
        passes += 1
        chosen = still if init == "independent" else still[:1]
        if init == "confidence":
            chosen = [max(still, key=lambda place: told[place].values.item())]
        for place in chosen:
            ids[place], sure[place] = told[place].indices.item(), told[place].values.item()
    if refine == "none" or n == 1:
        return [ids[p] for p in at], [sure[p] for p in at], passes, True
    turn, calm, ended = 0, 0, False
    while turn < rounds and not ended:
        if refine == "order":
            opened = [at[turn % n]]
        else:
            number = 1 if refine == "confidence" else n - 1 - turn
            opened = sorted(at, key=lambda place: sure[place])[:number]
        old = list(ids)
        for place in opened:
            ids[place] = mask
        told = {place: plain_log(model, ids, place, banned).max(0) for place in opened}
        passes, turn = passes + 1, turn + 1
        for place in opened:
            ids[place] = told[place].indices.item()
            if not (stale and ids[place] == old[place]):
                sure[place] = told[place].values.item()
        calm = calm + 1 if ids == old else 0
        ended = {"order": calm >= n, "confidence": calm >= 1, "mask-predict": turn == n - 1}[refine]
    return [ids[p] for p in at], [sure[p] for p in at], passes, ended


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize(("init", "refine"), list(product(INIT, REFINE)))
def test_as_a_plain_loop(bert, prompts, init, refine, stale):
    asked = prompts.iloc[[0, 4, 8]].reset_index(drop=True)
    original = ["stale"] if stale else []
    found = decode(bert, asked, masks=3, init=init, refine=refine, original=original)
    assert len(found) == 3 * len(asked)
    for row in found.itertuples():
        text = asked.set_index("prompt").loc[row.prompt, "text"]
        ids, logp, passes, ended = plain_decode(bert, text, row.masks, init, refine, stale, 2 * row.masks)
        assert row.ids == ids and row.rounds == passes and row.settled == ended
        assert row.sum_logp == pytest.approx(sum(logp), abs=1e-9)
        assert row.mean_logp == pytest.approx(sum(logp) / row.masks, abs=1e-9)
        assert row.text == bert.tokenizer.decode(ids).strip() and row.end == "blanks"


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_one_blank_is_the_first_choice(prompts, kind):
    model = make_model(kind)
    asked = prompts[prompts["answer"] == "Paris"].reset_index(drop=True)
    first = answers(model, questions_of(model, asked))
    for init in INIT:
        found = decode(model, asked, masks=1, init=init, ban=False)
        assert [tuple(ids) for ids in found["ids"]] == first["first"].tolist()


@pytest.mark.parametrize("ban", [True, False])
def test_order_adds_up_to_the_probability_of_the_text(bert, prompts, ban):
    found = decode(bert, prompts, masks=3, init="order", ban=ban)
    questions = []
    for row in found.itertuples():
        text = prompts.set_index("prompt").loc[row.prompt, "text"]
        ids = bert.tokenizer(text.replace("[Y]", "[MASK]" * row.masks))["input_ids"]
        at, rows = [i for i, t in enumerate(ids) if t == bert.tokenizer.mask_token_id], []
        for place, piece in zip(at, row.ids, strict=True):
            rows.append(Row(0, list(ids), place, piece))
            ids[place] = piece
        questions.append(rows)
    np.testing.assert_allclose(np.exp(found["sum_logp"]), answers(bert, questions)["p"], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("refine", REFINE)
def test_the_order_and_size_of_batches_change_nothing(bert, prompts, refine):
    asked = prompts.head(6)
    found = decode(bert, asked, masks=3, refine=refine, beam=2)
    mixed = decode(bert, asked.sample(frac=1, random_state=3), masks=3, refine=refine, beam=2, batch_size=2)
    columns = ["prompt", "masks", "ids", "text", "rounds", "settled", "chosen"]
    order = ["prompt", "masks"]
    pd.testing.assert_frame_equal(
        found[columns].sort_values(order, ignore_index=True),
        mixed[columns].sort_values(order, ignore_index=True),
    )
    alone = pd.concat([decode(bert, asked.iloc[[i]], masks=3, refine=refine, beam=2) for i in range(6)])
    assert alone["ids"].tolist() == found["ids"].tolist()
    np.testing.assert_allclose(alone["sum_logp"], found["sum_logp"], atol=1e-9)


@pytest.mark.slow
def test_banned_pieces_never_appear(bert, prompts):
    banned = set(banned_pieces(bert).tolist())
    assert {bert.tokenizer.mask_token_id, bert.tokenizer.unk_token_id, bert.tokenizer.pad_token_id} <= banned
    with torch.no_grad():  # specials the likeliest of all
        bert.model.cls.predictions.bias[sorted(banned)] += 50
    asked = prompts.head(4)
    for init, refine in product(INIT, REFINE):
        found = decode(bert, asked, masks=3, init=init, refine=refine, beam=2)
        assert not banned & {piece for ids in found["ids"] for piece in ids}
    free = decode(bert, asked, masks=3, init="independent", ban=False)
    assert banned & {piece for ids in free["ids"] for piece in ids}


def test_a_predicted_mask_ends_all_the_same(bert):
    mask = bert.tokenizer.mask_token_id
    model = by_hand(bert, lambda ids, position: {mask: 0.9, 7: 0.1})
    for refine in REFINE:
        found = decode(model, one_prompt(), masks=2, refine=refine, ban=False)
        assert found["ids"].tolist() == [[mask], [mask, mask]]


# Beams


def toy_says(model, seed: int = 0):
    """Probabilities of a few pieces that depend on the whole text."""
    pieces = model.tokenizer.convert_tokens_to_ids(PIECES)

    def says(ids, position):
        random = np.random.default_rng([seed, position, *ids])
        return dict(zip(pieces, random.dirichlet(np.full(len(pieces), 0.5)), strict=True))

    return says, pieces


@pytest.mark.parametrize("seed", range(5))
def test_order_with_a_full_beam_is_exhaustive_search(bert, seed):
    says, pieces = toy_says(bert, seed)
    model = by_hand(bert, says)
    found = decode(model, one_prompt(), masks=3, init="order", beam=len(pieces) ** 2)
    for n in (1, 2, 3):
        ids = model.tokenizer(TEXT.replace("[Y]", "[MASK]" * n))["input_ids"]
        at = [i for i, token in enumerate(ids) if token == model.tokenizer.mask_token_id]
        scores = {}
        for filling in product(pieces, repeat=n):
            text, total = list(ids), 0.0
            for place, piece in zip(at, filling, strict=True):
                total += np.log(says(text, place)[piece])
                text[place] = piece
            scores[filling] = total
        best = max(scores, key=scores.get)
        assert found.set_index("masks").loc[n, "ids"] == list(best)
        assert found.set_index("masks").loc[n, "sum_logp"] == pytest.approx(scores[best])


@pytest.mark.parametrize("seed", range(5))
def test_confidence_with_a_full_beam_is_exhaustive_search_over_orders_too(bert, seed):
    says, pieces = toy_says(bert, seed)
    model = by_hand(bert, says)
    found = decode(model, one_prompt(), masks=2, init="confidence", beam=4 * len(pieces))
    ids = model.tokenizer(TEXT.replace("[Y]", "[MASK][MASK]"))["input_ids"]
    at = [i for i, token in enumerate(ids) if token == model.tokenizer.mask_token_id]
    scores = []
    for order, filling in product(permutations(range(2)), product(pieces, repeat=2)):
        text, total = list(ids), 0.0
        for k in order:
            total += np.log(says(text, at[k])[filling[k]])
            text[at[k]] = filling[k]
        scores.append((total, filling))
    best = max(scores)
    assert found["ids"].iloc[1] == list(best[1])
    assert found["sum_logp"].iloc[1] == pytest.approx(best[0])


def test_independent_beams_are_the_best_combinations_or_the_originals_ranks(bert):
    a, b, c, d = bert.tokenizer.convert_tokens_to_ids(["Paris", "Ger", "country", "the"])
    long = bert.tokenizer(TEXT.replace("[Y]", "[MASK][MASK]"))["input_ids"]
    first = long.index(bert.tokenizer.mask_token_id)
    joint = {(a, c): 0.1, (a, d): 0.9, (b, c): 0.5, (b, d): 0.4}

    def says(ids, position):
        if len(ids) < len(long):  # one blank
            return {a: 1.0}
        other = ids[first if position > first else first + 1]
        if other == bert.tokenizer.mask_token_id:
            return {a: 0.6, b: 0.4} if position == first else {c: 0.55, d: 0.45}
        # Given the other: what the filling as a whole is worth, so that rescoring tells them apart.
        own = (a, b) if position == first else (c, d)
        return {piece: joint[(piece, other) if position == first else (other, piece)] / 2 for piece in own}

    model = by_hand(bert, says)
    options = {"masks": 2, "init": "independent", "rescore": True, "beam": 2}
    # Best combinations: (a, c) .33, (a, d) .27; ranks: (a, c), (b, d). Given each other, (a, d) is best.
    assert decode(model, one_prompt(), **options)["ids"].iloc[1] == [a, d]
    found = decode(model, one_prompt(), original=["rank-beam"], **options)
    assert found["ids"].iloc[1] == [b, d]


@pytest.mark.slow
def test_a_beam_never_does_worse_in_the_end_with_full_width(bert, prompts):
    narrow = decode(bert, prompts.head(4), masks=2, init="order")
    wide = decode(bert, prompts.head(4), masks=2, init="order", beam=len(bert.tokenizer))
    assert (wide["sum_logp"] >= narrow["sum_logp"] - 1e-9).all()


# By hand


def two_blanks(bert, table):
    """A model that answers by what stands in two blanks: {(first, second): {blank: {piece: p}}}."""
    token = bert.tokenizer.convert_tokens_to_ids
    mask = bert.tokenizer.mask_token_id
    start = bert.tokenizer(TEXT.replace("[Y]", "[MASK]"))["input_ids"].index(mask)
    names = {None: mask, **{name: token(name) for name in PIECES}}
    told = {
        tuple(names[name] for name in state): {
            blank: {names[piece]: p for piece, p in said.items()} for blank, said in blanks.items()
        }
        for state, blanks in table.items()
    }

    def says(ids, position):
        if len(ids) == len(bert.tokenizer(TEXT.replace("[Y]", "[MASK]"))["input_ids"]):
            return {names["the"]: 0.5, names["Delhi"]: 0.5}
        return told[tuple(ids[start : start + 2])][position - start]

    return by_hand(bert, says)


def filled(model, **options) -> pd.Series:
    return decode(model, one_prompt(), masks=2, **options).iloc[1]


def test_confidence_beats_order_where_the_second_word_is_the_sure_one(bert):
    model = two_blanks(
        bert,
        {
            (None, None): {0: {"Paris": 0.4, "Ger": 0.35}, 1: {"##many": 0.9, "the": 0.1}},
            ("Paris", None): {1: {"the": 0.5, "##many": 0.1}},
            (None, "##many"): {0: {"Ger": 0.95, "Paris": 0.05}},
        },
    )
    assert filled(model, init="order")["text"] == "Paris the"
    assert filled(model, init="confidence")["text"] == "Germany"
    assert filled(model, init="confidence")["sum_logp"] == pytest.approx(np.log(0.9 * 0.95))


def test_order_beats_confidence_where_the_surest_word_misleads(bert):
    model = two_blanks(
        bert,
        {
            (None, None): {0: {"Ger": 0.6, "country": 0.3}, 1: {"the": 0.7, "##many": 0.3}},
            ("Ger", None): {1: {"##many": 0.99, "the": 0.01}},
            (None, "the"): {0: {"country": 0.4, "Ger": 0.3}},
        },
    )
    assert filled(model, init="order")["text"] == "Germany"
    assert filled(model, init="confidence")["text"] == "country the"


def test_a_cycle_is_stopped_and_told(bert):
    """With Paris the second is country, with country the first is Ger, with Ger the second is Delhi, ..."""
    model = two_blanks(
        bert,
        {
            (None, None): {0: {"Paris": 1.0}, 1: {"Delhi": 1.0}},
            ("Paris", None): {1: {"country": 0.9, "Delhi": 0.1}},
            (None, "country"): {0: {"Ger": 0.9, "Paris": 0.1}},
            ("Ger", None): {1: {"Delhi": 0.9, "country": 0.1}},
            (None, "Delhi"): {0: {"Paris": 0.9, "Ger": 0.1}},
        },
    )
    found = filled(model, init="independent", refine="order")
    assert not found["settled"] and found["rounds"] == 1 + 4
    longer = filled(model, init="independent", refine="order", rounds=9)
    assert not longer["settled"] and longer["rounds"] == 1 + 9
    shared = filled(model, init="independent", refine="order", original=["shared-rounds"])
    assert not shared["settled"] and shared["rounds"] == 4  # 2 M, that of the initial prediction included
    none = filled(model, init="independent", refine="order", rounds=0)
    assert not none["settled"] and none["rounds"] == 1 and none["text"] == "Paris Delhi"


def test_confidence_refines_the_least_sure_blank_until_it_stays(bert):
    model = two_blanks(
        bert,
        {
            (None, None): {0: {"Paris": 0.3, "Ger": 0.2}, 1: {"##many": 0.8}},
            (None, "##many"): {0: {"Ger": 0.9, "Paris": 0.1}},
            ("Ger", None): {1: {"##many": 0.85}},
        },
    )
    found = filled(model, init="independent", refine="confidence")
    # Ger replaces Paris (0.9), then ##many (0.8 when it was filled) is the least sure, and stays.
    assert found["text"] == "Germany" and found["settled"] and found["rounds"] == 3
    assert found["sum_logp"] == pytest.approx(np.log(0.9 * 0.85))
    stale = filled(model, init="independent", refine="confidence", original=["stale"])
    assert stale["sum_logp"] == pytest.approx(np.log(0.9 * 0.8))


def test_order_stops_after_a_whole_round_without_a_change(bert):
    model = two_blanks(
        bert,
        {
            (None, None): {0: {"Paris": 0.6}, 1: {"##many": 0.8}},
            (None, "##many"): {0: {"Ger": 0.9}},
            ("Ger", None): {1: {"##many": 0.85}},
        },
    )
    found = filled(model, init="independent", refine="order")
    assert found["text"] == "Germany" and found["settled"] and found["rounds"] == 1 + 3


@pytest.mark.slow
def test_blanks_of_probability_one_stay_where_they_are(bert):
    """The least sure blank is looked for among blanks: nothing else holds a 0 that is smaller."""
    model = two_blanks(
        bert,
        {
            (None, None): {0: {"Ger": 1.0}, 1: {"##many": 1.0}},
            (None, "##many"): {0: {"Ger": 1.0}},
            ("Ger", None): {1: {"##many": 1.0}},
        },
    )
    for init, refine in product(INIT, REFINE):
        found = filled(model, init=init, refine=refine)
        assert found["text"] == "Germany" and found["settled"] and found["sum_logp"] == 0.0


def test_of_equally_likely_pieces_the_lowest_id_is_taken(bert):
    model = by_hand(bert, lambda ids, position: {9: 0.25, 7: 0.25, 8: 0.25, 11: 0.25})
    for beam in (1, 3):
        found = decode(model, one_prompt(), masks=2, init="order", beam=beam)
        assert found["ids"].tolist() == [[7], [7, 7]]


# The number of blanks


@pytest.fixture(scope="module")
def decoded(prompts) -> pd.DataFrame:
    return decode(make_model("bert"), prompts, masks=4, init="independent", choose="pll")


@pytest.mark.slow
def test_every_choice_against_its_definition(decoded):
    gold = decoded.drop_duplicates("fact").set_index("fact")["gold_pieces"]
    assert set(gold) - {1}  # answers of several pieces are there
    for by in CHOICES:
        found = choose(decoded, by)
        assert found.groupby("prompt")["chosen"].sum().eq(1).all()
        for name, group in decoded.groupby("prompt"):
            scores = {}
            for row in group.itertuples():
                others = decoded[(decoded["fact"] != row.fact) & (decoded["masks"] == row.masks)]
                lengths = gold.drop(row.fact)
                scores[row.masks] = {
                    "mean": row.sum_logp / row.masks,
                    "sum": row.sum_logp,
                    "pll": row.pll,
                    "calibrated": row.mean_logp - others["mean_logp"].mean(),
                    "prior": row.mean_logp + np.log(((lengths == row.masks).sum() + 1) / (len(lengths) + 4)),
                    "given": -abs(row.masks - row.gold_pieces),
                }[by]
            best = max(scores, key=scores.get)
            assert found.loc[found["chosen"] & (found["prompt"] == name), "masks"].tolist() == [best]


def test_pll_is_each_blank_given_the_others(decoded, prompts):
    model = make_model("bert")
    for row in decoded.head(8).itertuples():
        text = prompts.set_index("prompt").loc[row.prompt, "text"]
        ids = model.tokenizer(text.replace("[Y]", "[MASK]" * row.masks))["input_ids"]
        at = [i for i, token in enumerate(ids) if token == model.tokenizer.mask_token_id]
        full = list(ids)
        for place, piece in zip(at, row.ids, strict=True):
            full[place] = piece
        each = []
        for place, piece in zip(at, row.ids, strict=True):
            hidden = [*full[:place], model.tokenizer.mask_token_id, *full[place + 1 :]]
            each.append(plain_log(model, hidden, place)[piece].item())
        assert row.pll == pytest.approx(np.mean(each), abs=1e-9)


def test_a_fact_says_nothing_about_itself(decoded):
    """Its own answer's length changes neither its prior nor, with its scores, what is usual for others."""
    fact = decoded["fact"].iloc[0]
    mine = decoded["fact"] == fact
    other = decoded.assign(gold_pieces=decoded["gold_pieces"].mask(mine, 4))
    for by in ("prior", "calibrated"):
        a, b = choose(decoded, by), choose(other, by)
        assert a.loc[mine, "chosen"].tolist() == b.loc[mine, "chosen"].tolist()


def test_an_answer_longer_than_all_blanks_keeps_its_place(bert):
    found = decode(bert, one_prompt(answer="Ouagadougou"), masks=2, choose="given")
    assert found["gold_pieces"].iloc[0] > 2 and found["chosen"].tolist() == [False, True]


def test_an_answer_that_cannot_be_written_has_no_length(bert):
    found = decode(bert, one_prompt(answer="Ω"), masks=2, choose="prior")
    assert found["gold_pieces"].isna().all() and found["chosen"].sum() == 1


def test_numbers_of_blanks_that_do_not_fit_are_left_out():
    short = make_model("bert", max_position_embeddings=12)
    ids = short.tokenizer(TEXT.replace("[Y]", "[MASK]"))["input_ids"]
    found = decode(short, one_prompt(), masks=9)
    assert found["masks"].max() == 12 - len(ids) + 1 < 9


# Neurons that act


def test_neurons_are_scaled_at_every_blank_that_is_read(bert, prompts):
    asked, neurons = prompts.head(3), np.array([[0, 3], [1, 7], [2, 40]])
    acting = [Scaling(neurons, 0.0), None, Scaling(neurons, 2.0)]
    found = decode(bert, asked, masks=2, init="order", acting=acting)
    plain = decode(bert, asked, masks=2, init="order")
    with suppress(bert, neurons):  # in order, the first blank is the one that is read
        silenced = decode(bert, asked, masks=2, init="order")
    for i, table in enumerate([silenced, plain]):
        here = found["prompt"] == asked["prompt"].iloc[i]
        np.testing.assert_allclose(found.loc[here, "sum_logp"], table.loc[here, "sum_logp"], atol=1e-9)
    assert not np.allclose(found["sum_logp"], plain["sum_logp"])


def test_several_places_of_one_text_under_an_intervention_are_read_one_by_one(bert):
    ids = bert.tokenizer(TEXT.replace("[Y]", "[MASK][MASK]"))["input_ids"]
    at = [i for i, token in enumerate(ids) if token == bert.tokenizer.mask_token_id]
    act = Scaling(np.array([[1, 5], [2, 6]]), 3.0)
    both = best_pieces(bert, [Text(ids, tuple(at), (), act)], 2)
    each = [best_pieces(bert, [Text(ids, (place,), (), act)], 2) for place in at]
    np.testing.assert_allclose(both[0], np.concatenate([logp for logp, _ in each]), atol=1e-12)
    wanted = tuple(map(tuple, both[1][:, ::-1].tolist()))
    again = log_probabilities(bert, [Text(ids, tuple(at), wanted, act)])
    np.testing.assert_allclose(again, both[0][:, ::-1].ravel(), atol=1e-12)


# Left-to-right models


@pytest.mark.slow
def test_greedy_is_a_plain_loop_and_adds_up(prompts):
    model = make_model("gpt2")
    asked = prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)
    found = decode(model, asked, masks=6)
    assert found["chosen"].all() and found["prompt"].tolist() == asked["prompt"].tolist()
    tokenizer, banned = model.tokenizer, set(banned_pieces(model).tolist())
    for row, text in zip(found.itertuples(), asked["text"], strict=True):
        start = tokenizer(text.partition("[Y]")[0].rstrip())["input_ids"]
        ids, total, end = [], 0.0, "limit"
        while len(ids) < 6:
            logp = plain_log(model, start + ids, len(start + ids) - 1, banned)
            piece = logp.argmax().item()
            if piece == tokenizer.eos_token_id:
                end = "text"
                break
            more = tokenizer.decode([*ids, piece])
            if any(mark in more for mark in "\n" + MARKS):
                end = "line" if "\n" in more else "sentence"
                break
            ids.append(piece)
            total += logp[piece].item()
        assert row.ids == ids and row.end == end and row.settled == (end != "limit")
        assert row.sum_logp == pytest.approx(total, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kind for kind, row in ARCHITECTURES.items() if row.causal and kind in KINDS]
)
def test_what_was_read_is_kept_and_changes_nothing(prompts, kind):
    """With an intervention that does nothing every step reads the whole text again: the same comes out."""
    model = make_model(kind)
    asked = prompts[~prompts["text"].str.startswith("[Y]")].reset_index(drop=True)
    nothing = [Scaling(np.array([[0, 0]]), 1.0)] * len(asked)
    for beam in (1, 3):
        kept = decode(model, asked, masks=5, beam=beam)
        again = decode(model, asked, masks=5, beam=beam, acting=nothing)
        pd.testing.assert_frame_equal(kept, again)


def causal_by_hand(tree: dict[str, dict[str, float]]):
    """A left-to-right model that goes on with a written text as the tree says: text so far -> piece -> P."""
    model = make_model("gpt2")
    start = len(model.tokenizer("The capital of France is")["input_ids"])

    def says(ids, position):
        so_far = model.tokenizer.decode(ids[start : position + 1])
        return {
            model.tokenizer.eos_token_id
            if piece == "<|end|>"
            else model.tokenizer.convert_tokens_to_ids(piece): p
            for piece, p in tree[so_far].items()
        }

    return by_hand(model, says)


def by_tree(model, prompt, **options) -> pd.DataFrame:
    """Decode a model made by hand: with something that acts, if without effect, it is asked whole texts."""
    return decode(model, prompt, acting=[Scaling(np.array([[0, 0]]), 1.0)] * len(prompt), **options)


def test_an_answer_ends_where_it_should():
    prompt = one_prompt("The capital of France is [Y].")
    for last, end in {"<|end|>": "text", "Ċ": "line", ".": "sentence"}.items():
        model = causal_by_hand({"": {"ĠParis": 1.0}, " Paris": {last: 0.9, "s": 0.1}})
        found = by_tree(model, prompt, masks=4).iloc[0]
        assert (found["text"], found["end"], found["masks"]) == ("Paris", end, 1)
        assert found["settled"] and found["rounds"] == 2 and found["sum_logp"] == 0.0
    cut = by_tree(causal_by_hand({"": {"ĠParis": 1.0}, " Paris": {"s": 1.0}}), prompt, masks=2).iloc[0]
    assert (cut["text"], cut["end"], cut["settled"]) == ("Pariss", "limit", False)


def test_a_beam_finds_the_likelier_answer_behind_a_less_likely_start():
    tree = {
        "": {"Ġthe": 0.6, "ĠParis": 0.4},
        " the": {"a": 0.3, "b": 0.3, "c": 0.4},
        " thec": {".": 1.0},
        " thea": {".": 1.0},
        " theb": {".": 1.0},
        " Paris": {".": 1.0},
    }
    prompt = one_prompt("The capital of France is [Y].")
    assert by_tree(causal_by_hand(tree), prompt, masks=3)["text"].tolist() == ["thec"]
    for by in ("sum", "mean"):
        found = by_tree(causal_by_hand(tree), prompt, masks=3, beam=3, choose=by).iloc[0]
        assert found["text"] == "Paris" and found["sum_logp"] == pytest.approx(np.log(0.4))


def test_neurons_act_on_a_left_to_right_model_as_in_answers(prompts):
    model, neurons = make_model("gpt2"), np.array([[0, 3], [1, 7], [2, 40]])
    asked = prompts[~prompts["text"].str.startswith("[Y]")].head(2).reset_index(drop=True)
    found = decode(model, asked, masks=3, acting=[Scaling(neurons, 0.0)] * 2)
    with suppress(model, neurons):
        inside = decode(model, asked, masks=3)
    pd.testing.assert_frame_equal(found, inside)


# What cannot be had


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": "left"}, "init='left'; known: independent, order, confidence"),
        ({"refine": "x"}, "refine='x'"),
        ({"choose": "x"}, "choose='x'"),
        ({"original": ["noise"]}, "original='noise'"),
        ({"masks": 0}, "masks=0"),
        ({"beam": 0}, "beam=0"),
        ({"rounds": -1}, "rounds=-1"),
        ({"acting": []}, "0 interventions for 1 prompts"),
    ],
)
def test_errors_say_what_is_known(bert, options, said):
    with pytest.raises(DecodingError, match=said.replace("(", r"\(")):
        decode(bert, one_prompt(), **options)


def test_a_choice_needs_its_scores(bert):
    table = decode(bert, one_prompt(), masks=2)
    with pytest.raises(ChoiceError, match="pll"):
        choose(table, "pll")
    with pytest.raises(ChoiceError, match="known"):
        choose(table, "best")


def test_no_prompt_gives_an_empty_table(bert, prompts):
    full = decode(bert, prompts.head(1), masks=2)
    empty = decode(bert, prompts.head(0), masks=2)
    assert list(empty) == list(full) and len(empty) == 0


def test_answer_probability_agrees_where_the_length_is_given(bert, prompts):
    """Filling in order with the right number of blanks is what ``predicted`` shows, if it is right."""
    with torch.no_grad():
        bert.model.cls.predictions.bias[bert.tokenizer.convert_tokens_to_ids("Paris")] += 40
    told = answer_probability(bert, prompts)
    found = decode(bert, prompts, masks=4, init="order", choose="given")
    right = told["correct"].to_numpy()
    assert right.any()
    text = found[found["chosen"]]["text"].to_numpy()
    assert (text[right] == prompts["answer"].to_numpy()[right]).all()


def test_tables_of_several_decodings_are_chosen_from_one_by_one(decoded):
    other = decoded.assign(mean_logp=-decoded["mean_logp"], sum_logp=-decoded["sum_logp"])
    both = pd.concat([decoded.assign(decoding="a"), other.assign(decoding="b")], ignore_index=True)
    for by in CHOICES:
        found = choose(both, by)
        for name, alone in (("a", decoded), ("b", other)):
            part = found.loc[found["decoding"] == name, "chosen"]
            assert part.tolist() == choose(alone, by)["chosen"].tolist()


def test_a_prior_takes_more_facts_where_they_are_given(decoded):
    keys = ["fact", "relation", "language", "gold_pieces"]
    own = decoded.drop_duplicates("fact")[keys]
    more = pd.DataFrame([(f"x{i}", "P36", "en", 3) for i in range(50)], columns=keys)
    prior = length_prior(decoded, pd.concat([own, more]))
    row = decoded.index[(decoded["masks"] == 3) & (decoded["gold_pieces"] != 3)][0]
    threes = (own["gold_pieces"] == 3).sum()
    assert prior[row] == pytest.approx((50 + threes + 1) / (50 + len(own) - 1 + 4))
    assert prior[decoded["prompt"] == decoded["prompt"].iloc[0]].sum() <= 1 + 1e-9


def test_lengths_of_answers(bert, prompts):
    table = answer_lengths(bert, prompts)
    assert len(table) == prompts["fact"].nunique()
    asked = prompts.drop_duplicates("fact")
    assert table["gold_pieces"].tolist() == [len(q) for q in questions_of(bert, asked)]
