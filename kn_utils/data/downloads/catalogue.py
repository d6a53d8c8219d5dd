"""What is published, and where: the collections that the loaders read, with licence, citation and checksums.

A file is named by its place in the cache, which begins with its repository:
``jzbjyb/X-FACTR/data/TREx_prompts.csv``. The checksums of a collection's files stand in
``checksums/<name>.tsv``; commits are pinned here.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

from ..facts import DataError

CHECKSUMS = Path(__file__).with_name("checksums")

#: Repositories on GitHub, at the commit whose files were counted.
COMMITS = {
    "Hunter-DDM/knowledge-neurons": "922dfd9e05ef55f46af078ba4bd334989a45a618",
    "yanaiela/pararel": "cb5554678457beb5ac163d888f1ce8cf174b3f0b",
    "jzbjyb/X-FACTR": "c1938ec7262ebc34ac0b39daff3f446e103e8a87",
    "coastalcph/mpararel": "7153b7bdc86901fbe23d0c2909a4f2d4609b09d9",
    "Fuyao233/Knowledge-Neurons-in-Multilingual-Pretrained-Language-Models": (
        "4e6001faabd936501362a0462bcc2a4a5a3afdc2"
    ),
}


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        path: its place under the cache folder.
        url: its address.
        checksum: how to know that it is whole: ``sha256:<hex>`` or ``blob:<hex>`` (git's name of the content:
            SHA-1 of ``blob <bytes>``, a zero byte and the content); empty where only the commit in the
            address fixes the content.
    """

    path: str
    url: str
    checksum: str


@dataclass(frozen=True)
class Collection:
    """A group of files under one licence, named at first use."""

    name: str
    title: str
    licence: str
    terms: Literal["open", "non-commercial", "no licence stated"]
    citation: str
    address: str


COLLECTIONS: Mapping[str, Collection] = MappingProxyType(
    {
        collection.name: collection
        for collection in (
            Collection(
                "pararel",
                "PARAREL_en: ParaRel's English wordings and LAMA's facts, as Dai et al. prepared them",
                "MIT (repository); the facts are LAMA's, CC BY-NC 4.0",
                "non-commercial",
                "Dai et al. (2022), Knowledge Neurons in Pretrained Transformers, ACL; "
                "Elazar et al. (2021), Measuring and Improving Consistency in Pretrained Language Models, "
                "TACL; "
                "Petroni et al. (2019), Language Models as Knowledge Bases?, EMNLP-IJCNLP",
                "https://github.com/Hunter-DDM/knowledge-neurons",
            ),
            Collection(
                "pararel_vocabulary",
                "ParaRel's facts whose answers are one token in several vocabularies",
                "MIT (repository); the facts are LAMA's, CC BY-NC 4.0",
                "non-commercial",
                "Elazar et al. (2021), Measuring and Improving Consistency in Pretrained Language Models, "
                "TACL; "
                "Petroni et al. (2019), Language Models as Knowledge Bases?, EMNLP-IJCNLP",
                "https://github.com/yanaiela/pararel",
            ),
            Collection(
                "xfactr",
                "X-FACTR: wordings in 23 languages, facts and labels",
                "none stated",
                "no licence stated",
                "Jiang et al. (2020), X-FACTR: Multilingual Factual Knowledge Retrieval from Pretrained "
                "Language Models, EMNLP",
                "https://github.com/jzbjyb/X-FACTR",
            ),
            Collection(
                "mlama",
                "mLAMA 1.1: LAMA's facts with labels in 53 languages",
                "CC BY-NC 4.0",
                "non-commercial",
                "Kassner et al. (2021), Multilingual LAMA: Investigating Knowledge in Multilingual "
                "Pretrained Language Models, EACL",
                "http://cistern.cis.lmu.de/mlama",
            ),
            Collection(
                "mpararel",
                "mParaRel: several wordings per relation and language",
                "none stated",
                "no licence stated",
                "Fierro and Søgaard (2022), Factual Consistency of Multilingual Pretrained Language Models, "
                "Findings of ACL",
                "https://github.com/coastalcph/mpararel",
            ),
            Collection(
                "bing_distant",
                "BingDistantTREx: sentences found on the web for LAMA's facts",
                "MIT (repository); the sentences come from web pages, whose terms are not stated",
                "no licence stated",
                "Dai et al. (2022), Knowledge Neurons in Pretrained Transformers, ACL",
                "https://github.com/Hunter-DDM/knowledge-neurons",
            ),
            Collection(
                "released",
                "The multilingual study's released neurons, attribution scores and results",
                "MIT (that of the repository it was derived from)",
                "open",
                "Cai, Knowledge Neurons in Multilingual Pretrained Language Models",
                "https://github.com/Fuyao233/Knowledge-Neurons-in-Multilingual-Pretrained-Language-Models",
            ),
        )
    }
)


@cache
def index(collection: str) -> Mapping[str, RemoteFile]:
    """The files of a collection: place in the cache -> :class:`RemoteFile`.

    Raises:
        DataError: no such collection.
    """
    if collection not in COLLECTIONS:
        raise DataError(f"unknown collection {collection!r}; known: {', '.join(COLLECTIONS)}.")
    with (CHECKSUMS / f"{collection}.tsv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    files = (RemoteFile(row["path"], row["url"] or _address(row["path"]), row["checksum"]) for row in rows)
    return MappingProxyType({file.path: file for file in files})


def _address(path: str) -> str:
    """Where GitHub serves a file of a pinned commit."""
    owner, repository, inside = path.split("/", 2)
    return f"https://raw.githubusercontent.com/{owner}/{repository}/{COMMITS[f'{owner}/{repository}']}/{quote(inside)}"
