"""What a GGUF file says about itself, read without its weights.

A file that is no GGUF file, ends early, or says something that transformers would silently pass over, is
refused here, before minutes of reading. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architectures import ModelError

VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


@dataclass(frozen=True)
class Header:
    """``values`` by key, long lists left out; ``tensors`` by name, each the place where its bytes begin."""

    values: dict[str, Any]
    tensors: dict[str, int]

    @property
    def architecture(self) -> str:
        """What the file calls its architecture."""
        return str(self.values.get("general.architecture", "unnamed"))

    def check(self, name: str) -> None:
        """Refuse what transformers takes no notice of and what would change every number.

        Raises:
            ModelError: positions that are stretched (``rope.scaling``, ``rope_freqs``); a file that is one of
                several.
        """
        key = f"{self.architecture}.rope.scaling"
        kind, factor = self.values.get(f"{key}.type", "none"), self.values.get(f"{key}.factor", 1.0)
        if (kind != "none" and factor != 1.0) or "rope_freqs.weight" in self.tensors:
            raise ModelError(
                f"{name}: its positions are stretched (rope scaling), which transformers does not read "
                "from a GGUF file; use the model's safetensors folder or Hub id."
            )
        if self.values.get("split.count", 0) > 1:
            raise ModelError(f"{name} is one of {self.values['split.count']} files; join them first.")


def read_header(place: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        ModelError: it is no GGUF file, of another version, or ends before its header or its last tensor does.
        OSError: it cannot be opened.
    """
    with place.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{place} is not a GGUF file.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reader = _Reader(content)
            try:
                version = reader.number("I")
                if version not in VERSIONS:
                    raise ModelError(f"{place} is a GGUF file of version {version}; read are 2 and 3.")
                n_tensors, n_values = reader.number("Q"), reader.number("Q")
                values = {}
                for _ in range(n_values):
                    key = reader.text()
                    values[key] = reader.value(reader.number("I"))
                tensors = {}
                for _ in range(n_tensors):
                    name = reader.text()
                    reader.skip(8 * reader.number("I") + 4)  # lengths and type
                    tensors[name] = reader.number("Q")
                step = int(values.get("general.alignment", 32))
                begin = -(-reader.at // step) * step
                if tensors and begin + max(tensors.values()) >= len(content):
                    raise EOFError
            except (struct.error, EOFError, UnicodeDecodeError, KeyError, ZeroDivisionError) as error:
                raise ModelError(
                    f"{place} is broken: it ends early or holds nonsense ({len(content):,} bytes); copy or "
                    "download it again."
                ) from error
            return Header(values, {name: begin + offset for name, offset in tensors.items()})


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 4

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return value

    def skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.content):
            raise EOFError

    def text(self) -> str:
        length, begin = self.number("Q"), self.at
        self.skip(length)
        return self.content[begin : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.number(_NUMBERS[kind])
        kind, length = self.number("I"), self.number("Q")
        if kind == _TEXT:
            for _ in range(length):
                self.skip(self.number("Q"))
        else:
            self.skip(length * struct.calcsize(f"<{_NUMBERS[kind]}"))
        return None
