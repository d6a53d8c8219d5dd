"""Downloads from a server that truncates, corrupts, stalls, refuses; caches full, closed, tampered with."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pooch
import pytest

from kn_utils.base import ROOT
from kn_utils.data.downloads import fetch as downloads
from kn_utils.data.downloads.catalogue import COLLECTIONS, COMMITS, Collection, RemoteFile, index
from kn_utils.data.downloads.fetch import DownloadError, at_hand, cache_folder, fetch, fetch_members

BODY = bytes(range(256)) * 1024  # 256 KiB
TESTS = Collection(
    "tests", "Files for tests", "none stated", "no licence stated", "Nobody (2000)", "http://localhost"
)
KN_RAW = os.environ.get("KN_RAW")
TRIES = downloads.RETRIES + 1


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``plan[path]`` lists how to misbehave, one entry a request, the last one for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plan: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.base = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):  # a client that went away is what we test
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path, server = unquote(self.path).lstrip("/"), self.server
        server.asked.append(path)
        plan = server.plan.get(path, ["whole"])
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        if how == "no answer":
            return
        if how == "nonsense":
            self.wfile.write(b"This is no HTTP\r\n\r\n")
            return
        if how == "redirects for ever":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        if how.isdigit():
            self.send_response(int(how))
            self.end_headers()
            return
        body = server.files[path]
        body = {
            "flipped": body[:-1] + b"?",
            "longer": body + b"more",
            "another page": b"<html>Please sign in</html>",
            "empty": b"",
        }.get(how, body)
        self.send_response(200)
        if how != "ends early, no length":
            self.send_header("Content-Length", str(len(body)))
        if how == "not what it is packed as":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        sent = body[: len(body) // 2] if how.startswith(("ends early", "stalls")) else body
        step = 4096 if how == "slow" else len(BODY)
        for at in range(0, len(sent), step):
            self.wfile.write(sent[at : at + step])
            if how == "slow":
                time.sleep(0.02)
        if how == "stalls":
            time.sleep(1)


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder; short waits."""
    monkeypatch.setenv("KN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(downloads, "TIMEOUT", 0.4)
    monkeypatch.setattr(downloads, "_told", set())
    return tmp_path / "cache"


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.fixture
def publish(server):
    """Puts a file on the server, to be served in the given ways."""

    def publish(path="owner/repo/file.txt", body=BODY, plan=("whole",), checksum=None) -> RemoteFile:
        server.files[path], server.plan[path] = body, list(plan)
        return RemoteFile(path, f"{server.base}/{path}", sha256(body) if checksum is None else checksum)

    return publish


def get(*files: RemoteFile) -> list[Path]:
    return fetch(TESTS, files, progress=False)


def held(cache: Path) -> set[str]:
    """What lies in the cache but for our own notes."""
    files = (place.relative_to(cache) for place in cache.rglob("*") if place.is_file())
    return {place.as_posix() for place in files if place.parts[0] != downloads.NOTES}


# What is served well


def test_files_arrive_whole_at_their_places_and_are_not_asked_for_again(server, cache, publish):
    files = [publish(f"owner/repo/a folder/{n} é.json", BODY[n:]) for n in range(6)] + [
        publish("owner/repo/empty", b"")
    ]
    places = get(*files)
    assert [place.relative_to(cache).as_posix() for place in places] == [file.path for file in files]
    assert [place.read_bytes() for place in places] == [server.files[file.path] for file in files]
    assert held(cache) == {file.path for file in files} and at_hand(files)
    asked = len(server.asked)
    assert get(*files) == places and len(server.asked) == asked


def test_a_bar_of_bytes_for_one_file_of_files_for_several(cache, publish, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    files = [publish(f"owner/repo/{n}", BODY[n:]) for n in range(3)]
    fetch(TESTS, files[:1], progress=True)
    assert "262k/262k" in capsys.readouterr().err
    fetch(TESTS, files, progress=True)
    shown = capsys.readouterr().err
    assert "tests: 100%" in shown and "2/2" in shown and at_hand(files)


def test_several_files_come_at_once(server, cache, publish, monkeypatch):
    """Each answer waits until four are asked for; one after the other they would never come."""
    together = threading.Barrier(downloads.WORKERS, timeout=5)
    whole = Handler.do_GET
    monkeypatch.setattr(Handler, "do_GET", lambda self: (together.wait(), whole(self)))
    files = [publish(f"owner/{n}/file", BODY[n:]) for n in range(2 * downloads.WORKERS)]
    get(*files)
    assert at_hand(files)


def test_threads_do_not_race_for_a_folder(cache, publish, monkeypatch):
    """pooch looks whether a folder exists, and fails if another thread makes it in between."""
    monkeypatch.setattr(pooch.core.os, "makedirs", lambda *_, **__: pytest.fail("pooch makes a folder"))
    get(*[publish(f"owner/repo/{n % 3}/deep/{n}", BODY[n:]) for n in range(6)])


def test_blob_is_git_s_own_name_of_the_content(cache, publish, tmp_path):
    (tmp_path / "content").write_bytes(BODY)
    blob = subprocess.run(
        ["git", "hash-object", tmp_path / "content"], capture_output=True, text=True, check=True
    ).stdout
    file = publish(checksum=f"blob:{blob.strip()}")
    assert get(file)[0].read_bytes() == BODY
    (cache / file.path).write_bytes(BODY + b"x")
    assert not at_hand([file]) and get(file)[0].read_bytes() == BODY
    other = publish("owner/repo/other", BODY + b"x", checksum=f"blob:{blob.strip()}")
    with pytest.raises(DownloadError, match="other bytes"):
        get(other)


def test_without_a_known_checksum_what_comes_or_lies_there_is_taken(server, cache, publish):
    file = publish(checksum="", plan=["ends early", "whole"])
    assert get(file)[0].read_bytes() == BODY and len(server.asked) == 2
    (cache / file.path).write_bytes(b"by hand")
    assert get(file)[0].read_bytes() == b"by hand" and len(server.asked) == 2
    with pytest.raises(DownloadError, match="checksum not known"):
        get(publish("owner/repo/other", checksum="", plan=["404"]))


def test_cache_folder_is_kn_data_else_the_platform_s(monkeypatch, tmp_path):
    monkeypatch.setenv("KN_DATA", "~/facts")
    assert cache_folder() == Path.home() / "facts"
    monkeypatch.setenv("KN_DATA", "some/../facts")
    assert cache_folder() == Path.cwd() / "facts"
    monkeypatch.delenv("KN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "kn_utils" and cache_folder().is_absolute()


@pytest.mark.skipif(os.name != "posix", reason="rights of files are POSIX's")
def test_others_can_read_what_comes_where_they_can_read_its_folder(cache, publish):
    before = os.umask(0o027)
    try:
        place = get(publish())[0]
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o640


# What is served badly

BROKEN = [
    "ends early",
    "ends early, no length",
    "flipped",
    "longer",
    "empty",
    "another page",
    "not what it is packed as",
    "stalls",
    "no answer",
    "nonsense",
    "redirects for ever",
    "404",
    "429",
    "500",
    "503",
]


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_a_download_that_breaks_once_or_twice_ends_whole(server, cache, publish, how):
    once = publish("owner/repo/once", plan=[how, "whole"])
    twice = publish("owner/repo/twice", plan=[how, how, "whole"])
    assert [place.read_bytes() for place in get(once, twice)] == [BODY, BODY]
    assert held(cache) == {once.path, twice.path}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_a_download_that_breaks_for_ever_ends_in_one_line(server, cache, publish, how):
    file = publish(plan=[how])
    with pytest.raises(DownloadError) as caught:
        get(file)
    message = str(caught.value)
    assert message.startswith(f"cannot download {file.path}: ") and "\n" not in message
    assert all(part in message for part in (file.url, file.checksum, f"place {cache / file.path}."))
    assert held(cache) == set() and not at_hand([file])
    assert len(server.asked) == TRIES or how == "redirects for ever"


@pytest.mark.slow
def test_the_line_names_the_innermost_cause(cache, publish):
    for how, why in {
        "ends early": "IncompleteRead",
        "flipped": "the address gives other bytes than the checksum says",
        "stalls": "timed out",
        "404": "404 Client Error: Not Found",
    }.items():
        with pytest.raises(DownloadError, match=f"file.txt: .*{why}"):
            get(publish(plan=[how]))


def test_without_a_network_one_line_says_what_is_missing_and_where_to_put_it(cache, publish):
    whole = get(publish())[0]
    files = [
        RemoteFile(f"owner/repo/{n}.txt", f"http://127.0.0.1:9/{n}.txt", sha256(b"x")) for n in range(12)
    ]
    with pytest.raises(DownloadError) as caught:
        get(*files)
    message = str(caught.value)
    named = re.search(r"owner/repo/(\d+)\.txt", message).group(1)
    assert f"http://127.0.0.1:9/{named}.txt" in message and sha256(b"x") in message
    assert str(cache / f"owner/repo/{named}.txt") in message and "Connection refused" in message
    assert (
        message.endswith("one of 12 that were missing.")
        and message.count("owner/repo/") == 2
        and "\n" not in message
    )
    assert whole.exists() and held(cache) == {"owner/repo/file.txt"}
    (cache / "owner/repo/0.txt").write_text("y")
    with pytest.raises(DownloadError, match="the file there has another checksum"):
        get(files[0])
    assert (cache / "owner/repo/0.txt").read_text() == "y", "what lay there is replaced only by a whole file"


def test_one_that_fails_keeps_those_that_came_and_ends_the_others(server, cache, publish):
    files = [publish(f"owner/repo/{n}", BODY[n:], plan=["404"] if n == 2 else ["whole"]) for n in range(60)]
    with pytest.raises(DownloadError, match="owner/repo/2: 404"):
        get(*files)
    assert at_hand(files[:2]) and len(set(server.asked)) < 60
    server.plan["owner/repo/2"] = ["whole"]
    asked = len(set(server.asked) - {"owner/repo/2"})
    server.asked.clear()
    get(*files)
    assert at_hand(files) and len(server.asked) == 60 - asked


# Caches that are filled by hand, tampered with, closed, full


def test_a_cache_filled_by_hand_needs_no_network(cache):
    file = RemoteFile("owner/repo/file.txt", "http://127.0.0.1:9/", sha256(BODY))
    (cache / "owner/repo").mkdir(parents=True)
    (cache / file.path).write_bytes(BODY)
    assert get(file) == [cache / file.path]


def test_a_file_that_changed_is_brought_again(cache, publish):
    file = publish()
    for changed in (BODY[:-1] + b"?", BODY[: len(BODY) // 2], b""):
        get(file)[0].write_bytes(changed)
        assert not at_hand([file])
    assert get(file)[0].read_bytes() == BODY


def test_a_linked_file_is_replaced_not_written_through(cache, publish, tmp_path):
    own = tmp_path / "own.txt"
    own.write_bytes(b"not to be touched")
    file = publish()
    (cache / file.path).parent.mkdir(parents=True)
    (cache / file.path).symlink_to(own)
    assert get(file)[0].read_bytes() == BODY and own.read_bytes() == b"not to be touched"


@contextmanager
def closed(folder: Path):
    """A folder that this process may read but not write: root gives up its rights for it."""
    for place in [folder, *folder.rglob("*")]:
        place.chmod(0o555 if place.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place in [folder, *folder.rglob("*")]:
            place.chmod(0o755)


def test_a_closed_cache_can_be_read_and_says_so_when_it_should_be_written(
    publish, cache, monkeypatch, capsys
):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        monkeypatch.setenv("KN_DATA", name)
        file = publish()
        (folder / "owner/repo").mkdir(parents=True)
        (folder / file.path).write_bytes(BODY)
        with closed(folder):
            assert get(file) == get(file) == [folder / file.path]
            assert capsys.readouterr().err.count("Nobody (2000)") == 1, (
                "told once although it cannot be noted"
            )
            with pytest.raises(DownloadError, match=f"cannot write to the cache folder {name}: .*KN_DATA"):
                get(publish("owner/repo/other.txt"))
        assert [place.name for place in folder.rglob("*") if place.is_file()] == ["file.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(publish, cache, monkeypatch):
    file = publish()
    with monkeypatch.context() as full:
        bring = pooch.HTTPDownloader.__call__
        full.setattr(
            pooch.HTTPDownloader,
            "__call__",
            lambda self, url, _, keeper: bring(self, url, "/dev/full", keeper),
        )
        with pytest.raises(
            DownloadError, match=f"cannot write to the cache folder {cache}: .*No space left.*KN_DATA"
        ):
            get(file)
    assert held(cache) == set() and get(file)[0].read_bytes() == BODY


@pytest.mark.parametrize("path", ["../file", "/etc/file", "a/../../file", "..", ""])
def test_places_outside_the_cache_are_refused(cache, path):
    with pytest.raises(DownloadError, match="refused"):
        get(RemoteFile(path, "http://127.0.0.1:9/", sha256(b"")))
    with pytest.raises(DownloadError, match="refused"):
        fetch_members(TESTS, RemoteFile("a.zip", "http://127.0.0.1:9/", sha256(b"")), [path])


# Processes

SCRIPT = """
import sys
from kn_utils.data.downloads.catalogue import Collection, RemoteFile
from kn_utils.data.downloads.fetch import fetch
files = [RemoteFile(*line.split("\\t")) for line in sys.stdin.read().splitlines()]
collection = Collection("tests", "Files", "none stated", "no licence stated", "Nobody (2000)", "here")
fetch(collection, files, progress=False)
"""


def start(*files: RemoteFile) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write("\n".join(f"{file.path}\t{file.url}\t{file.checksum}" for file in files))
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.slow
def test_two_processes_that_want_the_same_file_at_once_both_end_well(server, cache, publish):
    files = [publish(f"owner/repo/{n}", BODY[n:], plan=["slow"]) for n in range(3)]
    both = [start(*files), start(*files)]
    ends = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert [(cache / file.path).read_bytes() for file in files] == [server.files[file.path] for file in files]
    assert len(server.asked) == 3, "the second waited for the first"
    assert "".join(err for _, err in ends).count("Nobody (2000)") == 1
    assert held(cache) == {file.path for file in files}


@pytest.mark.slow
def test_a_killed_download_leaves_nothing_that_is_taken_for_whole(server, cache, publish):
    file = publish(plan=["slow", "whole"])
    process = start(file)
    while not any((cache / name).stat().st_size for name in held(cache)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cache / file.path).exists() and not at_hand([file])
    assert get(file)[0].read_bytes() == BODY, "the lock was let go"


# The notice


def test_licence_and_citation_are_told_once(cache, publish, capsys, monkeypatch):
    files = [publish("owner/repo/1"), publish("owner/repo/2")]
    get(files[0])
    told = capsys.readouterr().err
    assert all(word in told for word in (TESTS.title, "none stated", "no licence is stated", "Nobody (2000)"))
    get(*files)
    monkeypatch.setattr(downloads, "_told", set())  # as in a new process
    get(*files)
    assert capsys.readouterr().err == ""
    named = {"open": None, "non-commercial": "for non-commercial use only"}
    for terms, words in named.items():
        other = Collection(terms, "Other", "A licence", terms, "Somebody", "there")
        fetch(other, files, progress=False)
        told = capsys.readouterr().err
        assert "A licence" in told and (words in told if words else "terms" not in told)


def test_nothing_is_told_when_nothing_came(cache, publish, capsys):
    with pytest.raises(DownloadError):
        get(publish(plan=["404"]))
    assert get() == []
    assert "Nobody" not in capsys.readouterr().err


# Archives


@pytest.fixture
def archive(publish):
    """A published zip with three members, a link and a name that climbs out."""

    def make(damage: bool = False) -> RemoteFile:
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w") as packed:
                for name in ("set/en/P1.jsonl", "set/en/P2.jsonl", "set/nl/P1.jsonl"):
                    packed.writestr(name, f"content of {name}")
                packed.writestr("../climbed.txt", "out")
                link = zipfile.ZipInfo("set/link")
                link.external_attr = 0o120777 << 16
                packed.writestr(link, "/etc/passwd")
            file.seek(0)
            body = file.read()
        return publish(
            "set.zip", body.replace(b"content of set/nl", b"Content of set/nl") if damage else body
        )

    return make


def test_only_the_needed_members_are_unpacked(server, cache, archive, capsys):
    packed = archive()
    (place,) = fetch_members(TESTS, packed, ["set/en/P2.jsonl"], progress=False)
    assert place == cache / "set/en/P2.jsonl" and place.read_text() == "content of set/en/P2.jsonl"
    assert held(cache) == {"set.zip", "set/en/P2.jsonl"}
    assert capsys.readouterr().err.count("Nobody (2000)") == 1
    fetch_members(TESTS, packed, ["set/en/P2.jsonl", "set/nl/P1.jsonl"], progress=False)
    assert len(server.asked) == 1


def test_members_put_there_by_hand_need_no_archive(server, cache, archive):
    packed = archive()
    (cache / "set/en").mkdir(parents=True)
    (cache / "set/en/P1.jsonl").write_text("mine")
    assert fetch_members(TESTS, packed, ["set/en/P1.jsonl"], progress=False)[0].read_text() == "mine"
    assert server.asked == []
    server.plan["set.zip"] = ["404"]
    with pytest.raises(
        DownloadError, match=r"set\.zip(.|\n)*Or put what it holds under .*, first set/nl/P1\.jsonl"
    ):
        fetch_members(TESTS, packed, ["set/en/P1.jsonl", "set/nl/P1.jsonl"], progress=False)


def test_absent_and_damaged_members_are_refused_and_a_link_is_never_made(cache, archive, tmp_path):
    for name, why in [("set/en/P3.jsonl", "holds no whole set/en/P3.jsonl"), ("../climbed.txt", "refused")]:
        with pytest.raises(DownloadError, match=why):
            fetch_members(TESTS, archive(), [name], progress=False)
    assert not (tmp_path / "climbed.txt").exists()
    (place,) = fetch_members(TESTS, archive(), ["set/link"], progress=False)
    assert not place.is_symlink() and place.read_text() == "/etc/passwd"
    with pytest.raises(DownloadError, match="holds no whole set/nl/P1.jsonl"):
        fetch_members(TESTS, archive(damage=True), ["set/nl/P1.jsonl"], progress=False)
    assert held(cache) == {"set.zip", "set/link"}


def test_a_member_is_in_place_only_when_it_is_whole(cache, archive, monkeypatch):
    """pooch.Unzip writes where the file shall lie, and takes half a file for the file the next time."""

    def half(source, target, *_):
        target.write(source.read(5))
        raise OSError("No space left")

    with monkeypatch.context() as full:
        full.setattr(zipfile.shutil, "copyfileobj", half)
        with pytest.raises(DownloadError, match="cannot write to the cache folder"):
            fetch_members(TESTS, archive(), ["set/en/P1.jsonl"], progress=False)
    assert held(cache) == {"set.zip"}
    assert fetch_members(TESTS, archive(), ["set/en/P1.jsonl"], progress=False)[0].stat().st_size == 26


# The catalogue


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_published_file_is_pinned_and_checked(name):
    files = index(name)
    assert files and all(path == file.path for path, file in files.items())
    for file in files.values():
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|blob:[0-9a-f]{40}|", file.checksum)
        pinned = [commit for repository, commit in COMMITS.items() if file.path.startswith(f"{repository}/")]
        assert any(commit in file.url for commit in pinned) or file.path == "mlama1.1.zip"
        assert (
            re.fullmatch(r"https?://[\w./%~-]+", file.url)
            and file.url.rsplit("/")[-1] == file.path.rsplit("/")[-1]
        )
        assert file.checksum or file.url.startswith("https://"), "else nothing vouches for the content"
    assert sum(not file.checksum for file in files.values()) == (31 if name == "bing_distant" else 0)
    collection = COLLECTIONS[name]
    assert collection.name == name and collection.licence and collection.citation and collection.address


def test_unknown_collections_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown collection 'pararell'; known: pararel, "):
        index("pararell")


@pytest.mark.skipif(not KN_RAW, reason="KN_RAW does not point to the published files")
@pytest.mark.parametrize("name", COLLECTIONS)
def test_the_published_files_have_the_listed_checksums(name):
    found = [file for file in index(name).values() if (Path(KN_RAW) / file.path).is_file()]
    assert len(found) > len(index(name)) - 2 or name in ("bing_distant", "mlama"), (
        "three of 34, and no zip, are at hand"
    )
    for file in found:
        body = (Path(KN_RAW) / file.path).read_bytes()
        assert file.checksum == sha256(body)
