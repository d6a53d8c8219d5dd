"""What prose names is there: modules, functions and files, in notes, notebooks, docstrings and comments."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import tokenize
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kn_utils.base import ROOT

NAME = re.compile(r"(?<![\w./-])kn_utils(?:\.[A-Za-z_]\w*)+(?![\w/])")
ROLE = re.compile(r":(?:mod|func|class|meth|data):`\.?([A-Za-z_][\w.]*)`")
PROGRAM = re.compile(r"-m (kn_utils[\w.]*\w)")
IMPORT = re.compile(r"from (kn_utils[\w.]*) import ([\w, ]+)")
#: A file of ours; ``*`` and ``<...>`` stand for others and are no names.
PLACE = re.compile(
    r"(?<![\w./<*-])(?:kn_utils|tests|notebooks|figures|data/mini|data/published)/[\w./-]*\.\w+\b(?![/*<])"
)


def listed(pattern: str) -> list[Path]:
    """The files of the working tree that git keeps or would keep."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in sorted(set(told.split("\0"))) if name and (ROOT / name).is_file()]


def prose_of_program(source: str) -> str:
    """The docstrings, comments and texts of a program."""
    parts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join([*(part for part in parts if isinstance(part, str)), *comments])


def prose_of_notebook(path: Path) -> str:
    """All cells: what code imports is a name too."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def texts() -> Iterator[tuple[str, str]]:
    """Every file with prose, and its prose."""
    for path in listed("*.md"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in listed("notebooks/*.ipynb"):
        yield str(path.relative_to(ROOT)), prose_of_notebook(path)
    for path in [*listed("kn_utils/*.py"), *listed("data/*.py"), ROOT / "Snakefile"]:
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(ROOT)), prose_of_program(text) if path.suffix == ".py" else text


def there(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something in one."""
    module, rest = name, []
    while not _is_module(module):
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
    return _has(import_module(module), rest)


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _has(thing: Any, names: list[str]) -> bool:
    for name in names:
        fields = getattr(thing, "__dataclass_fields__", {}) | getattr(thing, "__annotations__", {})
        if name in fields:  # of a class: of what type it is, its docstring says
            return True
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


@pytest.mark.slow
def test_names_in_prose_are_there():
    names = {(file, name) for file, text in texts() for name in NAME.findall(text)}
    assert len(names) > 50
    assert sorted(f"{file}: {name}" for file, name in names if not there(name)) == []


@pytest.mark.slow
def test_programs_in_prose_can_be_started():
    """``python -m`` needs a module that does something when it is started."""
    names = {(file, name) for file, text in texts() for name in PROGRAM.findall(text)}
    assert len(names) > 3
    for file, name in sorted(names):
        place = find_spec(name)
        assert place and place.origin, f"{file}: {name}"
        assert '__name__ == "__main__"' in Path(place.origin).read_text(encoding="utf-8"), f"{file}: {name}"


@pytest.mark.slow
def test_imports_in_notes_work():
    imports = [
        (file, *found) for file, text in texts() if file.endswith(".md") for found in IMPORT.findall(text)
    ]
    assert imports
    for file, module, names in imports:
        for name in names.split(","):
            assert there(f"{module}.{name.split()[0]}"), f"{file}: from {module} import {name}"


@pytest.mark.slow
def test_files_in_prose_are_there():
    places = {(file, place) for file, text in texts() for place in PLACE.findall(text)}
    assert len(places) > 20
    assert sorted(f"{file}: {place}" for file, place in places if not (ROOT / place).exists()) == []


def documented(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Docstrings, and the classes that each stands in."""

    def walk(node: ast.AST, inside: list[str]) -> Iterator[tuple[str, list[str]]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            inside = [*inside, node.name] if isinstance(node, ast.ClassDef) else inside
            if text := ast.get_docstring(node):
                yield text, inside
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(tree, [])


FILES = [str(path.relative_to(ROOT)) for path in listed("kn_utils/*.py")]


@pytest.mark.parametrize("name", FILES)
def test_roles_of_docstrings_lead_somewhere(name):
    path = ROOT / name
    parts = Path(name).with_suffix("").parts
    module = import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    missing = []
    for text, inside in documented(ast.parse(path.read_text(encoding="utf-8"))):
        classes = [getattr(module, known) for known in inside if hasattr(module, known)]
        for role in ROLE.findall(text):
            if role.startswith("kn_utils."):
                continue  # asked for above
            if not any(_has(place, role.split(".")) for place in [module, *classes]):
                missing.append(role)
    assert missing == []


def test_checks_catch_what_they_should():
    assert NAME.findall("`kn_utils.base.ROOT`, kn_utils/base.py, python -m kn_utils.run.results.") == [
        "kn_utils.base.ROOT",
        "kn_utils.run.results",
    ]
    assert there("kn_utils.base.StudyError") and there("kn_utils.load_model")
    assert there("kn_utils.run.plan.Plan.threads") and there("kn_utils.run.plan.Plan.check")
    assert not there("kn_utils.models.ARCHITECTURES") and not there("kn_utils.base.nothing")
    assert PLACE.findall("`tests/run/test_results.py` in `data/<name>/facts.csv`") == [
        "tests/run/test_results.py"
    ]
    assert prose_of_program('x = 1  # one\n"""two"""') == "two\n# one"
    (found,) = documented(ast.parse('class A:\n    "see :meth:`b`"'))
    assert found == ("see :meth:`b`", ["A"]) and ROLE.findall(found[0]) == ["b"]
