"""Stacks and trees: files in, micrometers out."""
