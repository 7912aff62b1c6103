"""Builds the `Comparison` that page, Markdown and terminal show."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill3d.config.folds import count_of, fold_of, some, split_of
from distill3d.evaluation.scores import Score
from distill3d.evaluation.tables import bends_in_vain, little_kept, nearly_linear
from distill3d.report.comparison.across import profiles_of, rankings_of
from distill3d.report.comparison.budget import check_budget
from distill3d.report.comparison.columns import pick
from distill3d.report.comparison.contrasts import contrasts_of, differences_from, pairs_called
from distill3d.report.comparison.folds import missing_folds, shared_training
from distill3d.report.comparison.grouping import Group, choose_baseline, differing, group_runs, tuned_trials
from distill3d.report.comparison.runs import Run
from distill3d.report.comparison.score_tables import axes, score_table
from distill3d.report.comparison.statistics import CaseTest
from distill3d.report.comparison.verdict import DEFAULT_TEST, MIN_CASES, MIN_SEEDS, estimate, in_words
from distill3d.report.content import Arm, BudgetCheck, Comparison, Difference, RunEntry
from distill3d.report.costs import Cost, Tubes


def compare(
    runs: Sequence[Run],
    *,
    baseline: str | None = None,
    contrasts: Sequence[str] = (),
    scores: Sequence[str] = (),
    test: CaseTest = DEFAULT_TEST,
    title: str = "",
    remarks: Sequence[str] = (),
    on_score: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compare all arms that runs form with one of them.

    Args:
        runs: finished runs, see `distill3d.report.comparison.runs.read_run`.
        baseline: name of an arm; None takes the only one without a strategy.
        contrasts: further pairs of arms such as ``frozen:scratch``.
        scores: keys of the columns, the main one first; empty for the usual ones.
        test: over cases, which may object to a verdict.
        title: of the report; empty names the baseline and the number of arms.
        remarks: what is known already, such as runs left out.
        on_score: called with the label of each score as its statistics begin.

    Raises:
        InputError: there is no run, a score or an arm is unknown, or it is not clear which arm is the baseline.
    """
    groups, doubled = group_runs(runs)
    first = choose_baseline(groups, baseline)
    pairs = pairs_called(groups, contrasts)
    picked = pick(scores, _keys(runs))
    keys = differing([group.settings for group in groups])
    arms = {group.name: _arm(group, picked, keys) for group in groups}
    others = sorted(
        (group for group in groups if group is not first), key=lambda group: _rank(arms[group.name], picked[0])
    )
    differences: list[Difference] = []
    for score in picked:
        on_score(score.label)
        differences += differences_from(first, others, score, test)
    budget = tuple(check_budget(group, first) for group in others)
    ordered = tuple(arms[group.name] for group in [first, *others])
    return Comparison(
        title=title or f"{len(others)} arm{'s' * (len(others) != 1)} against {first.name}",
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        baseline=first.name,
        scores=picked,
        arms=ordered,
        references=_references(runs, picked),
        differences=tuple(differences),
        budget=budget,
        contrasts=contrasts_of(pairs, picked, test),
        remarks=(*remarks, *doubled, *_remarks([first, *others], arms, budget)),
        test=in_words(test),
        profiles=profiles_of(ordered, picked),
        rankings=rankings_of(ordered, picked),
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Turn a comparison into what ``report.json`` holds: plain containers, no NaN."""
    return dataclasses.asdict(comparison)


def run_folders(comparison: Comparison) -> dict[str, tuple[Path, ...]]:
    """Arm -> folders of its runs, by seed."""
    return {arm.name: tuple(Path(run.folder) for run in arm.runs) for arm in comparison.arms}


def _keys(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for row in run.cases.values() for key in row))


def _rank(arm: Arm, main: Score) -> tuple[bool, float, str]:
    mean = arm.scores[main.key].mean
    return mean is None, -(mean or 0.0) if main.higher_is_better else mean or 0.0, arm.name


# ---------------------------------------------------------------- numbers


def _references(runs: Sequence[Run], picked: Sequence[Score]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Scores of classical methods; every run has the same ones for the cases it shares with another."""
    by_method: dict[str, dict[str, dict[str, float | None]]] = {}
    for run in runs:
        for name, rows in run.references.items():
            for case, row in rows.items():
                by_method.setdefault(name, {}).setdefault(case, {score.key: row.get(score.key) for score in picked})
    return by_method


# ---------------------------------------------------------------- words


def _arm(group: Group, picked: Sequence[Score], keys: Sequence[str]) -> Arm:
    last = group.runs[-1]
    teacher = next((run.teacher for run in group.runs if run.teacher), {})
    several = len({repr(split_of(run.settings)) for run in group.runs}) > 1
    return Arm(
        name=group.name,
        experiment=group.experiment,
        question=str(last.settings.get("question", "")),
        settings={key: group.settings[key] for key in keys if key in group.settings},
        labelled=_labelled(last.settings),
        runs=tuple(_entry(run, picked, fold=fold_of(run.settings) if several else "") for run in group.runs),
        scores={score.key: estimate(score_table(group.runs, score.key, *axes(group.runs)), score) for score in picked},
        cost=Cost(**_means(Cost, [run.cost for run in group.runs])),
        kept=_mean([run.kept for run in group.runs]),
        nonlinear_share=_mean([run.nonlinear_share for run in group.runs]),
        tubes=Tubes(**_means(Tubes, [run.tubes for run in group.runs])),
        tuned_trials=tuned_trials(group),
        tuned=_tuned(group),
        teacher=_teacher_line(teacher),
        random_teacher=any(run.teacher.get("random") is True for run in group.runs),
    )


def _tuned(group: Group) -> str:
    """Say what a tuning chose for an arm, by what and where."""
    keys, metric, sweep, file = (group.settings.get(f"tuned.{key}") for key in ("keys", "metric", "sweep", "file"))
    if not (trials := tuned_trials(group)):
        return ""
    return (
        f"{_plural(trials, 'trial')} of {some(keys or ['?'])} by {metric or '?'} (sweep {sweep or '?'}, {file or '?'})"
    )


def _labelled(settings: Mapping[str, Any]) -> int | None:
    """Number of training volumes: names, or how many are simulated; patterns and shares of a folder cannot be told."""
    train = settings.get("data.train")
    return train if isinstance(train, int) else count_of(train)


def _means(kind: type[Cost | Tubes], of_runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {field.name: _mean([run.get(field.name) for run in of_runs]) for field in dataclasses.fields(kind)}


def _mean(values: Sequence[object]) -> float | None:
    """Return the mean over the runs that say a number."""
    known = [value for value in values if isinstance(value, int | float)]
    return float(np.mean(known)) if known else None


def _teacher_line(teacher: Mapping[str, Any]) -> str:
    if teacher.get("architecture", "none") == "none":
        return ""
    return (
        f"{teacher['architecture']}, {teacher.get('weights', 'weights unknown')}, sha256 {teacher.get('sha256', '?')}"
    )


def _entry(run: Run, picked: Sequence[Score], *, fold: str) -> RunEntry:
    provenance = run.provenance
    packages, machine, command = (provenance.get(key) for key in ("packages", "machine", "command"))
    commit = provenance.get("commit")
    return RunEntry(
        folder=run.folder.as_posix(),
        seed=run.seed,
        fold=fold,
        cases={case: {score.key: row.get(score.key) for score in picked} for case, row in run.cases.items()},
        commit=None if commit is None else str(commit),
        command=_command(command) if isinstance(command, list) else "",
        packages={str(key): str(value) for key, value in packages.items()} if isinstance(packages, Mapping) else {},
        machine=_machine(machine) if isinstance(machine, Mapping) else "",
    )


def _command(argv: Sequence[Any]) -> str:
    """A line one can paste: the program by its name, not by where it lay on that machine."""
    words = [str(word) for word in argv]
    if words and Path(words[0]).name in {"__main__.py", "distill3d"}:
        words[0] = "distill3d"
    return shlex.join(words)


def _machine(machine: Mapping[str, Any]) -> str:
    gpus = machine.get("gpus") or []
    return f"{machine.get('system', 'unknown system')}, {machine.get('cpus', '?')} cores, " + (
        ", ".join(map(str, gpus)) or "no GPU"
    )


def _remarks(groups: Sequence[Group], arms: Mapping[str, Arm], budget: Sequence[BudgetCheck]) -> list[str]:
    """What a reader must know before believing."""
    lines = [*missing_folds(groups), *shared_training(groups)]
    of_arms: dict[str, list[str]] = {}
    for group in groups:
        for remark in _remarks_of(group, arms[group.name]):
            of_arms.setdefault(remark, []).append(group.name)
    for remark, names in of_arms.items():
        every = 1 < len(names) == len(groups)
        lines.append(f"{f'all {len(names)} arms' if every else ', '.join(names)}: {remark}")
    lines += [f"{run.folder.as_posix()}: has no {', '.join(run.lacks)}" for g in groups for run in g.runs if run.lacks]
    lines += _untraced(groups)
    lines += _unlike_tuning([arms[group.name] for group in groups])
    unfair = {check.arm: [s.key for s in check.settings if not s.fair] for check in budget if not check.equal}
    if unfair:
        named = (f"{arm} ({some(keys)})" if keys else arm for arm, keys in unfair.items())
        lines.append(f"unequal budget, see the check: {', '.join(named)}")
    return lines


def _untraced(groups: Sequence[Group]) -> Iterator[str]:
    """Say of which cases a method found too much to trace, a line each method."""
    cases: dict[str, dict[str, str]] = {}
    for run in (run for group in groups for run in group.runs):
        for method, untraced in run.untraced.items():
            of_method = cases.setdefault(method, {})
            of_method |= {case: why for case, why in untraced.items() if case not in of_method}
    for method, untraced in cases.items():
        for case, why in list(untraced.items())[:1]:
            several = f"{len(untraced)} cases were not traced and have no tree, such as {case}"
            yield f"{method}: {several if len(untraced) > 1 else f'{case} was not traced and has no tree'}: {why}"


def _remarks_of(group: Group, arm: Arm) -> Iterator[str]:
    """What a reader must know of an arm."""
    n_cases, n_seeds = (len(axis) for axis in axes(group.runs))
    if n_seeds < MIN_SEEDS or n_cases < MIN_CASES:
        yield (
            f"{_plural(n_seeds, 'seed')} and {_plural(n_cases, 'case')}; "
            f"no verdict below {MIN_SEEDS} seeds and {MIN_CASES} cases"
        )
    if arm.random_teacher:
        yield "the teacher's weights are RANDOM; nothing was transferred from photographs"
    yield from filter(None, (little_kept(arm.kept), nearly_linear(arm.nonlinear_share)))
    if bends_in_vain(dataclasses.asdict(arm.tubes)):
        yield "its bent tubes lie on neurites no more often than straight ones would"
    if any(str(run.provenance.get("commit", "")).endswith("+dirty") for run in group.runs):
        yield "run with local changes, which its commit does not have"


def _unlike_tuning(arms: Sequence[Arm]) -> list[str]:
    """Mark the arms whose settings were chosen in more or fewer trials than the baseline's, which comes first."""
    of_baseline = arms[0].tuned_trials
    return [
        f"{arm.name}: its settings were chosen in {_plural(arm.tuned_trials, 'trial')}, the baseline's in {of_baseline}"
        for arm in arms
        if arm.tuned_trials != of_baseline
    ]


def _plural(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
