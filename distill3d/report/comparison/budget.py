"""Checks that an arm and the baseline had one budget: data, steps, batch, augmentation, tuning, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from distill3d.config.folds import some
from distill3d.report.comparison.folds import unlike_pairs
from distill3d.report.comparison.grouping import ABSENT, Group, differing, tuned_trials
from distill3d.report.content import BudgetCheck, Setting

# What a claim may be about: whole sections, and how transferred weights alone learn
FAIR_SECTIONS = ("strategy", "teacher", "student", "neurons")
FAIR_KEYS = ("optimizer.transferred_lr_ratio", "optimizer.layer_decay", "optimizer.freeze_transferred_steps")


def check_budget(arm: Group, baseline: Group) -> BudgetCheck:
    """List what differs between an arm and the baseline, and what of it is unfair.

    A key that one side lacks, as runs of an older version may, counts only if the other side's value is no default.
    """
    settings, remarks, chosen = [], [], _chosen_alike(arm, baseline)
    for key in differing([arm.settings, baseline.settings]):
        one_sided = _assumed_default(key, arm.settings, baseline.settings)
        if one_sided:
            remarks.append(one_sided)
            continue
        settings.append(
            Setting(
                key=key,
                arm=str(arm.settings.get(key, ABSENT)),
                baseline=str(baseline.settings.get(key, ABSENT)),
                fair=key in chosen or is_claimed(key),
            )
        )
    settings.sort(key=lambda setting: setting.fair)
    unequal = [*unlike_pairs(arm, baseline), *_tuning(arm, baseline)]
    return BudgetCheck(
        arm=arm.name,
        settings=tuple(settings),
        remarks=(*unequal, *remarks, *_code(arm, baseline)),
        equal=not unequal and all(setting.fair for setting in settings),
    )


def is_claimed(key: str) -> bool:
    """Whether arms may differ in a key whatever chose it, since a claim is about it."""
    return key in FAIR_KEYS or key.partition(".")[0] in FAIR_SECTIONS


def _chosen_alike(arm: Group, baseline: Group) -> set[str]:
    """Keys that tunings of as many trials chose for both."""
    if tuned_trials(arm) != tuned_trials(baseline):
        return set()
    return set.intersection(*(set(group.settings.get("tuned.keys") or ()) for group in (arm, baseline)))


def _tuning(arm: Group, baseline: Group) -> list[str]:
    counts = [tuned_trials(group) for group in (arm, baseline)]
    return [f"tuning: the arm had {counts[0]} trials, the baseline {counts[1]}"] if counts[0] != counts[1] else []


def _assumed_default(key: str, arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Say that a side lacks a key that has its default on the other one; empty otherwise.

    Components that differ have other keys: those are differences.
    """
    if key in arm and key in baseline:
        return ""
    there, lacking = (arm, "the baseline") if key in arm else (baseline, "the arm")
    section = key.partition(".")[0]
    if arm.get(f"{section}.name") != baseline.get(f"{section}.name"):
        return ""
    known, default = _default(key, str(there.get(f"{section}.name")))
    if not known or _plain(default) != _plain(there[key]):
        return ""
    return f"{key}: {lacking} was run by a version without it; the other side has its default {there[key]}"


@lru_cache(maxsize=256)
def _default(key: str, component: str) -> tuple[bool, Any]:
    """Whether a setting has a default, and which; for a component's settings by its name."""
    from dataclasses import MISSING, fields, is_dataclass  # noqa: PLC0415 - with what follows

    from distill3d.config.registry import REGISTRIES  # noqa: PLC0415 - as above
    from distill3d.config.schema import Experiment  # noqa: PLC0415 - as above
    from distill3d.experiment import BUILT_IN  # noqa: F401, PLC0415 - torch; needed for runs of other versions only

    section, *path = key.split(".")
    tops = {f.name: f for f in fields(Experiment)}
    if section not in tops:
        return False, None
    top = tops[section]
    if "registry" in top.metadata:
        registry = REGISTRIES[top.metadata["registry"]]
        if top.metadata["many"] or component not in registry or not path:
            return False, None
        value: Any = registry[component].config
    else:
        value = top.default
    for name in path:
        if not is_dataclass(value) or name not in (inner := {f.name: f for f in fields(value)}):
            return False, None
        value = inner[name].default if isinstance(value, type) else getattr(value, name)
    return value is not MISSING, value


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _code(arm: Group, baseline: Group) -> list[str]:
    """Commits and packages that differ: a remark, for they rarely change a result."""
    lines = []
    commits = [sorted({str(run.provenance.get("commit"))[:8] for run in group.runs}) for group in (arm, baseline)]
    if commits[0] != commits[1]:
        lines.append(f"commit: {some(commits[0])}; baseline: {some(commits[1])}")
    here, there = ({k: v for run in group.runs for k, v in _packages(run.provenance)} for group in (arm, baseline))
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    changed = [f"{name} {here.get(name)}, baseline {there.get(name)}" for name in names]
    if changed and here and there:
        lines.append(f"packages: {some(changed, joined='; ')}")
    return lines


def _packages(provenance: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    packages = provenance.get("packages")
    return packages.items() if isinstance(packages, Mapping) else ()
