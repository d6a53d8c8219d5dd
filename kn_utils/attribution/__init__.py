"""Scores of neurons."""
