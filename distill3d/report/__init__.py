"""Runs compared: statistics, an equal-budget check, and one page to open in a browser."""
