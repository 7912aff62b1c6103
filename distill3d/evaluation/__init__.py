"""Scores of a run and of two files, and their figures.

Import `run_scores` (a run), `file_scores` (two files), `scores` (their names and units), `tables`, and from `metrics`
and `figures` what one needs.
"""
