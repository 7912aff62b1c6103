"""Scores of a prediction against gold; each module compares one kind of thing."""
