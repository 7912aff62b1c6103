"""Expressions mean what Python would make of them, and nothing but the listed grammar is read."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill3d.neurons.expression import ACCEPTED, FUNCTIONS, parse_terms

X = np.linspace(-2, 2, 9)
NUMPY = {
    "abs": np.abs,
    "cos": np.cos,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
    "tanh": np.tanh,
}


def total(expression):
    return sum(term.apply(torch.from_numpy(X)) for term in parse_terms(expression)).numpy()


def test_every_function_is_numpys():
    assert NUMPY.keys() == FUNCTIONS.keys()
    for name, function in NUMPY.items():
        np.testing.assert_allclose(total(f"{name}(x)"), function(X), err_msg=name)


@pytest.mark.parametrize(
    ("expression", "terms", "value"),
    [
        ("x", ["x"], X),
        ("x**2 + sin(x)", ["x**2", "sin(x)"], X**2 + np.sin(X)),
        ("x - x**2 - 3*x", ["x", "-x**2", "-(3 * x)"], X - X**2 - 3 * X),
        ("-(x - x**3)", ["-x", "x**3"], X**3 - X),
        ("-x**2", ["-x**2"], -(X**2)),
        ("(-x)**2", ["(-x)**2"], X**2),
        ("2*(x + 1)*(x - 1)", ["2 * (x + 1) * (x - 1)"], 2 * (X**2 - 1)),
        ("tanh(2**3*x - 1.5)", ["tanh(2 ** 3 * x - 1.5)"], np.tanh(8 * X - 1.5)),
        ("sin(2)*x", ["sin(2) * x"], math.sin(2) * X),
        ("x*-2", ["x * -2"], -2 * X),
        ("(1 - 2)*x", ["(1 - 2) * x"], -X),
    ],
)
def test_terms_are_split_at_the_outermost_signs(expression, terms, value):
    assert [term.text.replace(" ", "") for term in parse_terms(expression)] == [t.replace(" ", "") for t in terms]
    np.testing.assert_allclose(total(expression), value, atol=1e-12)


def _combined(children):
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda ab: (f"({ab[0][0]} + {ab[1][0]})", ab[0][1] + ab[1][1])),
        pairs.map(lambda ab: (f"({ab[0][0]} - {ab[1][0]})", ab[0][1] - ab[1][1])),
        pairs.map(lambda ab: (f"{ab[0][0]} * {ab[1][0]}", ab[0][1] * ab[1][1])),
        children.map(lambda a: (f"(-{a[0]})", -a[1])),
        st.tuples(children, st.integers(1, 6)).map(lambda ak: (f"({ak[0][0]})**{ak[1]}", ak[0][1] ** ak[1])),
        st.tuples(st.sampled_from(sorted(NUMPY)), children).map(
            lambda fa: (f"{fa[0]}({fa[1][0]})", NUMPY[fa[0]](fa[1][1]))
        ),
    )


VALUES = st.recursive(
    st.just(("x", X)) | st.integers(0, 3).map(lambda n: (f"{n}", np.full_like(X, n))), _combined, max_leaves=6
)


@given(VALUES)
def test_any_expression_of_the_grammar_has_its_value(made):
    text, value = made
    expression = f"x * ({text})"
    if len(expression) <= 200 and np.abs(value).max() < 1e6:
        np.testing.assert_allclose(total(expression), X * value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("x + foo(x)", "foo(x)"),
        ("x**2 + y", "y"),
        ("x + x**7", "x**7"),
        ("x**0.5", "x**0.5"),
        ("x**-1", "x**(-1)"),
        ("x**x", "x**x"),
        ("x**True", "x**True"),
        ("x/2", "x/2"),
        ("x % 2", "x%2"),
        ("x @ x", "x@x"),
        ("+x", "+x"),
        ("~x", "~x"),
        ("not x", "notx"),
        ("x < 1", "x<1"),
        ("x and x", "xandx"),
        ("x if x else x", "xifxelsex"),
        ("True*x", "True"),
        ("1j*x", "1j"),
        ("'x'*x", "'x'"),
        ("[x]", "[x]"),
        ("(x, x)", "(x,x)"),
        ("(x := x)", "(x:=x)"),
        ("lambda x: x", "lambdax:x"),
        ("x.real", "x.real"),
        ("x[0]", "x[0]"),
        ("x.sin()", "x.sin()"),
        ("f'{x}'", "f'{x}'"),
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("sin(x)(x)", "sin(x)(x)"),
        ("sin(x, x)", "sin(x,x)"),
        ("sin()", "sin()"),
        ("sin(x=x)", "sin(x=x)"),
        ("sin(*x)", "sin(*x)"),
        ("sin*x", "sin"),
        ("3", "3"),
        ("x + 3", "3"),
        ("1e999*x", "1e309"),
        ("9**6**6*x", "9**6**6"),
        ("((((9**6)**6)**6)**6)*x", "(((9**6)**6)**6)**6"),
    ],
)
def test_what_is_not_listed_is_refused_by_name_in_one_line(expression, part):
    with pytest.raises(ValueError, match="accepted: a sum of terms in x") as caught:
        parse_terms(expression)
    assert part in str(caught.value).replace(" ", "").replace("\\'", "'")
    assert str(caught.value).endswith(ACCEPTED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("expression", ["", "  ", "(x", "x x", "x; x", "x = 1", "import os", "x\x00", "x\n+x", "x +"])
def test_what_cannot_be_read_is_one_line(expression):
    with pytest.raises(ValueError, match="expression ") as caught:
        parse_terms(expression)
    assert "\n" not in str(caught.value)


def test_a_long_text_is_refused_before_it_is_parsed():
    with pytest.raises(ValueError, match="has 1001 characters; accepted: at most 200"):
        parse_terms("x+" * 500 + "x")


def test_signs_as_many_as_fit_are_read():
    np.testing.assert_array_equal(total("-" * 199 + "x"), -X)
