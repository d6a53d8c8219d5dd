"""Installed from a wheel, in an environment of its own, the library works without the notebooks' packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import kn_utils
from kn_utils.__main__ import PROGRAMS, calls, main
from kn_utils.base import ROOT, VERSION
from kn_utils.model import gguf
from kn_utils.model.architectures import ModelError
from kn_utils.store.code import code_version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def modules(*extras: str) -> set[str]:
    """What the packages of these extras are imported as."""
    names = {Requirement(line).name for extra in extras for line in EXTRAS[extra]} - {"kn_utils"}
    return {name.replace("-", "_") for name in names}


# What can be run


def test_help_names_every_program_and_every_public_name(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert VERSION in told.splitlines()[0]
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in told.splitlines() if line[:2] == "  "}
    assert set(lines) == {*PROGRAMS, *kn_utils.__all__}
    assert all(len(line) > 10 for line in lines.values())
    assert dict(calls())["refine"] == kn_utils.refine.__doc__.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_says_what_it_does_without_doing_it(name):
    command = [sys.executable, "-m", "kn_utils", name, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout) > 100, done.stderr
    assert PROGRAMS[name][1] in ("", *EXTRAS)


def test_an_unknown_program_is_refused_in_one_line(capsys):
    assert main(["stduy"]) == 2
    told = capsys.readouterr().err
    assert "stduy" in told and "study" in told and len(told.splitlines()) == 1


def test_version_has_one_place():
    place = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert f'VERSION = "{VERSION}"' in place.read_text(encoding="utf-8")
    assert "version" not in PROJECT["project"] and kn_utils.__version__ == VERSION
    changes = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    assert changes.index(f"## {VERSION}") == changes.index("## "), "the newest version comes first"


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(place)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *options, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel; our packages are borrowed, so that nothing is downloaded."""
    env = tmp_path_factory.mktemp("installed") / "env"
    venv.create(env)
    site = next(env.glob("lib/python*/site-packages"))
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "borrowed.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    return env


def python(env: Path, *words: str, without: set[str] = frozenset()) -> subprocess.CompletedProcess:
    """Run it in an empty folder, where packages of these names cannot be imported."""
    empty = env.parent / "empty"
    empty.mkdir(exist_ok=True)
    site = next(env.glob("lib/python*/site-packages"))
    gone = f"import sys; sys.modules.update(dict.fromkeys({sorted(without)}))\n"  # None: an import fails
    (site / "gone.pth").write_text(gone)  # a Python may have a sitecustomize of its own
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KN_RUNS")}
    command = [str(env / "bin" / "python"), *words]
    return subprocess.run(command, cwd=empty, env=kept, capture_output=True, text=True, timeout=300)


PROGRAM = """
import sys
import kn_utils
from kn_utils import StudyParameters, Study, attribute, load_facts, load_model, make_prompts, refine
from kn_utils.base import DATA, RUNS
from kn_utils.published.printed import printed
from kn_utils.store.code import code_version
prompts = make_prompts(load_facts(relations=["P36"]), "en").head(12)
model = load_model("mini", device="cpu")
neurons = refine(attribute(model, prompts, progress=False), prompts, target=None)
study = Study(StudyParameters(relation="P36", facts_per_relation=1, device="cpu"))
print(kn_utils.__version__, len(neurons) > 0, len(study.prompts()) > 0, len(printed()) > 0)
print(kn_utils.__file__)
print(code_version())
print(DATA)
print(RUNS)
"""


@pytest.mark.slow
def test_the_library_works_from_a_wheel_without_the_extras(installed):
    without = modules("models", "plots", "notebooks") | {"IPython"}
    assert {"papermill", "snakemake", "psutil", "matplotlib", "gguf", "ipywidgets"} <= without
    done = python(installed, "-c", PROGRAM, without=without)
    assert done.returncode == 0, done.stderr[-3000:]
    told, package, code, data, runs = done.stdout.split("\n")[:5]
    assert told == f"{VERSION} True True True"
    assert code == code_version(), "a table made here is as good as one made in a checkout"
    site = next(installed.glob("lib/python*/site-packages"))
    assert Path(package).is_relative_to(site) and Path(data).is_relative_to(site)
    assert Path(runs) == installed.parent / "empty" / "runs"
    listed = python(installed, "-m", "kn_utils", without=without)
    assert listed.returncode == 0 and "load_model" in listed.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "extra"),
    [(["-m", "kn_utils", "study", "--dry-run"], "notebooks"), (["-c", "import kn_utils.plots"], "plots")],
)
def test_what_needs_an_extra_says_which(installed, words, extra):
    done = python(installed, *words, without=modules("models", "plots", "notebooks"))
    assert done.returncode == 1 and f"kn_utils[{extra}]" in done.stderr.splitlines()[-1], done.stderr[-1000:]


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_gguf_file_says_which_extra_reads_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"x\.gguf.*{package}.*kn_utils\[models\]"):
        gguf._read(Path("x.gguf"), gguf.Header({}, {}))


@pytest.mark.slow
def test_the_study_can_be_run_from_a_wheel(installed):
    done = python(installed, "-m", "kn_utils", "study", "--dry-run", "--models", "mini", "--notebooks", "01")
    assert done.returncode == 0 and "01_data_build" in done.stdout, done.stdout + done.stderr
    assert (installed.parent / "empty" / "runs").is_dir()


@pytest.mark.slow
def test_the_wheel_holds_what_the_code_reads(wheel):
    names = set(ZipFile(wheel).namelist())
    command = ["git", "ls-files", "-z", "--", "data", "figures/*.json", "notebooks/*.ipynb", "Snakefile"]
    kept = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    wanted = {f"kn_utils/bundled/{name}" for name in kept if name and (ROOT / name).is_file()}
    assert len(wanted) > 50 and wanted - names == set()
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "data/"))]
    assert wheel.stat().st_size < 30 * 2**20
