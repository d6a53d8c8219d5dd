"""One file over HTTP: gone on with after a break, checked, and put in place only when whole.

The bytes go to ``.<name>.<checksum>.part`` beside the place. A broken transfer is tried again from where it
stopped; a server that cannot go on from there is read from the beginning. What does not match the checksum is
thrown away.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path
from typing import Any

import pooch
from requests import HTTPError, RequestException
from tqdm.auto import tqdm

ATTEMPTS = 4  # in a row that bring nothing new
PAUSE = 0.5  # seconds before the second attempt, doubled each time
PATIENCE = 60  # seconds at most that a busy server may ask to wait
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 16
BUSY = {408, 425, 429, 500, 502, 503, 504}


class TransferError(Exception):
    """A file that did not come; the message says why, in words that follow a colon."""


class Stopped(Exception):
    """The transfer was told to end, because another failed."""


def digest(place: Path, checksum: str) -> str:
    """The file's checksum, of the kind that ``checksum`` is of: ``sha256:<hex>`` or git's ``blob:<hex>``."""
    kind = checksum.partition(":")[0]
    sums = {"sha256": hashlib.sha256, "blob": hashlib.sha1}[kind]()
    if kind == "blob":
        sums.update(b"blob %d\0" % place.stat().st_size)
    with place.open("rb") as content:
        while chunk := content.read(1 << 20):
            sums.update(chunk)
    return f"{kind}:{sums.hexdigest()}"


def bring(url: str, place: Path, checksum: str, size: int | None, bar: tqdm, stop: threading.Event) -> None:
    """Download ``url`` to ``place``. Not for two at once: the caller sees to that.

    Raises:
        TransferError: no connection, a refusal, or other bytes than the checksum's.
        Stopped: ``stop`` was set meanwhile.
        OSError: it cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    name = place.with_name(f".{place.name}.{checksum.partition(':')[2][:12]}.part")
    failures = wrong = 0
    with _Part(name, size, bar, stop) as part:
        furthest = part.held
        while True:
            problem, wait = _ask(url, part) if part.held != size else (None, 0)
            if problem is None and size not in (None, part.held):
                problem = f"the connection ended after {part.held} of {size} bytes"
            elif problem is None:
                if digest(name, checksum) == checksum:
                    break
                part.restart()
                wrong += 1
                problem = "the address gives other bytes than the checksum says"
            failures = 0 if part.held > furthest else failures + 1
            furthest = max(furthest, part.held)
            if failures == ATTEMPTS or wrong == 2:
                raise TransferError(problem)
            if stop.wait(max(wait, PAUSE * 2 ** (failures - 1))):
                raise Stopped
    os.replace(name, place)


def _ask(url: str, part: _Part) -> tuple[str | None, float]:
    """One request for what is missing: what went wrong (None if nothing did), and how long the server says to
    wait."""
    headers = {
        "Accept-Encoding": "identity"
    }  # ranges count the bytes that we keep, not those of a packed stream
    if part.held:
        headers["Range"] = f"bytes={part.held}-"
    download = pooch.HTTPDownloader(
        chunk_size=CHUNK, timeout=TIMEOUT, headers=headers, hooks={"response": part.begin}
    )
    try:
        download(url, part, None)
    except HTTPError as error:
        code, reason = error.response.status_code, error.response.reason
        if code == 416:  # nothing lies behind what we hold: the checksum decides
            return None, 0
        if code in BUSY:
            asked = error.response.headers.get("Retry-After", "")
            return f"the server answers {code} {reason}", min(
                float(asked), PATIENCE
            ) if asked.isdigit() else 0
        raise TransferError(f"the server answers {code} {reason}") from error
    except RequestException as error:
        return f"no connection, or it broke ({cause(error)})", 0
    return None, 0


def cause(error: BaseException) -> str:
    """The innermost error of a chain: "Connection refused", not the four wrappings around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error) or type(error).__name__


class _Part:
    """The bytes held so far: counts them, moves the bar, and can begin again. pooch writes to it as to a
    file."""

    def __init__(self, name: Path, limit: int | None, bar: tqdm, stop: threading.Event):
        self.limit, self.bar, self.stop = limit, bar, stop
        self.name, self.file = name, name.open("ab")
        self.held = self.file.tell()
        self.bar.update(self.held)
        if limit is not None and self.held > limit:
            self.restart()

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, failed: Any, *_: Any) -> None:
        self.file.close()
        if failed and not self.held:
            self.name.unlink()

    def begin(self, response: Any, **_: Any) -> None:
        """Called with the head of each answer: does it go on where we stopped?"""
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        goes_on = response.status_code == 206 and start is not None and int(start.group(1)) == self.held
        if response.status_code == 200:
            self.restart()
        elif response.status_code == 206 and not goes_on:
            self.restart()
            raise RequestException("the server answered for another part of the file")

    def write(self, chunk: bytes) -> None:
        if self.stop.is_set():
            raise Stopped
        if self.limit is not None and self.held + len(chunk) > self.limit:
            self.restart()
            raise RequestException("the server sends more bytes than the file has")
        self.file.write(chunk)
        self.held += len(chunk)
        self.bar.update(len(chunk))

    def flush(self) -> None:
        self.file.flush()

    def restart(self) -> None:
        if not self.held:
            return
        self.file.truncate(0)
        self.bar.update(-self.held)
        self.held = 0
