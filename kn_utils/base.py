"""What every room needs and no library gives: places, switches, languages, and errors that users can read."""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "0.2.0"

_PACKAGE = Path(__file__).resolve().parent
#: An installed wheel has inside itself what lies beside the package in a checkout.
INSTALLED = (_PACKAGE / "bundled").is_dir()
ROOT = _PACKAGE / "bundled" if INSTALLED else _PACKAGE.parent
DATA = ROOT / "data"
RUNS = Path(os.environ.get("KN_RUNS", (Path.cwd() if INSTALLED else ROOT) / "runs"))

#: No progress bars, as where notebooks are run to store their outputs. tqdm reads this itself, but not in
#: notebooks.
QUIET = os.environ.get("TQDM_DISABLE", "") not in ("", "0")

#: The six languages of the study, in the order of its tables and figures.
LANGUAGES = ("en", "nl", "ja", "vi", "zh", "ko")


class StudyError(ValueError):
    """A mistake that the user can mend; the message says how. Notebooks show it as one line.

    Every error that is about what was asked for or given is one, so it can be caught by this name.

    Example:
        >>> from kn_utils import StudyError, load_facts
        >>> try:
        ...     load_facts("mini", relations=["P999"])
        ... except StudyError as error:
        ...     print(type(error).__name__)
        DataError
    """

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for its own rendering; ours needs no forty lines of frames.
        return [f"{type(self).__name__}: {self}"]
