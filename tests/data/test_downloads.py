"""Downloads against a server that truncates, corrupts, stalls and refuses; caches that are full, closed or
tampered with."""

from __future__ import annotations

import hashlib
import json
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
from urllib.parse import unquote

import pytest

from kn_utils.base import ROOT
from kn_utils.data.downloads import fetch as downloads
from kn_utils.data.downloads import transfer
from kn_utils.data.downloads.catalogue import COLLECTIONS, COMMITS, Collection, RemoteFile, index
from kn_utils.data.downloads.fetch import DownloadError, at_hand, cache_folder, fetch, fetch_members

BODY = bytes(range(256)) * 1024  # 256 KiB: four chunks
HALF = len(BODY) // 2
TESTS = Collection(
    "tests", "Files for tests", "none stated", "no licence stated", "Nobody (2000)", "http://localhost"
)
KN_RAW = os.environ.get("KN_RAW")


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``plan[path]`` lists how to misbehave, one entry a request, the last one for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plan: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent: dict[str, int] = {}
        self.base = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):  # a client that went away is what we test
        pass

    def ranges(self, path: str) -> list[str | None]:
        return [sought for asked, sought in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path, server = unquote(self.path).lstrip("/"), self.server
        server.asked.append((path, self.headers.get("Range")))
        plan = server.plan.get(path, ["whole"])
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        if how.isdigit():
            self.send_response(int(how))
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        body = server.files[path]
        start = (
            int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"]).group(1))
            if "Range" in self.headers
            else 0
        )
        if how in ("no ranges", "no ranges, truncate"):
            start = 0
        if start >= len(body) > 0:
            self.send_response(416)
            self.end_headers()
            return
        claimed = start
        if how == "another part" and start:
            start = claimed = 7
        self.send_response(206 if claimed else 200)
        if claimed:
            self.send_header("Content-Range", f"bytes {claimed}-{len(body) - 1}/{len(body)}")
        part = body[start:]
        if how == "corrupt":
            part = part[:-1] + bytes([part[-1] ^ 1])
        if how == "too much":
            part += b"more"
        if how != "no length":
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        cut = HALF if how in ("truncate", "no ranges, truncate", "stall", "no length") else len(part)
        step = 4096 if how == "slow" else 1 << 16
        for at in range(0, cut, step):
            self.wfile.write(part[at : min(at + step, cut)])
            server.sent[path] = server.sent.get(path, 0) + len(part[at : min(at + step, cut)])
            if how == "slow":
                time.sleep(0.02)
        if how == "stall":
            time.sleep(3)


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
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.4)
    monkeypatch.setattr(downloads, "_told", set())
    return tmp_path / "cache"


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.fixture
def publish(server):
    """Puts a file on the server, to be served in the given ways."""

    def publish(
        path="owner/repo/file.txt", body=BODY, plan=("whole",), checksum=None, size=True
    ) -> RemoteFile:
        server.files[path], server.plan[path] = body, list(plan)
        return RemoteFile(
            path, f"{server.base}/{path}", checksum or sha256(body), len(body) if size else None
        )

    return publish


def get(*files: RemoteFile) -> list[Path]:
    return fetch(TESTS, files, progress=False)


def parts(cache: Path) -> list[Path]:
    return list(cache.rglob("*.part"))


# What is served well


def test_files_arrive_whole_at_their_places_and_are_not_asked_for_again(server, cache, publish):
    files = [publish(f"owner/repo/a folder/{n} é.json", BODY[n:]) for n in range(6)] + [
        publish("owner/repo/empty", b"")
    ]
    places = get(*files)
    assert [place.relative_to(cache).as_posix() for place in places] == [file.path for file in files]
    assert [place.read_bytes() for place in places] == [server.files[file.path] for file in files]
    assert not parts(cache) and at_hand(TESTS, files)
    asked = len(server.asked)
    assert get(*files) == places and len(server.asked) == asked


def test_blob_is_git_s_own_name_of_the_content(cache, publish, tmp_path):
    (tmp_path / "content").write_bytes(BODY)
    blob = subprocess.run(
        ["git", "hash-object", tmp_path / "content"], capture_output=True, text=True, check=True
    ).stdout
    file = publish(checksum=f"blob:{blob.strip()}", size=False)
    assert get(file)[0].read_bytes() == BODY
    other = publish("owner/repo/other", BODY + b"x", checksum=f"blob:{blob.strip()}", size=False)
    with pytest.raises(DownloadError, match="other bytes"):
        get(other)


def test_cache_folder_is_kn_data_else_the_platform_s(monkeypatch, tmp_path):
    monkeypatch.setenv("KN_DATA", "~/facts")
    assert cache_folder() == Path.home() / "facts"
    monkeypatch.delenv("KN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "kn_utils" and cache_folder().is_absolute()


# What is served badly


def test_after_a_truncation_only_the_rest_is_asked_for(server, cache, publish):
    file = publish(plan=["truncate", "whole"])
    assert get(file)[0].read_bytes() == BODY
    assert server.ranges(file.path) == [None, f"bytes={HALF}-"]
    assert server.sent[file.path] == len(BODY), "no byte is sent twice"


def test_a_server_that_knows_no_ranges_is_read_from_the_beginning(server, cache, publish):
    file = publish(plan=["truncate", "no ranges"])
    assert get(file)[0].read_bytes() == BODY
    assert server.sent[file.path] == HALF + len(BODY)


def test_a_server_that_truncates_for_ever_ends_in_an_error(server, cache, publish):
    file = publish(plan=["no ranges, truncate"])
    with pytest.raises(DownloadError, match="IncompleteRead"):
        get(file)
    assert not (cache / file.path).exists() and not at_hand(TESTS, [file])
    assert len(server.asked) == transfer.ATTEMPTS + 1, (
        "one that brought something, then as many as brought nothing"
    )


def test_an_answer_for_another_part_of_the_file_is_not_joined_to_ours(server, cache, publish):
    file = publish(plan=["truncate", "another part", "whole"])
    assert get(file)[0].read_bytes() == BODY
    assert server.ranges(file.path) == [None, f"bytes={HALF}-", None]


def test_an_answer_that_ends_early_without_a_stated_length(server, cache, publish):
    file = publish(plan=["no length", "whole"])
    assert get(file)[0].read_bytes() == BODY
    unknown = publish("owner/repo/unknown", plan=["no length", "whole"], size=False)
    assert get(unknown)[0].read_bytes() == BODY


def test_a_stalled_server_is_given_up_and_asked_for_the_rest(server, cache, publish):
    file = publish(plan=["stall", "whole"])
    started = time.monotonic()
    assert get(file)[0].read_bytes() == BODY
    assert server.ranges(file.path)[1] == f"bytes={HALF}-" and time.monotonic() - started < 2.5


def test_corrupted_bytes_are_thrown_away_once_and_refused_the_second_time(server, cache, publish):
    assert get(publish(plan=["corrupt", "whole"]))[0].read_bytes() == BODY
    bad = publish("owner/repo/bad", plan=["corrupt"])
    with pytest.raises(DownloadError, match="other bytes than the checksum"):
        get(bad)
    assert server.ranges(bad.path) == [None, None], "corrupted bytes are no start to go on from"
    assert not (cache / bad.path).exists() and not parts(cache)


def test_more_bytes_than_the_file_has_are_not_taken(server, cache, publish):
    file = publish(plan=["too much", "whole"])
    assert get(file)[0].read_bytes() == BODY
    endless = publish("owner/repo/endless", plan=["too much"])
    with pytest.raises(DownloadError, match="more bytes than the file has"):
        get(endless)


def test_a_part_that_was_left_whole_or_wrong(server, cache, publish):
    """As after a kill between the last byte and the move; the second with a flipped byte, the third too
    long."""
    for n, (held, size) in enumerate(
        [(BODY, True), (BODY, False), (b"x" + BODY[1:HALF], True), (BODY + b"x", True)]
    ):
        file = publish(f"owner/repo/{n}", size=size)
        part = cache / f"owner/repo/.{n}.{file.checksum[7:19]}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(held)
        assert get(file)[0].read_bytes() == BODY and not parts(cache)
    assert server.ranges("owner/repo/0") == [], "whole already"
    assert server.ranges("owner/repo/1") == [f"bytes={len(BODY)}-"], "416: nothing more"
    assert server.ranges("owner/repo/2") == [f"bytes={HALF}-", None]


def test_a_busy_server_is_asked_again_a_refusing_one_is_not(server, cache, publish):
    assert get(publish(plan=["503", "429", "whole"]))[0].read_bytes() == BODY
    gone = publish("owner/repo/gone", plan=["404"])
    with pytest.raises(DownloadError, match="404 Not Found"):
        get(gone)
    assert len(server.ranges(gone.path)) == 1


def test_without_a_network_one_message_says_what_is_missing_and_where_to_put_it(cache, publish):
    whole = get(publish())[0]
    files = [
        RemoteFile(f"owner/repo/{n}.txt", f"http://127.0.0.1:9/{n}.txt", sha256(b"x"), 1) for n in range(12)
    ]
    with pytest.raises(DownloadError) as caught:
        get(*files)
    message = str(caught.value)
    named = re.search(r"owner/repo/(\d+)\.txt", message).group(1)
    assert f"http://127.0.0.1:9/{named}.txt" in message and sha256(b"x") in message
    assert str(cache / f"owner/repo/{named}.txt") in message and "Connection refused" in message
    assert re.findall(r"missing: (\d+)", message) == ["11"] and message.count("owner/repo/") == 2
    assert whole.exists() and not parts(cache)
    (cache / "owner/repo/0.txt").write_text("y")
    with pytest.raises(DownloadError, match="the file there has another size or checksum"):
        get(files[0])


# Caches that are filled by hand, tampered with, closed, full


def test_a_cache_filled_by_hand_needs_no_network(cache):
    file = RemoteFile("owner/repo/file.txt", "http://127.0.0.1:9/", sha256(BODY), len(BODY))
    (cache / "owner/repo").mkdir(parents=True)
    (cache / file.path).write_bytes(BODY)
    assert get(file) == [cache / file.path]


def test_a_file_is_hashed_once_and_again_when_it_changed(server, cache, publish, monkeypatch):
    file = publish()
    get(file)
    hashed = []
    monkeypatch.setattr(downloads, "digest", lambda *args: hashed.append(args) or transfer.digest(*args))
    get(file)
    assert hashed == []
    (cache / file.path).write_bytes(BODY[:-1] + b"?")  # same size
    assert not at_hand(TESTS, [file]) and len(hashed) == 1
    assert get(file)[0].read_bytes() == BODY
    (cache / file.path).write_bytes(BODY[:HALF])
    assert get(file)[0].read_bytes() == BODY
    (cache / downloads.NOTES / "tests.json").write_text('{"whole"')  # a broken note is no note
    hashed.clear()
    assert at_hand(TESTS, [file]) and len(hashed) == 1


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
def test_a_full_disk_is_one_message(publish, cache):
    file = publish()
    part = cache / f"owner/repo/.file.txt.{file.checksum[7:19]}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(
        DownloadError, match=f"cannot write to the cache folder {cache}: No space left.*KN_DATA"
    ):
        get(file)
    assert not (cache / file.path).exists() and get(file)[0].read_bytes() == BODY


@pytest.mark.parametrize("path", ["../file", "/etc/file", "a/../../file", "a\\..\\file", "C:/file", ""])
def test_places_outside_the_cache_are_refused(cache, path):
    with pytest.raises(DownloadError, match="refused"):
        get(RemoteFile(path, "http://127.0.0.1:9/", sha256(b"")))
    with pytest.raises(DownloadError, match="refused"):
        fetch_members(TESTS, RemoteFile("a.zip", "http://127.0.0.1:9/", sha256(b"")), [path])


# Processes

SCRIPT = """
import sys
from kn_utils.sources import downloads
from kn_utils.sources.catalogue import RemoteFile
files = [RemoteFile(*line.split("\\t")[:3]) for line in sys.stdin.read().splitlines()]
collection = downloads.Collection("tests", "Files", "none stated", "no licence stated", "Nobody (2000)", "here")
print("ready", flush=True)
downloads.fetch(collection, files, progress=False)
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


def test_two_processes_that_want_the_same_file_at_once_both_end_well(server, cache, publish):
    files = [publish(f"owner/repo/{n}", BODY[n:], plan=["slow"]) for n in range(3)]
    both = [start(*files), start(*files)]
    ends = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert [(cache / file.path).read_bytes() for file in files] == [server.files[file.path] for file in files]
    assert len(server.asked) == 3, "the second waited for the first"
    assert "".join(err for _, err in ends).count("Nobody (2000)") == 1 and not parts(cache)


def test_a_killed_download_leaves_nothing_that_is_taken_for_whole(server, cache, publish):
    file = publish(plan=["slow", "whole"], size=False)
    process = start(file)
    while not any(part.stat().st_size for part in parts(cache)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cache / file.path).exists() and not at_hand(TESTS, [file])
    held = parts(cache)[0].stat().st_size
    assert 0 < held < len(BODY)
    assert get(file)[0].read_bytes() == BODY and not parts(cache)
    assert server.ranges(file.path) == [None, f"bytes={held}-"], "the lock was let go, the rest asked for"


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
    assert {p.name for p in cache.rglob("*") if p.is_file()} == {
        "P2.jsonl",
        "set.zip",
        "tests.json",
        "tests.lock",
    }
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


def test_links_absent_and_damaged_members_are_refused(cache, archive, tmp_path):
    for name, why in [
        ("set/link", "a link"),
        ("set/en/P3.jsonl", r"holds no set/en/P3"),
        ("../climbed.txt", "refused"),
    ]:
        with pytest.raises(DownloadError, match=why):
            fetch_members(TESTS, archive(), [name], progress=False)
    assert not (tmp_path / "climbed.txt").exists() and not (cache / "set/link").is_symlink()
    with pytest.raises(DownloadError, match="damaged"):
        fetch_members(TESTS, archive(damage=True), ["set/nl/P1.jsonl"], progress=False)
    assert not (cache / "set/nl/P1.jsonl").exists() and not parts(cache)


# Files known by their commit only


@pytest.fixture
def tree(server, cache, monkeypatch):
    """The list of files of a commit, as GitHub's interface gives it."""
    monkeypatch.setattr(downloads, "TREES", server.base + "/trees/{repository}/{commit}")

    def tree(**listed: bytes) -> None:
        entries = [{"path": "folder", "type": "tree", "sha": "0"}]
        for name, body in listed.items():
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            entries.append({"path": f"folder/{name}", "type": "blob", "sha": blob, "size": len(body)})
        server.files["trees/owner/repo/c0ffee"] = json.dumps({"sha": "c0ffee", "tree": entries}).encode()

    return tree


def test_the_commit_s_list_of_files_gives_the_checksum(server, publish, tree):
    tree(a=BODY, b=BODY[1:])
    files = [
        publish(f"owner/repo/folder/{name}", BODY, checksum="tree:owner/repo@c0ffee", size=False)
        for name in "ab"
    ]
    assert get(files[0])[0].read_bytes() == BODY
    with pytest.raises(DownloadError, match="folder/b(.|\n)*other bytes|more bytes"):
        get(files[1])
    assert server.ranges("trees/owner/repo/c0ffee") == [None], "asked for once"
    Path(cache_folder() / files[0].path).write_bytes(BODY[:-1] + b"?")
    assert not at_hand(TESTS, [files[0]])
    with pytest.raises(DownloadError, match="folder/c is not in owner/repo@c0ffee"):
        get(publish("owner/repo/folder/c", checksum="tree:owner/repo@c0ffee"))


def test_a_list_that_cannot_be_read(server, cache, publish, tree):
    file = publish("owner/repo/folder/a", checksum="tree:owner/repo@c0ffee", size=False)
    server.files["trees/owner/repo/c0ffee"] = b'{"tree": [{"path": "fold'
    with pytest.raises(DownloadError, match="owner/repo/folder/a: its repository's list of files"):
        get(file)
    tree(a=BODY)
    assert get(file)[0].read_bytes() == BODY


def test_without_the_list_a_file_put_there_by_hand_is_believed(server, cache, publish, tree):
    file = publish("owner/repo/folder/a", checksum="tree:owner/repo@c0ffee", size=False)
    (cache / file.path).parent.mkdir(parents=True)
    (cache / file.path).write_bytes(b"by hand")
    assert get(file)[0].read_bytes() == b"by hand" and server.asked == []


# The catalogue


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_published_file_is_pinned_and_checked(name):
    files = index(name)
    assert files and all(path == file.path for path, file in files.items())
    for file in files.values():
        assert re.fullmatch(
            r"sha256:[0-9a-f]{64}|blob:[0-9a-f]{40}|tree:[\w.-]+/[\w.-]+@[0-9a-f]{40}", file.checksum
        )
        assert file.size is not None or not file.checksum.startswith("sha256")
        pinned = [commit for repository, commit in COMMITS.items() if file.path.startswith(f"{repository}/")]
        assert any(commit in file.url for commit in pinned) or file.path == "mlama1.1.zip"
        assert (
            re.fullmatch(r"https?://[\w./%~-]+", file.url)
            and file.url.rsplit("/")[-1] == file.path.rsplit("/")[-1]
        )
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
        assert file.checksum.startswith("tree:") or (len(body), sha256(body)) == (file.size, file.checksum)
