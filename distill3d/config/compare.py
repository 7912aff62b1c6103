"""Compares settings: two experiments, or what was asked for with what became of it.

Under a W&B sweep the logged config shows the sweep's values, whatever the run was trained with. So both sides compare:
the local runner before the first trial, a run of W&B's agent at its start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from distill3d.config.files import ARM
from distill3d.config.plain import as_plain, flatten
from distill3d.config.scalars import as_written, parse, unmark
from distill3d.config.schema import Experiment


def differences(a: Experiment, b: Experiment) -> list[tuple[str, object, object]]:
    """Dotted keys whose values differ between two experiments, with both values; ``None`` where one lacks the key."""
    flat_a, flat_b = flatten(as_plain(a)), flatten(as_plain(b))
    keys = list(dict.fromkeys([*flat_a, *flat_b]))
    return [(key, flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)]


_ABSENT = object()


def disagreements(requested: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Say which settings are not what was asked for; a line each.

    Args:
        requested: dotted or nested keys, as a sweep passes them. Text counts as the YAML it is, since a command line
            has only text; a mapping may name fewer keys than there are.
        settings: resolved, as `distill3d.config.plain.as_plain` gives them.

    Example:
        >>> disagreements({"optimizer.lr": 1.0, "seed": "3"}, {"optimizer": {"lr": 0.01}, "seed": 3})
        ['optimizer.lr=1.0 was asked for, the settings have 0.01']
    """
    lines = []
    settings = {ARM: settings.get("name"), **settings}
    for key, value in requested.items():
        actual = _look_up(settings, key)
        if actual is _ABSENT:
            lines.append(f"{key}={value} was asked for, the settings have no such key")
        elif not _agree(value, actual):
            hint = "; write 'null' in quotes: W&B passes None as that word" if value is None else ""
            lines.append(f"{key}={value} was asked for, the settings have {actual!r}{hint}")
    return lines


def _look_up(settings: Any, key: str) -> Any:  # noqa: ANN401 - walks any settings
    if not key:
        return settings
    if not isinstance(settings, Mapping):
        return _ABSENT
    # A name may itself hold dots, such as that of a part of `combine`: the longest that is there wins
    names = key.split(".")
    for end in range(len(names), 0, -1):
        if (head := ".".join(names[:end])) in settings:
            return _look_up(settings[head], ".".join(names[end:]))
    return _ABSENT


def meant(value: Any) -> Any:  # noqa: ANN401 - whatever a sweep lists
    """Return the YAML that a text of a command line stands for; what is no text, or no YAML, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return unmark({"value": parse(value)})[0]["value"]
    except OmegaConfBaseException:
        return value


def _agree(requested: Any, actual: Any) -> bool:  # noqa: ANN401 - whatever a sweep lists
    """Say whether a setting is what was asked for: as text, as the YAML that this is, or as its words."""
    if not isinstance(requested, str):
        return _same(requested, actual)
    try:
        plain, words = unmark({"value": parse(requested)})
    except OmegaConfBaseException:
        return _same(requested, actual)
    return any(_same(each, actual) for each in (requested, plain["value"], *as_written(plain, "", words).values()))


def _same(requested: Any, actual: Any) -> bool:  # noqa: ANN401 - as above
    if isinstance(requested, str) and "${" in requested:
        return True  # an interpolation: what it stands for is known only inside its file
    if isinstance(requested, Mapping):
        return isinstance(actual, Mapping) and all(
            key in actual and _agree(value, actual[key]) for key, value in requested.items()
        )
    if isinstance(requested, Sequence) and not isinstance(requested, str):
        if not isinstance(actual, Sequence) or isinstance(actual, str) or len(requested) != len(actual):
            return False
        return all(_agree(a, b) for a, b in zip(requested, actual, strict=True))
    if isinstance(requested, bool) or isinstance(actual, bool) or requested is None or actual is None:
        return requested is actual
    return requested == actual or str(requested) == str(actual)
