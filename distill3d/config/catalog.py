"""Finds experiments by name: an arm, on a ground. It validates nothing, so that a typo is told at once.

An experiment's name is a ground's prefix and an arm: ``op_kd_cosine`` is the arm ``kd_cosine`` on the ground ``op``. An
arm that has no file on a ground takes the file of the next ground below, and every ``base:`` of its chain goes to the
nearest file in the same way. So every arm exists on every ground above the one it was written for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from distill3d.errors import ConfigError, did_you_mean

SUFFIXES = (".yaml", ".yml")
# Prefix of a name -> prefixes under which a file is looked for, nearest first. Without a prefix: simulated neurons.
GROUNDS = {"op_hard_": ("op_hard_", "op_", ""), "op_": ("op_", ""), "": ("",)}
PRETRAINING = "pretrain_"  # starts the name of a file that trains a 2D network, which has no ground


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
        files |= {path.stem: path for path in folder.rglob("*") if path.suffix in SUFFIXES}
    return dict(sorted(files.items()))


def experiments() -> dict[str, ExperimentFile]:
    """Name -> where it is read from, of every arm on every ground, sorted by name."""
    files = experiment_files()
    arms = {split_name(name)[1] for name in files if not name.startswith(PRETRAINING)}
    named = {name: ExperimentFile(name, path) for name, path in files.items() if name.startswith(PRETRAINING)}
    for ground, prefixes in GROUNDS.items():
        for arm in arms:
            path = next((files[prefix + arm] for prefix in prefixes if prefix + arm in files), None)
            if path is not None:
                named[ground + arm] = ExperimentFile(ground + arm, path, ground)
    return dict(sorted(named.items()))


def on_ground(path: Path, ground: str, seen: list[Path]) -> Path:
    """Return the file that stands for a parent on a ground: the nearest one there is that was not read already."""
    arm = split_name(path.stem)[1] if ground else path.stem
    nearest = (path.with_name(f"{prefix}{arm}{path.suffix}") for prefix in GROUNDS[ground])
    return next((file for file in nearest if file.is_file() and file.resolve() not in seen), path)


def questions() -> dict[str, str]:
    """Arm -> the question it asks, inherited from its base where it asks none."""
    asked = {}
    for name, file in experiments().items():
        settings = yaml.safe_load(file.path.read_text()) or {}
        asked.setdefault(split_name(name)[1], str(settings.get("question", f"see {settings.get('base', file.path)}")))
    return asked


def find_experiment(name: str | Path) -> ExperimentFile:
    """Return the file of an experiment given by name or by path.

    Raises:
        ConfigError: there is none; names the nearest and lists the arms.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        return ExperimentFile(path.stem, find_file(name, experiment_files, kind="experiment"), split_name(path.stem)[0])
    known = experiments()
    if str(name) in known:
        return known[str(name)]
    hint = did_you_mean(str(name), known)
    arms = ", ".join(sorted({split_name(each)[1] for each in known}))
    grounds = ", ".join(prefix for prefix in reversed(GROUNDS) if prefix)
    raise ConfigError(
        f"unknown experiment {str(name)!r}{hint and f' ({hint})'}; known: {arms or 'none'}; each also with {grounds}"
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
