"""Errors a user can mend; every one becomes a line per problem and exit code 2. It holds no other kind of failure."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave cannot be used: what was wrong, the value found, what is accepted.

    Args:
        *lines: one line per problem found.
    """

    exit_code = 2

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class ConfigError(UserError):
    """An experiment's settings are wrong; holds every problem found, one line each."""


class InputError(UserError):
    """A file, volume, tree or checkpoint cannot be used."""


class TrainingError(Exception):
    """Training cannot go on (for example a loss that is not finite); exit code 1."""

    exit_code = 1
