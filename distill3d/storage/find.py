"""Finds the folders of runs."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill3d.errors import InputError
from distill3d.storage.links import link_out
from distill3d.storage.run_folder import RunFolder

KEPT = Path("experiments/results")  # where ``report --keep`` puts what of a sweep's runs is committed


def find_runs(
    places: Sequence[str | Path], *, patterns: Sequence[str] = (), sweeps: Sequence[str] = (), runs: Path = Path("runs")
) -> tuple[list[Path], list[str]]:
    """Find the folders of finished runs, each once.

    Args:
        places: a run's folder, a folder of an experiment (all its seeds), or a folder that holds such; an experiment's
            name stands for ``runs/<name>``; a glob pattern stands for what it matches.
        patterns: more glob patterns.
        sweeps: names of sweeps, whose trials are under ``runs/sweeps/<name>/trials``, or else kept in `KEPT`.
        runs: folder of runs.

    Returns:
        The folders, and a line about each run that is left out: unfinished, or without a test case and so unscored.

    Raises:
        InputError: something given holds no run.
    """
    roots: list[Path] = [path for place in [*places, *patterns] for path in matches(str(place), runs)]
    for name in sweeps:
        trials, kept = runs / "sweeps" / sweep_name(name) / "trials", KEPT / sweep_name(name)
        if not trials.is_dir() and not kept.is_dir():
            raise InputError(f"{trials}: no such sweep here; accepted: a name under {runs / 'sweeps'} or {KEPT}")
        roots.append(trials if trials.is_dir() else kept)
    folders: dict[Path, Path] = {}
    for root in roots:
        inside = list(walk_runs(root))
        if not inside:
            raise InputError(f"{root}: holds no run; accepted: a folder with config.yaml, or one that holds such")
        folders |= {path.resolve(): path for path in inside if path.resolve() not in folders}
    lacks = {path: _lacks(RunFolder(path)) for path in folders.values()}
    if all(lacks.values()):
        raise InputError(f"no finished run among {len(folders)} found; accepted: run folders with done.json and scores")
    left_out = [f"{path.as_posix()}: {reason}, left out" for path, reason in lacks.items() if reason]
    return [path for path, reason in lacks.items() if not reason], left_out


def sweep_name(place: str) -> str:
    """Return the name of a sweep given by it or by its file.

    >>> sweep_name("lr_1.5"), sweep_name("sweeps/lr_1.5.yaml")
    ('lr_1.5', 'lr_1.5')
    """
    path = Path(place)
    return path.stem if path.suffix in {".yaml", ".yml"} else path.name


def _lacks(folder: RunFolder) -> str:
    if folder.state != "done":
        return "unfinished"
    if link := link_out(folder.path, folder.path):
        return f"{link.name} links to a place outside of it"
    try:
        cases = folder.read_json(folder.done).get("cases")
        return "no test case" if cases == 0 and type(cases) is int else ""
    except InputError:
        return ""  # whoever reads the run says what is damaged


def matches(place: str, runs: Path = Path("runs")) -> list[Path]:
    """Return the folders that a folder, the name of one under ``runs``, or a glob pattern stands for.

    Raises:
        InputError: there is none.
    """
    for path in (Path(place), runs / place):
        if path.is_dir():
            return [path]
    folders = [Path(match) for match in sorted(glob.glob(place, recursive=True)) if Path(match).is_dir()]  # noqa: PTH207 - patterns may be absolute
    if not folders:
        raise InputError(
            f"{place}: no such folder, and no pattern that matches one; accepted: runs/<experiment>/seed<k>"
        )
    return folders


def walk_runs(folder: Path, *, depth: float = math.inf, served: bool = False) -> Iterator[Path]:
    """Yield the run folders at ``folder`` or below it, sorted; not below another run, and not in the smoke runs.

    Args:
        folder: where to start.
        depth: how many folders below at most.
        served: what is found is shown to a browser while runs come and go: smoke runs are too, links are not followed,
            and a folder that cannot be read is passed over.
    """
    if RunFolder(folder).state != "absent":
        yield folder
    elif depth:
        try:
            below = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=not served)]
        except OSError:  # gone while we looked, or not ours to read
            if not served:
                raise
            return
        for path in sorted(Path(entry.path) for entry in below if served or entry.name != "smoke"):
            yield from walk_runs(path, depth=depth - 1, served=served)
