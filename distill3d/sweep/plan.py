"""Which trials a sweep has, what each is called with, and whether all of them could run. It starts none.

A trial is ``distill3d fit EXPERIMENT key=value ...`` as the sweep file's command says, with ``runs=`` of its own last.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill3d.config.compare import disagreements, meant
from distill3d.config.folds import without_folds
from distill3d.config.plain import as_plain, flatten
from distill3d.config.scalars import quoted
from distill3d.config.schema import Experiment
from distill3d.errors import ConfigError, UserError
from distill3d.experiment import load_experiment
from distill3d.storage.run_folder import RunFolder
from distill3d.sweep.command import build_argv
from distill3d.sweep.distributions import Choice, Curve, Distribution, grid_values
from distill3d.sweep.objective import metric_problems
from distill3d.sweep.schema import Sweep

Values = dict[str, Any]  # dotted key -> value
MOST_LINES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One point of a sweep.

    Attributes:
        number: from 0, in the order of the sweep.
        values: what the sweep asks for.
        argv: what is run.
        folder: of this trial.
        experiment: what the arguments resolve to.
    """

    number: int
    values: Values
    argv: tuple[str, ...]
    folder: Path
    experiment: Experiment

    @property
    def run(self) -> RunFolder:
        """The run's folder inside the trial's."""
        return RunFolder(Path(self.experiment.runs) / self.experiment.name / f"seed{self.experiment.seed}")

    @property
    def log(self) -> Path:
        """What the trial printed."""
        return self.folder / "log.txt"

    @property
    def arguments_file(self) -> Path:
        """What ``${args_json_file}`` names."""
        return self.folder / "arguments.json"


def sweep_folder(sweep: str, runs: Path | str) -> Path:
    """Where everything of a sweep is kept."""
    return Path(runs) / "sweeps" / sweep


def grid(sweep: Sweep) -> list[Values]:
    """Every combination of a grid exactly once, the last parameter changing fastest; at most ``run_cap`` of them."""
    axes = [[(parameter.key, value) for value in grid_values(parameter.distribution)] for parameter in sweep.parameters]
    return [dict(point) for point in itertools.islice(itertools.product(*axes), sweep.run_cap)]


def passed(sweep: Sweep, values: Values) -> dict[str, Any]:
    """Bring values into the form W&B passes them in: nested parameters as one mapping under their top name.

    Args:
        sweep: says which parameters are nested.
        values: dotted keys.
    """
    args: dict[str, Any] = {}
    for parameter in sweep.parameters:
        inner = args
        for name in parameter.path[:-1]:
            inner = inner.setdefault(name, {})
        inner[parameter.path[-1]] = values[parameter.key]
    return args


def make_trial(sweep: Sweep, number: int, values: Values, folder: Path) -> Trial:
    """Build a trial and resolve its settings.

    Args:
        sweep: the sweep.
        number: of the trial.
        values: of its parameters.
        folder: of the whole sweep.

    Raises:
        ConfigError: the arguments do not resolve, or to something else than the sweep asks for.
    """
    own = folder / "trials" / f"{number:04d}"
    argv = build_argv(
        sweep.command,
        program=sweep.program,
        args=passed(sweep, values),
        json_file=own / "arguments.json",
        environ=os.environ,
    )
    argv += [*_labels(sweep), f"runs={quoted(str(own))}"]
    name, overrides = called(argv)
    experiment = load_experiment(name, overrides, allow_plugins=sweep.allow_plugins)
    if wrong := disagreements(values, as_plain(experiment)):
        raise ConfigError(*wrong)
    allowed = ["--allow-plugins"] if sweep.allow_plugins else []
    return Trial(number=number, values=values, argv=(*argv, *allowed), folder=own, experiment=experiment)


def _labels(sweep: Sweep) -> list[str]:
    labels = {"logging.project": sweep.project, "logging.entity": sweep.entity}
    return [f"{key}={quoted(value)}" for key, value in labels.items() if value is not None]


def called(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the experiment and the overrides of ``... fit EXPERIMENT key=value ...``.

    Raises:
        ConfigError: it runs something else.
    """
    if "fit" not in argv or argv.index("fit") + 1 == len(argv):
        raise ConfigError(f"command: {' '.join(argv)!r} does not run 'distill3d fit EXPERIMENT'")
    at = argv.index("fit") + 1
    return argv[at], list(argv[at + 1 :])


def check(sweep: Sweep, folder: Path) -> None:
    """Refuse a sweep of which any trial could not run, before the first one starts.

    A grid is checked point by point. Of a random or bayes sweep every choice and every bound is, the others being at
    their first value.

    Raises:
        ConfigError: all that is wrong, one line each.
    """
    problems: dict[str, None] = {}  # in order, each once
    for values in grid(sweep) if sweep.method == "grid" else corners(sweep):
        try:
            trial = make_trial(sweep, 0, values, folder)
        except UserError as err:
            problems.update(dict.fromkeys(err.lines))
        else:
            problems.update(dict.fromkeys(metric_problems(sweep, trial.experiment)))
    if problems:
        lines = [f"sweep {sweep.name}: {problem}" for problem in problems]
        more = [f"sweep {sweep.name}: and {len(lines) - MOST_LINES} problems more"] if len(lines) > MOST_LINES else []
        raise ConfigError(*lines[:MOST_LINES], *more)


def corners(sweep: Sweep) -> Iterator[Values]:
    """Points that together hold every choice and every bound of a sweep."""
    ends = {parameter.key: list(_ends(parameter.distribution)) for parameter in sweep.parameters}
    first = {key: values[0] for key, values in ends.items()}
    yield first
    for key, values in ends.items():
        yield from ({**first, key: value} for value in values[1:])


def _ends(distribution: Distribution) -> Iterable[Any]:
    if isinstance(distribution, Choice):
        return distribution.values
    if isinstance(distribution, Curve):
        return distribution.at(0.0), distribution.at(1.0)
    return distribution.at(distribution.low), distribution.at(distribution.high)


def varying(sweep: Sweep) -> tuple[str, ...]:
    """Keys that are not the same in every trial, in the order of the file."""
    return tuple(
        parameter.key
        for parameter in sweep.parameters
        if not (isinstance(parameter.distribution, Choice) and len(parameter.distribution.values) == 1)
    )


def setting_of(values: Mapping[str, Any]) -> Values:
    """Drop what repeats a setting: the seed, and which neurons a fold trains and tests on (`config.folds`).

    Example:
        >>> setting_of({"seed": 1, "data": "{train: [OP_1], val: [OP_6]}", "optimizer.lr": 0.1})
        {'data.train': '1 case', 'data.val': '1 case', 'optimizer.lr': 0.1}
    """
    flat: Values = {}
    for key, value in values.items():
        flat |= flatten({key: meant(value)}) if key.partition(".")[0] == "data" else {key: value}
    return {key: value for key, value in without_folds(flat).items() if key != "seed"}
