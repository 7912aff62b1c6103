"""Errors a user can mend, a line per problem, and the hint at what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """Training cannot go on (for example because its folder is gone); exit code 1."""

    exit_code = 1


class NumbersError(TrainingError):
    """A network's numbers cannot be used: a loss, a gradient, a weight or a prediction that is not finite."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask whether the nearest known name was meant; empty where none is near.

    Example:
        >>> did_you_mean("stpes", ["steps", "seed"])
        "did you mean 'steps'?"
        >>> did_you_mean("xyz", ["steps", "seed"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
