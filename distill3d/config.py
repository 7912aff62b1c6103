"""From a YAML chain and overrides to one frozen `Experiment`, or to all that is wrong with them. Imports no component.

A file names one parent with ``base:``. Mappings merge, lists and scalars replace, and a mapping whose ``name`` changes
replaces the parent's whole, so that a component's settings never leak into another. Overrides come last.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill3d.errors import ConfigError
from distill3d.registry import REGISTRIES, Component
from distill3d.schema import Experiment, Pretraining

COMMAND_LINE = "command line"
Plain = dict[str, Any]
Schema = TypeVar("Schema", Experiment, Pretraining)


@dataclass(frozen=True, slots=True)
class RawExperiment:
    """Merged but not validated settings.

    Attributes:
        name: of the experiment.
        settings: plain containers.
        origins: dotted key -> the file (or ``"command line"``) that said it, for error lines.
    """

    name: str
    settings: Plain
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def is_pretraining(self) -> bool:
        """True for a file that trains a 2D network: it alone says which ``architecture`` at its top level."""
        return "architecture" in self.settings


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
        raise ConfigError(f"{path}: {_first_line(err)}") from err


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
        raise ConfigError(f"{COMMAND_LINE}: {_first_line(err)}") from err


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
    builder = _Builder(raw)
    if "name" in raw.settings:
        builder.complain("name", "the name is the file's name and cannot be set")
    settings = {**raw.settings, "name": raw.name}
    experiment = builder.dataclass(schema, settings, "")
    if builder.problems or not isinstance(experiment, schema):
        raise ConfigError(*builder.problems)
    return experiment


class _Builder:
    """Walks the schema along the settings and gathers problems instead of stopping at the first."""

    def __init__(self, raw: RawExperiment) -> None:
        self.raw = raw
        self.problems: list[str] = []

    def complain(self, path: str, text: str) -> None:
        origin, probe = None, path
        while origin is None and probe:
            origin = self.raw.origins.get(probe)
            probe = probe.rpartition(".")[0]
        self.problems.append(f"{origin or self.raw.name}: {path}: {text}")

    def dataclass(self, cls: type, settings: object, path: str) -> object:
        """Return an instance of ``cls``, or None after complaining."""
        if not isinstance(settings, Mapping):
            self.complain(path, f"must be a mapping of settings, got {settings!r}")
            return None
        before = len(self.problems)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        dot = f"{path}." if path else ""
        for key in settings:
            if key not in fields:
                self.complain(f"{dot}{key}", _unknown(str(key), list(fields)))
        hints = get_type_hints(cls)
        values = {
            name: self.value(f, hints[name], settings, f"{dot}{name}")
            for name, f in fields.items()
            if name in settings or "registry" in f.metadata or self.required(f, f"{dot}{name}")
        }
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except ValueError as err:
            self.complain(path or self.raw.name, str(err))
            return None

    def required(self, f: dataclasses.Field[Any], path: str) -> bool:
        """Complain of a missing key without a default; never take part in the values."""
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            self.complain(path, "is missing and has no default")
        return False

    def value(self, f: dataclasses.Field[Any], hint: Any, settings: Mapping[str, Any], path: str) -> object:  # noqa: ANN401 - a type hint
        if "registry" in f.metadata:
            return self.from_registry(f, settings.get(f.name), path)
        given = settings[f.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.dataclass(hint, given, path)
        if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]):
            return self.named(get_args(hint)[1], given, path)
        try:
            leaf = OmegaConf.structured(dataclasses.make_dataclass("Leaf", [("value", hint)]))
            return _container(OmegaConf.merge(leaf, {"value": given}))["value"]
        except OmegaConfBaseException as err:
            self.complain(path, f"{given!r} is not accepted: {_clean(err, given)}")
            return None

    def named(self, cls: type, given: object, path: str) -> object:
        """Return a mapping of freely named instances of ``cls``, or None after complaining."""
        if not isinstance(given, Mapping):
            self.complain(path, f"must be a mapping of named settings, got {given!r}")
            return None
        return {str(key): self.dataclass(cls, value, f"{path}.{key}") for key, value in given.items()}

    def from_registry(self, f: dataclasses.Field[Any], given: object, path: str) -> object:
        kind, default = f.metadata["registry"], f.metadata["default"]
        if not f.metadata["many"]:
            return self.component(kind, {"name": default} if given is None and default else given, path)
        if given is None and default:
            given = {default: {"name": default}}
        if not isinstance(given, Mapping):
            self.complain(path, f"must be a mapping of named {kind} settings, got {given!r}")
            return None
        return {key: self.component(kind, value, f"{path}.{key}", str(key)) for key, value in given.items()}

    def component(self, kind: str, given: object, path: str, implied: str | None = None) -> Component | None:
        registry = REGISTRIES[kind]
        if not isinstance(given, Mapping):
            self.complain(path, f"must be a mapping with a name, got {given!r}; known: {', '.join(registry.names())}")
            return None
        name = given.get("name", implied)
        if name not in registry:
            self.complain(f"{path}.name", _unknown(str(name), list(registry.names()), f"unknown {kind}"))
            return None
        settings = {key: value for key, value in given.items() if key != "name"}
        config = self.dataclass(registry[name].config, settings, path)
        return None if config is None else Component(name, config)


def _unknown(key: str, known: list[str], what: str = "unknown key") -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else ""
    return f"{what} {key!r}; {hint or 'known: ' + ', '.join(sorted(known))}"


def _clean(err: Exception, given: object) -> str:
    return _first_line(err).replace("'$VALUE'", repr(given)).replace("'$VALUE_TYPE'", repr(type(given).__name__))


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0]


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
