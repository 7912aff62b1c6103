"""What a swept parameter can be: every distribution of W&B's sweep schema. It draws nothing; `search` does.

Source: W&B, "Sweep configuration options" (docs.wandb.ai/models/sweeps/sweep-config-keys), table `distribution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from scipy import stats

from distill3d.config.builder import unknown

TAIL = 1e-6  # quantiles closer to 0 or 1 are not drawn: a normal's are infinite there


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of some values, equally likely unless there are probabilities."""

    values: tuple[Any, ...]
    probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values=[] is empty; accepted: one or more")
        texts = [str(value) for value in self.values]
        if twice := sorted({text for text in texts if texts.count(text) > 1}):
            raise ValueError(f"values: {', '.join(twice)} is there twice; accepted: each value once")
        if self.probabilities and len(self.probabilities) != len(self.values):
            raise ValueError(f"{len(self.probabilities)} probabilities for {len(self.values)} values")
        if self.probabilities and (min(self.probabilities) < 0 or abs(sum(self.probabilities) - 1) > 1e-6):
            raise ValueError(f"probabilities={list(self.probabilities)} must be 0 or more and sum to 1")

    def at(self, quantile: float) -> Any:  # noqa: ANN401 - whatever the file lists
        """Return the value whose share of [0, 1) holds ``quantile``."""
        reached = 0.0
        for value, probability in zip(self.values, self.probabilities, strict=True):
            reached += probability
            if quantile < reached:
                return value
        return self.values[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A number between two bounds, both included, uniform in itself or in its logarithm, maybe rounded to steps."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    q: float | None = None  # the value is round(x / q) * q

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"min={self.low} and max={self.high} must be finite, min not above max")
        if self.log and self.low <= 0:
            raise ValueError(f"min={self.low} is too small for a logarithm; accepted: more than 0")

    def at(self, number: float) -> float:
        """Round a drawn number as the distribution asks."""
        return int(number) if self.integer else rounded(number, self.q)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A distribution known by its quantiles: normal(mu, sigma), log_normal(mu, sigma) or beta(a, b)."""

    family: Literal["normal", "log_normal", "beta"]
    first: float
    second: float
    q: float | None = None

    def __post_init__(self) -> None:
        names = ("a", "b") if self.family == "beta" else ("mu", "sigma")
        positive = (self.first, self.second) if self.family == "beta" else (self.second,)
        if min(positive) <= 0 or not (math.isfinite(self.first) and math.isfinite(self.second)):
            shown = f"{names[0]}={self.first}, {names[1]}={self.second}"
            raise ValueError(f"{shown}: must be finite, and {' and '.join(names[-len(positive) :])} more than 0")

    def at(self, quantile: float) -> float:
        """Return the number below which a share ``quantile`` of all draws lies.

        Example:
            >>> Curve(family="normal", first=10.0, second=2.0).at(0.5)
            10.0
        """
        quantile = min(max(quantile, TAIL), 1 - TAIL)
        if self.family == "beta":
            return rounded(float(stats.beta.ppf(quantile, self.first, self.second)), self.q)
        number = float(stats.norm.ppf(quantile, self.first, self.second))
        return rounded(math.exp(number) if self.family == "log_normal" else number, self.q)


Distribution = Choice | Span | Curve


def rounded(number: float, q: float | None) -> float:
    """Return ``round(number / q) * q``: an int for an int ``q``, without binary dust for a decimal one.

    Example:
        >>> rounded(0.31, 0.1), rounded(17.0, 8), rounded(0.31, None)
        (0.3, 16, 0.31)
    """
    if q is None:
        return number
    if isinstance(q, int):
        return round(number / q) * q
    return float(Decimal(repr(q)) * round(number / q))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """Which keys a distribution needs and may have, and how they become one."""

    needs: tuple[str, ...]
    may: Mapping[str, Any]  # key -> default
    make: Callable[[Mapping[str, Any]], Distribution]


def _span(*, exponents: bool = False, inverse: bool = False, log: bool = False, integer: bool = False) -> Callable:
    def make(given: Mapping[str, Any]) -> Distribution:
        low, high = (number(key, given[key], integer=integer) for key in ("min", "max"))
        if inverse:
            low, high = -high, -low
        if exponents:
            low, high = _exp("min", low), _exp("max", high)
        return Span(low=low, high=high, log=log, integer=integer, q=_step(given))

    return make


def _exp(key: str, exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError as err:
        raise ValueError(f"{key}: e to the {exponent} is no number; log_uniform_values takes values") from err


def exponent_warning(spec: Mapping[str, Any]) -> str:
    """Say what bounds mean that look like values where W&B takes exponents; empty where they do not.

    Example:
        >>> exponent_warning({"distribution": "log_uniform", "min": 0.001, "max": 0.1})
        'min and max are exponents of e: values go from 1.001 to 1.10517; log_uniform_values takes values for bounds'
    """
    name = str(spec.get("distribution", ""))
    if not name.endswith("log_uniform") or not spec["min"] > 0:
        return ""
    low, high = (math.exp(sign * spec[key]) for sign, key in _ends_of(name))
    return f"min and max are exponents of e: values go from {low:g} to {high:g}; {name}_values takes values for bounds"


def _ends_of(name: str) -> tuple[tuple[int, str], tuple[int, str]]:
    return ((-1, "max"), (-1, "min")) if name.startswith("inv_") else ((1, "min"), (1, "max"))


def _curve(family: Literal["normal", "log_normal", "beta"], first: str, second: str) -> Callable:
    def make(given: Mapping[str, Any]) -> Distribution:
        return Curve(
            family=family, first=number(first, given[first]), second=number(second, given[second]), q=_step(given)
        )

    return make


def _choice(given: Mapping[str, Any]) -> Distribution:
    for key in ("values", "probabilities"):
        if not isinstance(given.get(key, []), list):
            raise TypeError(f"{key}: must be a list, got {given[key]!r}")
    probabilities = tuple(number("probabilities", share) for share in given.get("probabilities", ()))
    return Choice(values=tuple(given["values"]), probabilities=probabilities)


def _forms() -> dict[str, _Form]:
    bounds, none, q = ("min", "max"), {}, {"q": 1}
    bell = {"mu": 0.0, "sigma": 1.0}
    forms = {
        "constant": _Form(needs=("value",), may=none, make=lambda given: Choice(values=(given["value"],))),
        "categorical": _Form(needs=("values",), may={"probabilities": []}, make=_choice),
        "categorical_w_probabilities": _Form(needs=("values", "probabilities"), may=none, make=_choice),
        "int_uniform": _Form(needs=bounds, may=none, make=_span(integer=True)),
        "inv_log_uniform": _Form(needs=bounds, may=none, make=_span(exponents=True, inverse=True, log=True)),
        # log(1/X) between log(1/max) and log(1/min) is X between min and max, uniform in its logarithm
        "inv_log_uniform_values": _Form(needs=bounds, may=none, make=_span(log=True)),
    }
    for name, needs, may, make in (
        ("uniform", bounds, none, _span()),
        ("log_uniform", bounds, none, _span(exponents=True, log=True)),
        ("log_uniform_values", bounds, none, _span(log=True)),
        ("normal", (), bell, _curve("normal", "mu", "sigma")),
        ("log_normal", (), bell, _curve("log_normal", "mu", "sigma")),
        ("beta", (), {"a": 1.0, "b": 1.0}, _curve("beta", "a", "b")),
    ):
        forms[name] = _Form(needs=needs, may=may, make=make)
        forms[f"q_{name}"] = _Form(needs=needs, may={**may, **q}, make=make)
    return forms


FORMS = _forms()


def read_distribution(spec: Mapping[str, Any]) -> Distribution:
    """Turn what a sweep file says of one parameter into a distribution.

    Without ``distribution`` it is what W&B infers: constant for ``value``, categorical for ``values``, int_uniform for
    two whole bounds, else uniform.

    Raises:
        ValueError: an unknown distribution or key, a missing one, or a value out of range.
        TypeError: a value of the wrong type.

    Example:
        >>> read_distribution({"min": 1, "max": 3})
        Span(low=1, high=3, log=False, integer=True, q=None)
    """
    name = spec["distribution"] if "distribution" in spec else _inferred(spec)
    if name not in FORMS:
        raise ValueError(unknown(str(name), list(FORMS), "unknown distribution"))
    form = FORMS[name]
    accepted = [*form.needs, *form.may]
    for key in spec:
        if key != "distribution" and key not in accepted:
            raise ValueError(unknown(str(key), accepted, f"{name} has no key"))
    if missing := [key for key in form.needs if key not in spec]:
        raise ValueError(f"{name} needs {' and '.join(missing)}")
    return form.make({**form.may, **spec})


def _inferred(spec: Mapping[str, Any]) -> str:
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if "min" not in spec or "max" not in spec:
        raise ValueError(f"{dict(spec)!r} says no distribution; accepted: value, values, min and max, or distribution")
    whole = all(isinstance(spec[key], int) and not isinstance(spec[key], bool) for key in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def number(key: str, given: Any, *, integer: bool = False) -> float:  # noqa: ANN401 - what a file holds
    """Return ``given`` if it is a number, and a whole one if ``integer``.

    Raises:
        TypeError: it is not. YAML 1.1, as W&B reads it, takes 1e-3 for text.
    """
    if isinstance(given, bool) or not isinstance(given, int if integer else int | float):
        hint = "; YAML needs a point and a sign: 1.0e-3" if isinstance(given, str) and "e" in given.lower() else ""
        raise TypeError(f"{key}={given!r} must be a {'whole ' if integer else ''}number{hint}")
    return given


def _step(given: Mapping[str, Any]) -> float | None:
    if "q" not in given:
        return None
    q = number("q", given["q"])
    if q <= 0 or not math.isfinite(q):
        raise ValueError(f"q={q} is no step; accepted: more than 0")
    return q


def grid_values(distribution: Distribution) -> tuple[Any, ...]:
    """All values of a parameter, in order, for a grid.

    Raises:
        ValueError: it has endlessly many, or probabilities, which a grid would not respect.

    Example:
        >>> grid_values(read_distribution({"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.25}))
        (0.0, 0.25, 0.5)
    """
    if isinstance(distribution, Choice) and not distribution.probabilities:
        return distribution.values
    if isinstance(distribution, Span) and distribution.integer:
        return tuple(range(int(distribution.low), int(distribution.high) + 1))
    if isinstance(distribution, Span) and distribution.q is not None and not distribution.log:
        q = distribution.q
        steps = range(math.ceil(distribution.low / q - 1e-9), math.floor(distribution.high / q + 1e-9) + 1)
        return tuple(rounded(step * q, q) for step in steps)
    what = "probabilities" if isinstance(distribution, Choice) else "a continuous range"
    raise ValueError(f"a grid cannot have {what}; accepted: value, values, int_uniform, q_uniform, or another method")
