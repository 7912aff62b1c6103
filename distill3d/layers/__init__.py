"""Modules and pure functions that students and strategies share."""
