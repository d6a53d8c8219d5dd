"""For nbval: kernels start one after the other (``-p one_kernel_at_a_time``, with this folder on the path).

Two that start in the same moment may be given the same port, and one of them dies before it answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbval.kernel
from filelock import FileLock

_start = nbval.kernel.start_new_kernel


def _alone(*given: Any, **options: Any) -> Any:
    with FileLock(Path(tempfile.gettempdir()) / "kn_utils-nbval-kernel.lock"):
        return _start(*given, **options)


nbval.kernel.start_new_kernel = _alone
