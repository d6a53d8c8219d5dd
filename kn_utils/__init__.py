"""Knowledge neurons across languages: find, compare and change the neurons that an answer leans on.

These are the public names; everything else is imported from its room. They are loaded when first used, so
that what needs no model does not wait for torch.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import base

if TYPE_CHECKING:  # the one list of them, for people, for type checkers and for __getattr__
    from .attribution.attribute import attribute as attribute
    from .attribution.attribute import attribution_map as attribution_map
    from .base import StudyError as StudyError
    from .checks import DataError as DataError
    from .checks import ParameterError as ParameterError
    from .data.prompts import make_prompts as make_prompts
    from .data.sources import load_facts as load_facts
    from .data.sources import load_passages as load_passages
    from .experiments.effects import effects as effects
    from .explorer.view import explore as explore
    from .model.answers import answer_probability as answer_probability
    from .model.architectures import ModelError as ModelError
    from .model.asking import ask as ask
    from .model.decoding import decode as decode
    from .model.interventions import amplify as amplify
    from .model.interventions import erase as erase
    from .model.interventions import fine_tune as fine_tune
    from .model.interventions import suppress as suppress
    from .model.interventions import update_fact as update_fact
    from .model.language_model import LanguageModel as LanguageModel
    from .model.loading import load_model as load_model
    from .neurons.refine import refine as refine
    from .run.parameters import StudyParameters as StudyParameters
    from .statistics.counts import layer_histogram as layer_histogram
    from .statistics.sharing import intersections as intersections
    from .study import Study as Study

__version__ = base.VERSION


@cache
def places() -> dict[str, str]:
    """Public name -> the room that it is imported from above."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    lines = (line for node in tree.body if isinstance(node, ast.If) for line in node.body)
    return {line.names[0].name: f".{line.module}" for line in lines if isinstance(line, ast.ImportFrom)}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__all__":
        return sorted(places())
    if name not in places():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(places()[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(places())
