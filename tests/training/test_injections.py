"""Runs that are killed, or whose disk is full, at any moment: resumed, they end as an uninterrupted run does.

No figures are drawn: they would be most of the time, and are drawn from what is compared here.
"""

import functools

import numpy as np
import pytest
from faults import KILLED, Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CACHED = (
    "student={name: convnet3d, encoder: test_efficientnet, stages: 2, decoder: [4, 4]}",
    "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
    "strategy={name: features, view: {axes: [z], source: volume, augment_after: true}}",
)
RUNS = {
    "one process": ("patches.workers=1",),
    "cached teacher": CACHED,
    "two processes": ("trainer.devices=2", "patches.batch_size=1"),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny_file_in):
    """Run a kind of experiment uninterrupted, once; returns how it went, its files and its results."""

    @functools.cache
    def train(kind):
        folder = tmp_path_factory.mktemp("whole")
        place = Place(folder / "whole", tiny_file_in(folder), RUNS[kind])
        trained = place.train(how="count", at=10**9)
        assert trained.code == 0, trained.printed
        return trained, place.files(), place.results()

    return train


@pytest.fixture
def interrupted(reference, tiny_file, tmp_path):
    """Train till something happens, resume where that ended it, and compare; returns how it ended."""
    count = 0

    def train(kind, **fault):
        nonlocal count
        count += 1
        place = Place(tmp_path / str(count), tiny_file, RUNS[kind])
        ended = place.train(**fault)
        if ended.code != 0:
            assert "Traceback" not in ended.printed or fault["how"] in {"full", "shut"}, (fault, ended)
            resumed = place.resume()
            assert resumed.code == 0, (fault, ended, resumed)
        _, files, results = reference(kind)
        assert place.files() == files, (fault, place.files() ^ files)
        again = place.results()
        assert [name for name in results if again[name] != results[name]] == [], fault
        return ended

    return train


@pytest.mark.parametrize(("kind", "times"), [("one process", 12), ("cached teacher", 12), ("two processes", 8)])
def test_a_run_killed_at_any_moment_is_resumed_to_the_same_end(kind, times, reference, interrupted):
    whole, draw = reference(kind)[0], np.random.default_rng(19)
    for number in range(times):
        how, seconds = ("SIGKILL", "SIGTERM")[number % 2], draw.uniform(0.02, 0.9) * whole.seconds
        victim = number // 2 % 2 if kind == "two processes" else 0
        while (ended := interrupted(kind, how=how, at=-seconds, victim=victim)).code == 0:
            seconds *= 0.8  # the machine was less busy than when the uninterrupted run took its time
        assert ended.code in (KILLED[how] if victim == 0 else {1, 143}), ended


@pytest.mark.parametrize(("kind", "times"), [("one process", 14), ("cached teacher", 12), ("two processes", 6)])
def test_a_run_killed_at_a_file_operation_is_resumed_to_the_same_end(kind, times, reference, interrupted):
    operations, draw = reference(kind)[0].operations, np.random.default_rng(19)
    for number in range(times):  # one out of each part of the run
        at = 1 + int((number + draw.random()) * operations / times)
        how = ("SIGKILL", "SIGTERM")[number % 2]
        ended = interrupted(kind, how=how, at=at)
        assert ended.code in KILLED[how], (at, ended)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_whose_disk_is_full_from_a_file_operation_on_is_resumed_to_the_same_end(kind, reference, interrupted):
    operations, draw = reference(kind)[0].operations, np.random.default_rng(19)
    for number in range(10):
        at = 1 + int((number + draw.random()) * operations / 10)
        ended = interrupted(kind, how=("full", "shut")[number % 2], at=at)
        # What comes after the last thing that is written, such as a folder deleted, needs no room: that run is whole.
        assert ended.code in {1, 2} or at > 0.95 * operations, (at, ended)
