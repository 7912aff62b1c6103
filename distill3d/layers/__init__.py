"""Modules and pure functions that networks share.

Import from the modules; `tubes` holds everything that bends.
"""
