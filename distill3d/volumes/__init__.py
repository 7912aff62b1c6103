"""Volumes and trees: files in, micrometers out."""
