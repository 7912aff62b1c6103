"""Reads the files of a run: plain containers of text and finite numbers, or one line that says what is damaged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import yaml

from distill3d.errors import InputError, printable

LARGEST = 1e30  # no score and no cost is; what statistics make of such numbers stays finite
_DEEPEST, _MOST = 64, 1_000_000  # containers in each other, and values in all


def read_plain(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON or YAML file holds.

    Raises:
        InputError: it is missing, cut short, or holds what no run writes: no mapping, a number that is not finite, a
            date, a list without end.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as err:
        raise InputError(f"{path}: missing; accepted: a run that `fit` finished") from err
    except Exception as err:  # parsers raise a dozen kinds, RecursionError and IndexError among them
        raise InputError(f"{path}: not readable: {' '.join(str(err).split())[:200]}") from err
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a mapping, has {type(content).__name__}")
    if fault := _fault(content):
        raise InputError(f"{path}: {fault}; accepted: what `fit` wrote")
    return content


def _fault(content: object) -> str:
    """Say what of a file's content no run writes; empty where all is plain."""
    stack, seen = [(content, "", 0)], 0
    while stack:
        value, place, depth = stack.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST:
            return "holds containers without end"
        if isinstance(value, dict):
            strange = next((key for key in value if not isinstance(key, str)), None)
            if strange is not None:
                return f"{place or 'it'} has a key {_shown(strange)} that is no text"
            stack += [(inner, f"{place}.{key}".lstrip("."), depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            stack += [(inner, place, depth + 1) for inner in value]
        elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
            return f"{place} is {_shown(value)}, which is not finite"
        elif not isinstance(value, str | int | float | None):
            return f"{place} is a {type(value).__name__}"
    return ""


@final
class Record:
    """A mapping of a run's file, whose values are asked for by their kind.

    A value that is absent or null is None, or an empty container; one of another kind is an error that names it.

    Args:
        path: of the file, for errors.
        content: the mapping.
        place: dotted key of the mapping in the file.

    >>> fit = Record(Path("fit.json"), {"cost": {"parameters": 7}, "kept": [1]})
    >>> fit.part("cost").number("parameters"), fit.part("cost").number("steps")
    (7.0, None)
    >>> fit.number("kept")
    Traceback (most recent call last):
    ...
    distill3d.errors.InputError: fit.json: kept is [1]; accepted: a number
    """

    def __init__(self, path: Path, content: Mapping[str, Any], place: str = "") -> None:
        self.path = path
        self.content = content
        self.place = place

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def part(self, key: str) -> Record:
        """Return a mapping of the mapping."""
        return Record(self.path, self._one(key, dict, "a mapping") or {}, f"{self.place}{key}.")

    def number(self, key: str) -> float | None:
        """Return a number."""
        value = self._one(key, (int, float), "a number")
        if value is not None and abs(value) > LARGEST:
            raise InputError(f"{self._named(key)}; accepted: numbers up to {LARGEST:g}")
        return None if value is None else float(value)

    def numbers(self) -> dict[str, float | None]:
        """Return all values, which must be numbers or null; their names as text."""
        return {printable(key): self.number(key) for key in self}

    def whole(self, key: str, *, most: int = 2**63 - 1) -> int | None:
        """Return a whole number from 0 to ``most``."""
        value = self._one(key, int, "a whole number")
        if value is not None and not 0 <= value <= most:
            raise InputError(f"{self._named(key)}; accepted: a whole number from 0 to {most}")
        return value

    def text(self, key: str) -> str | None:
        """Return a text in one line."""
        value = self._one(key, str, "a text")
        return None if value is None else printable(value)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""
        values = self._one(key, list, "a list of texts") or []
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{self._named(key)}; accepted: a list of texts")
        return [printable(value) for value in values]

    def flag(self, key: str) -> bool:
        """Return whether it is true."""
        return bool(self._one(key, bool, "true or false"))

    def _one(self, key: str, kind: type | tuple[type, ...], accepted: str) -> Any:  # noqa: ANN401 - of the kind
        value = self.content.get(key)
        if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            return value
        raise InputError(f"{self._named(key)}; accepted: {accepted}")

    def _named(self, key: str) -> str:
        return f"{self.path}: {self.place}{key} is {_shown(self.content[key])}"


def as_text(value: Any) -> Any:  # noqa: ANN401 - walks any plain value
    """Return plain containers with every key and text in them in one line, see `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): as_text(inner) for key, inner in value.items()}
    return [as_text(inner) for inner in value] if isinstance(value, list | tuple) else value


def _shown(value: object) -> str:
    try:
        text = str(value)
    except ValueError:  # a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}..."
