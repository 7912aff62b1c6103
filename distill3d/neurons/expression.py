"""Reads sums of terms in one variable, such as ``x**2 + sin(x)``, without ever running text.

Symbolic regression finds the neuron of a task as such an expression, with coefficients, powers and products: a list of
named functions could not say it, so what was found is pasted as it is.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

VARIABLE = "x"
MOST_CHARACTERS = 200
MOST_POWER = 6
# `exp` and `log` are left out: the first overflows in half precision, the second is not defined everywhere.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "cos": torch.cos,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "tanh": torch.tanh,
}
ACCEPTED = (
    f"a sum of terms in {VARIABLE} made of numbers, + - *, ** with a whole power from 1 to {MOST_POWER}, "
    f"and {', '.join(FUNCTIONS)}"
)

_Map = Callable[[Tensor], Tensor]
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a sum.

    Attributes:
        text: as it reads, sign included.
        apply: maps a tensor of x elementwise to one of the same shape.
    """

    text: str
    apply: _Map

    @property
    def is_variable(self) -> bool:
        """True for the plain ``x``."""
        return self.text == VARIABLE


class _RefusedError(Exception):
    """Carries the part of an expression that is not accepted."""


def parse_terms(expression: str) -> tuple[Term, ...]:
    """Split an expression in ``x`` at its outermost + and -, and read each term.

    The text is parsed to a syntax tree, of which only the listed nodes are accepted; nothing is evaluated as Python.

    Args:
        expression: at most 200 characters.

    Raises:
        ValueError: a part is not accepted, or a term does not hold ``x``; names the part and what is accepted.

    Example:
        >>> [term.text for term in parse_terms("x**2 - 0.5*sin(x)")]
        ['x ** 2', '-(0.5 * sin(x))']
        >>> parse_terms("x**2 - 0.5*sin(x)")[0].apply(torch.tensor([1.0, 3.0])).tolist()
        [1.0, 9.0]
    """
    if len(expression) > MOST_CHARACTERS:
        raise ValueError(f"expression has {len(expression)} characters; accepted: at most {MOST_CHARACTERS}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return tuple(_term(node, negative=negative) for node, negative in _summands(tree.body, negative=False))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise ValueError(f"expression {expression!r} cannot be read; accepted: {ACCEPTED}") from err
    except _RefusedError as err:
        raise ValueError(f"expression {expression!r}: {err} is not accepted; accepted: {ACCEPTED}") from err


def _summands(node: ast.expr, *, negative: bool) -> Iterator[tuple[ast.expr, bool]]:
    """Walk the outermost sums and signs from left to right."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield from _summands(node.left, negative=negative)
        yield from _summands(node.right, negative=negative != isinstance(node.op, ast.Sub))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _summands(node.operand, negative=not negative)
    else:
        yield node, negative


def _term(node: ast.expr, *, negative: bool) -> Term:
    value = _read(node)
    if not callable(value):
        raise _RefusedError(f"{_shown(node)}, a term without {VARIABLE},")
    signed = ast.UnaryOp(ast.USub(), node) if negative else node
    return Term(ast.unparse(signed), _negated(value) if negative else value)


def _read(node: ast.expr) -> float | _Map:
    """Return a number, or a map of x."""
    if isinstance(node, ast.Name) and node.id == VARIABLE:
        return _itself
    if isinstance(node, ast.Constant):
        return _number(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _read(node.operand)
        return _negated(inner) if callable(inner) else -inner
    if isinstance(node, ast.BinOp):
        return _power(node) if isinstance(node.op, ast.Pow) else _combined(node)
    if isinstance(node, ast.Call):
        return _applied(node)
    raise _RefusedError(_shown(node))


def _number(node: ast.Constant) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise _RefusedError(_shown(node))
    return _finite(lambda: float(value), node)


def _power(node: ast.BinOp) -> float | _Map:
    power = node.right.value if isinstance(node.right, ast.Constant) else None
    if type(power) is not int or not 1 <= power <= MOST_POWER:
        raise _RefusedError(_shown(node))
    base = _read(node.left)
    if callable(base):
        return lambda x: base(x) ** power
    return _finite(lambda: base**power, node)


def _combined(node: ast.BinOp) -> float | _Map:
    combine = _OPERATORS.get(type(node.op))
    if combine is None:
        raise _RefusedError(_shown(node))
    left, right = _read(node.left), _read(node.right)
    if callable(left) or callable(right):
        return lambda x: combine(_at(left, x), _at(right, x))
    return _finite(lambda: combine(left, right), node)


def _applied(node: ast.Call) -> float | _Map:
    function = FUNCTIONS.get(node.func.id) if isinstance(node.func, ast.Name) else None
    if function is None or len(node.args) != 1 or node.keywords:
        raise _RefusedError(_shown(node))
    inner = _read(node.args[0])
    if callable(inner):
        return lambda x: function(inner(x))
    return float(function(torch.tensor(inner, dtype=torch.float64)))


def _finite(compute: Callable[[], float], node: ast.expr) -> float:
    try:
        value = compute()
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _RefusedError(_shown(node))
    return value


def _itself(x: Tensor) -> Tensor:
    return x


def _negated(inner: _Map) -> _Map:
    return lambda x: -inner(x)


def _at(value: float | _Map, x: Tensor) -> float | Tensor:
    return value(x) if callable(value) else value


def _shown(node: ast.expr) -> str:
    return repr(" ".join(ast.unparse(node).split()))
