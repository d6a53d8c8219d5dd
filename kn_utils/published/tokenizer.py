"""mBERT cased's figures on published prompts, stored."""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import DATA
from ..data.prompts import make_prompts
from ..data.sources import load_facts
from ..model.tokenizer_report import shared_spellings, tokenizer_report
from ..store.code import code_version
from ..store.files import save_json
from ..store.tables import save_csv

STORED = DATA / "published" / "tokenizer_mbert_cased.csv"
SPELLINGS = DATA / "published" / "shared_spellings.csv"
MBERT = "google-bert/bert-base-multilingual-cased"


def stored_report(kind: str = "report") -> tuple[pd.DataFrame, dict[str, Any]]:
    """mBERT cased's stored figures and their origin.

    Args:
        kind: ``"report"`` gives the columns of :func:`kn_utils.model.tokenizer_report.tokenizer_report` with
            ``dataset`` in front; ``"spellings"`` likewise those of
            :func:`kn_utils.model.tokenizer_report.shared_spellings`, which belong to the data, not to a
            tokenizer.
    """
    table = pd.read_csv({"report": STORED, "spellings": SPELLINGS}[kind], encoding="utf-8")
    return table, json.loads(STORED.with_suffix(".json").read_text(encoding="utf-8"))


def datasets(origin: dict[str, Any]) -> pd.DataFrame:
    """What the figures were counted on: ``dataset, facts, prompts, licence``."""
    rows = [
        {
            "dataset": name,
            "facts": made["counts"]["facts"],
            "prompts": made["prompts"],
            "licence": made["licence"],
        }
        for name, made in origin["datasets"].items()
    ]
    return pd.DataFrame(rows)


def store(tokenizer: Any, name: str, datasets: dict[str, str]) -> None:
    """Compute and store the figures of data sets.

    Args:
        tokenizer: whose figures.
        name: of the tokenizer.
        datasets: name -> how :func:`kn_utils.load_facts` is asked for it.
    """
    reports, spellings, origins = [], [], {}
    for dataset, asked in datasets.items():
        facts = load_facts(asked)
        prompts = make_prompts(facts, "all")
        reports.append(tokenizer_report(tokenizer, prompts).assign(dataset=dataset))
        spellings.append(shared_spellings(prompts).assign(dataset=dataset))
        kept = ("options", "addresses", "commits", "licence", "counts")
        origins[dataset] = {key: facts.origin[key] for key in kept} | {"prompts": len(prompts)}
        if labels := facts.origin["options"].get("labels"):
            stand_in = {"labels": f"a stand-in, {Path(labels).name}"}
            origins[dataset]["options"] = facts.origin["options"] | stand_in
        print(f"{dataset}: {len(facts.facts)} facts, {len(prompts)} prompts")
    for tables, path in ((reports, STORED), (spellings, SPELLINGS)):
        table = pd.concat(tables, ignore_index=True)
        save_csv(table[["dataset", *table.columns.drop("dataset")]], path)
    what = {
        STORED.name: (
            "prompts by what the tokenizer makes of them, as "
            "kn_utils.model.tokenizer_report.tokenizer_report counts them"
        ),
        SPELLINGS.name: (
            "facts whose answers two languages spell alike (kn_utils.model.tokenizer_report.shared_spellings)"
        ),
    }
    made = {
        "command": "python -m kn_utils.published.tokenizer",
        "code": code_version(),
        "date": date.today().isoformat(),
    }
    tokens = {"name": name, "pieces": len(tokenizer), "lower_case": False}
    note = {"files": what, "tokenizer": tokens, "datasets": origins, "made": made}
    save_json(note, STORED.with_suffix(".json"))


def main() -> None:
    """Store the figures again; the command line says from which files."""
    from transformers import AutoTokenizer, BertTokenizer

    parser = argparse.ArgumentParser(
        prog="python -m kn_utils.published.tokenizer", description="Store mBERT cased's figures again."
    )
    parser.add_argument("--vocabulary", help="a vocab.txt of mBERT cased; default: from the Hugging Face Hub")
    parser.add_argument(
        "--labels", help="a stand-in for X-FACTR's label file (its lists of names fill its gaps)"
    )
    asked = parser.parse_args()
    vocabulary = asked.vocabulary
    tokenizer: Any = BertTokenizer(vocabulary, do_lower_case=False) if vocabulary else None
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(MBERT)
    options = f",aliases=true,labels={asked.labels}" if asked.labels else ""
    datasets = {
        "trex_multilingual": "trex_multilingual",
        "trex_multilingual, released build": f"trex_multilingual:build=released{options}",
        "mpararel": "mpararel",
    }
    store(tokenizer, MBERT, datasets)


if __name__ == "__main__":
    main()
