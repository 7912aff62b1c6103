"""Turns frozen settings into plain containers and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distill3d.config.builder import RawExperiment, build
from distill3d.config.paths import ConfigPath
from distill3d.config.registry import Component
from distill3d.config.schema import Experiment


def as_plain(value: Any) -> Any:  # noqa: ANN401 - walks any config value
    """Turn configs into plain containers (dict, list, scalars) that YAML, JSON and checkpoints can hold."""
    if isinstance(value, ConfigPath):
        return value.written
    if isinstance(value, Component):
        return {"name": value.name, **as_plain(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(inner) for inner in value]
    return value


def from_plain(settings: Mapping[str, Any]) -> Experiment:
    """Rebuild an experiment from `as_plain`, for example the one inside a checkpoint.

    Raises:
        ConfigError: it was written by a version with other settings.
    """
    rest = {key: value for key, value in settings.items() if key != "name"}
    return build(RawExperiment(str(settings["name"]), rest), Experiment)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Plain:
    """Dotted keys of nested settings.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c': [2]}
    """
    flat: Plain = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


Plain = dict[str, Any]
