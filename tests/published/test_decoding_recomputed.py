"""What was recomputed of X-FACTR's decoding."""

from __future__ import annotations

import pandas as pd

from kn_utils.published.decoding import decoding_beside, decoding_recomputed


def test_every_number_is_called_recomputed():
    table = decoding_recomputed()
    assert set(table["status"]) == {"recomputed"} and table["value"].between(0, 100).all()
    best = table.query("language == 'en' and facts == 'all'")
    assert best["value"].tolist() == [9.69] and best["n"].tolist() == [44684]
    parts = table.query("decoding.str.startswith('best') and facts != 'all'")
    assert parts["n"].sum() == 44684


def test_ours_stand_above_in_per_cent():
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "subset": "all", "decoding": "order"}
    rows = [("en", "right"), ("en", "strict"), ("zh", "right")]
    recall = pd.DataFrame([{**numbers, "language": name, "measure": measure} for name, measure in rows])
    table = decoding_beside(recall, "mini")
    assert table["status"].tolist() == ["ours"] + ["recomputed"] * 9
    assert table.loc[0, ["model", "value", "low"]].tolist() == ["mini", 50, 40]
    assert set(table["language"]) == {"en"}
