"""The schedule of a term's weight: its ends, its order, how its parts compose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill3d.transfer.matching.schedule import ScheduleConfig, schedule_factor


def factors(*steps, total=100, **settings):
    return [schedule_factor(ScheduleConfig(**settings), step=step, steps=total) for step in steps]


def test_constant_is_one_from_the_first_step_beyond_the_last():
    assert factors(0, 50, 100, 1000) == [1.0] * 4


def test_warmup_starts_at_zero_reaches_one_after_its_steps_and_stays():
    assert factors(0, 5, 10, 11, 100, kind="warmup", warmup_steps=10) == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_cosine_falls_from_one_to_zero_over_the_run_and_stays_there():
    # cos(pi / 4) and cos(3 pi / 4) at the quarters
    golden = [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0.0, 0.0]
    assert factors(0, 25, 50, 75, 100, 150, kind="cosine") == pytest.approx(golden, abs=1e-12)


def test_cosine_with_a_stop_falls_over_the_shorter_way():
    assert factors(0, 20, 40, 99, kind="cosine", stop_step=40) == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert factors(0, 50, 100, kind="cosine", stop_step=400) == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("kind", ["constant", "warmup"])
def test_stop_step_is_the_first_step_without_the_term(kind):
    settings = {"kind": kind, "warmup_steps": 10 if kind == "warmup" else 0}
    assert factors(59, 60, 61, 100, stop_step=60, **settings) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_a_stop_at_step_zero_never_lets_the_term_in(kind):
    assert factors(0, 1, 100, kind=kind, stop_step=0) == [0.0] * 3


def test_warmup_and_cosine_multiply():
    steps = range(0, 101, 5)
    together = factors(*steps, kind="cosine", warmup_steps=40, stop_step=80)
    warm = factors(*steps, kind="warmup", warmup_steps=40)
    falling = factors(*steps, kind="cosine", stop_step=80)
    assert together == pytest.approx([a * b for a, b in zip(warm, falling, strict=True)])
    assert together[8] == pytest.approx(0.5)  # step 40: warm, half-way down


@given(
    kind=st.sampled_from(["constant", "warmup", "cosine"]),
    warmup_steps=st.integers(1, 50),
    stop_step=st.none() | st.integers(0, 300),
    step=st.integers(0, 400),
    total=st.integers(1, 200),
)
def test_the_factor_is_a_share(kind, warmup_steps, stop_step, step, total):
    config = ScheduleConfig(kind=kind, warmup_steps=0 if kind == "constant" else warmup_steps, stop_step=stop_step)
    factor = schedule_factor(config, step=step, steps=total)
    assert 0.0 <= factor <= 1.0
    assert isinstance(factor, float)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "linear"}, "kind=linear"),
        ({"kind": "warmup"}, "warmup_steps=0"),
        ({"warmup_steps": 5}, "warmup_steps=5 has no effect"),
        ({"kind": "cosine", "warmup_steps": -1}, "warmup_steps=-1"),
        ({"stop_step": -1}, "stop_step=-1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(settings, text):
    with pytest.raises(ValueError, match=text) as caught:
        ScheduleConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_a_step_that_does_not_exist_is_refused(step, total):
    with pytest.raises(ValueError, match=f"step={step} of steps={total}"):
        factors(step, total=total)
