"""Scores of P(answer) among its candidates, against a plain loop through the whole model."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from oracles import pieces_of, place_of, plain_scores, probability_with

from kn_utils.attribution import settings as settings_room
from kn_utils.attribution.attribute import attribute, attribution_map, score_tables
from kn_utils.attribution.kernel import integrate
from kn_utils.attribution.quadrature import AttributionError, quadrature
from kn_utils.attribution.reading import read_neurons
from kn_utils.attribution.settings import ScoreSettings
from kn_utils.attribution.targets import Target
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.typed import has_competitor, typed_answers, typed_rows
from kn_utils.store.tables import load_table

#: Names of one piece, names that begin alike, and one that ends where two others go on.
NAMES = ["Paris", "Berlin", "is", "is the", "is country", "the"]
KINDS = ["bert", "gpt2", "llama"]


@pytest.fixture
def asked(prompts) -> pd.DataFrame:
    table = prompts[~prompts["text"].str.startswith("[Y]")].iloc[[0, 3]]
    return pd.concat(
        [table.assign(answer=name, prompt=table["prompt"] + name) for name in NAMES], ignore_index=True
    )


@pytest.fixture
def typed(asked) -> dict:
    return {"target": "typed", "candidates": [NAMES] * len(asked)}


def among(ways: set[int], wanted: int | None, ends: bool):
    """What makes P(wanted | the ways on) of the probabilities of all pieces; ``None``: the answer ends."""

    def share(p: torch.Tensor) -> torch.Tensor:
        named = sum(p[way] for way in sorted(ways))
        return (p.sum() - named if wanted is None else p[wanted]) / (p.sum() if ends else named)

    return share


def places(model, text: str, answer: str):
    """Token ids, position and share of every place on the answer's way where names part: a plain loop."""
    before, after = text.split("[Y]")
    written = {name: pieces_of(model, name) for name in NAMES}
    own = written[answer]
    if not model.causal:
        written = {name: pieces for name, pieces in written.items() if len(pieces) == len(own)}
    for depth in range(len(own) + 1):
        alike = [other for other in written.values() if other[:depth] == own[:depth]]
        ways = {other[depth] for other in alike if len(other) > depth}
        ends = any(len(other) == depth for other in alike)
        if len(ways) + ends < 2:
            continue
        ids, at = place_of(model, before, after, own, depth)
        yield ids, at, among(ways, own[depth] if depth < len(own) else None, ends)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["right", "gauss-legendre"])
def test_it_equals_a_plain_loop(kind, rule, asked, typed):
    model = make_model(kind)
    ours = attribution_map(model, asked, rule=rule, steps=3, batch_size=5, **typed).double()
    nodes, weights = (values.tolist() for values in quadrature(rule, 3))
    several = 0
    for found, prompt in zip(ours, asked.itertuples(), strict=True):
        maps = [
            plain_scores(model, *place, nodes, weights) for place in places(model, prompt.text, prompt.answer)
        ]
        several += len(maps) > 1
        truth = torch.stack(maps).mean(0)
        assert truth.abs().max() > 1e-7
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
    assert several, "names that share their first pieces are wanted here"
    targets = [row for rows in typed_rows(model, asked, typed["candidates"]) for row in rows]
    if model.causal:
        assert {-1} < {row.target for row in targets}, "a name that ends where others go on is wanted here"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_complete_and_its_product_is_the_typed_probability(kind, asked, typed):
    model = make_model(kind)
    rows = [row for rows in typed_rows(model, asked, typed["candidates"]) for row in rows]
    found = integrate(model, rows, steps=64, gap=True)
    assert found.gap.abs().max() < 1e-6
    nothing = torch.zeros(model.n_neurons, dtype=torch.float64)
    every = [place for prompt in asked.itertuples() for place in places(model, prompt.text, prompt.answer)]
    assert len(every) == len(rows)
    for scores, p, place in zip(found.scores, found.probability, every, strict=True):
        for layer in range(model.n_layers):
            start = probability_with(model, *place, layer, nothing)
            assert scores[layer].sum().item() == pytest.approx((p - start).item(), abs=1e-6)
    truth = typed_answers(model, asked, typed["candidates"])["typed_probability"]
    for method in ("integrated-gradients", "activation"):
        notes = score_tables(model, asked, method=method, steps=2, progress=False, **typed).prompts
        np.testing.assert_allclose(notes["probability"], truth, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["replacement", "replacement-each"])
def test_from_other_baselines_it_is_complete_as_well(baseline, asked, typed):
    found = score_tables(
        make_model("gpt2"), asked, baseline=baseline, steps=64, gap=True, progress=False, **typed
    )
    assert found.prompts["gap"].max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_tolerance_is_met(kind, asked, typed):
    model = make_model(kind)
    found = attribution_map(model, asked, tolerance=1e-3, **typed)
    truth = attribution_map(model, asked, rule="gauss-legendre", steps=96, **typed)
    assert ((found - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2))).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*ARCHITECTURES, "deberta-v2 of the second kind"])
def test_a_head_of_the_named_pieces_gives_what_the_whole_one_gives(kind, asked, typed, monkeypatch):
    name, second = kind.split()[0], " " in kind
    model = make_model(name, **({"legacy": False} if second else {}))
    rows = [
        row for rows in typed_rows(model, asked, typed["candidates"]) for row in rows if -1 not in row.among
    ]
    before = model.checksum()
    with Target(model, rows).installed():
        inputs, at, _ = model.batch(rows)
        named = {piece for row in rows for piece in row.among}
        assert model.logits(inputs, at).shape[1] == (len(model.embeddings) if second else len(named))
    narrow = integrate(model, rows, steps=2, gap=True)
    values = read_neurons(model, rows)
    monkeypatch.setattr(Target, "installed", _whole)
    whole = integrate(model, rows, steps=2, gap=True)
    for one, other in (
        (narrow.scores, whole.scores),
        (narrow.gap, whole.gap),
        (values[1], whole.probability),
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)  # GPT-J attends in float32
    assert model.checksum() == before


def _whole(self):
    self.pieces = None
    self.wanted = torch.tensor([[row.target] for row in self.rows])
    return torch.no_grad()


def test_after_an_error_the_head_is_whole_again(bert, asked, typed):
    rows = [row for rows in typed_rows(bert, asked, typed["candidates"]) for row in rows]
    head = bert.model.get_output_embeddings()
    own, before = dict(head._parameters), bert.checksum()
    with pytest.raises(ZeroDivisionError), Target(bert, rows).installed():
        assert len(head.weight) < len(own["weight"])
        _ = 1 / 0
    assert all(head._parameters[name] is values for name, values in own.items()) and bert.checksum() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_neither_order_nor_batches_nor_memory_change_anything(kind, asked, typed, monkeypatch):
    model = make_model(kind)
    truth = attribution_map(model, asked, batch_size=1, **typed)
    order = np.random.default_rng(0).permutation(len(asked))
    mixed = attribution_map(model, asked.iloc[order], batch_size=7, **typed)
    torch.testing.assert_close(mixed, truth[order], rtol=1e-6, atol=1e-12)

    fixed = attribution_map(model, asked, steps=2, **typed)
    monkeypatch.setattr(settings_room, "integrate", partial(_forgetful, integrate))
    halved = attribution_map(model, asked, steps=2, **typed)
    torch.testing.assert_close(halved, fixed, rtol=1e-6, atol=1e-12)


def _forgetful(integrate, model, rows, *, layers, **options):
    if len(rows) * len(layers) > 2:
        raise MemoryError("out of memory")
    return integrate(model, rows, layers=layers, **options)


@pytest.mark.slow
def test_plain_and_typed_rows_share_a_batch(bert, asked, typed):
    rows = [
        *bert.encode(asked),
        *(row for rows in typed_rows(bert, asked, typed["candidates"]) for row in rows),
    ]
    together = integrate(bert, rows, steps=2)
    alone = [integrate(bert, [row], steps=2) for row in rows]
    torch.testing.assert_close(
        together.scores, torch.cat([one.scores for one in alone]), rtol=1e-6, atol=1e-12
    )
    torch.testing.assert_close(together.probability, torch.cat([one.probability for one in alone]))


@pytest.mark.slow
def test_products_in_bfloat16_are_close_and_are_not_float32(asked, typed):
    model = make_model("llama", torch.float32)
    head = model.model.get_output_embeddings().weight
    truth = attribution_map(model, asked, steps=2, **typed)
    found = attribution_map(model, asked, steps=2, precision="bfloat16", **typed)
    error = (found - truth).abs().amax((1, 2)) / truth.abs().amax((1, 2))
    assert 1e-4 < error.min() and error.max() < 5e-2
    assert model.model.get_output_embeddings().weight is head


@pytest.mark.slow
def test_only_the_same_call_goes_on_where_a_run_broke_off(bert, asked, typed, tmp_path, monkeypatch, capsys):
    options = {"batch_size": 1, "steps": 2, "progress": False, "target": "typed"}
    whole = load_table(attribute(bert, asked, out=tmp_path / "whole.parquet", **options, **_only(typed)))[0]
    pd.testing.assert_frame_equal(whole, attribute(bert, asked, **options, **_only(typed)), check_exact=True)
    out, passes = tmp_path / "scores.parquet", []

    def stop_after_three(model, rows, **options):
        if len(passes) == 3:
            raise KeyboardInterrupt
        passes.append(len(rows))
        return integrate(model, rows, **options)

    def stopped_run(candidates):
        passes.clear()
        with monkeypatch.context() as here, pytest.raises(KeyboardInterrupt):
            here.setattr(settings_room, "integrate", stop_after_three)
            attribute(bert, asked, out=out, candidates=candidates, **options)
        return capsys.readouterr().err

    assert "starting anew" not in stopped_run(typed["candidates"])
    assert "starting anew" not in stopped_run(typed["candidates"])
    fewer = [[name for name in NAMES if name != "the" or name == answer] for answer in asked["answer"]]
    assert "prompts changed, starting anew" in stopped_run(fewer)
    assert "prompts changed, starting anew" in stopped_run(typed["candidates"])
    attribute(bert, asked, out=out, **options, **_only(typed))
    assert "starting anew" not in capsys.readouterr().err
    pd.testing.assert_frame_equal(load_table(out)[0], whole, check_exact=True)


def _only(typed: dict) -> dict:
    return {"candidates": typed["candidates"]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_has_no_competitor_is_refused_in_one_line(kind, asked, typed):
    model = make_model(kind)
    alone = [[name] if name in ("Paris", "the") else NAMES for name in asked["answer"]]
    competing = has_competitor(model, asked, alone)
    assert competing.tolist() == [bool(rows) for rows in typed_rows(model, asked, alone)]
    assert competing.tolist() == [name not in ("Paris", "the") for name in asked["answer"]]
    with pytest.raises(
        AttributionError, match="^4 of 12 prompts: the answer has no competitor.*1Paris, "
    ) as refusal:
        attribute(model, asked, target="typed", candidates=alone, progress=False)
    assert "\n" not in str(refusal.value)
    left = [names for names, one in zip(alone, competing, strict=True) if one]
    assert len(attribute(model, asked[competing], target="typed", candidates=left, progress=False))


def test_a_masked_model_s_competitors_have_as_many_pieces(bert, asked):
    pair = asked[asked["answer"].isin(["Paris", "is the"])]
    assert not has_competitor(bert, pair, [["Paris", "is the"]] * len(pair)).any()
    assert has_competitor(bert, pair, [["Paris", "is the", "the", "is country"]] * len(pair)).all()


@pytest.mark.slow
def test_the_candidates_are_those_of_the_prompts_unless_given(bert, asked, typed):
    # Texts of their own: of one text all answers would be right, and none would compete.
    own = asked.assign(text=[f"{text[:-1]} {i}." for i, text in enumerate(asked["text"])])
    found = attribution_map(bert, own, target="typed", steps=2)
    torch.testing.assert_close(found, attribution_map(bert, own, steps=2, **typed))
    with pytest.raises(AttributionError, match="12 of 12 prompts: the answer has no competitor"):
        attribution_map(bert, asked, target="typed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "logit"}, "unknown target 'logit'; known: answer, typed"),
        ({"target": "typed", "unknown": "allow"}, "needs unknown='refuse'"),
        ({"candidates": [NAMES]}, "candidates are for target='typed'"),
        ({"target": "typed", "candidates": [NAMES]}, "1 lists of candidates for 12 prompts"),
        ({"target": "typed", "candidates": [["Rome"]] * 12}, "12 prompts: the answer is not among"),
    ],
)
def test_bad_targets(bert, asked, options, message):
    with pytest.raises(AttributionError, match=message):
        attribution_map(bert, asked, **options)
    assert ScoreSettings().target == "answer"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_odds_of_typed_rows(kind, asked, typed):
    """Both at once, from their definitions: the log-odds of each share."""
    model = make_model(kind)
    rows = [row for rows in typed_rows(model, asked, typed["candidates"]) for row in rows]
    found = integrate(model, rows, rule="right", steps=2, scale="log-odds")
    every = [place for prompt in asked.itertuples() for place in places(model, prompt.text, prompt.answer)]
    for scores, p, (ids, at, share) in zip(found.scores, found.probability, every, strict=True):
        truth = plain_scores(
            model, ids, at, lambda q, share=share: torch.logit(share(q)), [0.5, 1], [0.5, 0.5]
        )
        torch.testing.assert_close(scores, truth, rtol=1e-5, atol=1e-6 * truth.abs().max().item())
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, at]
        assert p.item() == pytest.approx(share(logits.softmax(-1)).item(), rel=1e-9)
