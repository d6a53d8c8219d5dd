"""One process at a time: a lock between processes that the system frees even when its holder is killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .files import ArtifactError


class LockError(ArtifactError, OSError):
    """A lock that cannot be had; also an ``OSError``, for those who know more of the place to tell."""


@contextmanager
def alone(place: Path, waiting: str) -> Iterator[None]:
    """Inside, no other process is in a block of the same lock file.

    While one is, say what is waited for, and wait.

    Raises:
        LockError: the lock's folder cannot be written.
    """
    lock = FileLock(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=1)
    except Timeout:
        print(waiting, file=sys.stderr)
        lock.acquire()
    except OSError as error:
        raise LockError(
            f"cannot write to {place.parent}: {error.strerror or error}. Free space or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
