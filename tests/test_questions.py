"""What a study asks: wordings, halves, facts that are known, prompts set aside."""

from __future__ import annotations

import pandas as pd
import pytest

from kn_utils import Study, StudyParameters
from kn_utils.base import StudyError
from kn_utils.data.prompts import make_prompts


def study(folder, **more) -> Study:
    return Study(StudyParameters(**{"relation": "P36", "facts_per_relation": 3, "out": str(folder), **more}))


@pytest.mark.slow
def test_wordings_are_the_first_that_can_be_asked(tmp_path):
    few = study(tmp_path, wordings=2)
    every = make_prompts(few.facts, "en")
    wanted = every.groupby("fact", sort=False).head(2).reset_index(drop=True)
    pd.testing.assert_frame_equal(few.prompts(), wanted)
    # where the first wording cannot be asked, the next ones take its place
    told = few.every_prompt
    told.loc[told["template"] == wanted["template"][0], "reason"] = "too long"
    assert few.prompts()["template"].tolist()[:2] == every["template"].tolist()[1:3]


@pytest.mark.slow
def test_halves_take_turns_and_share_no_wording(tmp_path):
    found, held = study(tmp_path, wordings=2).halves()
    every = make_prompts(study(tmp_path).facts, "en")
    place = every.groupby("fact").cumcount()
    assert found["prompt"].tolist() == every.loc[place.isin([0, 2]), "prompt"].tolist()
    assert held["prompt"].tolist() == every.loc[place.isin([1, 3]), "prompt"].tolist()


@pytest.mark.slow
def test_known_facts_are_those_right_in_enough_wordings_by_hand(tmp_path):
    asked = study(tmp_path, known=3)
    told = asked.every_prompt
    told.loc[told.index[:2], "copied"] = True  # two wordings of the first fact
    answers = asked.recall().set_index("prompt")["typed_correct"]
    counted = told[(told["reason"] == "") & ~told["copied"]]
    right = counted["prompt"].map(answers).groupby([counted["fact"], counted["language"]]).sum()
    table = asked.knowledge().set_index(["fact", "language"])
    assert (table["typed_right"] == right.reindex(table.index)).all()
    assert (table["known"] == (right.reindex(table.index) >= 3)).all()
    wanted = table.index[table["known"]]
    for language in ("en", "ko"):
        prompts = asked.prompts(language)
        assert set(prompts["fact"]) == {fact for fact, name in wanted if name == language}
        assert not set(prompts["prompt"]) & set(told.loc[told["copied"], "prompt"])


@pytest.mark.slow
def test_only_the_languages_that_are_named_are_there(tmp_path):
    two = study(tmp_path, languages="en,nl")
    assert two.languages == ["en", "nl"] and set(two.every_prompt["language"]) == {"en", "nl"}
    with pytest.raises(StudyError, match="unknown language 'xx'"):
        study(tmp_path, languages="en,xx")


def test_prompts_set_aside_are_counted_with_their_reason(tmp_path):
    asked = study(tmp_path)
    told = asked.every_prompt
    told.loc[0, "reason"], told.loc[1, "copied"] = "too long", True
    counts = asked.set_aside().set_index(["language", "reason"])["prompts"]
    assert counts["en", "too long"] == counts["en", "answer spelled in the text"] == 1
    assert counts.sum() == len(told)


@pytest.mark.slow
def test_knowing_nothing_is_one_line(tmp_path):
    asked = study(tmp_path, known=99)
    with pytest.raises(StudyError, match="mini knows none of the 3 facts drawn, asked in en: ask for more"):
        asked.prompts()
    assert asked.prompts("nl").empty  # of other languages there may be none
