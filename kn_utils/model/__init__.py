"""One language model: how it is read, asked and changed."""
