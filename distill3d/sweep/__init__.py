"""Sweeps: reads W&B's sweep files and runs them on this machine without a server; W&B runs the same files itself.

Its door is `verbs`, for the command line; no other room imports it.
"""
