"""Finds experiments by name: an arm, on a ground. It validates nothing, so that a typo is told at once.

An experiment's name is a ground's prefix and an arm: ``op_kd_cosine`` is the arm ``kd_cosine`` on the ground ``op``. An
arm that has no file on a ground takes the file of the next ground below, and every ``base:`` of its chain goes to the
nearest file in the same way. So every arm exists on every ground above the one it was written for. An arm is a file
whose bases lead to ``scratch``, the file that says what the data are, and that leaves this to it; others stand alone.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distill3d.errors import ConfigError, did_you_mean

_LOG = logging.getLogger(__name__)
SUFFIXES = (".yaml", ".yml")
RESULTS = "results"  # of a folder of experiments: what their runs left, no experiment
# Prefix of a name -> prefixes under which a file is looked for, nearest first. Without a prefix: simulated neurons.
GROUNDS = {
    "bigneuron_": ("bigneuron_", ""),
    "twin_": ("twin_", "op_", ""),
    "op_hard_": ("op_hard_", "op_", ""),
    "op_": ("op_", ""),
    "": ("",),
}
ROOT = "scratch"  # the arm that says on what data a ground is


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """Where an experiment is read from.

    Attributes:
        name: of the experiment, with the prefix of its ground.
        path: of the file.
        ground: prefix, a key of `GROUNDS`.
    """

    name: str
    path: Path
    ground: str = ""


def split_name(name: str) -> tuple[str, str]:
    """Return the ground and the arm of an experiment's name.

    Example:
        >>> split_name("op_hard_tubular"), split_name("tubular")
        (('op_hard_', 'tubular'), ('', 'tubular'))
    """
    ground = next(prefix for prefix in GROUNDS if name.startswith(prefix))
    return ground, name.removeprefix(ground)


def folders() -> list[Path]:
    """Folders that hold experiments: ``./experiments``, then the one of the checkout this package runs from."""
    checkout = Path(__file__).resolve().parents[2] / "experiments"
    existing = [folder for folder in (Path("experiments"), checkout) if folder.is_dir()]
    return existing[:1] if len(existing) == 2 and existing[0].resolve() == existing[1].resolve() else existing


def experiment_files() -> dict[str, Path]:
    """Name -> file of every experiment that has one of its own, sorted by name; the nearer folder wins."""
    files: dict[str, Path] = {}
    for folder in reversed(folders()):
        tops = (top for top in folder.iterdir() if top.name != RESULTS)  # which holds thousands of files
        inside = sorted(path for top in tops for path in (top, *top.rglob("*")))
        files |= {path.stem: path for path in inside if path.suffix in SUFFIXES and not path.name.startswith(".")}
    return dict(sorted(files.items()))


def experiments() -> dict[str, ExperimentFile]:
    """Name -> where it is read from, of every file and of every arm on every ground, sorted by name."""
    files = experiment_files()
    names = {*files, *(ground + split_name(name)[1] for name in files for ground in GROUNDS)}
    return {name: file for name in sorted(names) if (file := _find(name, files))}


def _find(name: str, files: Mapping[str, Path]) -> ExperimentFile | None:
    ground, arm = split_name(name)
    nearest = next((prefix + arm for prefix in GROUNDS[ground] if prefix + arm in files), None)
    if nearest is None or (nearest != name and not _is_arm(nearest, files)):
        return None
    return ExperimentFile(name, files[nearest], ground)


def _is_arm(name: str, files: Mapping[str, Path]) -> bool:
    """Say whether a file leads to ``scratch`` and says no data itself, so that a ground can take its place."""
    passed: list[str] = []
    while name in files and name not in passed:
        if split_name(name)[1] == ROOT:
            return True
        if not passed and "data" in _settings(files[name]):
            return False
        passed.append(name)
        base = Path(str(_settings(files[name]).get("base", ""))).stem
        name = base if base in files else split_name(base)[1]
    return False


def _settings(path: Path) -> dict[str, Any]:
    """Return what a file says itself; nothing if it cannot be read, of which `distill3d.config.files` says why."""
    try:
        settings = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


_parsed = functools.lru_cache(maxsize=256)(yaml.safe_load)


def on_ground(path: Path, ground: str, seen: list[Path]) -> tuple[Path, str]:
    """Return the file that stands for a parent, the nearest that was not read already, and the ground of its parents.

    Args:
        path: as ``base:`` says it, seen from its child; ``.yaml`` may be left out.
        ground: of the child. Without one, the name of a parent that has no file may bring its own.
        seen: files read already, resolved.
    """
    path = path if path.suffix in SUFFIXES else path.with_name(f"{path.name}.yaml")
    if not ground and not path.is_file():
        ground = split_name(path.stem)[0]
    arm = split_name(path.stem)[1] if ground else path.stem
    nearest = (path.with_name(f"{prefix}{arm}{path.suffix}") for prefix in GROUNDS[ground])
    return next((file for file in nearest if file.is_file() and file.resolve() not in seen), path), ground


def questions() -> dict[str, str]:
    """Arm -> the question it asks on the simplest ground that has it, inherited from its base where it asks none.

    A file that says no settings is left out, and the log names it.
    """
    asked, strays = {}, set()
    simplest = list(reversed(GROUNDS))
    for name, file in sorted(experiments().items(), key=lambda item: simplest.index(split_name(item[0])[0])):
        settings = _settings(file.path)
        if not settings:
            strays.add(file.path)
            continue
        asked.setdefault(split_name(name)[1], str(settings.get("question", f"see {settings.get('base', file.path)}")))
    for path in sorted(strays):
        _LOG.warning("%s: left out, because it is no experiment: no mapping of settings can be read from it", path)
    return dict(sorted(asked.items()))


def find_experiment(name: str | Path) -> ExperimentFile:
    """Return the file of an experiment given by name or by path.

    Raises:
        ConfigError: there is none; names the nearest and lists the arms.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        return ExperimentFile(path.stem, find_file(name, experiment_files, kind="experiment"), split_name(path.stem)[0])
    if file := _find(str(name), experiment_files()):
        return file
    known = experiments()
    hint = did_you_mean(str(name), known)
    arms = ", ".join(sorted({arm if (arm := split_name(each)[1]) in known else each for each in known}))
    grounds = ", ".join(prefix for prefix in reversed(GROUNDS) if prefix)
    raise ConfigError(
        f"unknown experiment {str(name)!r}{hint and f' ({hint})'}; known: {arms or 'none'}; most also with {grounds}"
    )


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
