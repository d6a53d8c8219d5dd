"""Notebooks as files (parameters, stored runs, short cells) and as programs (papermill, Colab, nbval)."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from itertools import pairwise
from pathlib import Path
from statistics import median

import nbformat
import pandas as pd
import papermill as pm
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from kn_utils.base import ROOT, StudyError
from kn_utils.run.plan import GRID

FOLDER = ROOT / "notebooks"
NAMES = sorted(set(GRID) | {path.stem for path in FOLDER.glob("*.ipynb")})
#: What people change: it begins the parameters.
CHANGED = ["model", "dataset", "language", "relation", "facts_per_relation"]
COMMON = [*CHANGED, "revision", "device", "seed", "out"]
MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|tmp|mnt|opt|var|srv)/\w|\b[A-Z]:\\\\?\w")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def bootstrap_cells(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in code_cells(notebook) if "google.colab" in cell.source]


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """A cell's source and the text of its outputs, pictures left out."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        found.append(output.get("text", ""))
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def problems_of_cell(cell: nbformat.NotebookNode) -> list[str]:
    problems = []
    if cell.execution_count is None:
        problems.append("was never run")
    if any(output.output_type == "error" for output in cell.outputs):
        problems.append("stores an error")
    if len(cell.source.splitlines()) > 20 and "parameters" not in cell.metadata.get("tags", []):
        problems.append(f"has {len(cell.source.splitlines())} lines")
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            problems.append(f"defines {node.name}")
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and isinstance(
            node.value, ast.Lambda
        ):
            problems.append("gives a lambda a name")
    return problems


def problems_of_metadata(notebook: nbformat.NotebookNode) -> list[str]:
    problems = [
        f"notebook metadata hold {key}" for key in ("papermill", "widgets") if key in notebook.metadata
    ]
    for number, cell in enumerate(notebook.cells):
        problems += [
            f"cell {number} holds {key}" for key in ("papermill", "execution") if key in cell.metadata
        ]
        if "injected-parameters" in cell.metadata.get("tags", []):
            problems.append(f"cell {number} was injected by papermill")
    return problems


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_valid_and_begins_with_its_title(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and re.match(r"# \S", notebook.cells[0].source)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_one_tagged_cell_with_annotations(name):
    cells = tagged(read(name), "parameters")
    assert len(cells) == 1
    first, *statements = ast.parse(cells[0].source).body
    assert ast.unparse(first) == "from typing import Optional"
    assert all(isinstance(statement, ast.AnnAssign) and statement.value for statement in statements)
    names = [statement.target.id for statement in statements]
    assert [common for common in COMMON if common not in names] == []
    asks_a_model = any("Study(" in cell.source for cell in code_cells(read(name)))
    first_ones = [name for name in names if name != "languages"][:5]
    assert first_ones == CHANGED or not asks_a_model


@pytest.mark.parametrize("name", NAMES)
def test_papermill_reads_every_parameter_with_its_type_and_help(name, tmp_path, caplog):
    cell = tagged(read(name), "parameters")[0].source
    lines = [line for line in ast.parse(cell).body if isinstance(line, ast.AnnAssign)]
    known = pm.inspect_notebook(FOLDER / f"{name}.ipynb")
    types = {key: said["inferred_type_name"] for key, said in known.items()}
    assert types == {line.target.id: ast.unparse(line.annotation) for line in lines}
    written = {line.target.id: ast.unparse(line.value).replace("'", '"') for line in lines}
    assert {key: said["default"] for key, said in known.items()} == written
    values = {line.target.id: ast.literal_eval(line.value) for line in lines}
    options = {"parameters": values, "prepare_only": True, "progress_bar": False}
    with caplog.at_level("WARNING", logger="papermill"):
        pm.execute_notebook(FOLDER / f"{name}.ipynb", tmp_path / "out.ipynb", **options)
    assert caplog.messages == []


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_is_short_and_has_a_good_stored_run(name):
    cells = code_cells(read(name))
    assert [f"cell {i} {problem}" for i, cell in enumerate(cells) for problem in problems_of_cell(cell)] == []


def reading(notebook: nbformat.NotebookNode) -> dict[str, float]:
    """Lines of the median code cell, the longest code line, the share of code cells that follow prose."""
    cells = [cell for cell in notebook.cells if cell.source.strip()]
    before = [previous.cell_type for previous, cell in pairwise(cells) if cell.cell_type == "code"]
    lines = [cell.source.splitlines() for cell in code_cells(notebook)]
    return {
        "lines": median(map(len, lines)),
        "longest": max(len(line) for cell in lines for line in cell),
        "after prose": before.count("markdown") / len(before),
    }


@pytest.mark.parametrize("name", NAMES)
def test_code_is_short_and_prose_stands_before_it(name):
    found = reading(read(name))
    assert found["lines"] <= 6 and found["longest"] <= 90 and found["after prose"] >= 0.8, found


def test_how_a_notebook_reads_by_hand():
    prose, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [
        prose("# T"),
        code("1"),
        code(""),
        prose("so"),
        code("a = 1\nb = 22\nc = 3"),
        code("d"),
        code("e"),
    ]
    assert reading(nbformat.v4.new_notebook(cells=cells)) == {"lines": 1, "longest": 6, "after prose": 0.5}


@pytest.mark.parametrize("name", NAMES)
def test_cells_come_in_one_order(name):
    cells = [cell for cell in read(name).cells if cell.source.strip()]
    kinds = [
        "bootstrap"
        if "google.colab" in cell.source
        else "parameters"
        if "parameters" in cell.metadata.get("tags", [])
        else "imports"
        if "StudyParameters.from_notebook(globals())" in cell.source
        else cell.cell_type
        for cell in cells
    ]
    assert kinds[:5] == ["markdown", "bootstrap", "markdown", "parameters", "imports"]
    assert kinds[-1] == "markdown" and not {"bootstrap", "parameters", "imports"} & set(kinds[5:])
    later = [line for cell in code_cells(read(name))[3:] for line in cell.source.splitlines()]
    assert [line for line in later if re.match(r"(from \S+ )?import ", line)] == []


@pytest.mark.parametrize("name", NAMES)
def test_notebook_holds_no_leftovers_and_no_place_of_a_machine(name):
    notebook = read(name)
    assert problems_of_metadata(notebook) == []
    found = [
        text for cell in notebook.cells for text in texts(cell) if MACHINE.search(text) or str(ROOT) in text
    ]
    assert found == []


def test_checks_catch_what_they_should():
    cell = nbformat.v4.new_code_cell("%matplotlib inline\nprint(1)", execution_count=1)
    assert problems_of_cell(cell) == []
    assert problems_of_cell(nbformat.v4.new_code_cell("print(1)")) == ["was never run"]
    broken = nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
    assert problems_of_cell(nbformat.v4.new_code_cell("1", execution_count=1, outputs=[broken])) == [
        "stores an error"
    ]
    for source, problem in [
        ("def f():\n    pass", "defines f"),
        ("class C:\n    pass", "defines C"),
        ("f = lambda x: x", "gives a lambda a name"),
        ("\n".join("1" * 21), "has 21 lines"),
    ]:
        assert problems_of_cell(nbformat.v4.new_code_cell(source, execution_count=1)) == [problem]
    assert MACHINE.search("saved to /home/someone/x.png") and MACHINE.search("'C:\\\\x'")
    assert not MACHINE.search("figures/home/x.png, https://a.example/home/x")


@pytest.mark.slow
def test_colab_cell_is_the_same_everywhere_and_precedes_the_parameters():
    cells = {name: bootstrap_cells(read(name)) for name in NAMES}
    assert [name for name, found in cells.items() if len(found) != 1] == []
    assert len({found[0] for found in cells.values()}) == 1
    for name in NAMES:
        sources = [cell.source for cell in read(name).cells]
        assert sources.index(cells[name][0]) < sources.index(tagged(read(name), "parameters")[0].source)


def test_colab_cell_is_short_and_folded():
    for name in NAMES:
        (cell,) = (cell for cell in code_cells(read(name)) if "google.colab" in cell.source)
        assert len(cell.source.splitlines()) <= 10
        assert cell.metadata["jupyter"]["source_hidden"] and "hide-input" in cell.metadata["tags"]


def test_colab_cell_has_the_address_that_pyproject_gives():
    cell = bootstrap_cells(read("00_setup_check"))[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    address = re.search(r'"KN_REPOSITORY", "(.*?)"', cell)[1]
    assert address == project["tool"]["kn_utils"]["repository"]


# Running them


def papermill(name: str, output: Path, **parameters: object) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(FOLDER / f"{name}.ipynb"),
        str(output),
        "--no-progress-bar",
    ]
    options = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=output.parent, env=environment, timeout=1200
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Where the notebooks of one relation leave their tables, so that scores are computed once."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.slow
def test_attribution_runs_alone_with_other_parameters(tmp_path, results):
    before = (FOLDER / "03_attribution.ipynb").read_bytes()
    done = papermill(
        "03_attribution",
        tmp_path / "out.ipynb",
        relation="P36",
        language="ja",
        facts_per_relation=3,
        checked_prompts=1,
        out=results,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tables = [pd.read_parquet(path) for path in (results / "tables").glob("*.parquet")]
    prompts = pd.concat([table["prompt"] for table in tables if "prompt" in table])
    assert len(prompts) and prompts.str.startswith("P36:").all() and prompts.str.contains("-ja-").all()
    assert 1 <= prompts.str.split("/").str[0].nunique() <= 3
    assert list((results / "figures").glob("03_*.png"))
    assert (FOLDER / "03_attribution.ipynb").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, language",
    [(n, "ja") for n in ("04", "05", "06", "08", "09", "12")] + [("07", "all"), ("11", "all")],
)
def test_notebook_runs_alone_for_one_relation_and_language(number, language, results, tmp_path):
    (name,) = (name for name in NAMES if name.startswith(number))
    few = {"06": "en,ja,zh", "07": "en,ja,zh", "11": "en,nl,vi,ja,zh"}  # of those that ask in every one
    some = {"languages": few[number]} if number in few else {}
    done = papermill(
        name,
        tmp_path / "out.ipynb",
        relation="P36",
        language=language,
        facts_per_relation=3,
        out=results,
        **some,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = pd.read_json(results / "tables" / f"summary_{number}.json", typ="series")["rows"]
    assert rows and {"measure", "neurons", "where", "value", "low", "high", "n"} == set(rows[0])
    assert list((results / "figures").glob(f"{number}_*.png")) and list(
        (results / "figures").glob(f"{number}_*.pdf")
    )
    if number == "07":
        table = pd.read_parquet(results / "tables" / "updates_any.parquet")
        assert set(table["neurons"]) == {"3 strongest", "3 most active", "3 random, same layers"}
    if number == "05":
        table = pd.read_parquet(results / "tables" / "table_2.parquet")
        assert table.loc[table["measure"] == "shared between relations", "value"].isna().all()


@pytest.mark.slow
def test_bad_parameter_ends_in_one_clear_line(tmp_path):
    done = papermill("03_attribution", tmp_path / "out.ipynb", relatoin="P36")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"ParameterError: ", last), last
    assert all(word in last for word in ("relatoin", "relation", "language")), last


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("relation", "P999", ["relation", "P999", "P36"]),
        ("relatoin", "P36", ["relatoin", "relation", "language"]),
        ("language", "xx", ["language", "xx", "ja"]),
        ("facts_per_relation", 0, ["facts_per_relation", "0"]),
    ],
)
def test_bad_parameter_is_refused_by_the_first_cells(name, value, named):
    """Those cells run here as papermill runs them, its own behind the parameters; no kernel is started."""
    notebook = read("03_attribution")
    (parameters,) = tagged(notebook, "parameters")
    (imports,) = (cell for cell in code_cells(notebook) if "from_notebook(globals())" in cell.source)
    cells = [parameters.source, f"# Parameters\n{name} = {value!r}\n", imports.source]
    space: dict[str, object] = {"In": ["", *cells]}
    with pytest.raises(StudyError) as caught:
        for cell in cells:
            exec(compile(cell, "a cell", "exec", dont_inherit=True), space)
    (line,) = caught.value._render_traceback_()
    assert re.match(r"\w*Error: ", line) and all(word in line for word in named), line
    assert "\n" not in line and not {"study", "prompts"} & set(space)


# Colab


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository of the working tree as it is, so that the test needs no commit."""
    place = tmp_path_factory.mktemp("repository")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\0"
    ):
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        who = ["-c", "user.name=test", "-c", "user.email=test@invalid"]
        subprocess.run(["git", *who, *command], cwd=place, check=True)
    return place


def run_bootstrap(folder: Path, colab: bool, **more: str) -> subprocess.CompletedProcess:
    """The bootstrap cell in an empty folder, in an environment of its own that sees the packages of ours."""
    empty, env, stand_in = folder / "empty", folder / "env", folder / "stand_in"
    empty.mkdir()
    venv.create(env, with_pip=importlib.util.find_spec("pip") is None)  # ours is among our packages
    site = next(env.glob("lib/python*/site-packages"))
    (site / "ours.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    if colab:
        (stand_in / "google" / "colab").mkdir(parents=True)
        (stand_in / "google" / "colab" / "__init__.py").touch()
    (folder / "cell.py").write_text(bootstrap_cells(read("00_setup_check"))[0], encoding="utf-8")
    # Colab's kernel has its package loaded; a package of that name elsewhere is not Colab.
    program = "import google.colab; " * colab + (
        "import pathlib, sys; from IPython.core.interactiveshell import InteractiveShell as Shell; "
        "result = Shell.instance().run_cell(pathlib.Path(sys.argv[1]).read_text(encoding='utf-8')); "
        "sys.exit(1) if not result.success else None; import os; after = os.getcwd(); "
        "import importlib.util as u; found = u.find_spec('kn_utils'); "
        "print('FOUND', found and found.origin); print('AFTER', after)"
    )
    hidden = ("PYTHONPATH", "KN_REPOSITORY", "VIRTUAL_ENV")  # the last would lead IPython back to ours
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    # pip's spelling for "build with the backend that is there": the test needs no network.
    environment |= {"PYTHONPATH": str(stand_in), "PIP_NO_BUILD_ISOLATION": "0", **more}
    return subprocess.run(
        [str(env / "bin" / "python"), "-c", program, str(folder / "cell.py")],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_colab_cell_fetches_and_installs_the_project(tmp_path, repository):
    done = run_bootstrap(tmp_path, True, KN_REPOSITORY=str(repository))
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^FOUND (.*)$", done.stdout, flags=re.M)[1]
    assert Path(found).is_relative_to(tmp_path / "empty"), done.stdout
    assert list((tmp_path / "empty").rglob("data/mini"))


@pytest.mark.slow
def test_colab_cell_without_an_address_says_what_to_do(tmp_path):
    done = run_bootstrap(tmp_path, True)
    assert "KN_REPOSITORY" in done.stdout + done.stderr
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.slow
def test_colab_cell_does_nothing_elsewhere(tmp_path, repository):
    done = run_bootstrap(tmp_path, False, KN_REPOSITORY=str(repository))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:1] == ["FOUND None"]
    assert list((tmp_path / "empty").iterdir()) == []


# nbval, before it is believed


def nbval(folder: Path, **stored: str) -> subprocess.CompletedProcess:
    """Under our settings, notebooks of one cell that prints numbers and a time, with these stored outputs."""
    source = "import time\nprint('share', 0.12345, '-0.00', f'in {time.perf_counter():.1f} s')"
    for name, text in stored.items():
        output = nbformat.v4.new_output("stream", name="stdout", text=text)
        cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"{name}.ipynb")
    for name in ("conftest.py", "nbval_sanitize.cfg"):
        shutil.copy(FOLDER / name, folder / name)
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "nbval_sanitize.cfg", "-rA"]
    notebooks = [f"{name}.ipynb" for name in stored]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *notebooks]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_nbval_fails_on_a_changed_number_and_forgives_what_may_differ(tmp_path):
    right = {
        "same": "share 0.12345 -0.00 in 3.0 s\n",
        "rounded": "share 0.12349 -0.00 in 7.0 s\n",
        "zero": "share 0.12345  0.00 in 3.0 s\n",
    }
    wrong = {
        "other": "share 0.12445 -0.00 in 3.0 s\n",
        "sign": "share -0.12345 -0.00 in 3.0 s\n",
        "small": "share 0.12345 -0.01 in 3.0 s\n",
    }
    done = nbval(tmp_path, **right, **wrong)
    ends = re.findall(r"^(PASSED|FAILED) (?:\S*/)?(\w+)\.ipynb", done.stdout, flags=re.M)
    wanted = {("PASSED", name) for name in right} | {("FAILED", name) for name in wrong}
    assert len(ends) == len(wanted) and set(ends) == wanted, done.stdout
    assert done.returncode == 1 and "mismatch" in done.stdout
