"""What a sweep file says, as frozen settings. It reads no file; `files` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill3d.sweep.distributions import Distribution

Method = Literal["grid", "random", "bayes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a sweep optimizes."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None  # once a trial reaches it, no new one starts

    def reaches(self, value: float) -> bool:
        """Whether a trial with this value ends the sweep."""
        if self.target is None:
            return False
        return value >= self.target if self.goal == "maximize" else value <= self.target


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperband:
    """When a trial that lags behind is stopped; an iteration is one logged value of the metric."""

    first: int  # iteration of the first bracket; the others are `eta` times the one before
    last: int | None  # iteration of the last bracket; None for no end
    eta: int = 3  # a trial goes on if it is among the best 1/eta at a bracket
    strict: bool = False  # judge by the value at the bracket, not by the best so far


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One swept key.

    Attributes:
        path: names from the top; more than one for a nested parameter, which is passed on inside its parent.
        distribution: what it can be.
    """

    path: tuple[str, ...]
    distribution: Distribution

    @property
    def key(self) -> str:
        """The dotted key of the experiment."""
        return ".".join(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A sweep file, read.

    Attributes:
        name: the file's name, which is also the name of its folder of runs.
        text: the file as it is, so that a sweep goes on as it began.
        allow_plugins: its trials may run the code that files outside of this project name; not said by its file.
    """

    name: str
    text: str
    program: str
    command: tuple[str, ...]
    method: Method
    metric: Metric
    parameters: tuple[Parameter, ...]
    early_terminate: Hyperband | None = None
    run_cap: int | None = None
    project: str | None = None
    entity: str | None = None
    allow_plugins: bool = False
