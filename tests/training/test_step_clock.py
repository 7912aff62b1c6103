"""The cost of a resumed run is that of the whole run."""

import pytest

from distill3d.training.callbacks import StepClock


def test_a_restored_clock_goes_on_counting():
    clock = StepClock()
    clock.steps, clock.step_seconds, clock.wait_seconds = 10, 6.0, 2.0
    restored = StepClock()
    restored.load_state_dict(clock.state_dict())
    restored.steps += 10
    restored.step_seconds += 2.0
    assert restored.cost() == {
        "seconds_per_step": pytest.approx(8 / 20),
        "data_wait_share": pytest.approx(2 / 10),
    }


def test_without_a_timed_step_there_is_no_cost():
    assert StepClock().cost() == {"seconds_per_step": None, "data_wait_share": None}
