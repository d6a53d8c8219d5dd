"""Knowledge neurons across languages: find, compare and change the neurons that an answer leans on.

Public names are loaded when first used, so that what needs no model does not wait for torch.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "activating": "activations find_blanks mean_activation",
    "attribution": "attribute attribution_map completeness convergence",
    "config": "ParameterError StudyParameters",
    "editing": "across_languages ask_after evaluate_updates summarise_updates",
    "erasing": "erase_relations erased_sets summarise_erasing",
    "evaluation": "answer_probability effects effects_by_kind effects_of_other_facts other_fact perplexity",
    "facts": "DataError Facts coverage find_problems make_prompts",
    "interventions": "amplify erase fine_tune suppress update_fact",
    "models": "LanguageModel ModelError load_model",
    "neurons": "random_neurons refine refinement_report relation_neurons",
    "pipeline": "Study",
    "sharing": "difference_of_sharing intersections settings_grid shared_between_languages shared_by shared_per_fact table_2",
    "sources": "load_facts load_passages provenance",
    "statistics": "answer_changes counts_per_fact difference_of_groups layer_histogram mean_over_relations mean_table "
    "relative_change",
    "updates": "alias_prompts eligibility questions sample_updates strongest translate_updates uncommon",
}
_PLACE = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = sorted(_PLACE)


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
