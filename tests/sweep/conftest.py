"""Sweeps of fake trials, in a folder of their own."""

from pathlib import Path

import pytest
from launched import Command

from distill3d.sweep.files import parse_sweep

FAKE = Path(__file__).with_name("fake_trial.py")
GRID = """
method: grid
metric: {name: test/dice, goal: maximize}
parameters:
  seed: {values: [0, 1]}
  optimizer.lr: {values: [0.001, 0.01, 0.1]}
"""


@pytest.fixture
def head(tiny_file):
    """The lines of a sweep file that say what a trial is: a fake one of the tiny experiment."""
    return f'program: {FAKE}\ncommand: ["${{interpreter}}", "${{program}}", fit, {tiny_file}, "${{args}}"]\n'


@pytest.fixture
def sweep_file(head, tmp_path):
    """Write a sweep of fake trials."""

    def write(body=GRID, name="fakes"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(head + body)
        return path

    return write


@pytest.fixture
def sweep_of(head):
    """Read a sweep of fake trials from its text."""
    return lambda body=GRID: parse_sweep(head + body, "fakes", origin="fakes.yaml")


@pytest.fixture
def call(tmp_path):
    """Start ``distill3d sweep ...`` in a process of its own, as a user would."""

    def start(verb, *arguments, **environment):
        runs = ("--runs", tmp_path / "runs")
        return Command("sweep", verb, *arguments, *runs, folder=tmp_path, **environment)

    return start
