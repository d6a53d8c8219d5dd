"""Build hook: a wheel also holds what lies beside the package in a checkout; kn_utils/base.py says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Bundled facts and models, notebooks and what runs them, named numbers of the stored runs.
BUNDLED = ("data", "notebooks/*.ipynb", "figures/*.json", "Snakefile", "requirements.lock")


class Bundle(BuildHookInterface):
    """Adds these files; an editable install reads them where they are."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before files are collected."""
        if version == "editable":
            return
        root = Path(self.root)
        for path in (path for pattern in BUNDLED for path in sorted(root.glob(pattern))):
            name = path.relative_to(root).as_posix()
            build_data["force_include"][name] = f"kn_utils/bundled/{name}"
