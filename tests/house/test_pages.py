"""The pages as mkdocs is given them: notebooks, formulas, the reference. run_all.sh builds them, strictly."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import nbformat
import pytest
import yaml

import kn_utils
from kn_utils.base import ROOT

pytest.importorskip(
    "mkdocs", reason="the pages' packages are not here: pip install -r docs/requirements.lock"
)
SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    place = importlib.util.spec_from_file_location("pages", SITE / "pages.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config():
    from mkdocs.config import load_config

    loaded = load_config(str(SITE / "mkdocs.yml"), hooks=[], plugins=[])
    loaded.plugins._current_plugin = "pages"  # mkdocs notes who makes a file
    return loaded


def test_formulas_are_drawn_and_code_and_prices_are_left_alone(pages):
    told = pages.on_page_markdown("The $a_k$ of `$x$` cost 5 $ or 6 $.\n\n```\n$y$\n```\n\n$$\\frac{a}{b}$$")
    assert told.count("<math") == 2 and "<msub>" in told and "<mfrac>" in told
    assert "`$x$`" in told and "```\n$y$\n```" in told and "5 $ or 6 $." in told


def test_links_to_notebooks_lead_to_their_pages(pages):
    told = pages.on_page_markdown("[`03`](../notebooks/03_attribution.ipynb) and `03_attribution.ipynb`")
    assert told == "[`03`](../notebooks/03_attribution.md) and `03_attribution.ipynb`"


def test_a_notebook_is_a_page_with_what_it_printed(pages, config, tmp_path, monkeypatch):
    new, output = nbformat.v4, nbformat.v4.new_output
    picture = output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"})
    table = output(
        "execute_result", {"text/html": "<style>x</style><div>\n\n  <p>t</p></div>", "text/plain": "t"}
    )
    printed, warned = (
        output("stream", name=n, text=s) for n, s in (("stdout", "seen\n"), ("stderr", "no\n"))
    )
    cells = [
        new.new_markdown_cell("# Title"),
        new.new_code_cell("import google.colab", metadata={"tags": ["hide-input"]}),
        new.new_code_cell("a = 1\nb = 2", metadata={"tags": ["parameters"]}),
        new.new_code_cell("show()", outputs=[printed, table, picture, warned]),
    ]
    path = tmp_path / "99_x.ipynb"
    nbformat.write(new.new_notebook(cells=cells), path)
    page, drawn = pages.notebook_page(config, path)
    text = page.content_string
    assert "colab" not in text and "no\n" not in text and "<style" not in text
    assert '??? note "Parameters"\n    ```python\n    a = 1\n    b = 2\n    ```' in text
    assert text.index("seen") < text.index('<div class="output"><div><p>t</p>') < text.index("99_x_0.png")
    assert drawn.content_bytes == b"hello" and drawn.src_uri == "notebooks/99_x_0.png"


@pytest.mark.slow
def test_reference_has_every_public_name(pages, config):
    written = "".join(file.content_string for file in pages.reference(config))
    for name, place in kn_utils.places().items():
        assert f"::: kn_utils{place}.{name}\n" in written


def test_pages_are_built_strictly_and_fetch_nothing():
    settings = yaml.load((SITE / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert settings["strict"] == "true" and settings["theme"]["font"] == "false"
    script = (ROOT / "run_all.sh").read_text(encoding="utf-8")
    assert "mkdocs build --quiet --strict" in script
    tests = script[script.index("run_tests() {") : script.index("build_docs() {")]
    assert "build_docs" in tests
