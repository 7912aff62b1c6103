"""Pieces that are joined over the borders of parts are those of the whole mask."""

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.tracing.foreground import grow_to
from distill3d.volumes.components import drop_small, label_components
from distill3d.volumes.memory import allow_gib
from distill3d.volumes.otsu import above_otsu, otsu_threshold, threshold_otsu
from distill3d.volumes.parts import gather
from distill3d.volumes.pieces import find_pieces

WHOLE = (slice(0, 13), slice(0, 17), slice(0, 19))


def pieces_of(mask, size, sure=None, **how):
    return find_pieces(mask.shape, lambda box: (mask[box], None if sure is None else sure[box]), size=size, **how)


@pytest.mark.parametrize("size", [(3, 4, 5), (1, 2, 3), (20, 30, 40)])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.1, 0.3])
def test_numbers_of_pieces_are_those_of_the_whole_however_it_is_parted(size, share):
    rng = np.random.default_rng(0)
    mask = rng.random((13, 17, 19)) < share
    sure = mask & (rng.random(mask.shape) < 0.1)
    pieces, (labels, count) = pieces_of(mask, size, min_voxels=3), label_components(drop_small(mask, 3))
    assert pieces.count == count
    np.testing.assert_array_equal(pieces.labels(WHOLE), labels)
    box = (slice(3, 9), slice(0, 8), slice(5, 18))
    np.testing.assert_array_equal(pieces.labels(box), labels[box])
    for number, voxels in enumerate(pieces.each(), 1):
        np.testing.assert_array_equal(voxels, np.flatnonzero(labels == number))
    np.testing.assert_array_equal(pieces_of(mask, size, sure)[WHOLE], grow_to(sure, mask))
    kept = pieces.only(np.arange(count) % 2 == 1)
    np.testing.assert_array_equal(kept[WHOLE], (labels > 0) & (labels % 2 == 0))


def test_pieces_touch_at_corners_and_edges_and_in_a_third_part():
    mask = np.zeros((8, 8, 8), bool)
    mask[3, 3, 3] = mask[4, 4, 4] = True  # by a corner of eight parts
    mask[0, 3, 7] = mask[0, 4, 6] = True  # by an edge
    mask[7, 2, 0:6] = mask[7, 2:6, 5] = mask[7, 6, 0:6] = True  # a U: arms in two parts, joined in others
    pieces = pieces_of(mask, (4, 4, 4), min_voxels=2)
    assert np.bincount(pieces.numbers).tolist() == [2, 2, 15]


def test_what_is_dust_in_every_part_is_kept_where_it_is_large_in_all():
    mask = np.zeros((2, 2, 30), bool)
    mask[0, 0, :], mask[1, 1, 0] = True, False
    assert pieces_of(mask, (2, 2, 3), min_voxels=30).count == 1
    assert pieces_of(mask, (2, 2, 3), min_voxels=31).count == 0


def test_more_foreground_than_there_is_room_for_is_refused():
    allow_gib(1e-6)
    try:
        with pytest.raises(InputError, match="voxels of foreground in a volume of"):
            pieces_of(np.ones((9, 9, 9), bool), (3, 3, 3))
    finally:
        allow_gib(None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_the_threshold_of_otsu_is_that_of_the_whole_image(dtype, monkeypatch):
    image = (np.random.default_rng(3).gamma(2.0, 40.0, (10, 20, 30))).clip(0, 255).astype(dtype)
    monkeypatch.setattr("distill3d.volumes.parts.PART", (4, 8, 8))
    assert otsu_threshold(image) == threshold_otsu(image)
    assert otsu_threshold(np.full((2, 2, 2), 7, dtype)) == 7


@pytest.mark.parametrize("base", [1.0, -7.0, 1e-40])
@pytest.mark.parametrize("steps", [1, 3, 255, 256, 1000])
def test_otsu_divides_numbers_that_are_a_few_steps_of_single_precision_apart(base, steps):
    image = np.full((4, 5, 6), base, np.float32)
    image[1] = np.float32(base) + steps * np.spacing(np.float32(base))
    bright = image == image.max()
    assert 0 < bright.sum() < image.size
    np.testing.assert_array_equal(above_otsu(image), bright)
    np.testing.assert_array_equal(image > otsu_threshold(image), bright)


def test_values_are_gathered_as_an_index_would():
    data = np.random.default_rng(0).integers(0, 255, (9, 20, 30))
    voxels = np.random.default_rng(1).integers(0, (9, 20, 30), (50, 3))
    np.testing.assert_array_equal(gather(data, voxels, size=7), data[tuple(voxels.T)])


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 1, 1), (1, 5, 1), (1, 1, 1)])
def test_voxels_in_a_line_are_numbered(shape):
    mask = np.zeros(shape, bool)
    mask.ravel()[::2] = True
    assert label_components(mask)[0].ravel()[::2].tolist() == list(range(1, mask.sum() + 1))
