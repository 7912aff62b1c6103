"""Sweep files: all of W&B's schema, and every way to get it wrong."""

import math
import statistics

import numpy as np
import pytest
import yaml
from scipy import stats

from distill3d.config.files import parse_overrides
from distill3d.errors import ConfigError
from distill3d.sweep.distributions import FORMS, Choice, Curve, Span, grid_values, read_distribution
from distill3d.sweep.files import parse_sweep
from distill3d.sweep.schema import Hyperband
from distill3d.sweep.search import space, value_of

GOOD = {
    "program": "distill3d",
    "command": ["${env}", "${program}", "fit", "scratch", "${args}"],
    "method": "random",
    "run_cap": 3,
    "metric": {"name": "test/dice", "goal": "maximize"},
    "parameters": {"seed": {"values": [0, 1]}},
}


def parse(**changes):
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return parse_sweep(yaml.safe_dump(content), "mine", origin="mine.yaml")


def problems(**changes):
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    return caught.value.lines


def test_everything_that_is_documented_is_read():
    sweep = parse(
        name="Shown in the UI",
        description="why",
        project="neurons",
        entity="lab",
        metric={"name": "val/dice", "goal": "maximize", "target": 0.9},
        early_terminate={"type": "hyperband", "min_iter": 3, "eta": 2, "strict": True},
        parameters={"optimizer": {"parameters": {"lr": {"value": 0.1}, "weight_decay": {"min": 0.0, "max": 1.0}}}},
    )
    assert (sweep.name, sweep.project, sweep.entity) == ("mine", "neurons", "lab")
    assert sweep.metric.reaches(0.95)
    assert not sweep.metric.reaches(0.85)
    assert sweep.early_terminate == Hyperband(first=3, last=None, eta=2, strict=True)
    assert [parameter.path for parameter in sweep.parameters] == [("optimizer", "lr"), ("optimizer", "weight_decay")]


def test_the_brackets_of_max_iter_are_those_of_the_documentation():
    rule = parse(early_terminate={"type": "hyperband", "max_iter": 27, "s": 2}).early_terminate
    assert rule == Hyperband(first=3, last=9, eta=3, strict=False)  # "27/eta, 27/eta/eta, which equals [9, 3]"


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"program": None}, "program: is missing"),
        ({"method": "tpe"}, "method: 'tpe' is unknown; accepted: grid, random, bayes"),
        ({"method": None}, "method: None is unknown"),
        ({"metric": None}, "metric: is missing; accepted: such as {name: test/dice"),
        ({"metric": {"goal": "maximize"}}, "metric.name: None is no name"),
        ({"metric": {"name": "a", "goal": "maximise"}}, "metric.goal: 'maximise'"),
        ({"metric": {"name": "a", "target": "x"}}, "metric: target='x' must be a number"),
        ({"metric": {"name": "a", "gaol": "maximize"}}, "metric.gaol: unknown key 'gaol'; did you mean 'goal'?"),
        ({"parameters": None}, "parameters: is missing"),
        ({"parameters": {}}, "parameters: {} is empty"),
        ({"parameters": {"a": 3}}, "parameters.a: must be a mapping"),
        ({"parameters": {"a": {"vales": [1]}}}, "parameters.a: {'vales': [1]} says no distribution"),
        ({"parameters": {"a": {"distribution": "gauss"}}}, "parameters.a: unknown distribution 'gauss'; known: beta"),
        ({"parameters": {"a": {"distribution": "uniforn", "min": 0.0}}}, "did you mean 'uniform'?"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0, "q": 1}}}, "parameters.a: uniform has no key 'q'"),
        ({"parameters": {"a": {"distribution": "uniform", "min": 0.0}}}, "parameters.a: uniform needs max"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "min not above max"),
        ({"parameters": {"a": {"min": "1e-4", "max": 1}}}, "YAML needs a point and a sign: 1.0e-3"),
        (
            {"parameters": {"a": {"distribution": "int_uniform", "min": 0.5, "max": 1}}},
            "min=0.5 must be a whole number",
        ),
        ({"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "accepted: more than 0"),
        ({"parameters": {"a": {"distribution": "normal", "sigma": 0}}}, "sigma more than 0"),
        ({"parameters": {"a": {"distribution": "beta", "a": -1}}}, "a and b more than 0"),
        ({"parameters": {"a": {"distribution": "q_normal", "q": 0}}}, "q=0 is no step"),
        ({"parameters": {"a": {"values": []}}}, "values=[] is empty"),
        ({"parameters": {"a": {"values": 3}}}, "values: must be a list"),
        ({"parameters": {"a": {"values": [1, "1"]}}}, "values: 1 is there twice"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [1.0]}}}, "1 probabilities for 2 values"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.4]}}}, "sum to 1"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}, "value": 1}}}, "has nested parameters and value"),
        (
            {"parameters": {"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}}},
            "parameters.a.b: is there twice, dotted and nested",
        ),
        ({"run_cap": None}, "run_cap: is missing, and random has no end"),
        ({"run_cap": 0}, "run_cap=0 is not accepted"),
        ({"early_terminate": {"type": "envelope", "min_iter": 1}}, "early_terminate.type: 'envelope' is unknown"),
        ({"early_terminate": {"type": "hyperband"}}, "needs either min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "needs either min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 8, "s": 2}}, "max_iter=8 is too small for s=2"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 1}}, "early_terminate.eta=1 is not accepted"),
        ({"controller": {"type": "local"}}, "controller: only W&B's servers"),
        ({"metod": "grid"}, "unknown key 'metod'; did you mean 'method'?"),
        ({"command": "python x.py"}, "command: must be a list"),
        ({"command": ["${enf}", "${args}"]}, "command: unknown macro '${enf}'; did you mean '${env}'?"),
        ({"command": ["fit", "scratch"]}, "command: passes no parameter on"),
        ({"command": ["fit", "--x=${args}", "${args}"]}, "W&B expands ${args} only where it is an argument of its own"),
        ({"command": ["${envvar:NO_SUCH_NAME}", "${args}"]}, "NO_SUCH_NAME is not set"),
        (
            {"method": "grid", "parameters": {"a": {"min": 0.0, "max": 1.0}}},
            "parameters.a: a grid cannot have a continuous range",
        ),
        (
            {"method": "grid", "parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}},
            "parameters.a: a grid cannot have probabilities",
        ),
        (
            {"method": "bayes", "parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}},
            "parameters.a: probabilities go with method random only",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(changes, fragment):
    lines = problems(**changes)
    assert len(lines) == 1
    assert lines[0].startswith("mine.yaml: ")
    assert fragment in lines[0]


def test_all_problems_are_told_at_once():
    assert len(problems(method="x", metric=None, run_cap=-1, parameters={"a": 1, "b": 2})) == 5


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "method: grid\nmethod: random", "parameters: {a: {value: 1, value: 2}}"]
)
def test_what_is_no_mapping_with_each_key_once_is_one_line(text):
    with pytest.raises(ConfigError) as caught:
        parse_sweep(text, "mine", origin="mine.yaml")
    assert len(caught.value.lines) == 1


SPECS = {
    "constant": {"value": 3},
    "categorical": {"values": ["a", "b"]},
    "categorical_w_probabilities": {"values": ["a", "b", "c"], "probabilities": [0.1, 0.2, 0.7]},
    "int_uniform": {"min": 2, "max": 5},
    "uniform": {"min": -1.0, "max": 3.0},
    "q_uniform": {"min": 0.0, "max": 1.0, "q": 0.25},
    "log_uniform": {"min": -3.0, "max": 1.0},
    "q_log_uniform": {"min": 0.0, "max": 4.0, "q": 2},
    "log_uniform_values": {"min": 0.001, "max": 10.0},
    "q_log_uniform_values": {"min": 1, "max": 100, "q": 10},
    "inv_log_uniform": {"min": -1.0, "max": 3.0},
    "inv_log_uniform_values": {"min": 0.001, "max": 10.0},
    "normal": {"mu": 5.0, "sigma": 2.0},
    "q_normal": {"mu": 5.0, "sigma": 2.0, "q": 0.5},
    "log_normal": {"mu": 0.5, "sigma": 0.3},
    "q_log_normal": {"mu": 2.0, "sigma": 0.5},
    "beta": {"a": 2.0, "b": 5.0},
    "q_beta": {"a": 2.0, "b": 5.0, "q": 0.1},
}
LOW, HIGH = math.exp(-3), math.exp(1)
# Cumulative probabilities by the documentation's words, independent of the code
REFERENCE = {
    "uniform": lambda x: (x + 1) / 4,
    "log_uniform": lambda x: (math.log(x) + 3) / 4,
    "log_uniform_values": lambda x: math.log(x / 0.001) / math.log(10_000),
    "inv_log_uniform": lambda x: 1 - (math.log(1 / x) + 1) / 4,
    "inv_log_uniform_values": lambda x: 1 - (math.log(1 / x) - math.log(0.1)) / (math.log(1000) - math.log(0.1)),
    "normal": lambda x: statistics.NormalDist(5, 2).cdf(x),
    "log_normal": lambda x: statistics.NormalDist(0.5, 0.3).cdf(math.log(x)),
    "beta": lambda x: stats.beta(2, 5).cdf(x),
}


def drawn(name, count=2000):
    """Draw as Optuna's random sampler does: uniform where it is told to, or uniform in the logarithm."""
    distribution, rng = read_distribution({"distribution": name, **SPECS[name]}), np.random.default_rng(0)
    where = space(distribution)
    values = []
    for _ in range(count):
        if hasattr(where, "choices"):
            internal = where.choices[rng.integers(len(where.choices))]
        elif where.log:
            internal = math.exp(rng.uniform(math.log(where.low), math.log(where.high)))
        else:
            internal = (
                int(rng.integers(where.low, where.high, endpoint=True))
                if isinstance(where.low, int)
                else rng.uniform(where.low, where.high)
            )
        values.append(value_of(distribution, internal))
    return values


def test_every_documented_distribution_has_an_example_here():
    assert set(SPECS) == set(FORMS)


@pytest.mark.parametrize("name", REFERENCE)
def test_a_continuous_distribution_is_distributed_as_documented(name):
    values = drawn(name)
    assert stats.kstest([REFERENCE[name](x) for x in values], "uniform").pvalue > 0.01


def test_whole_numbers_and_choices_are_drawn_with_their_shares():
    assert set(drawn("int_uniform")) == {2, 3, 4, 5}
    assert set(drawn("constant")) == {3}
    assert drawn("categorical").count("a") == pytest.approx(1000, abs=120)
    weighted = drawn("categorical_w_probabilities")
    assert [weighted.count(value) / 2000 for value in "abc"] == pytest.approx([0.1, 0.2, 0.7], abs=0.04)


@pytest.mark.parametrize(
    ("name", "q"),
    [
        ("q_uniform", 0.25),
        ("q_log_uniform", 2),
        ("q_log_uniform_values", 10),
        ("q_normal", 0.5),
        ("q_log_normal", 1),
        ("q_beta", 0.1),
    ],
)
def test_a_quantized_distribution_gives_multiples_of_its_step(name, q):
    values = drawn(name, 200)
    assert all(abs(value / q - round(value / q)) < 1e-9 for value in values)
    assert len(set(values)) > 2
    assert all(len(str(value)) <= 4 for value in values)  # 0.3, not 0.30000000000000004


def test_without_a_distribution_it_is_what_wandb_infers():
    assert read_distribution({"value": 1}) == Choice(values=(1,))
    assert read_distribution({"values": [1, 2]}) == Choice(values=(1, 2))
    assert read_distribution({"min": 1, "max": 2}) == Span(low=1, high=2, integer=True)
    assert read_distribution({"min": 1, "max": 2.0}) == Span(low=1, high=2.0)
    assert read_distribution({"distribution": "normal"}) == Curve(family="normal", first=0.0, second=1.0)


def test_a_grid_lists_whole_and_quantized_ranges():
    assert grid_values(read_distribution({"min": 1, "max": 4})) == (1, 2, 3, 4)
    assert grid_values(read_distribution({"distribution": "q_uniform", "min": 1, "max": 20, "q": 8})) == (8, 16)
    assert grid_values(read_distribution({"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1})) == (
        0.1,
        0.2,
        0.3,
    )


@pytest.mark.parametrize(
    ("name", "low", "high", "says"),
    [
        ("log_uniform", 0.001, 0.1, "values go from 1.001 to 1.10517; log_uniform_values takes values"),
        ("q_log_uniform", 1, 3, "values go from 2.71828 to 20.0855; q_log_uniform_values takes values"),
        ("inv_log_uniform", 0.5, 1.0, "values go from 0.367879 to 0.606531; inv_log_uniform_values takes values"),
        ("log_uniform", -7.0, -2.3, ""),
        ("log_uniform_values", 0.001, 0.1, ""),
    ],
)
def test_bounds_that_are_taken_for_exponents_as_wandb_does_are_told(caplog, name, low, high, says):
    text = "program: x\nmethod: random\nrun_cap: 1\nmetric: {name: m}\ncommand: ['${args}']\n"
    sweep = parse_sweep(
        f"{text}parameters: {{a: {{distribution: {name}, min: {low}, max: {high}}}}}", "s", origin="s.yaml"
    )
    (parameter,) = sweep.parameters
    bounds = (
        (low, high) if name.endswith("_values") else sorted(math.exp(-x if "inv" in name else x) for x in (low, high))
    )
    assert (parameter.distribution.low, parameter.distribution.high) == pytest.approx(bounds)
    assert [record.message for record in caplog.records if says not in record.message] == []
    assert len(caplog.records) == bool(says)


def test_an_exponent_beyond_all_numbers_is_one_line():
    with pytest.raises(ValueError, match=r"^max: e to the 1000 is no number; log_uniform_values takes values$"):
        read_distribution({"distribution": "log_uniform", "min": 1, "max": 1000})


def test_the_words_of_a_list_stay_as_they_are_written():
    text = "values: [[17302_00001, 001, 1e3, yes], [16, 0x10, 1.5]]"
    parameters = f"parameters: {{data.train: {{{text}}}, seed: {{values: [1, 010]}}}}"
    command = "program: x\nmethod: grid\nmetric: {name: m}\ncommand: ['${args}']\n"
    train, seed = parse_sweep(command + parameters, "s", origin="s.yaml").parameters
    assert train.distribution.values == (["17302_00001", "001", "1e3", "yes"], [16, 16, 1.5])
    assert seed.distribution.values == (1, 8)  # of a number, as W&B reads it
    overrides = [f"data.train={value}" for value in train.distribution.values]
    assert parse_overrides(overrides[:1]) == {"data": {"train": ["17302_00001", "001", "1e3", "yes"]}}
