"""The port of the original loop writes what ours writes; without that no ratio is given."""

from __future__ import annotations

import pytest

from kn_utils.model import decoding_benchmark as benchmark


@pytest.mark.slow
def test_both_write_the_same_and_a_ratio_comes_out(bert, prompts):
    table = benchmark.seconds(bert, prompts.head(3), masks=3)
    assert len(table) == len(benchmark.SETTINGS) and (table[["ours", "port", "ratio"]] > 0).all().all()


def test_no_ratio_where_they_differ(bert, prompts, monkeypatch):
    monkeypatch.setattr(benchmark, "plain_port", lambda *given: [])
    with pytest.raises(benchmark.BenchmarkError, match="something else"):
        benchmark.seconds(bert, prompts.head(1), masks=2)


@pytest.mark.slow
def test_the_command_takes_a_shape_of_random_weights_and_spreads_prompts_over_relations(monkeypatch, capsys):
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    monkeypatch.setitem(benchmark.SHAPES, "tiny", ("bert", {"vocab_size": 8000, **tiny}))
    asked = []
    monkeypatch.setattr(benchmark, "seconds", lambda model, table, **more: asked.append(table) or table)
    benchmark.main(["--model", "tiny", "--language", "nl", "--prompts", "12"])
    (table,) = asked
    assert len(table) == 12 and set(table["language"]) == {"nl"}
    assert table["relation"].value_counts().max() - table["relation"].value_counts().min() <= 1
    assert table["fact"].is_unique
    assert "prompts made in" in capsys.readouterr().out
