"""The port of the original loop writes what ours writes; without that no ratio is given."""

from __future__ import annotations

import pytest

from kn_utils.model import decoding_benchmark as benchmark


def test_both_write_the_same_and_a_ratio_comes_out(bert, prompts):
    table = benchmark.seconds(bert, prompts.head(3), masks=3)
    assert len(table) == len(benchmark.SETTINGS) and (table[["ours", "port", "ratio"]] > 0).all().all()


def test_no_ratio_where_they_differ(bert, prompts, monkeypatch):
    monkeypatch.setattr(benchmark, "plain_port", lambda *given: [])
    with pytest.raises(benchmark.BenchmarkError, match="something else"):
        benchmark.seconds(bert, prompts.head(1), masks=2)
