"""The scores of a study, each table loaded if it was made before, else computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from torch import cuda

from .attribution.attribute import attribute
from .attribution.streaming import ScoreTables, prompts_file
from .data.prompts import make_prompts
from .model.loading import load_model
from .questions import Asks
from .store.growing import GrowingTable
from .store.origin import full_origin


class Scores(Asks):
    """Attribution scores of what a study asks."""

    @property
    def rule(self) -> dict[str, Any]:
        """The rule of the scores, as :func:`kn_utils.attribute` takes it."""
        return {"rule": self.parameters.rule, "steps": self.parameters.steps}

    def scores(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
        *,
        target: str | None = None,
    ) -> pd.DataFrame:
        """Attribution scores of :meth:`prompts`, or of others of this language."""
        return self.score_tables(language, method, prompts, target=target).scores

    def score_tables(
        self,
        language: str | None = None,
        method: str = "integrated-gradients",
        prompts: pd.DataFrame | None = None,
        *,
        target: str | None = None,
        gap: bool = False,
    ) -> ScoreTables:
        """Scores, and the table per prompt: ``prompt, probability, maximum, gap, error, points, sums``.

        They are streamed to disk, so a broken run goes on; only prompts whose scores are not stored yet are
        computed, and with ``gap`` those that were stored without their completeness gap. A prompt's scores
        lie in the table of its own language, whichever bag it is in: ``all`` computes none twice.

        Args:
            language: another than the parameters'.
            method: ``"integrated-gradients"``, or ``"activation"``: the baseline.
            prompts: others than :meth:`prompts`, of this language.
            target: ``"answer"`` or ``"typed"`` (P of the answer among its candidates; prompts whose answer
                has no competitor are left out); ``None``: the parameters'.
            gap: whether the completeness gap is needed.
        """
        p = self.parameters
        prompts = self._scored(self.prompts(language) if prompts is None else prompts, method, target)
        options: dict[str, Any] = {"method": method, "keep": p.keep, "precision": p.precision}
        name = "scores"
        if method == "activation":
            name = "scores-activation"
        else:
            options |= self.rule | {"baseline": p.baseline, "multiplier": p.multiplier}
            if (target or p.target) == "typed":
                name, options["target"] = "scores-typed", "typed"
            if p.rule != "auto":  # beside those of the usual rule, which other notebooks need
                name += f"-{p.rule}"
        spoken = list(dict.fromkeys(prompts["language"]))
        if len(spoken) > 1:
            return self._mixed(prompts, spoken, method, target, gap)
        path = self.folder(spoken[0] if spoken else language) / "tables" / f"{name}.parquet"
        origin = full_origin(self.origin() | options, attribute, load_model, make_prompts)
        columns = ["gap"] if gap and method == "integrated-gradients" else []
        growing = GrowingTable(path, origin, prompts_file(path), columns)

        def compute(held: pd.DataFrame | None, missing: pd.DataFrame) -> None:
            every = [f"cuda:{i}" for i in range(cuda.device_count())] if p.device == "cuda:all" else None
            out = path if held is None else path.with_name(f"{name}.more.parquet")
            place: dict[str, Any] = {"out": out, "origin": origin, "devices": every}
            if "target" in options:
                place["candidates"] = self.candidates(missing)
            attribute(self.model, missing, **options, gap=bool(columns), batch_size=p.batch_size, **place)
            if held is not None:
                growing.append(out, prompts_file(out))

        tables = ScoreTables(*growing.completed(prompts, compute))
        tables.scores.attrs["keep"] = p.keep  # a guard, no more: it refuses thresholds below what is there
        return tables

    def _mixed(
        self, prompts: pd.DataFrame, spoken: Sequence[str], method: str, target: str | None, gap: bool
    ) -> ScoreTables:
        """:meth:`score_tables` of prompts in several languages, from each language's own."""
        parts = {name: prompts[prompts["language"] == name] for name in spoken}
        found = [
            self.score_tables(name, method, part, target=target, gap=gap) for name, part in parts.items()
        ]
        mixed = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
        both = ScoreTables(*(prompts[["prompt"]].merge(table, on="prompt") for table in mixed))
        both.scores.attrs["keep"] = self.parameters.keep
        return both

    def _scored(self, prompts: pd.DataFrame, method: str, target: str | None) -> pd.DataFrame:
        """Those of these prompts that have scores: for a typed target, whose answer has a competitor."""
        if method == "activation" or (target or self.parameters.target) != "typed":
            return prompts
        competes = (self.answers(prompts)["candidates"] > 1).to_numpy()
        return prompts[competes].reset_index(drop=True)

    def _scores_by_language(
        self, prompts: pd.DataFrame, target: str | None, method: str = "integrated-gradients"
    ) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """Each language of these prompts, their scores there, and those of the prompts that have scores."""
        for language, own in prompts.groupby("language", sort=False):
            asked = self._scored(own.reset_index(drop=True), method, target)
            yield str(language), self.scores(str(language), method, asked, target=target), asked
