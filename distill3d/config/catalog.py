"""Finds experiment files by name. It validates nothing and imports nothing heavy, so that a typo is told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from distill3d.errors import ConfigError, did_you_mean

SUFFIXES = (".yaml", ".yml")


def folders() -> list[Path]:
    """Folders that hold experiments: ``./experiments``, then the one of the checkout this package runs from."""
    checkout = Path(__file__).resolve().parents[2] / "experiments"
    found = [folder for folder in (Path("experiments"), checkout) if folder.is_dir()]
    return found[:1] if len(found) == 2 and found[0].resolve() == found[1].resolve() else found


def experiment_files() -> dict[str, Path]:
    """Name -> file of every experiment, sorted by name; the nearer folder wins."""
    files: dict[str, Path] = {}
    for folder in reversed(folders()):
        files |= {path.stem: path for path in folder.rglob("*") if path.suffix in SUFFIXES}
    return dict(sorted(files.items()))


def questions() -> dict[str, str]:
    """Name -> the question each experiment answers, inherited from its base where it asks none."""
    asked = {}
    for name, path in experiment_files().items():
        settings = yaml.safe_load(path.read_text()) or {}
        asked[name] = str(settings.get("question", f"see {settings.get('base', path)}"))
    return asked


def find_experiment(name: str | Path) -> Path:
    """Return the file of an experiment given by name or by path.

    Raises:
        ConfigError: there is none; names the nearest and lists all.
    """
    return find_file(name, experiment_files, kind="experiment")


def find_file(name: str | Path, files: Callable[[], Mapping[str, Path]], *, kind: str) -> Path:
    """Return a YAML file given by name or by path.

    Args:
        name: a key of ``files``, or a path that ends like a YAML file.
        files: lists what is known.
        kind: what the file is, for the error.

    Raises:
        ConfigError: there is none; names the nearest and lists all.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"{path}: no such {kind} file")
        return path
    known = files()
    if str(name) in known:
        return known[str(name)]
    hint = did_you_mean(str(name), known)
    raise ConfigError(f"unknown {kind} {str(name)!r}{hint and f' ({hint})'}; known: {', '.join(known) or 'none'}")
