"""Volumes that are computed as they are read."""

import numpy as np
import pytest

from distill3d.volumes import parts
from distill3d.volumes.parts import Parted, computed, shape_on_disk
from distill3d.volumes.volume import Volume, write_volume


@pytest.mark.parametrize("kind", ["u1", "i4", "f4", "?"])
def test_projections_of_what_is_read_by_part_are_those_of_the_whole(kind, monkeypatch):
    values = np.random.default_rng(0).integers(-9, 0, (9, 20, 31))
    data = values > -2 if kind == "?" else values.astype(kind)
    monkeypatch.setattr(parts.boxes, "__defaults__", ((4, 7, 8),))
    parted = Parted(lambda part: part, data)
    for axis in range(3):
        flat = parted.max(axis)
        assert flat.dtype == data.dtype
        np.testing.assert_array_equal(flat, data.max(axis))


def test_what_is_computed_of_arrays_is_an_array_and_else_is_read_by_part():
    one, other = np.arange(24).reshape(2, 3, 4), np.ones((2, 3, 4), bool)
    assert isinstance(computed(np.multiply, one, other), np.ndarray)
    parted = computed(np.multiply, Parted(np.negative, one), other)
    assert isinstance(parted, Parted)
    assert (parted.shape, parted.dtype) == (one.shape, one.dtype)
    box = (slice(0, 1), slice(1, 3), slice(2, 3))
    np.testing.assert_array_equal(parted[box], -one[box])


def test_only_stacks_that_are_read_by_part_have_a_shape_on_disk(tmp_path):
    for suffix in ("zarr", "tif"):
        write_volume(tmp_path / f"cell.{suffix}", Volume(np.ones((2, 3, 4), np.uint8)))
    assert shape_on_disk(tmp_path / "cell.zarr", channel=0) == (2, 3, 4)
    assert shape_on_disk(tmp_path / "cell.tif", channel=0) is None
    assert shape_on_disk(tmp_path / "none.zarr", channel=0) is None
