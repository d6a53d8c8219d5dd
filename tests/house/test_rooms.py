"""What the numerical rooms may import: torch, transformers, numpy, pandas, scipy, pyarrow, tqdm, and what
these bring."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement

from kn_utils.base import ROOT

PACKAGE = ROOT / "kn_utils"
ROOMS = [
    "models",
    "kernel",
    "precision",
    "batching",
    "streaming",
    "attribution",
    "neurons",
    "interventions",
    "evaluation",
    "updates",
    "editing",
    "erasing",
    "activating",
    "statistics",
    "sharing",
    "resampling",
    "benchmark",
]
ALLOWED = {"torch", "transformers", "numpy", "pandas", "scipy", "pyarrow", "tqdm"}
BROUGHT = {"huggingface_hub", "safetensors", "tokenizers"}  # transformers' own way to files and weights
#: Requirements that transformers or torch import themselves: they cannot be taken away, only looked for in
#: our source.
NEEDED = {"filelock", "packaging", "pyyaml", "setuptools"}


def absent() -> list[str]:
    """Modules of every other declared requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        Requirement(one).name for one in project["dependencies"] + project["optional-dependencies"]["dev"]
    }
    modules = {name.replace("-", "_") for name in names - NEEDED}
    return sorted(modules - ALLOWED - BROUGHT | {"IPython", "nbclient"})


def imports_of(room: str) -> tuple[set[str], set[str]]:
    """Packages that a room imports, and the rooms of ours; a numerical room is read into its functions
    too."""
    tree = ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))
    outside, ours = set(), set()
    for node in ast.walk(tree) if room in ROOMS else tree.body:
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            ours |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module.partition(".")[0])
    return outside, ours


def test_sources_name_nothing_else():
    waiting, seen = list(ROOMS), set()
    while waiting:
        room = waiting.pop()
        seen.add(room)
        outside, ours = imports_of(room)
        extra = outside - ALLOWED - BROUGHT - set(sys.stdlib_module_names)
        assert not extra, f"kn_utils/{room}.py imports {sorted(extra)}"
        waiting += sorted(ours - seen)
    assert {"base", "facts", "artifacts"} <= seen  # what the rooms stand on is looked at too
    assert not {"config", "sources", "pipeline", "plots"} & seen


def test_they_work_where_nothing_else_is_installed():
    gone = absent()
    assert {"pydantic", "psutil", "pooch", "requests", "seaborn", "matplotlib", "papermill", "captum"} <= set(
        gone
    )
    code = f"""
import sys
sys.modules.update(dict.fromkeys({gone}))  # None: an import of it fails
from importlib import import_module
for room in {ROOMS}:
    import_module("kn_utils." + room)
from kn_utils import attribute, load_model, refine
from kn_utils.benchmark import sample_prompts
model = load_model("mini", device="cpu")
prompts = sample_prompts(model, 2)
scores = attribute(model, prompts, progress=False)
print(len(scores) > 0, sorted(set({gone}) & {{name for name, module in sys.modules.items() if module is not None}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("True []")
