"""Published files, brought whole into a cache folder.

The cache is ``KN_DATA``, else the platform's cache folder. Its layout is that of the repositories
(``jzbjyb/X-FACTR/data/...``, ``mlama1.1/en/...``), so it can be filled by hand. A file counts only if its
size and checksum are right; it is written under another name and moved into place when whole, so whatever
interrupts a download leaves at most a ``.part`` file, from which the next run goes on.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import Any

import pooch
import requests
from tqdm.auto import tqdm

from ...base import QUIET
from ...store.locks import alone
from ..facts import DataError
from .catalogue import Collection, RemoteFile
from .transfer import TIMEOUT, TransferError, bring, cause, digest

WORKERS = 4  # files at once: most are small, and the server answers slower than it sends
TREES = "https://api.github.com/repos/{repository}/git/trees/{commit}?recursive=1"
NOTES = ".kn_utils"  # our own notes in the cache folder

_told: set[tuple[str, str]] = set()


class DownloadError(DataError):
    """A published file that is not in the cache and could not be brought there; the message says what to
    do."""


def cache_folder() -> Path:
    """Where published files are kept: ``KN_DATA`` if set, else the platform's cache folder."""
    named = os.environ.get("KN_DATA")
    return Path(named).expanduser() if named else Path(pooch.os_cache("kn_utils"))


def fetch(collection: Collection, files: Sequence[RemoteFile], *, progress: bool = not QUIET) -> list[Path]:
    """The files' places in the cache, in the given order; what is missing or not whole is downloaded.

    The first time a collection is used in a cache, its licence and citation are printed (to stderr).

    Raises:
        DownloadError: a file cannot be had (its name, address, checksum and place are in the message), or the
            cache folder cannot be written.
    """
    root = cache_folder()
    places = [_inside(root, file.path) for file in files]
    if not places:
        return []
    notes = _Notes(root, collection.name)
    if missing := notes.missing(files):
        with _writing(root), _alone(root, collection.name):
            notes = _Notes(root, collection.name)
            if missing := notes.missing(missing):  # another process may have brought them meanwhile
                _bring(root, collection, missing, notes, progress)
            _announce(collection, notes)
    elif not notes.told:
        with suppress(OSError), _alone(root, collection.name):  # so that of two processes one tells it
            notes.save()
            notes = _Notes(root, collection.name)
            _announce(collection, notes)
    _announce(collection, notes)
    return places


def at_hand(collection: Collection, files: Sequence[RemoteFile]) -> bool:
    """Whether all these files are whole in the cache, so that :func:`fetch` needs no network."""
    notes = _Notes(cache_folder(), collection.name)
    missing = notes.missing(files)
    notes.save()
    return not missing


def fetch_members(
    collection: Collection, archive: RemoteFile, members: Sequence[str], *, progress: bool = not QUIET
) -> list[Path]:
    """Files out of a zip archive, unpacked into the cache under their names in the archive; only these are.

    The archive is needed (and kept) only if one of them is not there yet.

    Raises:
        DownloadError: as :func:`fetch`; a member that the archive lacks, that is a link, or whose name climbs
        out.
    """
    root = cache_folder()
    places = [_inside(root, name) for name in members]
    missing = [name for name, place in zip(members, places, strict=True) if not place.is_file()]
    if missing:
        try:
            (packed,) = fetch(collection, [archive], progress=progress)
        except DownloadError as error:
            raise DownloadError(f"{error}\nOr put what it holds under {root}, first {missing[0]}.") from None
        with _writing(root):
            _unpack(packed, missing, root)
    _announce(collection, _Notes(root, collection.name))
    return places


def _inside(root: Path, path: str) -> Path:
    """The place of ``path`` under ``root``; one that could lie elsewhere is refused."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0]:
        raise DownloadError(f"{path!r} does not stay inside the cache folder {root}; refused.")
    return root.joinpath(*parts)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Turns trouble with the cache folder into one message."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"cannot write to the cache folder {root}: {error.strerror or error}. "
            "Free space or mend its permissions, or set KN_DATA to another folder."
        ) from error


def _alone(root: Path, name: str) -> AbstractContextManager[None]:
    return alone(root / NOTES / f"{name}.lock", f"another process is downloading {name}; waiting for it")


@contextmanager
def _moved(place: Path) -> Iterator[Path]:
    """A name of this process beside ``place`` that becomes ``place`` when the block ends well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    other = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield other
        os.replace(other, place)
    finally:
        with suppress(OSError):
            other.unlink()


class _Notes:
    """What is known about a collection's files in a cache: which were whole, when, and whether its terms were
    told.

    A file is hashed once; as long as its size and time of change stay, it is whole. In a cache that cannot be
    written nothing is noted, and files are hashed once per process start.
    """

    def __init__(self, root: Path, name: str):
        self.root, self.place = root, root / NOTES / f"{name}.json"
        self.whole: dict[str, list[Any]] = {}
        self.told = False
        self._changed = False
        with suppress(OSError, ValueError, KeyError, TypeError):  # a broken note is no note
            stored = json.loads(self.place.read_text(encoding="utf-8"))
            self.whole, self.told = dict(stored["whole"]), bool(stored["told"])

    def missing(self, files: Sequence[RemoteFile]) -> list[RemoteFile]:
        """The files that are not there, or not whole; each once."""
        return [file for file in dict.fromkeys(files) if not self.holds(file)]

    def holds(self, file: RemoteFile) -> bool:
        place, file = _inside(self.root, file.path), _resolved(self.root, file)
        try:
            found = place.stat()
            if not stat.S_ISREG(found.st_mode) or file.size not in (None, found.st_size):
                return False
            if file.checksum.startswith("tree:"):  # put there by hand, and no list to judge it by
                return True
            state = [found.st_size, found.st_mtime_ns, file.checksum]
            if self.whole.get(file.path) == state:
                return True
            if digest(place, file.checksum) != file.checksum:
                return False
        except OSError:
            return False
        self.whole[file.path] = state
        self._changed = True
        return True

    def tell(self) -> None:
        self.told = self._changed = True

    def save(self) -> None:
        if not self._changed:
            return
        now = _Notes(self.root, self.place.stem)  # what another process noted meanwhile
        content = {"told": self.told or now.told, "whole": {**now.whole, **self.whole}}
        with suppress(OSError), _moved(self.place) as other:
            other.write_text(json.dumps(content, indent=0), encoding="utf-8")
        self._changed = False


def _bring(
    root: Path, collection: Collection, missing: list[RemoteFile], notes: _Notes, progress: bool
) -> None:
    """Download what is missing, several files at once; the first failure ends it all."""
    for file in missing:
        try:
            _list_tree(root, file)
        except TransferError as error:
            raise DownloadError(_by_hand(root, collection, file, len(missing), str(error))) from None
    wanted = [_resolved(root, file) for file in missing]
    sizes = [file.size for file in wanted]
    stop = threading.Event()
    total = None if None in sizes else sum(sizes)
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc=collection.name, disable=not progress) as bar,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        jobs = {
            pool.submit(bring, file.url, root / file.path, file.checksum, file.size, bar, stop): file
            for file in wanted
        }
        try:
            for job in as_completed(jobs):
                job.result()
        except TransferError as error:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise DownloadError(
                _by_hand(root, collection, jobs[job], len(notes.missing(missing)), str(error))
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            notes.missing(missing)  # notes what came
            notes.save()


def _by_hand(root: Path, collection: Collection, file: RemoteFile, missing: int, why: str) -> str:
    place = root / file.path
    wrong = "  (the file there has another size or checksum)" if place.exists() else ""
    others = f"\nOther files of {collection.name!r} that are missing: {missing - 1}." if missing > 1 else ""
    return (
        f"cannot download {file.path}: {why}.\n  address   {file.url}\n  checksum  {file.checksum}\n"
        f"  place     {place}{wrong}{others}\n"
        "Run again with a network, or put the files there by hand (see data/README.md)."
    )


def _unpack(packed: Path, members: Sequence[str], root: Path) -> None:
    try:
        with zipfile.ZipFile(packed) as archive:
            for name in members:
                if name not in archive.NameToInfo:
                    raise DownloadError(f"{packed.name} holds no {name}.")
                kind = stat.S_IFMT(
                    archive.getinfo(name).external_attr >> 16
                )  # 0 where the archive does not say
                if archive.getinfo(name).is_dir() or kind not in (0, stat.S_IFREG):
                    raise DownloadError(
                        f"{name} in {packed.name} is a folder or a link, not a file; refused."
                    )
                with (
                    _moved(_inside(root, name)) as place,
                    archive.open(name) as source,
                    place.open("wb") as out,
                ):
                    copyfileobj(source, out)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{packed} is damaged ({error}); delete it and run again.") from error


def _resolved(root: Path, file: RemoteFile) -> RemoteFile:
    """The file with blob and size from its commit's list of files, where that is needed and at hand."""
    kind, _, tree = file.checksum.partition(":")
    if kind != "tree":
        return file
    try:
        listed = json.loads(_list_place(root, tree).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return file
    inside = file.path.removeprefix(tree.partition("@")[0] + "/")
    if inside not in listed:
        raise DownloadError(f"{inside} is not in {tree}.")
    blob, size = listed[inside]
    return replace(file, checksum=f"blob:{blob}", size=size)


def _list_place(root: Path, tree: str) -> Path:
    return root / NOTES / "trees" / f"{tree.replace('/', '--')}.json"


def _list_tree(root: Path, file: RemoteFile) -> None:
    """Ask GitHub, once, for the blobs and sizes of the commit that a ``tree:`` checksum names."""
    kind, _, tree = file.checksum.partition(":")
    if kind != "tree" or _resolved(root, file) is not file:
        return
    repository, _, commit = tree.partition("@")
    address = TREES.format(repository=repository, commit=commit)
    try:
        answer = requests.get(address, timeout=TIMEOUT)
        answer.raise_for_status()
        blobs = [entry for entry in answer.json()["tree"] if entry["type"] == "blob"]
        listed = {blob["path"]: [blob["sha"], blob["size"]] for blob in blobs}
    except (requests.RequestException, KeyError, TypeError) as error:
        raise TransferError(
            f"its repository's list of files, {address}, cannot be read ({cause(error)})"
        ) from error
    with _moved(_list_place(root, tree)) as place:
        place.write_text(json.dumps(listed), encoding="utf-8")


def _announce(collection: Collection, notes: _Notes) -> None:
    """Licence, terms and citation, once per cache (once per process where the cache cannot be written)."""
    here = (str(notes.root), collection.name)
    if not notes.told and here not in _told:
        _told.add(here)
        terms = {
            "open": "",
            "non-commercial": "\n  terms     for non-commercial use only",
            "no licence stated": (
                "\n  terms     no licence is stated for it: do not pass it on without asking its authors"
            ),
        }[collection.terms]
        print(
            f"{collection.title}\n  from      {collection.address}\n  licence   {collection.licence}{terms}"
            f"\n  cite      {collection.citation}\n  kept in   {notes.root}",
            file=sys.stderr,
        )
        notes.tell()
    notes.save()
