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

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_PROBE = torch.tensor([-1.0, 0.5], dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a sum.

    Attributes:
        text: as it reads, sign included.
        node: its syntax tree, of accepted nodes only.
    """

    text: str
    node: ast.expr

    def apply(self, x: Tensor) -> Tensor:
        """Map a tensor elementwise to one of the same shape."""
        return _value(self.node, x)

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
        return tuple(_term(node) for node in _summands(tree.body, negative=False))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise ValueError(f"expression {expression!r} cannot be read; accepted: {ACCEPTED}") from err
    except _RefusedError as err:
        raise ValueError(f"expression {expression!r}: {err} is not accepted; accepted: {ACCEPTED}") from err


def _summands(node: ast.expr, *, negative: bool) -> Iterator[ast.expr]:
    """Walk the outermost sums and signs from left to right."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield from _summands(node.left, negative=negative)
        yield from _summands(node.right, negative=negative != isinstance(node.op, ast.Sub))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _summands(node.operand, negative=not negative)
    else:
        yield ast.UnaryOp(ast.USub(), node) if negative else node


def _term(node: ast.expr) -> Term:
    _value(node, _PROBE)  # refuses what is not accepted
    if not any(isinstance(part, ast.Name) and part.id == VARIABLE for part in ast.walk(node)):
        inner = node.operand if isinstance(node, ast.UnaryOp) else node
        raise _RefusedError(f"{_shown(inner)}, a term without {VARIABLE},")
    return Term(ast.unparse(node), node)


def _value(node: ast.expr, x: Tensor) -> Any:  # noqa: ANN401 - a number where the part holds no x, else a tensor
    """Evaluate a part of an expression at x."""
    match node:
        case ast.Name(id=name) if name == VARIABLE:
            return x
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            result = value
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, x)
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=power)) if (
            type(power) is int and 1 <= power <= MOST_POWER
        ):
            result = _value(node.left, x) ** power
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            result = _OPERATORS[type(op)](_value(node.left, x), _value(node.right, x))
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in FUNCTIONS:
            value = FUNCTIONS[name](torch.as_tensor(_value(inner, x), dtype=x.dtype))
            return value if value.ndim else value.item()
        case _:
            raise _RefusedError(_shown(node))
    if not isinstance(result, Tensor) and not _is_finite(result):
        raise _RefusedError(_shown(node))
    return result


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of a float
        return False


def _shown(node: ast.expr) -> str:
    return repr(" ".join(ast.unparse(node).split()))
