"""Errors a user can mend, a line per problem; text of files as text; and the hint at what was probably meant."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room for another byte
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, invisible marks such as bidi's, half characters, separators


def printable(text: str) -> str:
    r"""Return text in one line that moves no cursor and turns no direction: what would is escaped.

    All that is printed, logged or sent and holds text of files goes through this; twice is as good as once.

    >>> printable("café [red]\x1b[31m\n\u2028\u202e")
    'café [red]\\x1b[31m\\n\\u2028\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _HIDDEN else char for char in text
    )


class UserError(Exception):
    """Something the user gave cannot be used: what was wrong, the value found, what is accepted.

    Args:
        *lines: one line per problem found; `printable` makes sure that each is one.
    """

    exit_code = 2

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(printable, lines))
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        """Keep the lines apart in another process too."""
        return type(self), self.lines


class ConfigError(UserError):
    """An experiment's settings are wrong; holds every problem found, one line each."""


class InputError(UserError):
    """A file, volume, tree or checkpoint cannot be used."""


class TrainingError(Exception):
    """Training cannot go on (for example because its folder is gone); exit code 1."""

    exit_code = 1


class NumbersError(TrainingError):
    """A network's numbers cannot be used: a loss, a gradient, a weight or a prediction that is not finite."""


class SomeFailedError(UserError):
    """Some of several inputs cannot be used; the others were."""

    exit_code = 1


def for_each(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
    """Yield what ``work`` makes of every item; one that cannot be used does not stop the others.

    Raises:
        UserError: after the last item, if there was only one and it cannot be used; else what follows.
        InputError: none of several can be used; a line each.
        SomeFailedError: some of several cannot be used; one line that says which and why.
    """
    count, failures = 0, list[UserError]()
    for item in items:
        count += 1
        try:
            result = work(item)
        except UserError as error:
            failures.append(error)
        else:
            yield result
    if not failures:
        return
    if count == 1:
        raise failures[0]
    reasons = ["; ".join(error.lines) for error in failures]
    if len(failures) == count:
        raise InputError(*reasons)
    raise SomeFailedError(f"{len(failures)} of {count} failed: {'; '.join(reasons)}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its type where it says nothing.

    >>> first_line(OSError())
    'OSError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
