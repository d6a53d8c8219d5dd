"""What README says is what the files say."""

from __future__ import annotations

import re

from kn_utils import benchmark
from kn_utils.base import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_speeds_is_the_measured_one():
    shown = re.search(r"<!-- performance: .*? -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert shown, "README has lost its marks around the table"
    assert shown.group(1).strip() == benchmark.markdown(benchmark.measured())


def test_every_notebook_is_listed_and_every_linked_file_is_there():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{path.name}" in README
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
