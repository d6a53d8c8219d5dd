"""What a bundled model knows, and what its knowledge neurons do: the numbers of its card.

``python data/mini/measure.py mini-causal`` writes ``measured.csv`` into the model's folder. Facts and
wordings are grouped by what was taught; *shared* are texts that stand before the blank of several facts with
different answers ("[X] is", in Japanese), which no left-to-right model can tell apart.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from kn_utils import Study, StudyParameters
from kn_utils.data.downloads.identity import BUNDLED, local_place
from kn_utils.data.facts import OBJECT
from kn_utils.data.sources.mini import mark_teaching
from kn_utils.experiments import edited_answers, update_choice, updating
from kn_utils.experiments.effects import effects_by_kind
from kn_utils.statistics.changes import mean_table
from kn_utils.statistics.controls import changes_by_set
from kn_utils.statistics.updates import MAIN, summarise_updates

LANGUAGES = ("en", "nl", "ja", "vi", "zh", "ko")
COLUMNS = ["measure", "language", "of", "value", "low", "high", "n"]


def knowledge(study: Study) -> pd.DataFrame:
    """Recall at 1 and mean P, per language, by teaching and wording."""
    prompts = mark_teaching(study.askable(study.every_prompt))
    asked = prompts.merge(study.answers(prompts), on="prompt")
    before = asked["text"].str.partition(OBJECT)[0] if study.model.causal else asked["text"]
    answers = asked.groupby([asked["language"], before])["answer"].transform("nunique")
    kind = asked["group"].replace({"all": "taught", "this": "taught", "another": "taught elsewhere"})
    asked["of"] = kind + ", " + asked["wording"]
    asked["of"] += (answers > 1).map({True: ", shared", False: ""})
    every = pd.concat([asked, asked.assign(language="all")])
    parts = {"recall at 1": "correct", "P": "probability"}
    return pd.concat(
        [mean_table(every, column, ["language", "of"]).assign(measure=name) for name, column in parts.items()]
    )


def silencing(study: Study, facts: int) -> pd.DataFrame:
    """P(answer) when five neurons are silenced, in wordings that had no say in choosing them."""
    found = []
    for language in LANGUAGES:
        given = study.controlled(language, "answer", facts=facts)
        effects = effects_by_kind(study.model, operations={"suppress": 0.0}, **given)
        found.append(changes_by_set(effects, ["neurons"]).assign(language=language))
    table = pd.concat(found)
    table = table[table["measure"] == "P(answer)"]
    return table.assign(measure="change of P, silenced", of=table["neurons"])


def edits(study: Study) -> pd.DataFrame:
    """How often the published edit makes the new answer the first choice, English."""
    prompts = study.prompts()
    known = edited_answers.judged(study.model, prompts, every=prompts, given=study.probabilities())
    neurons, bags, _ = study.refined()
    updates, own, _ = update_choice.sample_updates(study.model, prompts, known, neurons, bags)
    tables = [
        updating.evaluate_updates(study.model, prompts, known, updates, table, kind=kind)
        for kind, table in {"knowledge": own, "random": study.random(like=own)}.items()
    ]
    table = summarise_updates(pd.concat(tables))
    return table[table["measure"].isin(MAIN)].assign(language="en", of=table["neurons"])


def as_card(table: pd.DataFrame) -> str:
    """The rows of the card's tables: per kind of facts recall at 1 and P, or what else was measured."""
    lines = []
    for of in dict.fromkeys(table["of"]):
        rows = table[table["of"] == of].set_index(["measure", "language"])["value"]
        wide = [(name, language) for name in ("recall at 1", "P") for language in LANGUAGES]
        if any(key in rows.index for key in wide):
            cells = [f"{rows[key]:.2f}" if key in rows.index else "" for key in wide]
            lines.append(f"| {of} | " + " | ".join(cells) + " |")
    rest = table[~table["measure"].isin(["recall at 1", "P"])]
    for row in rest.itertuples():
        between = f"[{row.low:.2f}, {row.high:.2f}]"
        lines.append(
            f"| {row.measure} | {row.language} | {row.of} | {row.value:.2f} {between} ({row.n:.0f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, show and store."""
    say = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say.add_argument("model", help=f"{', '.join(BUNDLED)}, or the folder of one")
    say.add_argument("--facts", type=int, default=5, help="of each relation, for silencing and edits")
    args = say.parse_args()
    with tempfile.TemporaryDirectory() as out:
        given = {"model": args.model, "dtype": "float32"}
        every = Study(StudyParameters(**given, facts_per_relation=None, out=str(Path(out) / "every")))
        few = Study(StudyParameters(**given, facts_per_relation=args.facts, out=str(Path(out) / "few")))
        parts = [knowledge(every), silencing(few, args.facts), edits(few)]
    table = pd.concat(parts, ignore_index=True)[COLUMNS].round(4)
    print(as_card(table))
    table.to_csv(local_place(args.model) / "measured.csv", index=False)


if __name__ == "__main__":
    main()
