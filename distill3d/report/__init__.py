"""Runs compared: statistics, an equal-budget check, and one page to open in a browser.

Its door is `verbs`, for the command line; no other room imports it.
"""
