"""Loads experiments with every component they may name. It runs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill3d import data, losses, students, teachers, transfer
from distill3d.config.builder import build
from distill3d.config.catalog import find_experiment
from distill3d.config.files import read
from distill3d.config.plain import from_plain
from distill3d.config.registry import REGISTRIES
from distill3d.config.schema import Experiment, Pretraining
from distill3d.errors import ConfigError
from distill3d.neurons import conversion

# Importing these packages is what fills the registries.
BUILT_IN = (data, losses, conversion, students, teachers, transfer)


def load_experiment(name: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Load an experiment by name (``experiments/NAME.yaml``) or by path, with overrides ``key=value``.

    Raises:
        ConfigError: no such experiment, or all that is wrong with its settings, one line each.
    """
    raw = read(find_experiment(name), overrides)
    if raw.is_pretraining:
        raise ConfigError(f"{raw.name} trains a 2D teacher on photos; accepted: distill3d pretrain {raw.name}")
    _import_plugins(raw.settings)
    return build(raw, Experiment)


def load_pretraining(name: str | Path, overrides: Sequence[str] = ()) -> Pretraining:
    """Load a pretraining of a 2D network, as `load_experiment` loads an experiment.

    Raises:
        ConfigError: no such file, or all that is wrong with its settings, one line each.
    """
    raw = read(find_experiment(name), overrides)
    if not raw.is_pretraining:
        raise ConfigError(f"{raw.name} trains a 3D student; accepted: distill3d fit {raw.name}")
    _import_plugins(raw.settings)
    return build(raw, Pretraining)


def experiment_from_plain(settings: Mapping[str, Any]) -> Experiment:
    """Rebuild the experiment that a run folder or a checkpoint holds, plugins included.

    Raises:
        ConfigError: it was written by a version with other settings.
    """
    _import_plugins(settings)
    return from_plain(settings)


def _import_plugins(settings: Mapping[str, Any]) -> None:
    plugins = settings.get("plugins") or ()
    if not isinstance(plugins, Sequence) or isinstance(plugins, str):
        raise ConfigError(f"plugins: must be a list of module names, got {plugins!r}")
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
