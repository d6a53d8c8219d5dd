"""What README says is what the files say."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from kn_utils.attribution import benchmark
from kn_utils.base import ROOT
from kn_utils.run import front, results

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def between_marks(name: str, page: Path = ROOT / "docs" / "results.md") -> str:
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name}: .*? -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found, f"{page.name} has lost its marks around the table of {name}"
    return found.group(1).strip()


def test_the_table_of_speeds_is_the_measured_one():
    assert between_marks("performance") == benchmark.markdown(benchmark.measured())


def test_the_table_of_results_is_the_stored_one():
    assert between_marks("results") == results.markdown(results.stored_results())


def test_the_table_of_all_models_is_the_stored_one():
    assert between_marks("front", README) == front.front_table(front.contents())


def test_it_fits_two_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.slow
def test_its_lines_of_python_print_what_it_says():
    text = README.read_text(encoding="utf-8")
    code, told = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    assert len(list(filter(None, code.splitlines()))) == 10
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == told


def test_every_notebook_is_listed_and_every_linked_file_is_there():
    listed = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{path.name}" in listed
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
