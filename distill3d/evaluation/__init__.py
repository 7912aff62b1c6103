"""Scores of a run and of two files, and their pictures."""
