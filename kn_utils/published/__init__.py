"""The papers' numbers, and the outputs that their authors released, read again."""
