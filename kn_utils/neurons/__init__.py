"""From scores to sets of neurons; no torch."""
