"""Docstrings as Markdown: our references (``:func:`name```) become code, ``Example:`` a block of its own."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|func|class|meth|data|attr):`(?:~[\w.]+\.|\.)?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites every docstring of the package when it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """One module, class, function or attribute."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
