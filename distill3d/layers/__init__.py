"""Modules and pure functions that networks share."""
