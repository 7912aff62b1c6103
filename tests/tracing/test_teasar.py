"""Centerlines of masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapes import random_mask, tube

from distill3d.config.trace import TraceConfig
from distill3d.tracing.teasar import skeletonize

ONE = np.ones(3)


@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 0.6), fix_branching=st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_piece_has_one_connected_skeleton_inside_it(seed, share, fix_branching):
    mask = random_mask(seed, share=share)
    skeleton = skeletonize(mask, ONE, TraceConfig(fix_branching=fix_branching))
    voxels = skeleton.points_zyx_um.astype(int)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    assert mask[tuple(voxels.T)].all()
    assert sorted(set(labels[tuple(voxels.T)])) == list(range(1, count + 1))
    assert skeleton.pieces()[0] == count
    assert (np.abs(voxels[skeleton.edges[:, 0]] - voxels[skeleton.edges[:, 1]]).max(axis=1) == 1).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.5, 0.4, 0.4)])
@pytest.mark.parametrize("radius", [3.0, 6.0])
def test_a_tube_has_its_axis_and_its_radius(spacing, radius):
    size = np.array(spacing)
    center = np.round(np.array([10, 20, 0]) / size) * size
    shape = tuple(int(n) for n in np.ceil([21 / size[0], 41 / size[1], 81 / size[2]]))
    mask = tube(center + np.array([[0, 0, 12], [0, 0, 66]]), shape, radius=radius, spacing_um=spacing)
    skeleton = skeletonize(mask, size, TraceConfig())
    middle = (skeleton.points_zyx_um[:, 2] > 20) & (skeleton.points_zyx_um[:, 2] < 58)
    off_axis = np.linalg.norm((skeleton.points_zyx_um - center)[middle, :2], axis=1)
    assert middle.sum() >= 38 / size[2] - 2
    assert off_axis.max() <= size.max() + 1e-6
    assert np.median(skeleton.radii_um[middle]) == pytest.approx(radius, abs=0.5 * size[1:].max() + 0.1)


def test_a_thing_of_one_voxel_is_one_node_with_the_smallest_side_as_radius():
    mask = np.zeros((3, 3, 3), bool)
    mask[2, 0, 1] = True
    skeleton = skeletonize(mask, np.array([3.0, 1.0, 2.0]), TraceConfig())
    assert skeleton.points_zyx_um.tolist() == [[6, 0, 2]]
    assert skeleton.radii_um.tolist() == [1]


def test_an_empty_mask_has_no_node():
    skeleton = skeletonize(np.zeros((3, 4, 5), bool), ONE, TraceConfig())
    assert (skeleton.n_nodes, len(skeleton.edges), skeleton.pieces()[0]) == (0, 0, 0)


def test_finer_invalidation_sees_shorter_branches():
    mask = tube([[5, 20, 5], [5, 20, 60]], (11, 41, 66)) | tube([[5, 20, 30], [5, 28, 30]], (11, 41, 66))
    ends = [int((skeletonize(mask, ONE, TraceConfig(invalidation_um=um)).degrees == 1).sum()) for um in (2.0, 30.0)]
    assert ends == [3, 2]


def test_holes_are_filled_on_request():
    """A hollow ball: its skeleton crosses the middle only if the hole is filled."""
    zyx = np.moveaxis(np.mgrid[:21, :21, :21], 0, -1) - 10
    far = np.linalg.norm(zyx, axis=-1)
    shell = (far <= 8) & (far >= 6)
    nearest = [
        np.linalg.norm(skeletonize(shell, ONE, TraceConfig(fill_holes=fill)).points_zyx_um - 10, axis=1).min()
        for fill in (False, True)
    ]
    assert nearest[0] >= 6
    assert nearest[1] <= 2
