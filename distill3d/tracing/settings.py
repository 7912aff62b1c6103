"""How ``key=value`` words become the settings of a trace. It reads no volume."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill3d.config import COMMAND_LINE, parse_overrides
from distill3d.errors import ConfigError
from distill3d.trace_settings import TraceConfig


def trace_config(overrides: Sequence[str]) -> TraceConfig:
    """Build settings from ``key=value`` words.

    Raises:
        ConfigError: holds every problem found, one line each, with a suggestion for an unknown key.

    >>> trace_config(["gap_um=4", "--trees=largest"]).gap_um
    4.0
    """
    given = parse_overrides(overrides)
    problems = [problem for key, value in given.items() if (problem := _problem(key, value)) is not None]
    if not problems:
        try:
            return TraceConfig(**_as_typed(given))
        except ValueError as error:
            problems = [str(error)]
    raise ConfigError(*(f"{COMMAND_LINE}: {problem}" for problem in problems))


def _problem(key: str, value: object) -> str | None:
    known = [field.name for field in fields(TraceConfig)]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        return f"unknown key {key!r}; {f'did you mean {near[0]!r}?' if near else 'known: ' + ', '.join(known)}"
    try:
        _as_typed({key: value})
    except OmegaConfBaseException as error:
        return f"{key}: {value!r} is not accepted: {str(error).strip().splitlines()[0]}"
    return None


def _as_typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the types of their fields."""
    merged = OmegaConf.merge(OmegaConf.structured(TraceConfig), dict(given))
    typed = OmegaConf.to_container(merged)
    return {key: typed[key] for key in given} if isinstance(typed, dict) else {}
