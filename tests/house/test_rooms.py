"""Folders say what a line in them may touch: which folders of ours, and which libraries."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kn_utils.base import ROOT

PACKAGE = ROOT / "kn_utils"
#: Folder (or file beside them) -> the folders that its lines may import, beside itself.
MAY_IMPORT = {
    "base": "",
    "__main__": "",
    "checks": "base",
    "store": "base",
    "neurons": "base checks",
    "statistics": "base checks neurons",
    "data": "base checks store",
    "model": "base checks store data neurons",
    "attribution": "base checks store data neurons model",
    "experiments": "base checks data neurons model attribution statistics",
    "published": "base store data neurons statistics model",
    "run": "base checks store data",
    "plots": "base data neurons statistics experiments",
    "questions": "base store data neurons model run",
    "scored": "base store data neurons model attribution run questions",
    "study": "base store data neurons model attribution statistics experiments run scored",
    "explorer": "base checks store data neurons model attribution experiments run study plots",
}
#: Libraries that the folders with numbers in them may use, and what these bring with them.
NUMERICAL = {"model", "attribution", "neurons", "statistics", "experiments"}
LIBRARIES = {"torch", "transformers", "numpy", "pandas", "scipy", "pyarrow", "tqdm"}
BROUGHT = {"huggingface_hub", "safetensors", "tokenizers"}  # transformers' own way to files and weights
NO_TORCH = {"base", "checks", "store", "neurons", "statistics", "data", "run", "plots"}
#: Requirements that transformers or torch import themselves: they cannot be taken away.
NEEDED = {"filelock", "packaging", "pyyaml", "setuptools"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def folder_of(file: Path) -> str:
    """``store`` of ``kn_utils/store/tables.py``; ``study`` of ``kn_utils/study.py``."""
    inside = file.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, in full; and whether when it is itself imported (not in a function)."""
    inside = file.relative_to(ROOT)
    package = list(inside.parts[:-1])
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nested = {
        id(part)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for part in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in nested) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *(node.module or "").split(".")]
            names = [""] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield ".".join(part for part in [*module, name] if part), id(node) not in nested


def ours(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "kn_utils" and len(parts) > 1 else None


def test_every_folder_has_a_rule():
    assert {folder_of(file) for file in files()} - {"__init__"} == set(MAY_IMPORT)


@pytest.mark.slow
@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_go_down_only(folder):
    allowed = {folder, *MAY_IMPORT[folder].split()}
    for file in files():
        if folder_of(file) == folder:
            reached = {name for module, _ in imports(file) if (name := ours(module))}
            assert reached <= allowed, f"{file.relative_to(ROOT)} imports {sorted(reached - allowed)}"


def test_the_rules_hold_no_circle():
    for folder, allowed in MAY_IMPORT.items():
        for below in allowed.split():
            assert folder not in MAY_IMPORT[below].split()


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(NUMERICAL))
def test_folders_with_numbers_use_few_libraries(folder):
    allowed = LIBRARIES | BROUGHT | set(sys.stdlib_module_names) | {"kn_utils"}
    for file in files():
        if folder_of(file) == folder:
            outside = {module.partition(".")[0] for module, _ in imports(file)} - allowed
            assert not outside, f"{file.relative_to(ROOT)} imports {sorted(outside)}"


@pytest.mark.parametrize("folder", sorted(NO_TORCH))
def test_tables_and_command_line_do_without_torch(folder):
    for file in files():
        if folder_of(file) == folder:
            loaded = {module.partition(".")[0] for module, at_once in imports(file) if at_once}
            assert not loaded & {"torch", "transformers"}, f"{file.relative_to(ROOT)}"


def test_experiments_read_and_write_no_files():
    for file in files():
        if folder_of(file) == "experiments":
            assert not {"pathlib", "os", "json", "pyarrow"} & {module for module, _ in imports(file)}, file


def test_a_room_is_one_idea_of_at_most_350_lines():
    long = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files()}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}


def absent() -> list[str]:
    """Modules of every declared requirement that the folders with numbers do not use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {Requirement(requirement).name for requirement in declared} - {project["name"]}
    modules = {name.replace("-", "_") for name in names - NEEDED}
    return sorted(modules - LIBRARIES - BROUGHT | {"IPython", "nbclient"})


@pytest.mark.slow
def test_they_work_where_nothing_else_is_installed():
    gone = absent()
    assert {"pydantic", "psutil", "pooch", "requests", "seaborn", "matplotlib", "papermill"} <= set(gone)
    rooms = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in files()
        if folder_of(file) in NUMERICAL
    ]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({gone}))  # None: an import of it fails
from importlib import import_module
for room in {rooms}:
    import_module(room)
from kn_utils import attribute, load_model, refine
from kn_utils.attribution.benchmark import sample_prompts
model = load_model("mini", device="cpu")
prompts = sample_prompts(model, 2)
scores = attribute(model, prompts, progress=False)
loaded = {{name for name, module in sys.modules.items() if module is not None}}
print(len(scores) > 0, sorted(set({gone}) & loaded))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("True []")


def test_the_public_names_are_those_that_load():
    import kn_utils

    assert len(kn_utils.__all__) < 30
    for name in kn_utils.__all__:
        assert getattr(kn_utils, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kn_utils.nothing  # noqa: B018
