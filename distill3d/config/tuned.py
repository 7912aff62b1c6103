"""What a tuning chose for an arm, read from the file that ``distill3d sweep winners`` writes.

``tuned.file=FILE`` is a setting like any other: in an experiment, on a command line, or in the command of a sweep that
the local runner, SLURM and agents of W&B all pass on. What the file says of the arm comes over the experiment's files
and under all overrides, and how it was chosen is kept with the settings of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from distill3d.config.plain import Plain, flatten
from distill3d.errors import ConfigError, did_you_mean

SECTION = "tuned"  # of the settings
ARMS = "arms"  # of the file: experiment -> what it won with


def winner(path: Path, name: str, *, by_hand: Collection[str] = ()) -> Plain:
    """Return the settings that were chosen for an experiment, with ``tuned`` saying how, and which of them count.

    Args:
        path: of the file.
        name: of the experiment.
        by_hand: dotted keys that overrides set; what they replace was not tuned.

    Raises:
        ConfigError: the file cannot be read, or has no winner for the experiment.
    """
    arms = _read(path)
    chosen = arms.get(name)
    if not isinstance(chosen, Mapping):
        hint = did_you_mean(name, arms)
        raise ConfigError(f"{path}: has no winner for {name}{hint and f' ({hint})'}; accepted: {', '.join(arms)}")
    settings, trials = chosen.get("settings"), chosen.get("trials")
    if not isinstance(settings, Mapping) or not isinstance(trials, int):
        raise ConfigError(f"{path}: {ARMS}.{name} lacks settings or trials; accepted: what sweep winners writes")
    how = {key: str(chosen.get(key, "")) for key in ("sweep", "metric")}
    keys = [key for key in flatten(settings) if not any(_overlap(key, own) for own in by_hand)]
    return {**settings, SECTION: {**how, "trials": trials, "keys": keys}}


def _overlap(one: str, other: str) -> bool:
    """Whether a dotted key is another one, or one of them is of the section that the other names."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        text = err.strerror if isinstance(err, OSError) else " ".join(str(err).split())
        raise ConfigError(f"{SECTION}.file: {path}: {text}; accepted: a file of distill3d sweep winners") from err
    arms = content.get(ARMS) if isinstance(content, Mapping) else None
    if not isinstance(arms, Mapping):
        raise ConfigError(f"{SECTION}.file: {path}: has no {ARMS}; accepted: a file of distill3d sweep winners")
    return arms
