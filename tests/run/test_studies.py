"""Which models are studied, and how much of each."""

from __future__ import annotations

import pytest

from kn_utils.data.downloads import packaged
from kn_utils.run import command, studies
from kn_utils.run.plan import Plan, Refused
from kn_utils.run.studies import DEFAULTS, Studies, from_config, plans


def test_without_a_name_every_model_that_is_here_is_studied(monkeypatch):
    monkeypatch.setattr(packaged.Packaged, "missing", property(lambda model: []))
    assert [plan.model for plan in plans()] == list(DEFAULTS)
    monkeypatch.setattr(packaged.Packaged, "missing", property(lambda model: ["a package"]))
    assert [plan.model for plan in plans()] == ["mini"]


def test_the_bundled_model_has_the_plan_that_needs_no_word():
    (mini,) = plans(["mini"])
    assert mini == Plan()


def test_beside_others_the_bundled_model_takes_fewer_facts_unless_it_is_named():
    (together,) = [plan for plan in plans() if plan.model == "mini"]
    assert together == Plan(facts="6", languages=["en"])
    assert [plan.facts for plan in plans(facts="9")] == ["9"] * len(plans())
    assert [plan.facts for plan in plans(dataset="pararel") if plan.model == "mini"] == [None]
    assert from_config({}).plans == plans()


def test_a_models_defaults_give_way_to_what_is_asked():
    (usual,) = plans(["gemma3"])
    assert usual.usual["known"] == "2" and usual.languages == ["en"]
    (asked,) = plans(["gemma3"], languages=["ja"], settings={"known": "1"}, facts="3")
    assert (asked.languages, asked.facts) == (["ja"], "3")
    (job, *_) = [job for job in asked.jobs.values() if job.notebook.startswith("06")]
    given = asked.parameters(job)
    assert (given["known"], given["wordings"]) == ("1", "3") and "known-1" in job.folder
    assert not any("known" in path for path in usual.jobs)
    (other,) = plans(["/some/model"], facts=None)
    assert other == Plan(model="/some/model")


def test_studies_share_a_run_and_come_back_from_its_configuration():
    both = Studies(plans(["mini", "smollm2"], relations=["P36"]))
    assert len(both.jobs) == sum(len(plan.jobs) for plan in both.plans)
    path = "smollm2/mini/en/P36/06_suppress_amplify.ipynb"
    assert both.owners[path].model == "smollm2" and both.jobs[path].notebook.startswith("06")
    assert both.jobs[path].label.split()[0] == "smollm2"
    assert from_config(both.config()) == both
    assert "-r languages en" in both.owners[path].options(both.jobs[path]).replace("-p ", "-r ")


def test_what_takes_longest_of_each_model_comes_first():
    both = Studies(plans(["mini", "smollm2"]))
    assert both.first == ["mini/mini/en/07_update_facts.ipynb", "smollm2/mini/en/06_suppress_amplify.ipynb"]


def test_an_absent_package_is_one_line(monkeypatch):
    monkeypatch.setattr(packaged.Packaged, "missing", property(lambda model: ["a package"]))
    with pytest.raises(
        Refused, match="the package of gemma3 is not installed; python -m kn_utils.run.models"
    ):
        Studies(plans(["gemma3"])).check()


def test_the_command_line_takes_models_one_by_one_or_together(tmp_path):
    own = str(tmp_path / "own,1")  # a name's comma is its own where one model is named
    asked, _ = command.read_options(["--model", own, "--models", "mini,gemma3"])
    assert [plan.model for plan in asked.plans] == [own, "mini", "gemma3"]
    assert studies.DEFAULTS.keys() == {"mini", "gemma3", "smollm2"}


def test_a_model_that_nobody_named_is_asked_only_what_it_speaks(monkeypatch):
    monkeypatch.setattr(packaged.Packaged, "missing", property(lambda model: []))
    assert [plan.model for plan in plans(languages=["ja"])] == ["mini", "gemma3"]
    assert [plan.languages for plan in plans(languages=["ja", "en"])] == [["ja", "en"], ["ja", "en"], ["en"]]
    assert [plan.languages for plan in plans(["smollm2"], languages=["ja"])] == [["ja"]]  # it was named
