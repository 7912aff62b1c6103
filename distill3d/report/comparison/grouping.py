"""Groups runs into arms, names them, and chooses the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill3d.errors import InputError
from distill3d.report.comparison.runs import Run

ABSENT = "(not there)"
# Where a run is kept, how it is called, and what computes it: none changes what is claimed
SAME_ARM = frozenset({"seed", "name", "question", "runs", "cache", "trainer.accelerator", "trainer.log_every"})
SAME_SECTIONS = ("logging.",)
MOST_SETTINGS = 4  # in a name


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs that differ in their seed only, by seed."""

    name: str
    experiment: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]


def is_setting(key: str) -> bool:
    """Whether a key tells arms apart."""
    return key not in SAME_ARM and not key.startswith(SAME_SECTIONS) and not key.endswith(".workers")


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Group runs into arms of unique names; also returns a line about each run that is there twice.

    Raises:
        InputError: there is no run.
    """
    if not runs:
        raise InputError("no finished run to compare; accepted: two or more arms of one or more seeds")
    arms: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if is_setting(key)}
        arms.setdefault(f"{run.settings['name']} {sorted(settings.items())!r}", []).append(run)
    remarks: list[str] = []
    names = _names([members[0] for members in arms.values()])
    groups = []
    for name, members in zip(names, arms.values(), strict=True):
        by_seed: dict[int, Run] = {}
        for run in members:
            if run.seed in by_seed:
                kept = by_seed[run.seed].folder.as_posix()
                remarks.append(f"{run.folder.as_posix()}: seed {run.seed} of {name} again, left out; kept: {kept}")
            by_seed.setdefault(run.seed, run)
        ordered = tuple(by_seed[seed] for seed in sorted(by_seed))
        first = ordered[0]
        groups.append(Group(name=name, experiment=str(first.settings["name"]), settings=first.settings, runs=ordered))
    return groups, remarks


def _names(firsts: Sequence[Run]) -> list[str]:
    """Name arms by their experiment, and by what differs where two share one."""
    shared = Counter(str(run.settings["name"]) for run in firsts)
    names = []
    for run in firsts:
        experiment = str(run.settings["name"])
        alike = [other for other in firsts if other.settings["name"] == experiment]
        keys = differing([other.settings for other in alike])
        shown = [f"{key}={run.settings.get(key, ABSENT)}" for key in keys]
        if len(shown) > MOST_SETTINGS:
            shown = [*shown[:MOST_SETTINGS], f"and {len(shown) - MOST_SETTINGS} more"]
        names.append(f"{experiment} [{', '.join(shown)}]" if shared[experiment] > 1 else experiment)
    taken = Counter(names)
    number: Counter[str] = Counter()
    for place, name in enumerate(names):
        if taken[name] > 1:  # too many settings to tell all
            number[name] += 1
            names[place] = f"{name} #{number[name]}"
    return names


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys that do not have the same value everywhere, in order."""
    keys = dict.fromkeys(key for each in settings for key in each if is_setting(key))
    return [key for key in keys if len({repr(each.get(key, ABSENT)) for each in settings}) > 1]


def choose_baseline(groups: Sequence[Group], wanted: str | None) -> Group:
    """Return the arm the others are compared with: the one named, else the only one without a strategy.

    Raises:
        InputError: there is no such arm, or it is not clear which; lists the arms.
    """
    names = ", ".join(group.name for group in groups)
    if wanted is not None:
        matching = [group for group in groups if group.name == wanted]
        matching = matching or [group for group in groups if group.experiment == wanted]
        if len(matching) != 1:
            raise InputError(f"--baseline {wanted!r} fits {len(matching)} arms; accepted: one of {names}")
        return matching[0]
    without = [group for group in groups if group.settings.get("strategy.name") == "none"]
    if len(groups) == 1:
        return groups[0]
    if len(without) != 1:
        raise InputError(f"{len(without)} arms have strategy.name=none; accepted: --baseline with one of {names}")
    return without[0]
