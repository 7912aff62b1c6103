"""What draws values and remembers trials."""

import sys

import optuna
import pytest

from distill3d.errors import InputError
from distill3d.sweep import search
from distill3d.sweep.halving import pruner
from distill3d.sweep.schema import Hyperband


def test_bayes_search_comes_near_the_optimum_of_a_known_function(sweep_of, tmp_path):
    sweep = sweep_of("""
method: bayes
run_cap: 40
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0}
  optimizer.weight_decay: {distribution: uniform, min: 0.0, max: 1.0}
""")
    study = search.open_study(sweep, search.default_storage(tmp_path))
    values = []
    for number in range(40):
        trial = study.ask()
        study.sampler = search.sampler(sweep, number)
        drawn = search.draw(sweep, trial)
        values.append(-((drawn["optimizer.weight_decay"] - 0.3) ** 2) - (drawn["optimizer.lr"] - 0.01) ** 2)
        study.tell(trial, values[-1])
    assert max(values[10:]) > max(values[:10])
    assert max(values) > -0.01


def test_a_storage_whose_driver_is_missing_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg.*; accepted: pip install 'psycopg\[binary\]'") as caught:
        search.stored_text("fakes", "postgresql://nobody:hidden@127.0.0.1/sweeps")
    assert len(caught.value.lines) == 1
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("resumed", [False, True], ids=["never stopped", "stopped and resumed"])
def test_a_trial_that_was_begun_twice_competes_once(resumed):
    study = optuna.create_study(direction="maximize", pruner=pruner(Hyperband(first=2, last=None, eta=3)))

    def goes_on(number, value):
        trial = study.ask()
        trial.set_user_attr("number", number)
        for step in (1, 2):
            trial.report(value, step)
            if trial.should_prune():
                return None
        return trial

    best = goes_on(0, 0.6)
    if resumed:
        study.tell(best, state=optuna.trial.TrialState.FAIL)
        assert goes_on(0, 0.6)
    for number, value in enumerate((0.1, 0.2, 0.3, 0.4), 1):
        goes_on(number, value)
    assert goes_on(5, 0.5)  # of six, the best two go on


def test_a_trial_whose_runner_died_between_two_values_keeps_its_place_in_the_grid(sweep_of, tmp_path):
    sweep = sweep_of("""
method: grid
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {values: [0.1, 0.2, 0.3]}
  seed: {values: [0, 1, 2]}
""")
    study = search.open_study(sweep, search.default_storage(tmp_path))
    for _ in range(9):
        trial = study.ask()
        trial.suggest_categorical("optimizer.lr", ["0.1", "0.2", "0.3"])  # and no seed
    for row in search.attempts(study):
        search.mark_lost(study, row)
    drawn = []
    while (trial := study.ask()).user_attrs.get("attempt") == 2:
        drawn.append(search.draw(sweep, trial))
    assert sorted((each["optimizer.lr"], each["seed"]) for each in drawn) == [
        (lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (0, 1, 2)
    ]
