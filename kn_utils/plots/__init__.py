"""Pictures, one function per figure: from a table to a matplotlib figure, which :func:`save` writes.

Readable without colour: each kind of neuron has its own lightness and its own marker (:data:`theme.KINDS`).
"""

from .activating import activation_kinds, activations
from .data import answer_pieces, coverage, recall
from .decoded import consistency, decoded_recall
from .edits import edit_languages, edit_rates, edit_sweep
from .effects import changes, doses, languages
from .erasing import erased, erased_languages, erased_sweep
from .scores import attribution, benchmark, convergence, settled_shares
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
    "changes",
    "consistency",
    "convergence",
    "coverage",
    "decoded_recall",
    "doses",
    "edit_languages",
    "edit_rates",
    "edit_sweep",
    "erased",
    "erased_languages",
    "erased_sweep",
    "languages",
    "layers",
    "recall",
    "save",
    "settings",
    "settled_shares",
    "sharing",
    "use_theme",
]
