"""Published files, brought whole into a cache folder by pooch.

The cache is ``KN_DATA``, else the platform's cache folder. Its layout is that of the repositories
(``jzbjyb/X-FACTR/data/...``, ``mlama1.1/en/...``), so it can be filled by hand. pooch downloads under
another name, checks, tries again, and moves a file into place when it is whole. Added here: several files at
once, one process at a time, git's blob ids, one line for every failure, and the licence notice.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import pooch
import pooch.hashes
from requests import RequestException
from tqdm.auto import tqdm

from ...base import QUIET
from ...store.cache import cache_folder
from ...store.locks import alone
from ..facts import DataError
from .catalogue import Collection, RemoteFile

WORKERS = 4  # files at once: most are small, and the server answers slower than it sends
RETRIES = 3  # after a broken or wrong transfer, with pauses of 1, 2 and 3 seconds
TIMEOUT = 30  # seconds without a byte
NOTES = ".kn_utils"  # our own files in the cache folder: locks, and which terms were told
TERMS = {
    "open": "",
    "non-commercial": "\n  terms     for non-commercial use only",
    "no licence stated": (
        "\n  terms     no licence is stated for it: do not pass it on without asking its authors"
    ),
}

_told: set[Path] = set()  # notices of this process, where the cache cannot be written

pooch.get_logger().setLevel("WARNING")  # else a line for each of 550 files


class DownloadError(DataError):
    """A published file that is not in the cache and could not be brought there; says what to do."""


class _GitBlob:
    """git's name of a content, computed as pooch asks a hash for it: with ``update`` and ``hexdigest``."""

    def __init__(self) -> None:
        self.content = bytearray()

    def update(self, chunk: bytes) -> None:
        self.content += chunk

    def hexdigest(self) -> str:
        named = b"blob %d\0" % len(self.content) + self.content
        return hashlib.sha1(named, usedforsecurity=False).hexdigest()


pooch.hashes.ALGORITHMS_AVAILABLE["blob"] = _GitBlob  # so that pooch knows ``blob:<hex>``


def fetch(collection: Collection, files: Sequence[RemoteFile], *, progress: bool = not QUIET) -> list[Path]:
    """The files' places in the cache, in the given order; what is missing or not whole is downloaded.

    The first time a collection is used in a cache, its licence and citation are printed (to stderr).

    Raises:
        DownloadError: a file cannot be had (its name, address, checksum and place are in the message), or the
            cache folder cannot be written.
    """
    root = cache_folder()
    places = [_place(root, file.path) for file in files]
    if not at_hand(files):
        lock = root / NOTES / f"{collection.name}.lock"
        waiting = f"another process is downloading {collection.name}; waiting for it"
        with _writing(root), alone(lock, waiting):
            _bring(root, collection, files, progress)
    if places:
        _announce(collection, root)
    return places


def at_hand(files: Sequence[RemoteFile]) -> bool:
    """Whether all these files are whole in the cache, so that :func:`fetch` needs no network."""
    root = cache_folder()
    return all(_whole(root, file) for file in files)


def fetch_members(
    collection: Collection, archive: RemoteFile, members: Sequence[str], *, progress: bool = not QUIET
) -> list[Path]:
    """Files out of a zip archive, unpacked into the cache under their names in the archive; only these are.

    The archive is needed (and kept) only if one of them is not there yet. Unlike ``pooch.Unzip`` this moves a
    file into place when it is whole: a half of one has no checksum that would tell.

    Raises:
        DownloadError: as :func:`fetch`; a member that the archive lacks; a name that climbs out of the cache.
    """
    root = cache_folder()
    places = {name: _place(root, name) for name in members}
    missing = [name for name, place in places.items() if not place.is_file()]
    if missing:
        try:
            (packed,) = fetch(collection, [archive], progress=progress)
        except DownloadError as error:
            raise DownloadError(f"{error} Or put what it holds under {root}, first {missing[0]}.") from None
        with _writing(root), tempfile.TemporaryDirectory(dir=root) as aside, ZipFile(packed) as opened:
            for name in missing:
                try:
                    unpacked = opened.extract(name, aside)  # never a link: those become text
                except (KeyError, BadZipFile) as error:
                    raise DownloadError(f"{packed} holds no whole {name} ({error}).") from None
                places[name].parent.mkdir(parents=True, exist_ok=True)
                os.replace(unpacked, places[name])
    _announce(collection, root)
    return [places[name] for name in members]


def _place(root: Path, path: str) -> Path:
    """The place of ``path`` under ``root``; one that could lie elsewhere is refused."""
    place = Path(os.path.normpath(root / path))
    if root not in place.parents:
        raise DownloadError(f"{path!r} does not stay inside the cache folder {root}; refused.")
    return place


def _whole(root: Path, file: RemoteFile) -> bool:
    """Whether the file is there with the right checksum (any content, where none is known)."""
    place = _place(root, file.path)
    try:
        return place.is_file() and pooch.hashes.hash_matches(str(place), file.checksum or None)
    except OSError:
        return False


def _bring(root: Path, collection: Collection, files: Sequence[RemoteFile], progress: bool) -> None:
    """Download what is missing, several files at once; the first failure ends it all."""
    missing = [file for file in dict.fromkeys(files) if not _whole(root, file)]
    keeper = pooch.create(
        root,
        base_url="",
        registry={file.path: file.checksum or None for file in missing},
        urls={file.path: file.url for file in missing},
        retry_if_failed=RETRIES,
    )
    single = len(missing) == 1  # its bar counts bytes, that of many counts files

    def bring(file: RemoteFile) -> None:
        try:
            keeper.fetch(file.path, _readable, pooch.HTTPDownloader(progress and single, timeout=TIMEOUT))
        except RequestException as error:
            raise DownloadError(_by_hand(root, file, _cause(error), len(missing))) from None
        except ValueError:
            why = "the address gives other bytes than the checksum says"
            raise DownloadError(_by_hand(root, file, why, len(missing))) from None

    for file in missing:  # before the threads: in pooch one loses the race to make a folder
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        brought = pool.map(bring, missing)  # when one fails, those that have not begun are cancelled
        hidden = single or not progress
        for _ in tqdm(brought, collection.name, len(missing), unit="file", disable=hidden):
            pass


def _readable(name: str, action: str, keeper: pooch.Pooch) -> str:
    """Open to whom its folder is open: in pooch's own way only its owner could read it in a shared cache."""
    os.chmod(name, os.stat(os.path.dirname(name)).st_mode & 0o666)
    return name


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Turns trouble with the cache folder into one message."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"cannot write to the cache folder {root}: {_cause(error)}. "
            "Free space or mend its permissions, or set KN_DATA to another folder."
        ) from error


def _cause(error: BaseException) -> str:
    """The innermost error of a chain, on one line: "Connection refused", not the four wrappings around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def _by_hand(root: Path, file: RemoteFile, why: str, missing: int) -> str:
    place = root / file.path
    wrong = " (the file there has another checksum)" if place.exists() else ""
    others = f" It is one of {missing} that were missing." if missing > 1 else ""
    return (
        f"cannot download {file.path}: {why}. Run again with a network, or put it there by hand (see "
        f"data/README.md): address {file.url}, checksum {file.checksum or 'not known'}, place {place}{wrong}."
        f"{others}"
    )


def _announce(collection: Collection, root: Path) -> None:
    """Licence, terms and citation, once per cache (once per process where the cache cannot be written)."""
    marker = root / NOTES / f"{collection.name}.told"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch(exist_ok=False)  # of two processes one makes it, and tells
    except FileExistsError:
        return
    except OSError:
        if marker in _told:
            return
        _told.add(marker)
    print(
        f"{collection.title}\n  from      {collection.address}\n  licence   {collection.licence}"
        f"{TERMS[collection.terms]}\n  cite      {collection.citation}\n  kept in   {root}",
        file=sys.stderr,
    )
