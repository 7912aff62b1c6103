"""Keeps passwords, keys and tokens out of what a run writes and prints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

HIDDEN = "***"
_NAMES = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET)$")  # ends of the names of variables that hold one
_SHORTEST = 8  # a shorter value may be any word
_IN_A_URL = re.compile(r"(//[^\s:/@]*:)\S+@")
_NAMED = re.compile(r"((?<![\w.])(?:password|passwd|pwd|secret|token|api[_-]?key)=)[^\s&;'\"]+", re.IGNORECASE)


def secret_variables() -> Iterator[tuple[str, str]]:
    """Name and value of every variable of the environment that looks like a key, a token or a password."""
    for name, value in os.environ.items():
        if _NAMES.search(name.upper()) and len(value) >= _SHORTEST:
            yield name, value


def without_secrets(text: str) -> str:
    """Hide what nobody else should read: passwords in URLs and arguments, and what secret variables hold.

    Example:
        >>> without_secrets("postgresql://me:secret@host/sweeps")
        'postgresql://me:***@host/sweeps'
        >>> without_secrets("mysql://host/sweeps?user=me&password=secret")
        'mysql://host/sweeps?user=me&password=***'
    """
    for _, value in secret_variables():
        text = text.replace(value, HIDDEN)
    return _NAMED.sub(rf"\1{HIDDEN}", _IN_A_URL.sub(rf"\1{HIDDEN}@", text))
