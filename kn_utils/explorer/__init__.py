"""Look around in a model: ask it, see what its answer leans on, act on that."""
