"""Other starting points of the path: each row against scores computed apart."""

from __future__ import annotations

import pytest

from kn_utils import attribution_map
from kn_utils.experiments.starts import compare_starts


def test_scores_from_other_starts_are_compared_prompt_by_prompt(bert, prompts):
    some, starts = prompts.iloc[[0, 3]], [("zero", "difference"), ("replacement", "activation")]
    rows = compare_starts(bert, some, starts)
    assert list(rows) == ["baseline", "multiplier", "prompt", "error", "jaccard"]
    assert list(rows["prompt"]) == [*some["prompt"], *some["prompt"]]
    itself, other = rows[rows["baseline"] == "zero"], rows[rows["baseline"] == "replacement"]
    assert (itself["error"] == 0).all() and (itself["jaccard"] == 1).all()
    for row in other.itertuples():
        prompt = some[some["prompt"] == row.prompt]
        zero = attribution_map(bert, prompt)[0].numpy()
        moved = attribution_map(bert, prompt, baseline=row.baseline, multiplier=row.multiplier)[0].numpy()
        assert row.error == pytest.approx(abs(moved - zero).max() / abs(zero).max(), rel=1e-4)
        sets = [scores >= 0.2 * scores.max() for scores in (moved, zero)]
        assert row.jaccard == pytest.approx((sets[0] & sets[1]).sum() / (sets[0] | sets[1]).sum())
    assert (other["error"] > 0).all()
