"""The studies of several models as one run: which models by default, and how much of each.

The bundled model, which costs little and whose teaching is known, goes through every notebook. Of the real
models those facts are studied that they know, in the notebooks that find neurons and ask whose they are; the
others take minutes each and wait for whoever asks (``--models gemma3 --notebooks 07``). Where nobody names a
model all of them run, and the bundled one with fewer facts than its notebooks are stored with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ..data.downloads.identity import resolved
from ..data.downloads.packaged import PACKAGED
from .plan import NotebookRun, Plan, Refused

#: Of a base model the facts that it answers in two wordings, found and measured in at most three each; and
#: few prompts whose neurons are removed one by one, which costs half a minute each.
KNOWN = {"known": "2", "wordings": "3", "checked_prompts": "2"}
#: Model -> what a study of it is where nothing else is asked for, as arguments of :class:`Plan`.
DEFAULTS: dict[str, dict[str, Any]] = {
    "mini": {},
    "gemma3": {"languages": ["en"], "facts": "4", "usual": KNOWN, "select": ["02", "03", "04", "06"]},
    "smollm2": {
        "languages": ["en"],
        "facts": "2",  # whose scores need many points a layer
        "usual": KNOWN | {"languages": "en"},
        "select": ["02", "03", "04", "06"],
    },
}
#: Model -> what differs from this in a run of all models on the bundled facts, to save minutes: 06 and 07 of
#: bags of all languages together wait until the model is named.
TOGETHER: dict[str, dict[str, Any]] = {"mini": {"facts": "6", "languages": ["en"]}}


def at_hand() -> list[str]:
    """The models that are studied by default and lie on this machine."""
    return [name for name in DEFAULTS if name not in PACKAGED or not PACKAGED[name].missing]


def plans(models: Sequence[str] = (), **asked: Any) -> list[Plan]:
    """A plan for each model.

    Args:
        models: names as ``load_model`` takes them; none: those :func:`at_hand` that speak what is asked for.
        asked: arguments of :class:`Plan`; those of value ``None`` are the model's defaults.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    made = []
    for model in models or at_hand():
        usual = dict(DEFAULTS.get(model, {}))
        if not models and given.get("dataset", "mini") == "mini":
            usual |= TOGETHER.get(model, {})
        own = {**usual, **given, "model": model}
        speaks = usual.get("usual", {}).get("languages")
        if speaks and not models:  # of those that nobody named, what was asked for and each of them speaks
            own["languages"] = [name for name in own["languages"] if name in speaks.split(",")]
        if own.get("languages") != []:
            made.append(Plan(**own))
    return made


@dataclass(frozen=True)
class Studies:
    """Plans that run together, in one folder of runs."""

    plans: list[Plan]

    @cached_property
    def owners(self) -> dict[str, Plan]:
        """Whose plan each output is."""
        return {path: plan for plan in self.plans for path in plan.jobs}

    @cached_property
    def jobs(self) -> dict[str, NotebookRun]:
        """All notebooks to run, by output path."""
        return {path: job for plan in self.plans for path, job in plan.jobs.items()}

    @property
    def first(self) -> list[str]:
        """The outputs that are wanted before others."""
        return [path for plan in self.plans for path in plan.first]

    @property
    def runs(self) -> str:
        """The folder of runs."""
        return self.plans[0].runs

    @property
    def threads(self) -> int:
        """Of each notebook."""
        return self.plans[0].threads

    @property
    def title(self) -> str:
        """What is studied, for people."""
        datasets = list(dict.fromkeys(plan.dataset for plan in self.plans))
        return f"Models {', '.join(plan.model for plan in self.plans)}, data set {', '.join(datasets)}"

    def config(self) -> dict[str, Any]:
        """For the Snakefile."""
        return {"studies": [asdict(plan) for plan in self.plans]}

    def resolved(self) -> Studies:
        """The same with models as other programs need their names, at the commits that are meant."""
        made = []
        for plan in self.plans:
            model, revision = resolved(plan.model, plan.revision)
            made.append(replace(plan, model=model, revision=revision))
        return Studies(made)

    def check(self) -> None:
        """Refuse what cannot work before anything starts."""
        for plan in self.plans:
            if plan.model in PACKAGED and PACKAGED[plan.model].missing:
                command = f"python -m kn_utils.run.models {plan.model}"
                raise Refused(f"the package of {plan.model} is not installed; {command} installs it.")
            plan.check()


def from_config(config: dict[str, Any]) -> Studies:
    """The studies of a Snakefile's configuration; the default ones where it is empty."""
    if "studies" in config:
        return Studies([Plan(**one) for one in config["studies"]])
    return Studies(plans(**config))
