"""Pictures, one function per figure: from a table to a matplotlib figure, which :func:`save` writes.

Readable without colour: each kind of neuron has its own lightness and its own marker (:data:`theme.KINDS`).
"""

try:
    import seaborn  # noqa: F401  matplotlib comes with it
except ModuleNotFoundError as error:
    told = f'pictures need the package {error.name}, which is not here: pip install "kn_utils[plots]"'
    raise ModuleNotFoundError(told, name=error.name) from None

from .activating import activation_kinds, activations
from .checking import checking
from .claims import verdicts
from .controls import controls, excess_between_languages
from .data import answer_pieces, coverage, recall
from .decoded import consistency, decoded_recall
from .degenerate import left_to_others, pairs
from .edits import edit_languages, edit_rates, edit_sweep, edit_tradeoff
from .effects import changes, doses
from .erasing import erased, erased_languages, erased_sweep
from .explorer import neurons_in_layers
from .independent import by_source, held_by_languages
from .localisation import localisation_curves
from .scores import attribution, benchmark, convergence, paths, settled_shares
from .statistics import between_languages, layers, settings, sharing
from .theme import KINDS, save, use_theme

__all__ = [
    "KINDS",
    "activation_kinds",
    "activations",
    "answer_pieces",
    "attribution",
    "benchmark",
    "between_languages",
    "by_source",
    "changes",
    "checking",
    "consistency",
    "controls",
    "convergence",
    "coverage",
    "decoded_recall",
    "doses",
    "edit_languages",
    "edit_rates",
    "edit_sweep",
    "edit_tradeoff",
    "erased",
    "excess_between_languages",
    "erased_languages",
    "erased_sweep",
    "held_by_languages",
    "layers",
    "left_to_others",
    "localisation_curves",
    "neurons_in_layers",
    "pairs",
    "paths",
    "recall",
    "save",
    "settings",
    "settled_shares",
    "sharing",
    "use_theme",
    "verdicts",
]
