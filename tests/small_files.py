"""Small files of our own in the formats of the published data sets, as a cache that needs no network."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from kn_utils.data.downloads import catalogue

PATTERNS = "Hunter-DDM/knowledge-neurons/data/PARAREL/raw_data/patterns"
PAIRS = "Hunter-DDM/knowledge-neurons/data/PARAREL/query_pairs.json"
VOCABULARY = "yanaiela/pararel/data/trex_lms_vocab"
BAGS = "Hunter-DDM/knowledge-neurons/data/BingDistantTREx/final"
XFACTR = "jzbjyb/X-FACTR/data"
MPARAREL = "coastalcph/mpararel/data/mpararel_reviewed"


def json_lines(*rows: Mapping, end: str = "\n", last: bool = True, ascii: bool = True) -> bytes:
    """JSON lines with the given line end, with or without a last one, with or without escapes."""
    lines = [json.dumps(row, ensure_ascii=ascii) for row in rows]
    return (end.join(lines) + end * (last and bool(rows))).encode()


def zipped(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


class Cache:
    """A cache folder filled by hand, and the checksum tables that go with it.

    Several collections may be added.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.lists = folder / "cache", folder / "checksums"
        self.lists.mkdir()
        monkeypatch.setenv("KN_DATA", str(self.root))
        monkeypatch.setattr(catalogue, "CHECKSUMS", self.lists)
        catalogue.index.cache_clear()

    def add(self, collection: str, files: Mapping[str, bytes], absent: tuple[str, ...] = ()) -> None:
        """Put files into the cache; ``absent`` ones are only listed, as published elsewhere."""
        rows = ["path\tchecksum\turl"]
        for path, content in files.items():
            place = self.root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            rows.append(f"{path}\tsha256:{hashlib.sha256(content).hexdigest()}\thttp://127.0.0.1:9/{path}")
        rows += [f"{path}\tsha256:{'0' * 64}\thttp://127.0.0.1:9/{path}" for path in absent]
        (self.lists / f"{collection}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        catalogue.index.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    yield Cache(tmp_path, monkeypatch)
    catalogue.index.cache_clear()
