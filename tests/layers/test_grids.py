"""Grids of cells: means and interpolation between them, against what one would compute by hand."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distill3d.layers.grids import Cells, resample, weights

EIGHTHS = st.integers(2, 40).map(lambda n: n / 8)  # exact in binary, so that edges of cells can coincide
PITCHES = EIGHTHS | st.floats(0.3, 6.0)  # a teacher's cell may be 2.4 voxels wide
STARTS = st.integers(-9, 30).map(float) | st.floats(-9, 30)


@st.composite
def grids(draw, pitches=PITCHES, starts=STARTS, most=9):
    return Cells.regular(draw(st.integers(1, most)), draw(pitches), start=draw(starts))


@st.composite
def crops(draw):
    """Slices of a patch (some of them or all), or cells of a student's map: side by side or with gaps."""
    pitch, start = draw(PITCHES), draw(STARTS)
    places = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=6)))
    return Cells(start + pitch * np.array(places, np.float64), pitch)


def values(count, seed=0):
    return np.random.default_rng(seed).normal(size=count)


def slow_area(target, source, have):
    """Mean over what each target cell overlaps, in exact fractions and by hand; None where it overlaps nothing."""
    pitch, wide = Fraction(source.pitch), Fraction(target.pitch)
    means = []
    for start in map(Fraction, target.starts):
        total = length = Fraction(0)
        for begin, value in zip(map(Fraction, source.starts), have, strict=True):
            shared = min(start + wide, begin + pitch) - max(start, begin)
            if shared > 0:
                total += shared * Fraction(value)
                length += shared
        means.append(float(total / length) if length else None)
    return means


def slow_line(place, source, have):
    """Value at one place on the broken line through the middles of the cells, flat beyond its ends."""
    middles = [start + source.pitch / 2 for start in source.starts]
    if place <= middles[0]:
        return have[0]
    for k in range(len(middles) - 1):
        if place <= middles[k + 1]:
            share = (place - middles[k]) / (middles[k + 1] - middles[k])
            return (1 - share) * have[k] + share * have[k + 1]
    return have[-1]


@given(crops(), crops())
def test_every_row_is_a_mean(target, source):
    rows = weights(target, source)
    assert rows.shape == (len(target.starts), len(source.starts))
    assert rows.min() >= 0
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-6)


@given(crops(), crops(), st.floats(-100, 100))
def test_constants_stay(target, source, level):
    maps = torch.full((2, len(source.starts)), level, dtype=torch.float64)
    np.testing.assert_allclose(resample(maps, source=[source], target=[target]), level, rtol=1e-6)


@given(crops(), crops())
def test_a_wider_cell_is_the_mean_of_what_it_overlaps(target, source):
    assume(target.pitch > source.pitch)
    have = values(len(source.starts))
    means = slow_area(target, source, have)
    nearest = [slow_line(middle, source, have) for middle in target.centers]
    expected = [other if mean is None else mean for mean, other in zip(means, nearest, strict=True)]
    np.testing.assert_allclose(weights(target, source) @ have, expected, rtol=1e-4, atol=1e-5)


@given(crops(), crops())
def test_a_cell_that_is_not_wider_is_interpolated_between_middles(target, source):
    assume(target.pitch <= source.pitch)
    have = values(len(source.starts))
    expected = [slow_line(middle, source, have) for middle in target.centers]
    np.testing.assert_allclose(weights(target, source) @ have, expected, rtol=1e-4, atol=1e-5)


@given(grids(), grids(), st.floats(-3, 3))
def test_interpolation_reproduces_a_ramp_between_the_outer_middles(target, source, slope):
    assume(target.pitch <= source.pitch)
    inside = (target.centers >= source.centers[0]) & (target.centers <= source.centers[-1])
    resampled = weights(target, source) @ (1 + slope * source.centers)
    np.testing.assert_allclose(resampled[inside], 1 + slope * target.centers[inside], rtol=1e-4, atol=1e-4)


@given(EIGHTHS, st.integers(-9, 30), st.integers(2, 5), st.integers(1, 5), st.integers(0, 4))
def test_area_means_reproduce_a_ramp_where_edges_coincide(pitch, start, times, count, skipped):
    source = Cells.regular(times * count + skipped, pitch, start=start)
    target = Cells.regular(count, times * pitch, start=start + skipped * pitch)
    resampled = weights(target, source) @ (1 - 2 * source.centers)
    np.testing.assert_allclose(resampled, 1 - 2 * target.centers, rtol=1e-5, atol=1e-4)


@given(grids(most=30), grids(most=30))
def test_an_area_mean_is_off_by_an_eighth_of_a_source_cell_at_most(target, source):
    # A cell that is overlapped in part counts with its whole value, as if from its middle: f * (1 - f) / 2 <= 1/8.
    assume(target.pitch > source.pitch)
    end = source.starts[-1] + source.pitch
    inside = (target.starts >= source.starts[0]) & (target.starts + target.pitch <= end)
    off = (weights(target, source) @ source.centers - target.centers)[inside]
    assert (np.abs(off) <= source.pitch / 8 + 1e-4).all()


@settings(max_examples=300)
@given(crops(), STARTS, PITCHES, st.integers(1, 40))
def test_the_part_around_a_target_is_all_that_it_needs(target, start, pitch, count):
    source = Cells.regular(count, pitch, start=start)
    low, high = source.around(target)
    assert 0 <= low < high <= count
    whole = weights(target, source)
    np.testing.assert_allclose(weights(target, source.part(low, high)), whole[:, low:high], atol=1e-5)
    assert not np.delete(whole, range(low, high), axis=1).any()


@pytest.mark.parametrize("pitch", [1.0, 2.4, 8.0])
@pytest.mark.parametrize("odd", [-3, 1, 7, 31])
def test_the_part_around_a_crop_is_small(odd, pitch):
    # The point of it: a memory map of a whole stack is read no further than the patch.
    source, target = Cells.regular(100, pitch, start=-10.0), Cells.regular(16, 1.0, start=odd)
    low, high = source.around(target)
    assert high - low <= 16 / pitch + 5


@given(crops(), STARTS)
def test_seen_from_the_other_end_twice_is_the_identity(cells, length):
    twice = cells.reversed_in(length).reversed_in(length)
    np.testing.assert_allclose(twice.starts, cells.starts, atol=1e-9)
    assert twice.pitch == cells.pitch


@given(crops(), st.integers(1, 40))
def test_seen_from_the_other_end_cells_cover_the_mirrored_voxels_in_ascending_order(cells, length):
    mirrored = cells.reversed_in(length)
    np.testing.assert_allclose(mirrored.centers, length - cells.centers[::-1], atol=1e-9)
    assert (np.diff(mirrored.starts) > 0).all()


@given(crops(), crops(), st.integers(0, 50))
def test_a_flip_and_a_shift_of_both_grids_move_nothing(target, source, length):
    rows = weights(target, source)
    flipped = weights(target.reversed_in(length), source.reversed_in(length))
    np.testing.assert_allclose(flipped, rows[::-1, ::-1], atol=1e-4)
    np.testing.assert_allclose(weights(target.shifted(length), source.shifted(length)), rows, atol=1e-4)


def test_one_cell_lends_its_value_to_all():
    assert weights(Cells.regular(3, 1.0, start=-5), Cells.regular(1, 4.0)).tolist() == [[1.0]] * 3
    assert weights(Cells.regular(3, 9.0, start=-50), Cells.regular(1, 4.0)).tolist() == [[1.0]] * 3


def test_all_three_axes_are_resampled_each_by_its_own_matrix():
    source = [Cells.regular(4, 1.0), Cells.regular(3, 8.0), Cells.regular(5, 2.4, start=-1)]
    target = [Cells.regular(2, 2.0), Cells.regular(6, 4.0), Cells.regular(3, 2.4, start=0.5)]
    maps = torch.from_numpy(values((2, 3, 4, 3, 5)))
    z, y, x = (torch.from_numpy(weights(*pair)).double() for pair in zip(target, source, strict=True))
    expected = torch.einsum("bczyx,iz,jy,kx->bcijk", maps, z, y, x)
    torch.testing.assert_close(resample(maps, source=source, target=target), expected)


def test_the_same_grid_costs_nothing():
    cells = [Cells.regular(4, 2.4, start=7)] * 2
    maps = torch.rand(3, 4, 4)
    assert resample(maps, source=cells, target=cells) is maps


def test_gradient_flows_and_is_the_transposed_mean():
    source, target = [Cells.regular(5, 1.0), Cells.regular(3, 4.0)], [Cells.regular(2, 2.5), Cells.regular(7, 1.7)]
    maps = torch.from_numpy(values((2, 5, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: resample(m, source=source, target=target), maps)
    resample(maps, source=source, target=target).sum().backward()
    columns = [weights(*pair).sum(axis=0) for pair in zip(target, source, strict=True)]
    np.testing.assert_allclose(maps.grad[1], np.outer(*columns), rtol=1e-5)


def test_maps_keep_their_precision_under_autocast():
    maps, have, want = torch.rand(1, 2, 8, 9), Cells.regular(9, 1.0), Cells.regular(4, 2.0)
    expected = resample(maps, source=[have], target=[want])

    with torch.autocast("cpu", torch.bfloat16):
        found = resample(maps, source=[have], target=[want])

    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
