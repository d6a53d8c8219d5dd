"""Where numbers come from: versions, commits, digests of tables and files, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import ROOT
from .code import code_version


def full_origin(origin: dict[str, Any], *made_by: Callable[..., object]) -> dict[str, Any]:
    """An origin as it is stored: with a digest of the code that makes the table, and as JSON gives it
    back."""
    return json.loads(json.dumps({**origin, "code": code_version(*made_by)}))


def package_version() -> str:
    try:
        return version("kn_utils")
    except PackageNotFoundError:  # a copy that is not installed, as on a borrowed machine
        return "0"


def git_commit() -> str | None:
    """The commit this code was checked out at, or None outside git."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def machine() -> pd.DataFrame:
    """What the numbers are computed with: versions, processor, memory, accelerator."""
    import platform

    import psutil
    import torch

    names = ("torch", "transformers", "numpy", "pandas", "scipy")
    facts = (
        {"python": platform.python_version()}
        | {name: version(name) for name in names}
        | {"kn_utils": package_version()}
    )
    facts["processor"] = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    )
    facts["threads"] = str(torch.get_num_threads())
    facts["memory"] = (
        f"{psutil.virtual_memory().available / 2**30:.0f} of {psutil.virtual_memory().total / 2**30:.0f} GiB "
        f"free"
    )
    facts["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return pd.DataFrame({"here": facts})


def fingerprint(*things: pd.DataFrame | Path) -> str:
    """Short digest of tables or files."""
    digest = hashlib.sha256()
    for thing in things:
        digest.update(
            thing.to_csv(index=False).encode()
            if isinstance(thing, pd.DataFrame)
            else Path(thing).read_bytes()
        )
    return digest.hexdigest()[:12]
