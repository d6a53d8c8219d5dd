"""What a table depends on: the meaning of the code that computes it, wherever and however it is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kn_utils.base import ROOT

PROGRAM = """
import sys
from kn_utils import attribute, load_facts, load_model, make_prompts, refine
from kn_utils.store.code import code_version, source_version
made_by = {"scores": (attribute, load_model, make_prompts), "facts": (load_facts,), "neurons": (refine,)}
for name, functions in made_by.items():
    print(name, code_version(*functions))
print("notebook", source_version("from kn_utils import plots, refine\\nplots.recall(refine)  # a comment"))
"""
#: A notebook's worth of small modules, with every way of naming another module's code.
SMALL = {
    "base.py": "LEAST = 1\n",
    "data/__init__.py": '"""Data."""\nfrom . import texts\nfrom .facts import read\n',
    "data/facts.py": (
        "from ..base import LEAST\n\ndef read():\n    return LEAST\n\ndef other():\n    return 0\n"
    ),
    "data/texts.py": "WORDS = ['a']\nMORE = ['b']\n",
    "model.py": "from .data import read\nfrom . import data\n\n\nclass Model:\n    def ask(self):\n"
    "        from .data.texts import WORDS\n        return read(), WORDS\n",
    "score.py": '"""Scores."""\nimport numpy as np\nfrom .model import Model\n\n\n'
    'def score(model: Model):\n    """Doc."""\n    return np.sum(model.ask())  # said\n',
}
SMALL_PROGRAM = """
from kn_utils.score import score
from kn_utils.store.code import code_version
print(code_version(score))
"""


def run(folder: Path, program: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A copy of the package."""
    shutil.copytree(ROOT / "kn_utils", tmp_path / "kn_utils", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def write_small(folder: Path) -> Path:
    """A package of a few lines with the store of the real one."""
    shutil.copytree(ROOT / "kn_utils" / "store", folder / "kn_utils" / "store")
    (folder / "kn_utils" / "__init__.py").touch()
    for name, text in SMALL.items():
        (folder / "kn_utils" / name).parent.mkdir(exist_ok=True)
        (folder / "kn_utils" / name).write_text(text)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory) -> str:
    """What the small package's table is made by, as it is written above: a folder's place says nothing."""
    return version(write_small(tmp_path_factory.mktemp("unchanged")))


def version(folder: Path) -> str:
    return next(iter(run(folder, SMALL_PROGRAM)))


def change(folder: Path, name: str, old: str, new: str) -> None:
    place = folder / "kn_utils" / name
    text = place.read_text(encoding="utf-8")
    assert old in text
    place.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.slow
def test_a_moved_file_leaves_every_table_valid(whole):
    before = run(whole, PROGRAM)
    package = whole / "kn_utils"
    (package / "elsewhere").mkdir()
    (package / "elsewhere" / "__init__.py").write_text('"""Another folder."""\n')
    moved = {"attribution/quadrature.py": "attribution.quadrature", "model/rows.py": "model.rows"}
    for place, name in moved.items():
        text = (package / place).read_text(encoding="utf-8")
        (package / place).unlink()
        home = place.partition("/")[0]
        text = text.replace("from .", f"from ..{home}.") if "from ." in text else text
        text = text.replace(f"from ..{home}..", "from ..")
        leaf = name.rpartition(".")[2]
        (package / "elsewhere" / f"{leaf}.py").write_text(text, encoding="utf-8")
        for file in package.rglob("*.py"):
            old = file.read_text(encoding="utf-8")
            depth = len(file.relative_to(package).parts)
            new = old.replace(f"from .{leaf} import", f"from {'.' * depth}elsewhere.{leaf} import")
            new = new.replace(f"from ..{name} import", f"from ..elsewhere.{leaf} import")
            new = new.replace(f"from .{name} import", f"from .elsewhere.{leaf} import")
            if new != old:
                file.write_text(new, encoding="utf-8")
    assert run(whole, PROGRAM) == before


@pytest.mark.slow
def test_better_sentences_leave_every_table_and_notebook_valid(whole):
    before = run(whole, PROGRAM)
    for file in (whole / "kn_utils").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        text = text.replace('"""', '"""Reworded. ', 1) if text.startswith('"""') else text
        file.write_text(text + "\n# a comment at the end\n", encoding="utf-8")
    change(whole, "data/facts.py", '    """A data set: its', '    """Another sentence. Its')
    assert run(whole, PROGRAM) == before
    change(whole, "neurons/refine.py", "_EDGE = 1e-6", "_EDGE = 1e-7")
    after = run(whole, PROGRAM)
    assert {name for name in before if before[name] != after[name]} == {"neurons", "notebook"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("base.py", "1", "2", True),  # three modules away
        ("data/texts.py", "['a']", "['c']", True),  # imported inside a method
        ("data/texts.py", "['b']", "['c']", False),  # nobody names it
        ("data/facts.py", "return 0", "return 1", False),  # beside what is used
        ("score.py", "np.sum", "np.max", True),
        ("score.py", "import numpy as np", "import math as np", True),  # another library by the same name
        ("score.py", "  # said", "", False),
        ("score.py", '    """Doc."""\n', "", False),
        ("score.py", "Scores.", "Other words.", False),
        ("data/__init__.py", "Data.", "Facts.", False),
        ("model.py", "from . import data\n", "", False),  # nobody names the module
        ("data/facts.py", "LEAST\n\ndef", "LEAST\nstr()\n\ndef", True),  # runs when it is imported
        ("base.py", "LEAST = 1\n", "LEAST: int = 1\n", True),
        ("store/locks.py", "timeout=1", "timeout=2", False),  # how tables are stored is not what they hold
    ],
)
def test_what_makes_a_table_stale(name, old, new, stale, small, unchanged):
    change(small, name, old, new)
    assert (version(small) != unchanged) == stale


def test_a_definition_that_moves_to_another_module_changes_nothing(small, unchanged):
    change(small, "data/facts.py", "from ..base import LEAST\n\ndef read():\n    return LEAST\n\n", "")
    (small / "kn_utils" / "data" / "reading.py").write_text(
        "from ..base import LEAST\n\n\ndef read():\n    return LEAST\n"
    )
    change(small, "data/__init__.py", "from .facts import read", "from .reading import read")
    assert version(small) == unchanged


@pytest.mark.slow
def test_a_function_called_through_its_module_counts_and_its_neighbours_do_not(small):
    change(
        small,
        "score.py",
        "from .model import Model\n",
        "from . import model as m\nfrom .model import Model\n",
    )
    change(small, "score.py", "model.ask()", "m.Model.ask(model)")
    before = version(small)
    (small / "kn_utils" / "model.py").open("a").write("\n\ndef more():\n    return 1\n")
    assert version(small) == before
    change(small, "model.py", "return read(), WORDS", "return WORDS, read()")
    assert version(small) != before
