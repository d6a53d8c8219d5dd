"""A model and a data set are known by what they are: digests, folders of results, a commit of the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import make_model

from kn_utils import ParameterError, StudyParameters
from kn_utils.base import RUNS
from kn_utils.data.downloads import identity
from kn_utils.data.downloads.identity import model_digest, model_label, resolved
from kn_utils.run.command import read_options
from kn_utils.run.parameters import run_folder
from kn_utils.run.plan import Plan

COMMITS = ("a" * 40, "b" * 40)


def folder(place: Path, **files: str) -> Path:
    """A model's folder, as far as its identity goes."""
    place.mkdir(parents=True)
    usual = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "weights"}
    for name, content in {**usual, **{name.replace("__", "."): text for name, text in files.items()}}.items():
        (place / name).write_text(content)
    return place


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache of the Hub in which a model's main moves; no network."""
    import huggingface_hub.constants as constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(identity, "hub_commit", lambda name, revision: None)
    place = cache / "models--owner--name"
    for commit in COMMITS:
        snapshot = place / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMITS[0])
    return place


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"])
def test_any_part_that_changes_makes_another_model(tmp_path, changed):
    place = folder(tmp_path / "m")
    before, label = model_digest(str(place)), model_label(str(place))
    (place / changed).write_text("other!")
    assert model_digest(str(place)) != before and model_label(str(place)) != label


def test_notes_beside_a_model_are_no_part_of_it(tmp_path):
    place = folder(tmp_path / "m")
    before = model_digest(str(place))
    for name in ("README.md", "trainer_state.json", "training_args.bin", "optimizer.pt"):
        (place / name).write_text("said")
    folder(place / "checkpoint-5")
    os.utime(place / "config.json", ns=(1, 1))
    assert model_digest(str(place)) == before


def test_a_path_may_be_spelt_in_every_way(tmp_path, monkeypatch):
    place = folder(tmp_path / "deep" / "m")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(place)
    spelt = ["~/deep/m", "deep/m", "./deep/m/", str(place), "link"]
    assert {model_digest(name) for name in spelt} == {model_digest(str(place))}
    assert {run_folder(name, "mini", "en") for name in spelt} == {run_folder(str(place), "mini", "en")}
    assert resolved("~/deep/m") == (str(tmp_path / "deep" / "m"), None)


@pytest.mark.slow
def test_checkpoints_of_two_runs_share_no_folder(tmp_path):
    a, b = (
        folder(tmp_path / run / "checkpoints" / "checkpoint-500", model__safetensors=run)
        for run in ("runA", "runB")
    )
    first, second = (run_folder(str(place), "mini", "en") for place in (a, b))
    assert first != second and first.parts[-3].startswith("checkpoint-500-")
    keys = {Plan(model=str(place)).key(job) for place in (a, b) for job in [next(iter(Plan().jobs.values()))]}
    assert len(keys) == 2


def test_a_changed_model_reruns_the_notebooks(tmp_path):
    place = folder(tmp_path / "checkpoints" / "m")
    plan = Plan(model=str(place))
    job = next(iter(plan.jobs.values()))
    before = plan.key(job)
    (place / "tokenizer.json").write_text('{"version": 2}')
    assert Plan(model=str(place)).key(job) != before


def test_bundled_and_packaged_models_keep_their_names():
    for name in ("mini", "mini-causal", "gemma3", "smollm2"):
        assert run_folder(name, "mini", "en") == RUNS / name / "mini" / "en"
        assert model_digest(name)


def test_revisions_of_one_model_share_no_folder_and_no_key(hub):
    labels = [model_label("owner/name", revision) for revision in (None, *COMMITS, "refs/pr/1", "main")]
    assert len(set(labels)) == 5 and labels[1] == "owner--name-aaaaaaaa"
    assert [model_digest("owner/name", commit) for commit in COMMITS] == list(COMMITS)
    plans = [Plan(model="owner/name", revision=commit) for commit in COMMITS]
    assert plans[0].jobs.keys().isdisjoint(plans[1].jobs)


def test_a_moved_main_is_another_commit(hub):
    assert resolved("owner/name") == ("owner/name", COMMITS[0])
    assert model_digest("owner/name") == COMMITS[0]
    (hub / "refs" / "main").write_text(COMMITS[1])
    assert resolved("owner/name") == ("owner/name", COMMITS[1])
    assert model_digest("owner/name") == COMMITS[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owner/nothing", "neither in the local cache nor can the Hub be asked"),
        ("./nothing", "unknown model './nothing'"),
        ("nothing", "neither a known name (mini, mini-causal, gemma3, smollm2, mbert-uncased, mbert-cased)"),
        ("a/b/c", "unknown model"),
        ("x.gguf", "unknown model"),
    ],
)
def test_a_model_that_is_nowhere_is_refused_in_one_line(hub, name, words):
    with pytest.raises(ParameterError) as caught:
        resolved(name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="holds no config.json and no GGUF file"):
        resolved(str(tmp_path))


def test_settings_and_options_of_a_data_set_have_folders_of_their_own():
    def of(*options: str) -> set[str]:
        plan, _ = read_options([*options, "--model", "mini", "--notebooks", "03", "--language", "en"])
        return {job.folder for job in plan.jobs.values() if job.language == "en"}

    plain, steps, more, other = (
        of(),
        of("--set", "steps=20"),
        of("--set", "steps=20", "--set", "rule=right"),
        of("--set", "steps=2"),
    )
    again = of("--set", "rule=right", "--set", "steps=20")
    assert plain == {"mini/mini/en"} and more == again
    assert len(plain | steps | more | other) == 4
    (name,) = steps
    assert name.startswith("mini/mini--steps-20-")
    long = run_folder("mini", "mini", "en", settings={"steps": "2" * 300})
    assert len(long.parts[-2]) < 80


def test_own_facts_are_known_by_their_content(tmp_path):
    table = tmp_path / "mine.csv"
    head = "subject,object,relation,language,prompt\n"
    folders = []
    for answer in ("Paris", "Berlin"):
        table.write_text(head + f"France,{answer},capital_of,en,[X] [Y]\n")
        folders.append(run_folder("mini", str(table), "en"))
    assert folders[0] != folders[1] and folders[0].parts[-2].startswith("mine-")


def test_other_languages_lie_beside_a_run_and_never_outside_a_named_folder(tmp_path):
    p = StudyParameters.check
    beside = p(relation="P36").beside("ja")
    assert beside == RUNS / "mini" / "mini" / "ja" / "P36"
    run = RUNS / "mini" / "mini--steps-20-abcdef" / "en"
    assert p(out=str(run)).beside("all") == run.parent / "all"
    for out in (tmp_path / "a" / "b" / "en", tmp_path / "en", RUNS / "en"):
        assert p(out=str(out)).beside("all") == out / "all"


def test_how_a_model_reads_is_part_of_what_its_scores_depend_on():
    model, other = make_model(), make_model()
    assert model.reading() == other.reading()
    other.model.config.layer_norm_eps = 1e-3
    assert model.reading() != other.reading()
    other = make_model()
    told = json.loads(other.tokenizer.backend_tokenizer.to_str())
    told["normalizer"] = {"type": "Lowercase"}
    other.tokenizer = type(other.tokenizer)(
        tokenizer_object=type(other.tokenizer.backend_tokenizer).from_str(json.dumps(told)),
        **other.tokenizer.special_tokens_map,
    )
    assert model.reading() != other.reading() and model.checksum() == other.checksum()


def test_the_plan_that_is_run_has_the_commit(hub):
    (plan,) = read_options(["--model", "owner/name"])[0].resolved().plans
    assert "-r revision " + COMMITS[0] in plan.options(next(iter(plan.jobs.values())))
