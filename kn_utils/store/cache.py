"""The folder outside the project where things are kept that can be had again: downloads, converted models."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """``KN_DATA`` if set, else ``kn_utils`` in the platform's cache folder.

    That is ``~/.cache`` (or ``XDG_CACHE_HOME``) on Linux, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%``
    on Windows. Nothing is made; the folder may not be there yet.
    """
    if named := os.environ.get("KN_DATA"):
        return Path(os.path.abspath(Path(named).expanduser()))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "kn_utils" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kn_utils"
    named = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(named) if named else Path.home() / ".cache") / "kn_utils"
