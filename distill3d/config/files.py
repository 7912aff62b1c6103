"""From a YAML chain and overrides to one frozen `Experiment`, or to all that is wrong with them. Imports no component.

A file names one parent with ``base:``; a part of ``combine`` may too, and takes that experiment's strategy. Mappings
merge, lists and scalars replace, and a mapping whose ``name`` changes replaces the parent's whole, so that a
component's settings never leak into another. What a tuning chose (`distill3d.config.tuned`) comes over the files, and
overrides come last.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill3d.config.builder import Builder, RawExperiment
from distill3d.config.catalog import ExperimentFile, find_experiment, on_ground
from distill3d.config.paths import ConfigPath
from distill3d.config.plain import Plain, flatten
from distill3d.config.scalars import mark, parse, unmark
from distill3d.config.trace import TraceConfig
from distill3d.config.tuned import SECTION, winner
from distill3d.errors import ConfigError, first_line

COMMAND_LINE = "command line"
ARM = "experiment"  # the override that takes another file
_GROUND = "ground"


def read(file: ExperimentFile, overrides: Sequence[str] = ()) -> RawExperiment:
    """Read a file, its chain of parents on its ground, and the overrides ``key=value`` (or ``--key=value``).

    ``${ground}`` in a file is the prefix of the ground's names, such as ``op_``. ``experiment=NAME`` among the
    overrides takes that experiment's file instead, so that a parameter of a sweep can be the arm.

    Raises:
        ConfigError: a file is missing, is not a mapping, or the chain has a cycle; an override is not ``key=value``.
    """
    if arms := [item for item in overrides if item.removeprefix("--").startswith(f"{ARM}=")]:
        file = find_experiment(arms[-1].partition("=")[2])
        overrides = [item for item in overrides if item not in arms]
    origins: dict[str, str] = {}
    merged = _chained(file.path, file.ground, origins, [])
    if file.path.stem != file.name and "question" in merged:
        merged["question"] = f"{unmark(merged['question'])[0]} (on {file.ground.rstrip('_')})"
    given = _marked_overrides(overrides)
    if tuning := _tuning(_merge(merged, given, {}, COMMAND_LINE, "")):
        chosen = winner(tuning, file.name, by_hand=flatten(unmark(given)[0]))
        merged = _merge(merged, chosen, origins, str(tuning), "")
    merged = _merge(merged, given, origins, COMMAND_LINE, "")
    settings, words = unmark(_resolved(merged, file))
    return RawExperiment(file.name, settings, origins, words)


def _resolved(settings: Plain, file: ExperimentFile) -> Plain:
    if "${" not in repr(settings):
        return settings
    try:
        resolved = _container(OmegaConf.create({_GROUND: file.ground, **settings}), resolve=True)
    except OmegaConfBaseException as err:
        raise ConfigError(f"{file.path}: {first_line(err)}") from err
    if _GROUND not in settings:
        del resolved[_GROUND]
    return resolved


def _tuning(settings: Plain) -> Path | None:
    """Return the file of winners that the settings name, if any; the schema complains of what is no text."""
    section = settings.get(SECTION)
    file = section.get("file") if isinstance(section, Mapping) else None
    try:
        return Path(ConfigPath(_container(OmegaConf.create({"file": file}), resolve=True)["file"])) if file else None
    except OmegaConfBaseException as err:
        raise ConfigError(f"{SECTION}.file: {first_line(err)}") from err


def _container(settings: object, *, resolve: bool = False) -> Plain:
    """Return an OmegaConf mapping as plain containers with string keys."""
    plain = OmegaConf.to_container(settings, resolve=resolve)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _chained(path: Path, ground: str, origins: dict[str, str], seen: list[Path]) -> Plain:
    """Merge a file over its chain of parents; note in ``origins`` which file said what."""
    if path.resolve() in seen:
        raise ConfigError(f"{seen[0]}: base: goes in a circle: {' -> '.join(p.name for p in [*seen, path])}")
    seen = [*seen, path.resolve()]
    settings = _read_yaml(path)
    base = settings.pop("base", None)
    parent = {} if base is None else _chained(*on_ground(path.parent / str(base), ground, seen), origins, seen)
    strategy = settings.get("strategy")
    parts = strategy.get("parts") if isinstance(strategy, Mapping) else None
    taken: dict[str, str] = {}
    if isinstance(parts, dict):
        for name, part in parts.items():
            if isinstance(part, Mapping) and "base" in part:
                parts[name], part_origins = _part(part, path, ground, seen)
                taken |= {f"strategy.parts.{name}.{key}": origin for key, origin in part_origins.items()}
    merged = _merge(parent, settings, origins, str(path), "")
    origins |= taken
    return merged


def _part(part: Mapping[str, Any], path: Path, ground: str, seen: list[Path]) -> tuple[Plain, dict[str, str]]:
    """Return a part of ``combine``, merged over the strategy that its ``base:`` names, and who said what in it."""
    origins: dict[str, str] = {}
    other = _chained(*on_ground(path.parent / str(part["base"]), ground, seen), origins, seen)
    own = {key: value for key, value in part.items() if key != "base"}
    merged = _merge({"strategy": other.get("strategy", {})}, {"strategy": own}, origins, str(path), "")
    return merged["strategy"], _below("strategy.", origins)


def _below(prefix: str, origins: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(prefix): origin for key, origin in origins.items() if key.startswith(prefix)}


def _read_yaml(path: Path) -> Plain:
    try:
        settings = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError as err:
        raise ConfigError(f"{path}: no such experiment file") from err
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(err).split())}") from err
    if settings is None:
        raise ConfigError(f"{path}: must be a mapping of settings, such as 'seed: 1'")
    return settings


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Plain | None:
    """Return the mapping that a YAML text is, None if it is none; the trials of a sweep share their files."""
    # OmegaConf would read a bare word as a mapping; an empty file is an empty mapping
    node = yaml.compose(text)
    if not isinstance(node, (yaml.MappingNode, type(None))):
        return None
    settings = _container(OmegaConf.create(text))
    return settings if node is None else mark(settings, node, text)


def parse_overrides(overrides: Sequence[str]) -> Plain:
    """Turn ``["a.b=1", "--c=x"]`` into nested settings. A value that is no YAML is text.

    Raises:
        ConfigError: an argument has no ``=`` or its key is none; all of the former are listed.

    Example:
        >>> parse_overrides(["trainer.steps=10", "--seed=3"])
        {'trainer': {'steps': 10}, 'seed': 3}
    """
    return unmark(_marked_overrides(overrides))[0]


def _marked_overrides(overrides: Sequence[str]) -> Plain:
    stripped = [item.removeprefix("--") for item in overrides]
    wrong = [item for item, text in zip(overrides, stripped, strict=True) if "=" not in text or text.startswith("=")]
    if wrong:
        accepted = "is neither an option nor an override; accepted: key=value, or what --help lists"
        raise ConfigError(*(f"{COMMAND_LINE}: {item!r} {accepted}" for item in wrong))
    nested = OmegaConf.create()
    for item in stripped:
        key, _, text = item.partition("=")
        try:
            OmegaConf.update(nested, key, parse(text))
        except (OmegaConfBaseException, ValueError) as err:
            raise ConfigError(f"{COMMAND_LINE}: {item!r}: {first_line(err)}") from err
    return _container(nested)


def _merge(parent: Plain, child: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str) -> Plain:
    merged = dict(parent)
    for key, value in child.items():
        path = f"{prefix}{key}"
        inherited = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inherited, Mapping) and not _is_other(inherited, value, key):
            merged[key] = _merge(dict(inherited), value, origins, origin, f"{path}.")
        else:
            merged[key] = value
            for replaced in _below(f"{path}.", origins):
                del origins[f"{path}.{replaced}"]
            origins[path] = origin
            origins.update(dict.fromkeys(_paths(value, path), origin))
    return merged


def _is_other(parent: Mapping[str, Any], child: Mapping[str, Any], key: str) -> bool:
    """Whether a child's component is another one than its parent's; a loss bears its key's name where it says none."""
    return "name" in child and child["name"] != parent.get("name", key)


def _paths(value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{prefix}.{key}"
            yield from _paths(inner, f"{prefix}.{key}")


def trace_config(overrides: Sequence[str]) -> TraceConfig:
    """Build settings from ``key=value`` words, for a file that says itself what it holds unless the words do.

    Raises:
        ConfigError: holds every problem found, one line each, with a suggestion for an unknown key.

    Example:
        >>> trace_config(["gap_um=4", "--trees=largest"]).gap_um
        4.0
    """
    given, words = unmark(_marked_overrides(overrides))
    given = {"input": "auto", **given}
    builder = Builder(RawExperiment(COMMAND_LINE, given, words=words))
    config = builder.dataclass(TraceConfig, given, "")
    if not isinstance(config, TraceConfig):
        raise ConfigError(*builder.problems)
    return config
