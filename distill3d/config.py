"""From a YAML chain and overrides to one frozen `Experiment`, or to all that is wrong with them. Imports no component.

A file names one parent with ``base:``. Mappings merge, lists and scalars replace, and a mapping whose ``name`` changes
replaces the parent's whole, so that a component's settings never leak into another. Overrides come last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill3d.errors import ConfigError
from distill3d.registry import Component
from distill3d.schema import Experiment, Pretraining
from distill3d.settings import Builder, RawExperiment, first_line

COMMAND_LINE = "command line"
Plain = dict[str, Any]
Schema = TypeVar("Schema", Experiment, Pretraining)


def read(path: Path, overrides: Sequence[str] = ()) -> RawExperiment:
    """Read a file, its chain of parents and the overrides ``key=value`` (or ``--key=value``).

    Raises:
        ConfigError: a file is missing, is not a mapping, or the chain has a cycle; an override is not ``key=value``.
    """
    merged: Plain = {}
    origins: dict[str, str] = {}
    for file, settings in reversed(list(_chain(path))):
        merged = _merge(merged, settings, origins, str(file), "")
    merged = _merge(merged, parse_overrides(overrides), origins, COMMAND_LINE, "")
    try:
        return RawExperiment(path.stem, _container(OmegaConf.create(merged), resolve=True), origins)
    except OmegaConfBaseException as err:
        raise ConfigError(f"{path}: {first_line(err)}") from err


def _container(settings: object, *, resolve: bool = False) -> Plain:
    """Return an OmegaConf mapping as plain containers with string keys."""
    plain = OmegaConf.to_container(settings, resolve=resolve)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _chain(path: Path) -> Iterator[tuple[Path, Plain]]:
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            raise ConfigError(f"{path}: base: goes in a circle: {' -> '.join(p.name for p in [*seen, current])}")
        seen.append(current.resolve())
        settings = _read_yaml(current)
        base = settings.pop("base", None)
        yield current, settings
        current = None if base is None else current.parent / str(base)


def _read_yaml(path: Path) -> Plain:
    try:
        text = path.read_text(encoding="utf-8")
        # OmegaConf would read a bare word as a mapping; an empty file is an empty mapping
        if not isinstance(yaml.compose(text), (yaml.MappingNode, type(None))):
            raise ConfigError(f"{path}: must be a mapping of settings, such as 'seed: 1'")
        return _container(OmegaConf.create(text))
    except FileNotFoundError as err:
        raise ConfigError(f"{path}: no such experiment file") from err
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(err).split())}") from err


def parse_overrides(overrides: Sequence[str]) -> Plain:
    """Turn ``["a.b=1", "--c=x"]`` into nested settings.

    Raises:
        ConfigError: an argument has no ``=`` or its value is not YAML; all of them are listed.

    Example:
        >>> parse_overrides(["trainer.steps=10", "--seed=3"])
        {'trainer': {'steps': 10}, 'seed': 3}
    """
    stripped = [item.removeprefix("--") for item in overrides]
    wrong = [item for item in stripped if "=" not in item or item.startswith("=")]
    if wrong:
        raise ConfigError(*(f"{COMMAND_LINE}: {item!r} is not an override; accepted: key=value" for item in wrong))
    try:
        return _container(OmegaConf.from_dotlist(stripped))
    except (yaml.YAMLError, OmegaConfBaseException) as err:
        raise ConfigError(f"{COMMAND_LINE}: {first_line(err)}") from err


def _merge(parent: Plain, child: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str) -> Plain:
    merged = dict(parent)
    for key, value in child.items():
        path = f"{prefix}{key}"
        inherited = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inherited, Mapping) and not _other_component(inherited, value):
            merged[key] = _merge(dict(inherited), value, origins, origin, f"{path}.")
        else:
            merged[key] = value
            origins[path] = origin
            origins.update(dict.fromkeys(_paths(value, path), origin))
    return merged


def _other_component(parent: Mapping[str, Any], child: Mapping[str, Any]) -> bool:
    return "name" in child and child["name"] != parent.get("name")


def _paths(value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{prefix}.{key}"
            yield from _paths(inner, f"{prefix}.{key}")


def build(raw: RawExperiment, schema: type[Schema]) -> Schema:
    """Validate everything and return the frozen experiment or pretraining.

    Raises:
        ConfigError: holds every problem found, one line each, with file, key and a suggestion.
    """
    builder = Builder(raw)
    if "name" in raw.settings:
        builder.complain("name", "the name is the file's name and cannot be set")
    settings = {**raw.settings, "name": raw.name}
    experiment = builder.dataclass(schema, settings, "")
    if builder.problems or not isinstance(experiment, schema):
        raise ConfigError(*builder.problems)
    return experiment


def as_plain(value: Any) -> Any:  # noqa: ANN401 - walks any config value
    """Turn configs into plain containers (dict, list, scalars) that YAML, JSON and checkpoints can hold."""
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


def differences(a: Experiment, b: Experiment) -> list[tuple[str, object, object]]:
    """Dotted keys whose values differ between two experiments, with both values; ``None`` where one lacks the key."""
    flat_a, flat_b = flatten(as_plain(a)), flatten(as_plain(b))
    keys = list(dict.fromkeys([*flat_a, *flat_b]))
    return [(key, flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)]
