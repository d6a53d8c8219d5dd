"""The explorer in a real browser: JupyterLab, and the page that Voila makes; typed into, clicked, read."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kn_utils.base import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LACKING = [name for name in ("playwright", "voila") if importlib.util.find_spec(name) is None]
LACKING += [] if BROWSER else ["chromium"]
SWITCHES = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync""".split()
PATIENCE = 120  # seconds that anything may take on a busy machine
#: Where screenshots go, for people to look at; nowhere unless it is set.
SHOTS = os.environ.get("KN_SHOTS", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(LACKING),
        reason=f"no {', no '.join(LACKING)} (pip install -r requirements-browser.lock; apt install chromium)",
    ),
]


@contextmanager
def served(command: list[str], folder: Path, config: Path) -> Iterator[str]:
    """A server of notebooks in a folder; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1", "TQDM_DISABLE": "1"}
    environment |= {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTERLAB_WORKSPACES_DIR": str(config / "workspaces"),
    }
    log = config / "server.log"
    with log.open("w") as file:
        whole = [sys.executable, "-m", *command, "--no-browser", f"--port={port}"]
        server = subprocess.Popen(whole, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield started
        started.close()


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with the notebook, and one of settings, in which nothing asks for news."""
    folder, config = tmp_path / "notebooks", tmp_path / "config"
    folder.mkdir()
    (config / "labconfig").mkdir(parents=True)
    off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig" / "page_config.json").write_text(json.dumps(off))
    notebook = json.loads((ROOT / "notebooks" / "explorer.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:  # what it saves goes where the test looks
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = re.sub(
                r"(?m)^out: .*$", f"out: str = {str(tmp_path / 'out')!r}", "".join(cell["source"])
            )
    (folder / "explorer.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return folder, config


def opened(browser: Any, address: str) -> Any:
    page = browser.new_page(viewport={"width": 1400, "height": 1500})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    return page


def shot(page: Any, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def text_of(page: Any, name: str) -> str:
    return " ".join(page.locator(f".kn-{name}").inner_text().split())


def wait(page: Any, name: str, text: str) -> None:
    page.locator(f".kn-{name}", has_text=text).wait_for()


def tab(page: Any, title: str) -> None:
    page.locator(".kn-tabs").get_by_role("tab", name=title, exact=True).click()


def test_in_jupyterlab_facts_are_picked_typed_and_acted_on(browser, place):
    folder, config = place
    options = ["--ServerApp.token=", "--IdentityProvider.token=", "--allow-root"]
    with served(["jupyterlab", *options], folder, config) as address:
        page = opened(browser, f"{address}/lab/tree/explorer.ipynb")
        page.get_by_role("heading", name="Look around").wait_for()
        page.get_by_text("The capital of France is [Y].").first.wait_for()  # as stored, before anything runs
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        wait(page, "plain", "Paris")
        page.locator(".kn-explorer").scroll_into_view_if_needed()

        page.locator(".kn-search input").fill("日本 capital")
        page.locator(".kn-results option", has_text="Japan, capital: Tokyo").wait_for(state="attached")
        page.locator(".kn-results select").select_option(index=0)
        wait(page, "typed", "Tokyo")
        told = re.search(r"P = (0\.\d+); among (\d+) typed answers (0\.\d+)", text_of(page, "question"))
        assert told and 0.2 < float(told[1]) <= float(told[3]) < 0.6
        wait(page, "neurons", "The 5 strongest")
        assert page.locator("img.kn-picture, .kn-picture img").first.evaluate("e => e.naturalWidth") > 400
        shot(page, "lab-answers")

        tab(page, "Sliders")
        page.locator("button.kn-silence").click()
        wait(page, "status", "after")
        before, after = map(float, re.findall(r"([\d.]+) (?:before|after)", text_of(page, "status"))[:2])
        assert before == float(told[1]) and after < 0.7 * before
        assert "P before P after Tokyo" in text_of(page, "typed-after")
        page.locator(".kn-slider", has_text="0.00").nth(4).wait_for()  # the sliders follow
        shot(page, "lab-sliders")

        page.locator(".kn-text input").fill("The capital of Wakanda is")
        page.locator("button.kn-ask").click()
        wait(page, "status", "type its answer first.")
        page.locator(".kn-answer input").fill("Paris")
        page.locator("button.kn-ask").click()
        wait(page, "status", "P36 capital")
        tab(page, "Answers")
        wait(page, "question", "The capital of Wakanda is [Y]")
        page.locator(".kn-model input").fill("no such model")
        page.locator("button.kn-load").click()
        wait(page, "status", "unknown model")
        shot(page, "lab-error")
        assert page.get_by_text("Traceback").count() == 0
        page.close()


def test_voila_shows_it_as_a_page(browser, place):
    folder, config = place
    with served(["voila", "explorer.ipynb"], folder, config) as address:
        page = opened(browser, address)
        wait(page, "plain", "Paris")
        tab(page, "One neuron")
        wait(page, "written", "Paris")
        wait(page, "served", "The capital of France is [Y].")
        page.locator("button.kn-look").click()
        wait(page, "sentences", "English blanks")
        shot(page, "voila-neuron")

        tab(page, "Languages")
        page.locator("button.kn-abroad").click()
        for answer in ("Paris", "Parijs", "パリ", "巴黎", "파리"):
            wait(page, "spoken", answer)
        wait(page, "grid", "in two languages or more")
        shot(page, "voila-languages")

        tab(page, "Edit")
        page.locator(".kn-new input").fill("Berlin")
        page.locator(".kn-new input").press("Enter")
        page.locator("button.kn-edit").click()
        wait(page, "costs", "nats lost")
        wait(page, "status", "Berlin is first")
        shot(page, "voila-edit")

        tab(page, "Program")
        page.locator("button.kn-write").click()
        page.wait_for_function(
            "document.querySelector('.kn-program textarea').value.includes('update_fact(')"
        )
        page.locator("button.kn-export").click()
        wait(page, "files", "neurons.png")
        assert list((folder.parent / "out").rglob("explorer/*-neurons.png"))
        shot(page, "voila-program")
        assert page.get_by_text("Traceback").count() == 0
        page.close()
