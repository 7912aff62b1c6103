"""From merged settings to frozen dataclasses, or to all that is wrong with them."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill3d.config.paths import ConfigPath
from distill3d.config.registry import REGISTRIES, Component
from distill3d.config.scalars import as_written, is_text
from distill3d.config.schema import Experiment, Pretraining
from distill3d.errors import ConfigError, did_you_mean, first_line

MOST_SEED = 2**32 - 1  # numpy's legacy generator takes no more


@dataclass(frozen=True, slots=True)
class RawExperiment:
    """Merged but not validated settings.

    Attributes:
        name: of the experiment.
        settings: plain containers.
        origins: dotted key -> the file (or ``"command line"``) that said it, for error lines.
        words: dotted key -> what is written there, where YAML reads something else: see `distill3d.config.scalars`.
    """

    name: str
    settings: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    @property
    def is_pretraining(self) -> bool:
        """True for a file that trains a 2D network: it alone says which ``architecture`` at its top level."""
        return "architecture" in self.settings


class Builder:
    """Walks the schema along the settings and gathers problems instead of stopping at the first."""

    def __init__(self, raw: RawExperiment) -> None:
        self.raw = raw
        self.problems: list[str] = []

    def complain(self, path: str, text: str) -> None:
        """Note a problem with the file that said the key, or that said what holds it."""
        origin, probe = None, path
        while origin is None and probe:
            origin = self.raw.origins.get(probe)
            probe = probe.rpartition(".")[0]
        self.problems.append(": ".join(part for part in (origin or self.raw.name, path, text) if part))

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
                self.complain(f"{dot}{key}", unknown(str(key), list(fields)))
        hints = _type_hints(cls)
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
            self.complain(path, str(err))
            return None

    def required(self, f: dataclasses.Field[Any], path: str) -> bool:
        """Complain of a missing key without a default; never take part in the values."""
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            self.complain(path, "is missing and has no default")
        return False

    def value(self, f: dataclasses.Field[Any], hint: Any, settings: Mapping[str, Any], path: str) -> object:  # noqa: ANN401 - a type hint
        """Return the value of one field, or None after complaining."""
        if "registry" in f.metadata:
            return self.from_registry(f, settings.get(f.name), path)
        of_paths, hint = hint in _PATHS, _PATHS.get(hint, hint)
        given = as_written(settings[f.name], path, self.raw.words) if is_text(hint) else settings[f.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.dataclass(hint, given, path)
        if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]):
            return self.named(get_args(hint)[1], given, path)
        try:
            value = copy.deepcopy(_accepted(hint, _Given(repr(given), given)))
        except OmegaConfBaseException as err:
            self.complain(path, f"{given!r} is not accepted: {_clean(err, given)}")
            return None
        if f.name.endswith("seed") and isinstance(value, int) and value > MOST_SEED:
            self.complain(path, f"{value} is too large for a seed; accepted: 0 to {MOST_SEED}")
        return _as_paths(value) if of_paths else value  # pyright: ignore[reportArgumentType] - of text

    def named(self, cls: type, given: object, path: str) -> object:
        """Return a mapping of freely named instances of ``cls``, or None after complaining."""
        if not isinstance(given, Mapping):
            self.complain(path, f"must be a mapping of named settings, got {given!r}")
            return None
        self.names(given, path)
        return {key: self.dataclass(cls, value, f"{path}.{key}") for key, value in given.items()}

    def names(self, given: Mapping[str, Any], path: str) -> None:
        """Complain of freely chosen names that no dotted key could reach, or that torch's containers cannot hold."""
        from torch import nn  # noqa: PLC0415 - whoever builds an experiment has imported it; `--help` has not

        taken = nn.ModuleDict()
        for key in given:
            if not isinstance(key, str):
                self.complain(f"{path}.{key}", f"{key!r} is no text; accepted: a name, if need be in quotes")
            elif not key:
                self.complain(path, "'' is no name; accepted: a name of a character or more")
            elif "." in key:
                self.complain(f"{path}.{key}", f"{key!r} has a dot, at which keys are split; accepted: a name without")
            elif hasattr(taken, key):
                self.complain(f"{path}.{key}", f"{key!r} means something to torch already; accepted: another name")

    def from_registry(self, f: dataclasses.Field[Any], given: object, path: str) -> object:
        """Return one component, a mapping of them by name, or a tuple of them, or None after complaining."""
        kind, default = f.metadata["registry"], f.metadata["default"]
        if f.metadata["listed"] and isinstance(given, list | tuple):
            if not given:
                self.complain(path, f"is empty; accepted: one or more {kind} types, each a mapping with a name")
            return tuple(self.component(kind, each, f"{path}.{place}") for place, each in enumerate(given))
        if not f.metadata["many"]:
            return self.component(kind, {"name": default} if given is None and default else given, path)
        if given is None and default:
            given = {default: {"name": default}}
        if not isinstance(given, Mapping):
            self.complain(path, f"must be a mapping of named {kind} settings, got {given!r}")
            return None
        self.names(given, path)
        return {key: self.component(kind, value, f"{path}.{key}", key) for key, value in given.items()}

    def component(self, kind: str, given: object, path: str, implied: str | None = None) -> Component | None:
        """Return a component with its validated settings, or None after complaining."""
        registry = REGISTRIES[kind]
        if not isinstance(given, Mapping):
            self.complain(path, f"must be a mapping with a name, got {given!r}; known: {', '.join(registry.names())}")
            return None
        name = given.get("name", implied)
        if name is None:
            self.complain(path, f"has no name; accepted: name: one of {', '.join(registry.names())}")
            return None
        if name not in registry:
            self.complain(f"{path}.name", unknown(str(name), list(registry.names()), f"unknown {kind}"))
            return None
        settings = {key: value for key, value in given.items() if key != "name"}
        config = self.dataclass(registry[name].config, settings, path)
        return None if config is None else Component(name, config)


def unknown(key: str, known: list[str], what: str = "unknown key") -> str:
    """Say that a name is unknown, with the nearest known one, else with all of them."""
    return f"{what} {key!r}; {did_you_mean(key, known) or 'known: ' + ', '.join(sorted(known))}"


@dataclass(frozen=True, slots=True)
class _Given:
    """A value of plain containers, equal to another if both are written alike: 1 is not True."""

    text: str
    value: object = field(compare=False)


@functools.lru_cache(maxsize=4096)
def _accepted(hint: Hashable, given: _Given) -> Any:  # noqa: ANN401 - what the type hint says
    """Return a value as its type hint has it; shared by all who ask, for files of one chain say the same."""
    merged: Any = OmegaConf.to_container(OmegaConf.merge(_leaf(hint), {"value": given.value}))
    return merged["value"]


_type_hints = functools.cache(get_type_hints)


# Type hints of settings that are paths -> those of the text they are read from.
_PATHS: dict[Hashable, Any] = {
    ConfigPath: str,
    ConfigPath | None: str | None,
    tuple[ConfigPath, ...]: tuple[str, ...],
}


def _as_paths(text: str | Sequence[str] | None) -> ConfigPath | tuple[ConfigPath, ...] | None:
    if text is None or isinstance(text, str):
        return text if text is None else ConfigPath(text)
    return tuple(ConfigPath(each) for each in text)


@functools.cache
def _leaf(hint: Hashable) -> Any:  # noqa: ANN401 - a node of OmegaConf, which a merge copies
    """Return the schema of one value with this type hint."""
    return OmegaConf.structured(dataclasses.make_dataclass("Leaf", [("value", hint)]))


def _clean(err: Exception, given: object) -> str:
    return first_line(err).replace("'$VALUE'", repr(given)).replace("'$VALUE_TYPE'", repr(type(given).__name__))


Schema = TypeVar("Schema", Experiment, Pretraining)


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
