"""Groups runs into arms, names them, and chooses the baseline. Folds of an arm are cases of it, not arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill3d.config.folds import split_of, without_folds
from distill3d.config.paths import PLACES
from distill3d.errors import InputError
from distill3d.report.comparison.runs import Run

ABSENT = "(not there)"
# Where a run is kept, how it is called, what computes it and how it was chosen: none changes what is claimed
SAME_ARM = PLACES | {"seed", "name", "question", "trainer.accelerator", "trainer.log_every", "inference.batch_size"}
SAME_SECTIONS = ("logging.", "tuned.")
MOST_SETTINGS = 4  # in a name
MOST_NAMES = 8  # in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs that differ in their seed and fold only, by seed.

    Attributes:
        settings: that they share: of lists of cases, how many there are.
    """

    name: str
    experiment: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]


def tuned_trials(group: Group) -> int:
    """Number of trials in which an arm's settings were chosen."""
    return int(group.settings.get("tuned.trials") or 0)


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
    arms: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
    for run in runs:
        shared = without_folds(run.settings)
        own = {key: value for key, value in shared.items() if is_setting(key)}
        arms.setdefault(f"{run.settings['name']} {sorted(own.items())!r}", []).append((run, shared))
    remarks: list[str] = []
    settings = [members[0][1] for members in arms.values()]
    groups = []
    for name, shared, members in zip(_names(settings), settings, arms.values(), strict=True):
        kept: dict[tuple[int, str], Run] = {}  # by seed and fold
        for run, _ in members:
            first = kept.setdefault((run.seed, repr(split_of(run.settings))), run)
            if first is not run:
                again = f"seed {run.seed} of {name} again, left out; kept: {first.folder.as_posix()}"
                remarks.append(f"{run.folder.as_posix()}: {again}")
        ordered = tuple(sorted(kept.values(), key=lambda run: run.seed))
        groups.append(Group(name=name, experiment=str(shared["name"]), settings=shared, runs=ordered))
    return groups, remarks


def _names(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name arms by their experiment, and by what differs where several share one."""
    shared = Counter(str(settings["name"]) for settings in arms)
    names = []
    for settings in arms:
        experiment = str(settings["name"])
        shown = _telling(settings, [other for other in arms if other["name"] == experiment])
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


def _telling(settings: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what tells an arm from the others: of a component its name, and what is not so in all that share it."""
    shown = []
    for key in differing(arms):
        section, _, last = key.rpartition(".")
        peers = [other for other in arms if other.get(f"{section}.name") == settings.get(f"{section}.name")]
        if last == "name":
            shown += [f"{section}={settings[key]}"] if key in settings else []
        elif any(f"{key}.name" in other for other in arms):  # several components, where others have one
            shown += [f"{key}=[{_listed(settings[key])}]"] if key in settings else []
        elif key in differing(peers):
            shown.append(f"{key}={settings.get(key, ABSENT)}")
    return shown


def _listed(components: Any) -> str:  # noqa: ANN401 - of a file
    """Return the names of several components in one setting."""
    parts = components if isinstance(components, list) else [components]
    return ", ".join(str(part.get("name", part)) if isinstance(part, Mapping) else str(part) for part in parts)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys that do not have the same value everywhere, in order."""
    keys = dict.fromkeys(key for each in settings for key in each if is_setting(key))
    return [key for key in keys if len({repr(each.get(key, ABSENT)) for each in settings}) > 1]


def choose_baseline(groups: Sequence[Group], wanted: str | None) -> Group:
    """Return the arm the others are compared with: the one named, else the only one without a strategy.

    Of several without one it is the only one whose neurons are linear.

    Raises:
        InputError: there is no such arm, or it is not clear which; lists the arms.
    """
    if wanted is not None:
        return arm_called(groups, wanted, f"--baseline {wanted!r}")
    if len(groups) == 1:
        return groups[0]
    without = [group for group in groups if group.settings.get("strategy.name") == "none"]
    plain = [group for group in without if group.settings.get("neurons.name") == "linear"]
    if len(without) != 1 and len(plain) != 1:
        raise InputError(
            f"{len(without)} arms have strategy.name=none; accepted: --baseline with one of {_some_names(groups)}"
        )
    return (without if len(without) == 1 else plain)[0]


def arm_called(groups: Sequence[Group], wanted: str, told: str) -> Group:
    """Return the arm of that name, else the only one of that experiment; ``told`` begins the error.

    Raises:
        InputError: there is no such arm, or there are several; lists the arms.
    """
    matching = [group for group in groups if group.name == wanted]
    matching = matching or [group for group in groups if group.experiment == wanted]
    if len(matching) != 1:
        raise InputError(f"{told} fits {len(matching)} arms; accepted: one of {_some_names(groups)}")
    return matching[0]


def _some_names(groups: Sequence[Group]) -> str:
    shown = [group.name for group in groups[:MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(groups) - len(shown)} more" if len(shown) < len(groups) else "")
