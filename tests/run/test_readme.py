"""What README says is what the files say."""

from __future__ import annotations

import re

from kn_utils.attribution import benchmark
from kn_utils.base import ROOT
from kn_utils.run import results

README = (ROOT / "README.md").read_text(encoding="utf-8")


def between_marks(name: str) -> str:
    found = re.search(rf"<!-- {name}: .*? -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert found, f"README has lost its marks around the table of {name}"
    return found.group(1).strip()


def test_the_table_of_speeds_is_the_measured_one():
    assert between_marks("performance") == benchmark.markdown(benchmark.measured())


def test_the_table_of_results_is_the_stored_one():
    assert between_marks("results") == results.markdown(results.stored_results())


def test_every_notebook_is_listed_and_every_linked_file_is_there():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{path.name}" in README
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
