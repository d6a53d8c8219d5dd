"""Knowledge neurons across languages: find, compare and change the neurons that an answer leans on."""

from .attribution import attribute, attribution_map, convergence
from .config import ParameterError, StudyParameters
from .evaluation import answer_probability, effects, evaluate_updates, perplexity, sample_updates
from .facts import DataError, Facts, find_problems, make_prompts
from .interventions import amplify, erase, suppress, update_fact
from .models import LanguageModel, ModelError, load_model
from .neurons import random_neurons, refine, refinement_report, relation_neurons
from .pipeline import Study
from .sources import load_facts
from .statistics import counts_per_fact, intersections, layer_histogram, mean_table, relative_change

__all__ = [
    "DataError", "Facts", "LanguageModel", "ModelError", "ParameterError", "Study", "StudyParameters", "amplify",
    "answer_probability", "attribute", "attribution_map", "convergence", "counts_per_fact", "effects", "erase",
    "evaluate_updates", "find_problems", "intersections", "layer_histogram", "load_facts", "load_model", "make_prompts",
    "mean_table", "perplexity", "random_neurons", "refine", "refinement_report", "relation_neurons", "relative_change",
    "sample_updates", "suppress", "update_fact",
]  # fmt: skip
