"""How closely tubes follow neurites and how hard they bend, counted on hand-made taps and gold."""

import math

import numpy as np
import pytest
import torch

from distill3d.evaluation.metrics.tubes import TubeTally, saturated_steps, share_on_neurite
from distill3d.layers.tubes.geometry import angle_tube, block_centers, tap_distances

SHAPE = (12, 40, 40)


def neurite():
    """A line of gold along x."""
    mask = np.zeros(SHAPE, bool)
    mask[6, 20] = True
    return mask


def test_a_tube_along_the_neurite_lies_on_it_and_a_far_one_does_not():
    along = np.stack([np.full(30, 6.0), np.full(30, 20.0), np.arange(5, 35)], axis=-1)
    assert share_on_neurite(along, neurite()) == 1
    assert share_on_neurite(along + np.array([0, 2, 0]), neurite()) == 1
    assert share_on_neurite(along + np.array([0, 2.1, 0]), neurite()) == 0
    assert share_on_neurite(along + np.array([0, 2.1, 0]), neurite(), 3.0) == 1
    across = along[:, [0, 2, 1]]  # 5 of its 30 taps are at most 2 voxels away
    assert share_on_neurite(across, neurite()) == pytest.approx(5 / 30)


def test_the_share_counts_taps_inside_the_image_only():
    along = np.stack([np.full(80, 6.0), np.full(80, 20.0), np.arange(-20, 60)], axis=-1)
    assert share_on_neurite(along, neurite()) == 1
    assert share_on_neurite(along + np.array([50, 0, 0]), neurite()) == 0
    assert share_on_neurite(along, np.zeros(SHAPE, bool)) == 0


def test_the_share_is_that_of_a_slow_count():
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) > 0.995
    taps = rng.uniform(-5, 45, (3, 50, 8, 3))
    inside = [tap for tap in taps.reshape(-1, 3) if all(-0.5 <= v <= n - 0.5 for v, n in zip(tap, SHAPE, strict=True))]
    near = [min(np.linalg.norm(tap - voxel) for voxel in np.argwhere(mask)) <= 2 for tap in inside]
    assert 0 < np.mean(near) < 1
    assert share_on_neurite(taps, mask) == pytest.approx(np.mean(near))


def path(*sideways, axis=2, spacing=1.0):
    """Taps of a tube along ``axis`` that lie so far sideways: a pair, or a number on the first transverse axis."""
    taps = np.zeros((len(sideways), 3))
    taps[:, axis] = np.arange(len(sideways)) * spacing
    taps[:, [a for a in range(3) if a != axis]] = [at if isinstance(at, tuple) else (at, 0.0) for at in sideways]
    return taps


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_of_a_fit_is_saturated_from_95_percent_of_the_slope_on_either_side_and_axis(axis):
    taps = path((0, 0), (0.94, 0), (1.9, 0), (1.9, -0.96), (0.9, -1.9), axis=axis)
    assert saturated_steps(taps, axis, law="fit", extent=1.0, spacing=1.0).tolist() == [False, True, True, True]
    half = saturated_steps(taps, axis, law="fit", extent=2.0, spacing=1.0)
    assert half.tolist() == [False] * 4


def test_the_spacing_of_taps_bounds_the_steps_of_a_fit_and_not_those_of_a_snake():
    taps = path(0.0, 1.0, 2.96, spacing=2.0)
    assert saturated_steps(taps, 2, law="fit", extent=1.0, spacing=2.0).tolist() == [False, True]
    assert saturated_steps(taps, 2, law="snake", extent=1.0, spacing=2.0).tolist() == [True, True]
    assert saturated_steps(taps, 2, law="snake", extent=2.1, spacing=2.0).tolist() == [False, False]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.94, 0.94), (-0.94, 0.0), [False, False]),
        ((0.96, 0.0), (0.0, 0.5), [True, False]),
        ((0.2, -0.96), (-0.96, 0.9), [True, True]),
        ((0.0, 0.0), (0.9, 0.96), [False, True]),
    ],
)
def test_a_half_of_a_tube_of_angles_is_saturated_from_95_percent_of_either_angle(axis, before, after, expected):
    extent = 0.8
    angles = extent * math.pi / 4 * torch.tensor([*before, *after]).view(1, 4, 1, 1, 1)
    points = angle_tube(axis, block_centers((2, 2, 2), (2, 2, 2)), tap_distances(5, 1.5), angles)
    taps = torch.stack([p.expand(1, 5, 1, 1, 1) for p in points], dim=-1).view(5, 3).numpy()
    steps = saturated_steps(taps, axis, law="angles", extent=extent, spacing=1.5)
    assert steps.tolist() == [expected[0]] * 2 + [expected[1]] * 2


def tubes():
    """[1, 3, 4, 3]: tubes along x in the neurite's plane, on it and 2 and 5 voxels beside it; the center is tap 2."""
    return np.stack([np.stack([np.full(4, 6.0), np.full(4, y), np.arange(10.0, 14)], axis=-1) for y in (20, 22, 25)])[
        None
    ]


def test_shares_are_counted_over_all_tubes_and_over_those_that_start_on_a_neurite():
    straight, bent = tubes(), tubes()
    bent[0, 1, 3, 1] = 23  # leaves
    bent[0, 2, :3, 1] = 22  # comes nearer
    saturated = np.zeros((1, 3, 3), bool)
    saturated[0, 1, 2] = saturated[0, 2] = True
    tally = TubeTally()
    tally.add(bent, straight, neurite(), saturated=saturated)
    assert tally.shares() == {
        "on_neurite": 10 / 12,
        "on_neurite_straight": 8 / 12,
        "followed": 7 / 8,
        "followed_straight": 1.0,
        "saturated": 1 / 6,
        "bend_vox": 1 / 8,
    }


def test_windows_are_added_up_by_taps_and_taps_outside_do_not_count():
    tally = TubeTally()
    tally.add(tubes(), tubes(), neurite(), saturated=None)
    beyond = tubes() + np.array([0, 0, 28])  # x from 38: two of each inside
    tally.add(beyond, beyond, neurite(), saturated=None)
    tally.add(tubes(), tubes(), np.zeros(SHAPE, bool), saturated=None)
    shares = tally.shares()
    assert shares["on_neurite"] == shares["on_neurite_straight"] == (8 + 4) / (12 + 6 + 12)
    # The second window's tubes start at x = 40, outside.
    assert shares["followed"] == shares["followed_straight"] == 1
    assert (shares["saturated"], shares["bend_vox"]) == (None, 0)


def test_without_a_tube_nothing_is_said():
    assert set(TubeTally().shares().values()) == {None}
