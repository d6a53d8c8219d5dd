"""Parameters: what is refused and with which line; where a run's files go."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from kn_utils.base import RUNS
from kn_utils.data.facts import DataError
from kn_utils.model.architectures import ModelError
from kn_utils.run.parameters import ParameterError, StudyParameters, run_folder
from kn_utils.store.files import ArtifactError


def test_defaults_are_the_bundled_study():
    p = StudyParameters.check()
    assert (p.model, p.dataset, p.language, p.relation, p.seed) == ("mini", "mini", "en", "all", 0)
    assert (p.threshold, p.share, p.factor, p.l1, p.l2) == (0.2, 0.7, 2.0, 1.0, 8.0)


def test_an_unknown_name_is_refused_and_the_known_are_listed():
    with pytest.raises(
        ParameterError, match=r"^unknown parameter 'relatoin'; this notebook knows: .* relation,"
    ):
        StudyParameters.check(relatoin="P36")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("relation", "36", "parameter relation='36': "),
        ("relation", "a/b", "parameter relation='a/b': "),
        ("relation", "", "parameter relation='': "),
        ("language", "EN", "parameter language='EN': "),
        ("device", "tpu", "parameter device='tpu': "),
        (
            "dtype",
            "int8",
            r"parameter dtype='int8': Input should be 'auto', 'float32', 'float64' or 'bfloat16'\.",
        ),
        ("steps", 0, "parameter steps=0: Input should be greater than or equal to 1"),
        ("steps", "many", "parameter steps='many': Input should be a valid integer"),
        ("rule", "simpson", "parameter rule='simpson': Input should be 'auto', 'gradient', 'right'"),
        ("share", 1.5, r"parameter share=1\.5: Input should be less than or equal to 1"),
        ("keep", 0, "parameter keep=0: Input should be greater than 0"),
        ("factor", -1, "parameter factor=-1: "),
        ("seed", -1, "parameter seed=-1: "),
        ("model", "", "parameter model='': "),
    ],
)
def test_a_wrong_value_is_one_line(name, value, message):
    with pytest.raises(ParameterError, match="^" + message) as caught:
        StudyParameters.check(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("relation", ["all", "P36", "P1303", "capital_of", "首都"])
@pytest.mark.parametrize("language", ["all", "en", "zh", "zh-classical"])
def test_good_values_are_taken(relation, language):
    p = StudyParameters.check(relation=relation, language=language)
    assert (p.relation, p.language) == (relation, language)


def test_parameters_cannot_be_changed_behind_a_runs_back():
    with pytest.raises(ValueError, match="frozen"):
        StudyParameters.check().seed = 3


def notebook(**own) -> dict:
    """The globals of a notebook whose parameters cell annotates three names."""
    annotated = {"model": str, "relation": str, "steps": int}
    return {"__annotations__": annotated, "model": "mini", "relation": "all", "steps": 4, **own}


def test_a_notebooks_parameters_are_those_that_its_cell_annotates():
    p = StudyParameters.from_notebook(notebook(relation="P36", share=0.1, In=["", "model: str = 'mini'"]))
    assert (p.model, p.relation, p.steps) == ("mini", "P36", 4)
    assert p.share == 0.7  # not this notebook's: a variable of the same name is no parameter


def test_papermills_cell_is_read_and_an_unknown_name_in_it_refused():
    good = '# Parameters\nrelation = "P36"\nsteps = 8\n'
    p = StudyParameters.from_notebook(notebook(relation="P36", steps=8, In=["", "steps: int = 4", good]))
    assert (p.relation, p.steps) == ("P36", 8)
    bad = '# Parameters\nrelatoin = "P36"\n'
    with pytest.raises(ParameterError) as caught:
        StudyParameters.from_notebook(notebook(relatoin="P36", In=["", bad]))
    assert str(caught.value) == "unknown parameter 'relatoin'; this notebook knows: model, relation, steps."


def test_a_parameter_of_another_notebook_is_refused():
    # threshold exists, but this notebook would silently not use it
    with pytest.raises(
        ParameterError, match="unknown parameter 'threshold'; this notebook knows: model, rel"
    ):
        StudyParameters.from_notebook(notebook(threshold=0.3, In=["# Parameters\nthreshold = 0.3\n"]))


def test_names_set_in_other_cells_are_the_notebooks_own_affair():
    p = StudyParameters.from_notebook(notebook(relatoin=1, In=["relatoin = 1", "x = 'a # Parameters\\n'"]))
    assert p.relation == "all"


@pytest.mark.parametrize("kind", [ParameterError, ArtifactError, DataError, ModelError])
def test_an_error_is_shown_as_one_line(kind):
    error = kind("this and that is wrong.")
    assert error._render_traceback_() == [f"{kind.__name__}: this and that is wrong."]
    assert isinstance(error, ValueError)


@pytest.mark.slow
def test_ipython_really_shows_one_line():
    code = "from kn_utils.run.parameters import ParameterError\nraise ParameterError('steps is wrong.')"
    show = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        f"InteractiveShell.instance(colors='nocolor').run_cell({code!r})"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "ParameterError: steps is wrong."
    assert "Traceback" not in done.stdout + done.stderr


def test_run_folder(tmp_path):
    assert run_folder("mini", "mini", "en") == RUNS / "mini" / "mini" / "en"
    assert run_folder("mini", "mini", "all", "P36") == RUNS / "mini" / "mini" / "all" / "P36"
    assert run_folder("owner/some-model", "mini", "ja") == RUNS / "owner--some-model" / "mini" / "ja"
    local = tmp_path / "my {model}"
    local.mkdir()
    (local / "config.json").write_text("{}")
    folder = run_folder(str(local), "mini", "en")
    assert re.fullmatch(r"my-model-[0-9a-f]{6}", folder.parts[-3])
    assert run_folder(f"{local}/", "mini", "en") == folder


def test_out_is_where_a_run_goes(tmp_path, monkeypatch):
    assert StudyParameters.check(out=str(tmp_path / "here")).folder == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert StudyParameters.check(out="~/there").folder == tmp_path / "there"
    assert StudyParameters.check(relation="P36").folder == RUNS / "mini" / "mini" / "en" / "P36"


@pytest.mark.slow
def test_kn_runs_moves_all_runs(tmp_path):
    code = "from kn_utils.run.parameters import run_folder; print(run_folder('mini', 'mini', 'en'))"
    env = {"KN_RUNS": str(tmp_path), "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "mini" / "mini" / "en")
