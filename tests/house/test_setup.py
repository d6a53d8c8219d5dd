"""The environment's files agree, and run_all.sh makes it once, whole, with clear words when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from kn_utils.base import ROOT, VERSION
from kn_utils.data.downloads.packaged import PACKAGED
from kn_utils.run.models import COMMAND

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
FAKE_PYTHON = """\
#!/bin/sh
# Stands for Python: notes what is asked of it, makes "environments" that hold only itself.
here=$(cd "$(dirname "$0")" && pwd)
case "$*" in
  --version) echo "Python ${FAKE_VERSION:-3.12.0}" ;;
  *version_info*) [ "${FAKE_VERSION:-}" != 3.9.2 ] ;;
  *ensurepip*) [ "${FAKE_VENV:-}" != missing ] ;;
  *find_spec*) [ "${FAKE_PACKAGES:-}" != missing ] ;;
  "-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
  "-m pip --version"*) ;;
  "-m pip"*) echo "$*" >> calls; if [ -e broken ] && echo "$*" | grep -q -- "-r "; then exit 1; fi ;;
  *) echo "$*" >> calls; case "$*" in *run.models) [ ! -e no-models ] ;; esac ;;
esac
"""


def direct(*extras: str) -> list[str]:
    """What the project asks for itself, these extras included."""
    lines = [
        *PROJECT["dependencies"],
        *(line for name in extras for line in PROJECT["optional-dependencies"][name]),
    ]
    return [line for line in lines if Requirement(line).name != PROJECT["name"]]


def pins(name: str = "requirements.lock") -> dict[str, Version]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line).groups()
            found[canonicalize_name(name)] = Version(version)
    return found


@pytest.mark.parametrize("text", direct("models", "plots", "notebooks", "dev"))
def test_every_direct_dependency_is_locked_within_its_range(text):
    requirement = Requirement(text)
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("text", direct("docs"))
def test_what_the_pages_need_is_locked_beside_the_rest(text):
    requirement, more = Requirement(text), pins("docs/requirements.lock")
    assert not set(more) & set(pins()), "one pin has one place"
    assert (pins() | more)[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("text", PROJECT["optional-dependencies"]["browser"])
def test_what_a_browser_needs_is_locked_apart(text):
    requirement = Requirement(text)
    locked = pins("requirements-browser.lock")
    assert locked[canonicalize_name(requirement.name)] in requirement.specifier
    assert not set(locked) & set(pins())  # it adds to the environment and changes nothing in it


@pytest.mark.slow
@pytest.mark.parametrize("full", ["3.11.2", "3.12.3"])
@pytest.mark.parametrize("more", ["requirements.lock", "docs/requirements.lock"])
def test_locks_serve_the_pythons_of_debian_and_ubuntu(full, more):
    locked, missing = pins() | pins(more), []
    python = {"python_version": full.rpartition(".")[0], "python_full_version": full, "extra": ""}
    system = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    for package in distributions():
        name = canonicalize_name(package.metadata["Name"])
        if name not in locked or name == "torch":  # what torch needs differs from build to build
            continue
        if package.version == str(locked[name]):
            wanted = package.metadata["Requires-Python"]
            assert wanted is None or full in SpecifierSet(wanted), name
        for need in map(Requirement, package.requires or []):
            if need.marker is None or need.marker.evaluate(python | system):
                version = locked.get(canonicalize_name(need.name))
                if version is None or not need.specifier.contains(version, prereleases=True):
                    missing.append(f"{name} needs {need}, locked is {version}")
    assert missing == []


def test_torch_is_pinned_without_a_build_label():
    assert str(pins()["torch"]) == "2.13.0"


def test_conda_takes_the_same_pins_and_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (block,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert block == ["-r requirements.lock", "-e ."]
    assert [entry.split()[0] for entry in plain] == ["python", "pip"]
    python = SpecifierSet(plain[0].removeprefix("python"))
    ours = SpecifierSet(PROJECT["requires-python"])
    assert set(ours) <= set(python), "conda's Python begins where pyproject's does"
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    for version in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]:
        assert version in python and version in ours


def test_public_address_has_one_place():
    assert PYPROJECT["tool"]["kn_utils"].keys() == {"repository"}
    assert "urls" not in PROJECT


def test_cleaner_is_told_once():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["id"] for hook in hooks[0]["hooks"]] == ["ruff", "ruff-format", "mypy", "nbstripout"]
    script = (ROOT / "run_all.sh").read_text(encoding="utf-8")
    assert "--keep-output --keep-count --keep-id" in script


def test_citation_names_the_sources():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "version"} <= citation.keys()
    assert citation["version"] == VERSION and citation["license"] == PROJECT["license"]
    titles = " ".join(reference["title"] for reference in citation["references"])
    for name in (
        "Knowledge Neurons in Pretrained",
        "Knowledge Neurons in Multilingual",
        "X-FACTR",
        "T-REx",
        "Journey",
    ):
        assert name in titles


class Place:
    """A folder with run_all.sh and a stand-in for Python; the real environment is out of sight."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("run_all.sh", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "tools").mkdir()
        self.python = folder / "tools" / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def __call__(self, *options: str, **more: str) -> subprocess.CompletedProcess:
        hidden = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONPATH", "KN_BROWSER")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"PYTHON": str(self.python)} | more
        command = ["./run_all.sh", *options]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.replace("--disable-pip-version-check ", "") for line in lines]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_help_names_commands_and_options(place):
    done = place("help")
    assert done.returncode == 0 and place.calls() == []
    options = [
        "--model",
        "--dataset",
        "--language",
        "--relation",
        "--jobs",
        "--facts",
        "--device",
        "--notebooks",
    ]
    for word in ["test", "refresh", *options, "--runs", "--revision", "--dry-run"]:
        assert word in done.stdout
    wrong = place("tset")
    assert wrong.returncode == 1 and "tset" in wrong.stderr and "help" in wrong.stderr


def test_environment_is_made_once_torch_first(place):
    first = place("--relation", "P36")
    assert first.returncode == 0, first.stderr
    assert place.calls() == [
        "-m pip install torch==2.13.0",
        "-m pip install -r requirements.lock",
        "-m pip install --no-deps --no-build-isolation -e .",
        "-m kn_utils.run.models",
        "-P -m kn_utils.run.command --relation P36",
    ]
    assert place().returncode == 0
    assert place.calls() == ["-m kn_utils.run.models", "-P -m kn_utils.run.command"]
    with (place.folder / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert place().returncode == 0
    assert len(place.calls()) == 5


def test_paths_are_the_callers_and_a_link_leads_to_the_project(place, tmp_path_factory):
    assert place().returncode == 0
    place.calls()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "one").symlink_to(place.folder / "run_all.sh")
    (elsewhere / "two").symlink_to("one")
    for called in (place.folder / "run_all.sh", elsewhere / "two"):
        options = ["--model", "./my-bert", "--runs", "out folder"]
        own = {"PYTHON": str(place.python), "VIRTUAL_ENV": ""}
        done = subprocess.run(
            [str(called), *options],
            cwd=elsewhere,
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert place.calls() == ["-m kn_utils.run.models"]  # in the project
        told = (elsewhere / "calls").read_text()  # where it was called from
        assert told == "-P -m kn_utils.run.command --model ./my-bert --runs out folder\n"
        (elsewhere / "calls").unlink()


def test_interrupted_install_is_repeated(place):
    (place.folder / "broken").touch()
    failed = place()
    assert failed.returncode == 1 and "installation failed" in failed.stderr
    assert not any("kn_utils" in call for call in place.calls())
    (place.folder / "broken").unlink()
    assert place().returncode == 0
    assert len(place.calls()) == 5


def test_study_goes_on_without_a_model_that_cannot_be_had(place):
    (place.folder / "no-models").touch()
    done = place()
    assert done.returncode == 0
    assert place.calls()[-2:] == ["-m kn_utils.run.models", "-P -m kn_utils.run.command"]
    assert place("help").stdout.count("KN_MODELS") and place.calls() == []


def test_what_a_browser_needs_is_installed_for_tests_that_ask_for_it(place):
    asked = "-m pip install -q -r requirements-browser.lock"
    assert place("test").returncode == 0 and asked not in place.calls()
    assert place("test", KN_BROWSER="1").returncode == 0
    calls = place.calls()
    assert calls.index(asked) < calls.index("-m ruff check .")


@pytest.mark.parametrize("there", [False, True])
def test_ci_asks_for_a_browser_and_goes_on_without(tmp_path, there):
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    programs = {"run_all.sh": 'echo "$1 ${KN_BROWSER:-0}"', "tools/apt-get": "exit 1"}
    programs |= {"tools/chromium": ""} if there else {}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "id", "timeout", "env"):
        (tmp_path / "tools" / name).symlink_to(shutil.which(name))
    only = {"PATH": str(tmp_path / "tools")}
    done = subprocess.run([tmp_path / ".ci" / "run"], env=only, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[-1] == f"test {int(there)}" and done.returncode == 0, done.stderr
    assert len(lines) == (1 if there else 2) and (there or "no Chromium" in lines[0])


def test_real_models_are_installed_by_one_command_everywhere():
    """Their names, versions and checksums stand in kn_utils/data/downloads/packaged.py and nowhere else."""
    for name in ("run_all.sh", "environment.yml", "docs/how-to.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert COMMAND in text, f"{name} should say how the real models are installed"
        for model in PACKAGED.values():
            assert not [wheel.name for wheel in model.wheels if wheel.name in text], name
    page = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
    colab = page[page.index("## Colab") :].partition("\n## ")[0]
    assert COMMAND in colab
    for name, model in PACKAGED.items():
        card = (ROOT / "data" / name / "README.md").read_text(encoding="utf-8")
        for fact in (
            model.hub,
            model.file,
            model.sha256,
            model.wheels[0].name,
            model.wheels[0].version,
            COMMAND,
        ):
            assert fact in card, f"data/{name}/README.md lacks {fact}"
    assert "Gemma Terms of Use" in place_help()


def place_help() -> str:
    return subprocess.run([ROOT / "run_all.sh", "help"], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"FAKE_VERSION": "3.9.2"}, ["Python 3.11 or newer", "3.9.2"]),
        ({"FAKE_VENV": "missing"}, ["python3-venv"]),
        ({"PYTHON": "/nowhere/python"}, ["Python 3.11 or newer"]),
    ],
)
def test_missing_python_is_said(place, more, words):
    done = place(**more)
    assert done.returncode == 1 and all(word in done.stderr for word in words), done.stderr
    assert place.calls() == [] and not (place.folder / ".venv").exists()


def test_active_environment_is_used_or_told_what_it_lacks(place):
    tools = str(place.python.parent)
    active = {"VIRTUAL_ENV": tools, "PATH": f"{tools}:{os.environ['PATH']}"}
    assert place(**active).returncode == 0
    assert place.calls() == ["-m kn_utils.run.models", "-P -m kn_utils.run.command"]
    lacking = place(**active, FAKE_PACKAGES="missing")
    assert (
        lacking.returncode == 1
        and "requirements.lock" in lacking.stderr
        and "torch==2.13.0" in lacking.stderr
    )
    assert not (place.folder / ".venv").exists()


def test_scripts_can_be_run():
    for name in ("run_all.sh", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)
        assert subprocess.run(["bash", "-n", str(ROOT / name)]).returncode == 0
    assert "run_all.sh test" in (ROOT / ".ci/run").read_text()
    assert "run_all.sh test" in (ROOT / ".github/workflows/test.yml").read_text()
