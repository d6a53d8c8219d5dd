"""Intervals, tests, and what facts, relations and languages share; no torch."""
