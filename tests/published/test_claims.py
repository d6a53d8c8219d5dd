"""The papers' claims: what the tables may say, and that verdicts come from stored numbers."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest

from kn_utils import StudyError, plots
from kn_utils.plots.claims import LOOKS
from kn_utils.published import claims as room
from kn_utils.published.decoding import decoding_recomputed
from kn_utils.published.printed import printed
from kn_utils.published.recomputed import load
from kn_utils.run import results
from kn_utils.run.plan import GRID
from kn_utils.statistics.verdicts import HOLDS, NOT, NOT_RUN, OPEN, VERDICTS, Rule

NAME = ["notebook", "measure", "neurons", "where"]
OTHER = ["notebook", "other_measure", "other_neurons", "other_where"]


@pytest.fixture(scope="module")
def numbers():
    return results.stored_numbers(room.MODELS)


def test_each_paper_has_claims_and_each_claim_a_command():
    every = room.claims()
    assert every["id"].is_unique and every["short"].is_unique and every["short"].str.len().max() < 65
    assert set(every["source"]) == {"Dai et al. 2022", "Cai", "Chen et al. 2024", "Jiang et al. 2020"}
    assert every["source"].value_counts().min() >= 5
    assert (every[["place", "claim", "published", "test", "notebooks"]] != "").all(axis=None)
    assert set(every["status"]) <= set(room.STATUS)
    with pytest.raises(StudyError, match="no claims of 'Nobody'; known: Dai"):
        room.claims("Nobody")
    for row in every.to_dict("records"):
        command = room.command(row)
        assert command.startswith(f"./run_all.sh --model {room.MBERT} --notebooks ") and " 14" in command


def test_each_claim_has_parts_or_says_why_not():
    every, parts = room.claims(), room.parts()
    assert set(parts["id"]) == set(every.loc[every["open"] == "", "id"])
    assert not parts.duplicated(["id", "part"]).any()
    for row in every.itertuples():
        needed = set(parts.loc[parts["id"] == row.id, "notebook"])
        assert needed <= set(row.notebooks.split()), row.id
        assert needed or row.open


def test_each_rule_can_be_read_and_each_limit_has_a_reason():
    for row in room.parts().itertuples():
        rule = Rule.read(row.rule)
        assert (rule.limit is None) == (row.other_measure != ""), row.part
        assert (rule.limit in (None, 0)) == (row.reason == ""), row.part
        assert row.unit in ("", "%")


def test_every_named_number_is_stored_or_its_notebook_has_none_yet(numbers):
    """A notebook that no model has stored numbers of is awaited; all others must know the names."""
    here, stored = set(numbers["notebook"]), set(map(tuple, numbers[NAME].to_numpy()))
    parts = room.parts()
    with_other = parts[parts["other_measure"] != ""]
    named = [*map(tuple, parts[NAME].to_numpy()), *map(tuple, with_other[OTHER].to_numpy())]
    assert [name for name in named if name[0] in here and name not in stored] == []
    assert {name[0] for name in named} - here <= {"11", "12"}
    assert {name[0] for name in named} <= {name[:2] for name in GRID} | {"11", "12"}


def test_published_numbers_are_those_of_the_tables():
    """Every number with a decimal point (or thousands) in ``published`` stands in a table of ours."""
    known = {abs(value) for value in printed()["value"]} | set(decoding_recomputed()["value"])
    tables = load()
    known |= {round(100 * value, 1) for value in tables["layers"]["value"]}
    known |= {round(value, 1) for value in tables["editing"]["value"]}
    for row in room.claims().itertuples():
        for found in re.findall(r"\d+\.\d+|\d{4,}", row.published.replace("2022", "")):
            assert float(found) in known, f"{row.id}: {found}"
    assert 34.4 in known and 81.2 in known and 34.5 not in known


def test_recalled_numbers_are_not_called_printed():
    dai = room.claims("Dai et al. 2022")
    assert set(dai["status"]) <= {"recalled", "not at hand"}
    assert "printed" not in set(room.claims("Jiang et al. 2020")["status"])


@pytest.mark.slow
def test_verdicts_change_with_a_stored_number(numbers):
    by_claim, _ = room.judged(numbers)
    found = by_claim.set_index(["id", "model"])["verdict"]
    assert found["D1", "gemma3"] == HOLDS and set(found) <= set(VERDICTS)
    changed = numbers.copy()
    own = changed["measure"].isin(["P(answer), silenced", "change of P(right answer), silenced"])
    own &= (changed["model"] == "gemma3") & changed["neurons"].isin(["own", "knowledge"])
    changed.loc[own, ["value", "low", "high"]] = [0.5, 0.4, 0.6]
    after = room.judged(changed)[0].set_index(["id", "model"])["verdict"]
    assert after["D1", "gemma3"] == NOT and after["D1", "mini"] == found["D1", "mini"]


def test_a_model_without_numbers_is_not_run_and_a_taught_one_says_nothing_of_texts(numbers):
    by_claim, by_part = room.judged(numbers, ["nobody", "mini"])
    every = room.claims().set_index("id")
    nobody = by_claim[by_claim["model"] == "nobody"].set_index("id")["verdict"]
    assert set(nobody[every["open"] == ""]) == {NOT_RUN} and set(nobody[every["open"] != ""]) <= {OPEN}
    mini = by_claim[by_claim["model"] == "mini"].set_index("id")
    learnt = mini[every["learnt"] == "yes"]
    assert len(learnt) and set(learnt["verdict"]) == {OPEN}
    assert learnt["why"].str.contains("taught").all()
    text = room.with_numbers(by_part)
    assert list(text.columns) == ["nobody", "mini"] and len(text) == len(room.parts())
    assert text["mini"].iloc[0].startswith("holds: -16.0 % [-18.4, ")
    counts = room.by_model(by_claim)
    assert list(counts.index) == list(VERDICTS) and (counts.sum() == len(every)).all()


@pytest.mark.slow
def test_the_picture_has_a_cell_for_each_verdict(numbers):
    by_claim, _ = room.judged(numbers)
    figure = plots.verdicts(by_claim, room.claims(), room.MODELS)
    (axes,) = figure.axes
    assert len(axes.patches) == len(by_claim)
    drawn = [text.get_text() for text in axes.texts]
    for verdict, (_, symbol, _) in LOOKS.items():
        if symbol:
            assert drawn.count(symbol) == (by_claim["verdict"] == verdict).sum(), verdict
    assert set(LOOKS) == set(VERDICTS)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(LOOKS)
    plt.close(figure)
