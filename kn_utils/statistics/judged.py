"""Rules judged prompt by prompt: means over prompts, and what one rule has ahead of another."""

from __future__ import annotations

import pandas as pd

from .intervals import interval


def judged_rules(table: pd.DataFrame, *, against: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Each measure's mean over prompts, with a bootstrap interval: prompts are what is drawn again.

    Args:
        table: ``prompt, target, rule, measure, value``, such as
            :func:`kn_utils.attribution.removal.judged_by_removal` gives it.
        against: a rule; then of every other rule's value minus this one's for the same prompt.
        seed: of the resamples.

    Returns:
        ``target, rule, measure, value, low, high, n`` (n prompts), in the order of the table.

    Example:
        >>> import pandas as pd
        >>> values = {"rule": ["one", "two"] * 2, "measure": "rank", "value": [0.5, 0.75, 0.5, 0.25]}
        >>> table = pd.DataFrame({"prompt": [1, 1, 2, 2], "target": "answer", **values})
        >>> judged_rules(table, against="one")[["rule", "value", "low", "high"]].to_dict("records")
        [{'rule': 'two', 'value': 0.0, 'low': -0.25, 'high': 0.25}]
    """
    if against is not None:
        same = ["prompt", "target", "measure"]
        base = table.loc[table["rule"] == against].set_index(same)["value"].rename("base")
        table = table.loc[table["rule"] != against].join(base, on=same)
        table = table.assign(value=table["value"] - table["base"])
    names = ["target", "rule", "measure"]
    rows = [
        {**dict(zip(names, group, strict=True)), **interval(part["value"], seed=seed)}
        for group, part in table.groupby(names, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*names, "value", "low", "high", "n"])


def readable(rows: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """:func:`judged_rules` to read: a row per target and rule, ``value (low to high)`` per measure.

    Example:
        >>> import pandas as pd
        >>> row = {"target": "answer", "rule": "one", "measure": "rank", "value": 0.5, "low": 0.25, "high": 1}
        >>> readable(pd.DataFrame([{**row, "n": 9}]), 2).to_dict("list")
        {'prompts': [9], 'rank': ['0.50 (0.25 to 1.00)']}
    """
    text = [
        f"{row.value:.{digits}f}"
        + ("" if pd.isna(row.low) else f" ({row.low:.{digits}f} to {row.high:.{digits}f})")
        for row in rows.itertuples()
    ]
    index = ["target", "rule"]
    wide = rows.assign(text=text).pivot(index=index, columns="measure", values="text")
    order = pd.MultiIndex.from_frame(rows[index].drop_duplicates())
    wide = wide.reindex(index=order, columns=list(dict.fromkeys(rows["measure"]))).rename_axis(columns=None)
    wide.insert(0, "prompts", rows.groupby(index, sort=False)["n"].max().reindex(order))
    return wide
