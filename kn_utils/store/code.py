"""What a stored table depends on: a digest of the code that computes it.

From the functions and classes that make a table the code is followed, definition by definition: whatever they
name of this package, what that names, and so on. The digest is of those definitions' code without comments
and docstrings, and not of where they stand. So a moved file, another function beside it, or a better sentence
makes no stored table stale; a changed constant three modules away does.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = __package__.partition(".")[0]
FOLDER = Path(__file__).resolve().parents[1]
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def code_version(*made_by: Callable[..., object]) -> str:
    """A short digest of these functions and classes of the package and of all code of it that they reach.

    How tables are stored is not what is in them, so this package is not followed. Without ``made_by`` all of
    the code counts.

    Example:
        >>> from kn_utils import refine
        >>> len(code_version(refine))
        12
    """
    names = [_Name(maker.__module__, maker.__qualname__.partition(".")[0]) for maker in made_by]
    return _digest(tuple(names or [_Name(name, "*") for name in _every_module()]))


def source_version(source: str) -> str:
    """The same for a program that stands in no module, such as the joined code cells of a notebook."""
    program, module = ast.parse(source), _Module.of(source, PACKAGE)
    named = set(_references(program, module, ""))
    reached = [name for name in named if isinstance(name, _Name) and name.module]
    return hashlib.sha256(f"{_text(program)} {_digest(tuple(reached))}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Name:
    """A top-level name of a module; ``name`` is ``*`` where the whole module is meant."""

    module: str
    name: str


@dataclass(frozen=True)
class _Module:
    """A parsed module: its definitions, what its imports stand for, and statements that only run."""

    definitions: dict[str, ast.stmt]
    names: dict[str, _Name | str]  # of this package, or an outside name such as "numpy.array"
    loose: list[ast.stmt]

    @classmethod
    def of(cls, source: str, package: str) -> _Module:
        module = cls({}, {}, [])
        for node in ast.parse(source).body:
            module._take(node, package)
        return module

    def _take(self, node: ast.stmt, package: str) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self.names.update(_imported(node, package))
        elif isinstance(node, _DEFINES):
            self.definitions[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and (targets := list(_targets(node))):
            self.definitions.update(dict.fromkeys(targets, node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for line in node.body:
                self._take(line, package)
        elif isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            pass  # runs only as a program
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            self.loose.append(node)


def _targets(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                yield part.id


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, _Name | str]]:
    """Local name -> what an import statement binds it to; relative imports start from ``package``."""
    for alias in node.names:
        local = alias.asname or alias.name.partition(".")[0]
        if isinstance(node, ast.Import):
            yield local, alias.name if alias.asname else local
            continue
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        inside = module.partition(".")[0] == PACKAGE
        yield local, _Name(module, alias.name) if inside else f"{module}.{alias.name}"


@cache
def _module(name: str) -> _Module | None:
    """A module of this package, ``None`` if there is none of that name."""
    place = FOLDER.joinpath(*name.split(".")[1:])
    file, package = (
        (place / "__init__.py", name)
        if place.is_dir()
        else (place.with_suffix(".py"), name.rpartition(".")[0])
    )
    return _Module.of(file.read_text(encoding="utf-8"), package) if file.is_file() else None


def _every_module() -> Iterator[str]:
    for file in FOLDER.rglob("*.py"):
        parts = file.relative_to(FOLDER).with_suffix("").parts
        if parts[0] == "bundled":  # an installed wheel's data: beside the package in a checkout
            continue
        yield ".".join([PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)])


@cache
def _digest(names: tuple[_Name, ...]) -> str:
    """A digest of the definitions of these names and of all that these reach."""
    waiting, seen, texts = list(names), set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen or f"{name.module}.".startswith(f"{__package__}."):
            continue
        seen.add(name)
        for node, module in _found(name):
            texts.add(_text(node))
            for reference in _references(node, module, name.module):
                texts.add(reference) if isinstance(reference, str) else waiting.append(reference)
        waiting += _elsewhere(name)
    lines = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _found(name: _Name) -> Iterator[tuple[ast.stmt, _Module]]:
    """The definition of a name, and what its module runs when it is imported."""
    module = _module(name.module)
    if module is None or not (name.name == "*" or name.name in module.definitions):
        return
    chosen = module.definitions.values() if name.name == "*" else [module.definitions[name.name]]
    yield from ((node, module) for node in [*chosen, *module.loose])


def _elsewhere(name: _Name) -> list[_Name]:
    """Where a name leads that its module only imports, or that is itself a module."""
    module = _module(name.module)
    if module is not None and isinstance(place := module.names.get(name.name), _Name):
        return [place]
    whole = f"{name.module}.{name.name}"
    return [_Name(whole, "*")] if name.name != "*" and _module(whole) is not None else []


def _references(node: ast.AST, module: _Module, own: str) -> Iterator[_Name | str]:
    """What a definition names: of its own module, through its imports, or imported inside it."""
    names = _names_within(node, module, own)
    through = dict(_attributes_of_modules(node, names))
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            if part in through:
                yield through[part]
            elif part.id in module.definitions:
                yield _Name(own, part.id)
            elif part.id in names:
                yield names[part.id]


def _names_within(node: ast.AST, module: _Module, own: str) -> dict[str, _Name | str]:
    """What imports bind inside a definition: those of its module, and those that it makes itself."""
    package = own if FOLDER.joinpath(*own.split(".")[1:]).is_dir() else own.rpartition(".")[0]
    names = dict(module.names)
    for part in ast.walk(node):
        if isinstance(part, (ast.Import, ast.ImportFrom)):
            names.update(_imported(part, package))
    return names


def _attributes_of_modules(node: ast.AST, names: dict[str, _Name | str]) -> Iterator[tuple[ast.Name, _Name]]:
    """Where ``module.attribute`` is written: it stands for the attribute, not for the whole module."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            place = names.get(part.value.id)
            if isinstance(place, _Name) and _module(f"{place.module}.{place.name}") is not None:
                yield part.value, _Name(f"{place.module}.{place.name}", part.attr)


def _text(node: ast.AST) -> str:
    """Code without docstrings and comments; of this package's imports what they bind, not from where."""
    return ast.unparse(_Plain().visit(ast.parse(ast.unparse(node))))


class _Plain(ast.NodeTransformer):
    """Takes docstrings away, and from imports of this package where they come from."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        inside = node.level or (node.module or "").partition(".")[0] == PACKAGE
        return ast.Import(names=node.names) if inside else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, *_DEFINES)) and body and ast.get_docstring(node) is not None:
            node.body = body[1:] or [ast.Pass()]
        return node
