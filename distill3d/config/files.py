"""From a YAML chain and overrides to one frozen `Experiment`, or to all that is wrong with them. Imports no component.

A file names one parent with ``base:``. Mappings merge, lists and scalars replace, and a mapping whose ``name`` changes
replaces the parent's whole, so that a component's settings never leak into another. Overrides come last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill3d.config.builder import Builder, RawExperiment, first_line
from distill3d.config.plain import Plain
from distill3d.config.trace import TraceConfig
from distill3d.errors import ConfigError

COMMAND_LINE = "command line"


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


def trace_config(overrides: Sequence[str]) -> TraceConfig:
    """Build settings from ``key=value`` words.

    Raises:
        ConfigError: holds every problem found, one line each, with a suggestion for an unknown key.

    Example:
        >>> trace_config(["gap_um=4", "--trees=largest"]).gap_um
        4.0
    """
    given = parse_overrides(overrides)
    builder = Builder(RawExperiment(COMMAND_LINE, given))
    config = builder.dataclass(TraceConfig, given, "")
    if not isinstance(config, TraceConfig):
        raise ConfigError(*builder.problems)
    return config
