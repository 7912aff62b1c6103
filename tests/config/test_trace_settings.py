"""Settings of a trace: what is accepted, and what a wrong word is answered with."""

import dataclasses

import pytest

from distill3d.config.files import trace_config
from distill3d.config.trace import TraceConfig
from distill3d.errors import ConfigError


def test_words_become_typed_settings_and_the_rest_keeps_its_default():
    config = trace_config(["gap_um=4", "--trees=seed", "seed_zyx_um=[1,2,3.5]", "fill_holes=true", "min_voxels=7"])
    changed = {"gap_um": 4.0, "trees": "seed", "seed_zyx_um": (1.0, 2.0, 3.5), "fill_holes": True, "min_voxels": 7}
    assert config == dataclasses.replace(TraceConfig(), input="auto", **changed)
    assert trace_config(["input=prob"]) == TraceConfig()


def test_every_problem_is_told_with_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        trace_config(["gap=4", "method=otso", "min_voxels=2.5", "wrongest=1"])
    lines = caught.value.lines
    assert len(lines) == 4
    assert "did you mean 'gap_um'?" in lines[0]
    assert "known: centering_exponent" in lines[1]
    assert "'otso'" in lines[2]
    assert "otsu" in lines[2]
    assert "2.5" in lines[3]


def test_a_word_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="accepted: key=value"):
        trace_config(["gap_um"])


@pytest.mark.parametrize(
    ("word", "accepted"),
    [
        ("gap_um=-1", "0 or more"),
        ("gap_um=.inf", "finite"),
        ("spur_um=.nan", "finite"),
        ("min_voxels=0", "1 or more"),
        ("threshold=1", "below 1"),
        ("threshold=0", "above 0"),
        ("low_threshold=0", "above 0"),
        ("max_turn_deg=181", "at most 180"),
        ("soma_factor=1", "above 1"),
        ("centering_weight=0", "above 0"),
        ("centering_exponent=0", "1 or more"),
        ("seed_zyx_um=[1,2,3]", "trees=seed"),
        ("trees=seed", "a point"),
        ("seed_zyx_um=[1,2,.nan]", "finite numbers"),
    ],
)
def test_values_out_of_range_are_refused_with_what_is_accepted(word, accepted):
    with pytest.raises(ConfigError, match=accepted) as caught:
        trace_config([word])
    assert len(caught.value.lines) == 1


def test_the_low_threshold_only_binds_hysteresis():
    assert trace_config(["threshold=0.1"]).threshold == 0.1
    with pytest.raises(ConfigError, match="low_threshold"):
        trace_config(["threshold=0.1", "method=hysteresis"])
