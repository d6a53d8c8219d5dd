"""mkdocs hooks: which files are pages, notebooks as pages, the reference, formulas without scripts.

Files keep the places that they have in the project, so links lead to the same files here and in a checkout.
"""

from __future__ import annotations

import ast
import base64
import re
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

import kn_utils
from kn_utils.base import ROOT

PAGES = ("README.md", "docs/*.md", "docs/*.svg", "docs/site/*.css", "data/**/README.md", "figures/**/*.png")
FORMULA = re.compile(
    r"(?<![\\$\w])\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<line>[^\s$`][^$\n`]*)(?<!\s)\$(?![\w$])", re.DOTALL
)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
INDEX = """# Reference

Public names, all of them importable from `kn_utils`, by the room that they live in.

| room | public names |
|---|---|
{listed}

## Modules

Everything else is imported from its module, as the notebooks do.

| module | what it is |
|---|---|
{modules}
"""
#: Cells that a reader of pages has no use for.
LEFT_OUT = {"hide-input"}


def _expanded(entry: dict[str, str]) -> dict[str, Any]:
    """A folder in the navigation, ended by a slash, stands for its pages."""
    ((title, place),) = entry.items()
    if place == "notebooks/":
        found = [f"notebooks/{path.stem}.md" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
        return {title: ["docs/notebooks.md", *found]}
    if place == "reference/":
        return {title: ["reference/index.md", *(f"reference/{room}.md" for room in sorted(_rooms()))]}
    if place == "data/":
        found = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "data").rglob("README.md"))]
        return {title: found}
    return entry


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the project that are pages or pictures, and those made here."""
    config.nav = [_expanded(entry) for entry in config.nav or []]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    found = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    own = [_copied(config, path) for path in dict.fromkeys(found)]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        own += notebook_page(config, path)
    return Files([*theme, *own, *reference(config)])


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Links to notebooks lead to their pages; formulas are MathML, which browsers draw themselves."""
    parts = CODE.split(re.sub(r"(\]\([^)\s]*)\.ipynb\)", r"\1.md)", markdown))
    return "".join(part if number % 2 else FORMULA.sub(_drawn, part) for number, part in enumerate(parts))


def _drawn(found: re.Match[str]) -> str:
    return convert(found["block"] or found["line"], display="block" if found["block"] else "inline")


def _copied(config: MkDocsConfig, path: Path) -> File:
    return File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))


# Notebooks


def notebook_page(config: MkDocsConfig, path: Path) -> list[File]:
    """A notebook with its stored outputs as a page, and the pictures in it."""
    pictures: list[File] = []
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        tags = set(cell.metadata.get("tags", []))
        if tags & LEFT_OUT or not cell.source.strip():
            continue
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        code = f"```python\n{cell.source}\n```"
        folded = "parameters" in tags
        parts.append(_folded("Parameters", code) if folded else code)
        for output in cell.outputs:
            parts.append(_output(output, config, f"notebooks/{path.stem}_{len(pictures)}.png", pictures))
    page = File.generated(config, f"notebooks/{path.stem}.md", content="\n\n".join(parts))
    return [page, *pictures]


def _folded(title: str, text: str) -> str:
    return f'??? note "{title}"\n' + "\n".join(f"    {line}" for line in text.splitlines())


def _output(output: Any, config: MkDocsConfig, place: str, pictures: list[File]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        pictures.append(File.generated(config, place, content=base64.b64decode(data["image/png"])))
        return f"![]({Path(place).name})"
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
        table = re.sub(r"\n\s*", "", table)  # no empty line, which would end the block
        return f'<div class="output">{table}</div>'
    told = output.get("text") or data.get("text/plain", "")
    return f"```{{.text .output}}\n{told.rstrip()}\n```" if told and output.get("name") != "stderr" else ""


# Reference


def reference(config: MkDocsConfig) -> list[File]:
    """A page for each room of the package that has public names, and one that lists every module."""
    rooms = sorted(_rooms().items())
    pages = [
        File.generated(config, f"reference/{room}.md", content=_room(room, names)) for room, names in rooms
    ]
    listed = "\n".join(f"| [`{room}`]({room}.md) | {_names(names)} |" for room, names in rooms)
    modules = "\n".join(f"| `{name}` | {line} |" for name, line in _modules())
    index = INDEX.format(listed=listed, modules=modules)
    return [File.generated(config, "reference/index.md", content=index), *pages]


def _rooms() -> dict[str, list[str]]:
    """Room -> its public names, in full."""
    rooms: dict[str, list[str]] = {}
    for name, place in kn_utils.places().items():
        rooms.setdefault(place.split(".")[1], []).append(f"kn_utils{place}.{name}")
    return rooms


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name.rpartition('.')[2]}`" for name in names)


def _room(room: str, names: list[str]) -> str:
    return f"# {room}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def _modules() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "kn_utils").rglob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if told and not name.endswith("__main__"):
            line = told.partition("\n\n")[0].replace("\n", " ").replace("``", "`").replace("|", "\\|")
            found.append((name, re.sub(r":\w+:`([^`]+)`", r"`\1`", line)))
    return found
