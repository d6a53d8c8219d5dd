"""Where numbers come from: versions, commits, digests of tables and files, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base import INSTALLED, ROOT, VERSION
from .code import code_version


def full_origin(origin: dict[str, Any], *made_by: Callable[..., object]) -> dict[str, Any]:
    """An origin as it is stored: with a digest of the code that makes the table, as JSON gives it back."""
    return json.loads(json.dumps({**origin, "code": code_version(*made_by)}))


def git_commit() -> str | None:
    """The commit this code was checked out at, or None outside git."""
    if INSTALLED:  # a repository that its environment may lie in is another one
        return None
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def versions_and_machine() -> pd.DataFrame:
    """What the numbers are computed with: versions, processor, memory, accelerator; column ``here``."""
    import platform

    import psutil
    import torch

    names = ("torch", "transformers", "numpy", "pandas", "scipy")
    memory = psutil.virtual_memory()
    cores = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    here = {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "kn_utils": VERSION,
        "processor": f"{platform.machine()}, {cores}",
        "threads": str(torch.get_num_threads()),
        "memory": f"{memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB free",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    return pd.DataFrame({"here": here})


def fingerprint(*contents: pd.DataFrame | Path) -> str:
    """A short digest of tables or files, by what is in them."""
    digest = hashlib.sha256()
    for content in contents:
        if isinstance(content, pd.DataFrame):
            digest.update(content.to_csv(index=False).encode())
        else:
            digest.update(Path(content).read_bytes())
    return digest.hexdigest()[:12]


def described(value: Any) -> Any:
    """What a table was made from, as its origin holds it: of tables and arrays a digest."""
    if isinstance(value, pd.DataFrame):
        return fingerprint(value)
    if isinstance(value, pd.Series | np.ndarray):
        return fingerprint(pd.DataFrame({"values": value}))
    if isinstance(value, Mapping):
        return {str(key): described(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], list):  # lists of names, which are long
        return fingerprint(pd.DataFrame({"values": [json.dumps(inner) for inner in value]}))
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
