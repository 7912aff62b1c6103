"""What is under a folder of runs, and whether it changed: for the dashboard. It reads files and writes none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from PIL import Image

from distill3d.errors import UserError
from distill3d.evaluation.figures.web import Picture, picture
from distill3d.report.numerals import number, short
from distill3d.report.page.curves import chart_of, term_title
from distill3d.report.page.live import LiveRun
from distill3d.storage.curves import Curve, read_curves
from distill3d.storage.find import walk_runs
from distill3d.storage.links import link_out
from distill3d.storage.lock import NAME, seems_held
from distill3d.storage.run_folder import RunFolder

DEPTH = 6  # below ``runs/``, at most: of a run of a sweep's trial
TELLING = ("config.yaml", "metrics.json", "fit.json", "done.json", "validation.png")
SHOWN = ("val/dice", "train/loss")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """Runs at one moment.

    Args:
        finished: folders with a ``done.json``, but for those of trials.
        running: folders without.
        trials: folders of trials' runs, finished or not.
        refused: folders that link to something outside.
        finished_state: changes whenever a finished run does.
        state: changes whenever anything does.
    """

    finished: tuple[Path, ...]
    running: tuple[Path, ...]
    trials: tuple[Path, ...]
    refused: tuple[Path, ...]
    finished_state: str
    state: str


def scan(runs: Path) -> Scan:
    """Look for runs below a folder; what a link points to outside of it is not looked at."""
    root = runs.resolve()
    folders = sorted(walk_runs(root, depth=DEPTH, served=True))
    refused = tuple(folder for folder in folders if link_out(folder, root))
    kept = [folder for folder in folders if folder not in refused]
    done = {folder for folder in kept if RunFolder(folder).state == "done"}
    trials = tuple(folder for folder in kept if sweep_of(folder, root))
    finished = tuple(folder for folder in kept if folder in done and folder not in trials)
    running = tuple(folder for folder in kept if folder not in done)
    finished_state = _state(finished, refused)
    others = [folder for folder in kept if folder not in finished]
    state = hashlib.sha256((finished_state + _state(others, ())).encode()).hexdigest()[:16]
    return Scan(
        finished=finished, running=running, trials=trials, refused=refused, finished_state=finished_state, state=state
    )


def _state(folders: Sequence[Path], refused: Sequence[Path]) -> str:
    """Return a digest of the sizes and times of what a page is made of."""
    digest = hashlib.sha256(repr(list(map(str, refused))).encode())
    for folder in folders:
        for path in (*(folder / name for name in TELLING), *sorted(folder.glob("curves/*/metrics.csv"))):
            try:
                stat = path.stat()
            except OSError:
                continue
            digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        # a process that is killed changes no file
        digest.update(str(seems_held(folder / NAME)).encode())
    return digest.hexdigest()[:16]


def sweep_of(folder: Path, root: Path) -> tuple[str, str] | None:
    """Return the sweep and the trial that a run belongs to; None for none.

    >>> sweep_of(Path("runs/sweeps/lr/trials/0003/unet/seed0"), Path("runs"))
    ('lr', '0003')
    >>> sweep_of(Path("runs/unet/seed0"), Path("runs"))
    """
    parts = folder.relative_to(root).parts
    return (parts[1], parts[3]) if len(parts) > 4 and parts[0] == "sweeps" and parts[2] == "trials" else None


def live_runs(folders: Sequence[Path], root: Path) -> tuple[LiveRun, ...]:
    """Read how far unfinished runs are, the one that wrote last first."""
    read = sorted(((_last_write(folder), folder) for folder in folders), reverse=True)
    return tuple(_live_run(folder, root.resolve(), wrote) for wrote, folder in read)


def last_change(paths: Iterable[Path]) -> float:
    """Return when the newest of some files or folders changed, in seconds since the epoch; 0 where none is there."""
    times = []
    for path in paths:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _last_write(folder: Path) -> float:
    return last_change([*folder.glob("curves/*/metrics.csv"), folder / "config.yaml"])


def _live_run(folder: Path, root: Path, wrote: float) -> LiveRun:
    curves = read_curves(folder)
    steps = [step for curve in curves.values() for step, _ in curve]
    shown = {term: curves[term] for term in SHOWN if term in curves} or dict(list(curves.items())[:2])
    settings, step = settings_of(folder), max(steps, default=-1) + 1
    asked, sweep = steps_asked(settings), sweep_of(folder, root)
    return LiveRun(
        name=folder.relative_to(root).as_posix(),
        step=step,
        steps=asked,
        age=f"last wrote {datetime.fromtimestamp(wrote, UTC):%d %B, %H:%M:%S} UTC",
        left=time_left(folder, step, asked, wrote),
        tags=(*_tags(settings), *([f"sweep:{sweep[0]}"] if sweep else [])),
        seen=_seen(RunFolder(folder).validation),
        figure=chart_of(shown) if shown else None,
        last=_last_values(shown),
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """Return a run's settings; none where they cannot be read."""
    try:
        return RunFolder(folder).read_config()
    except (UserError, OSError):
        return {}


def steps_asked(settings: Mapping[str, Any]) -> int | None:
    """Return how many steps a run is to take; None where its settings do not say."""
    trainer = settings.get("trainer")
    steps = trainer.get("steps") if isinstance(trainer, dict) else None
    return steps if isinstance(steps, int) and steps > 0 else None


def time_left(folder: Path, step: int, steps: int | None, wrote: float) -> str:
    """Say how long a run will take from its last step on, at the pace since it was started last; empty if unknown."""
    starts = {int(match[1]): path for path in folder.glob("curves/*") if (match := _START.fullmatch(path.name))}
    if not steps or not starts:
        return ""
    first = max(starts)
    try:
        began = starts[first].stat().st_mtime  # when its file came into it
    except OSError:
        return ""
    if not first < step < steps or wrote - began < 1:
        return ""
    minutes = (wrote - began) / (step - first) * (steps - step) / 60
    if minutes < 1:
        return "less than a minute left"
    return f"about {f'{minutes:.0f} min' if minutes < 90 else f'{minutes / 60:.1f} h'} left"


_START = re.compile(r"from_step(\d{1,15})")


def _tags(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's parts, as its tags on W&B are, but for those that stand for nothing."""
    names = [part.get("name") for part in settings.values() if isinstance(part, dict)]
    return list(dict.fromkeys(short(name) for name in names if isinstance(name, str) and name not in _PLAIN))


_PLAIN = ("none", "linear")


def _seen(path: Path) -> Picture | None:
    """Read what `distill3d.training.last_seen` wrote; None where that is nothing of the kind."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) > MOST_PIXELS:
                return None
            shown, notes = image.convert("L"), dict(image.info)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    case, step = (short(str(notes.get(key, "?"))) for key in ("case", "step"))
    return picture(shown, f"Validation patch of {case}, step {step}: image, gold, probability")


MOST_PIXELS = 4096  # of a side


def _last_values(curves: dict[str, Curve]) -> str:
    return ", ".join(f"{term_title(term)} {number(curve[-1][1], 3)}" for term, curve in curves.items())
