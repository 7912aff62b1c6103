"""Loads experiments with every component they may name. It runs nothing."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from distill3d import data, losses, students, teachers, transfer
from distill3d.config.builder import RawExperiment, build
from distill3d.config.catalog import find_experiment, folders
from distill3d.config.files import COMMAND_LINE, read
from distill3d.config.plain import as_plain, flatten, from_plain
from distill3d.config.registry import REGISTRIES
from distill3d.config.schema import Experiment, Pretraining
from distill3d.errors import ConfigError
from distill3d.neurons import conversion
from distill3d.storage.secrets import secret_variables

Settings = TypeVar("Settings", Experiment, Pretraining)
# Importing these packages is what fills the registries.
BUILT_IN = (data, losses, conversion, students, teachers, transfer)


def load_experiment(name: str | Path, overrides: Sequence[str] = (), *, allow_plugins: bool = False) -> Experiment:
    """Load an experiment by name (``experiments/NAME.yaml``) or by path, with overrides ``key=value``.

    Args:
        name: of the experiment.
        overrides: come last.
        allow_plugins: import the modules that a file outside of this project names under ``plugins``.

    Raises:
        ConfigError: no such experiment, or all that is wrong with its settings, one line each.
    """
    raw = read(find_experiment(name), overrides)
    if raw.is_pretraining:
        raise ConfigError(f"{raw.name} trains a 2D teacher on photos; accepted: distill3d pretrain {raw.name}")
    _prepare(raw, allow_plugins=allow_plugins)
    return _finite(build(raw, Experiment))


def load_pretraining(name: str | Path, overrides: Sequence[str] = (), *, allow_plugins: bool = False) -> Pretraining:
    """Load a pretraining of a 2D network, as `load_experiment` loads an experiment.

    Raises:
        ConfigError: no such file, or all that is wrong with its settings, one line each.
    """
    raw = read(find_experiment(name), overrides)
    if not raw.is_pretraining:
        raise ConfigError(f"{raw.name} trains a 3D student; accepted: distill3d fit {raw.name}")
    _prepare(raw, allow_plugins=allow_plugins)
    return _finite(build(raw, Pretraining))


def experiment_from_plain(settings: Mapping[str, Any], *, source: Path, allow_plugins: bool = False) -> Experiment:
    """Rebuild the experiment that a run folder or a checkpoint holds, plugins included.

    Args:
        settings: as plain containers.
        source: the file they were read from.
        allow_plugins: as for `load_experiment`.

    Raises:
        ConfigError: it was written by a version with other settings, or would import modules and lies outside of this
            project.
    """
    _import_plugins(settings, None if allow_plugins else source)
    return from_plain(settings)


def is_outside(file: Path) -> bool:
    """Whether a file is somebody else's: neither below the working directory nor an experiment of this checkout."""
    place = file.resolve()
    return not any(place.is_relative_to(folder.resolve()) for folder in (Path.cwd(), *folders()))


def _prepare(raw: RawExperiment, *, allow_plugins: bool) -> None:
    """Import what the settings name, and refuse those that would show a secret.

    Raises:
        ConfigError: see `load_experiment`.
    """
    plain = repr(raw.settings)
    for name, value in secret_variables():
        if value in plain:
            raise ConfigError(
                f"{raw.name}: a setting holds the value of {name}, and a run shows its settings to others"
            )
    origin = raw.origins.get("plugins", COMMAND_LINE)
    _import_plugins(raw.settings, None if allow_plugins or origin == COMMAND_LINE else Path(origin))


def _finite(settings: Settings) -> Settings:
    """Refuse settings that hold a number which is not finite, as no file of a run may.

    Raises:
        ConfigError: a line for each.
    """
    problems = [
        f"{key}={value} is not finite; accepted: a finite number"
        for key, value in flatten(as_plain(settings)).items()
        if not all(map(math.isfinite, _numbers_in(value)))
    ]
    if problems:
        raise ConfigError(*problems)
    return settings


def _numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    for inner in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from _numbers_in(inner)


def _import_plugins(settings: Mapping[str, Any], source: Path | None) -> None:
    """Import the modules that settings name; new ones from a ``source`` outside of the project are refused."""
    plugins = settings.get("plugins") or ()
    if not isinstance(plugins, Sequence) or isinstance(plugins, str):
        raise ConfigError(f"plugins: must be a list of module names, got {plugins!r}")
    new = [str(module) for module in plugins if str(module) not in sys.modules]
    if new and source is not None and is_outside(source):
        raise ConfigError(
            f"{source}: is outside of this project and would run code: plugins {', '.join(map(repr, new))}; "
            "accepted: --allow-plugins (in Python allow_plugins=True) if you trust it"
        )
    if plugins and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a console script does not see the folder it is run from, `python -m` does
    for module in plugins:
        try:
            importlib.import_module(str(module))
        except ImportError as err:
            raise ConfigError(f"plugins: cannot import {module!r}: {err}") from err


def describe_components() -> dict[str, list[tuple[str, str, str]]]:
    """Kind -> (name, first sentence of the class, module) of every registered component."""
    described = {}
    for kind, registry in REGISTRIES.items():
        entries = [(name, registry[name]) for name in registry.names()]
        described[kind] = [
            (name, (entry.cls.__doc__ or "").strip().split("\n")[0], entry.module) for name, entry in entries
        ]
    return described
