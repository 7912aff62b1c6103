import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from distill3d.errors import InputError
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import Tree, read_swc


def tree_of(points, radii, parents) -> Tree:
    points = np.asarray(points, float)
    return Tree(
        points, np.broadcast_to(np.asarray(radii, float), len(points)).copy(), np.asarray(parents), np.ones(len(points))
    )


def random_tree(rng: np.random.Generator, shape: tuple[int, ...], spacing: np.ndarray) -> Tree:
    n = int(rng.integers(1, 6))
    size = np.array(shape) * spacing
    points = rng.uniform(-0.3, 1.3, (n, 3)) * size
    parents = [-1, *(int(rng.integers(-1, i)) for i in range(1, n))]
    return tree_of(points, rng.uniform(0, 4, n), parents)


def slow_tubes(tree: Tree, shape: tuple[int, ...], spacing: np.ndarray) -> np.ndarray:
    """Every voxel against every edge, one at a time, as the docstring defines it; no boxes, no pieces."""
    mask = np.zeros(shape, bool)
    ends = [(i, i) for i in range(tree.n_nodes)] + [tuple(edge) for edge in tree.edges]
    for voxel in np.ndindex(*shape):
        center = np.array(voxel) * spacing
        for a, b in ends:
            start, along = tree.points_zyx_um[a], tree.points_zyx_um[b] - tree.points_zyx_um[a]
            square = along @ along
            t = min(max((center - start) @ along / square, 0), 1) if square > 0 else 0
            radius = (1 - t) * tree.radii_um[a] + t * tree.radii_um[b]
            mask[voxel] |= np.linalg.norm(center - start - t * along) <= radius
    return mask


def slow_lines(tree: Tree, shape: tuple[int, ...], spacing: np.ndarray) -> np.ndarray:
    """Voxels within half a voxel (each axis) of some place on an edge, found by very dense sampling."""
    mask = np.zeros(shape, bool)
    for child, parent in enumerate(tree.parents):
        end = tree.points_zyx_um[parent if parent >= 0 else child]
        for t in np.linspace(0, 1, 2001):
            voxel = np.floor(((1 - t) * tree.points_zyx_um[child] + t * end) / spacing + 0.5).astype(int)
            if (voxel >= 0).all() and (voxel < shape).all():
                mask[tuple(voxel)] = True
    return mask


spacings = st.tuples(*[st.floats(0.3, 3.0)] * 3)
shapes = st.tuples(*[st.integers(1, 9)] * 3)


@given(seed=st.integers(0, 10**6), shape=shapes, spacing=spacings)
@settings(max_examples=40, deadline=None)
def test_mask_is_the_brute_force_distance_test_plus_the_line(seed, shape, spacing):
    size = np.array(spacing)
    tree = random_tree(np.random.default_rng(seed), shape, size)
    mask = rasterize(tree, shape, spacing_um=spacing, allow_outside=True)
    tubes, lines = slow_tubes(tree, shape, size), slow_lines(tree, shape, size)
    assert not (tubes & ~mask).any()  # nothing of the tubes is missing
    assert not (mask & ~tubes & ~lines).any()  # and nothing else is there but lines


@given(seed=st.integers(0, 10**6), spacing=spacings)
@settings(max_examples=40, deadline=None)
def test_a_neurite_thinner_than_a_voxel_stays_in_one_piece(seed, spacing):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 15, (6, 3)) * spacing
    mask = rasterize(tree_of(points, 0.0, [-1, 0, 1, 1, 0, 4]), (16, 16, 16), spacing_um=spacing)
    assert label(mask, structure=np.ones((3, 3, 3)))[1] == 1
    ends = np.floor(points / spacing + 0.5).astype(int)
    assert mask[tuple(ends.T)].all()


def test_a_sphere_has_the_volume_of_a_sphere():
    mask = rasterize(tree_of([[20, 20, 20]], 10, [-1]), (41, 41, 41))
    assert mask.sum() == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.01)


def test_a_cylinder_has_the_volume_of_a_cylinder_on_anisotropic_voxels():
    """Length 60 um, radius 8 um, two half spheres: pi r^2 L + 4/3 pi r^3, in voxels of 2 x 0.5 x 1 um."""
    tree = tree_of([[20.6, 20.2, 20], [20.6, 20.2, 80]], 8, [-1, 0])  # off the grid, where the sampling error is small
    mask = rasterize(tree, (21, 81, 101), spacing_um=(2.0, 0.5, 1.0))
    assert mask.sum() * 1.0 == pytest.approx(np.pi * 64 * 60 + 4 / 3 * np.pi * 512, rel=0.02)


def test_a_cone_tapers_from_one_radius_to_the_other():
    mask = rasterize(tree_of([[10, 10, 0], [10, 10, 20]], [0, 0], [-1, 0]), (21, 21, 21), min_radius_um=0)
    assert (mask.sum(axis=(0, 1)) == 1).all()
    tree = Tree(np.array([[10.0, 10, 0], [10, 10, 20]]), np.array([2.0, 8.0]), np.array([-1, 0]), np.ones(2))
    width = rasterize(tree, (21, 21, 40))[10].sum(axis=0)
    np.testing.assert_array_equal(width[[0, 10, 20]], [5, 11, 17])  # 2r + 1 with r = 2, 5, 8


def test_the_sphere_of_a_node_is_whole_where_a_tube_tapers_steeply():
    """A soma of radius 8 whose only neighbor lies inside it: the tube alone would cut the soma to a drop."""
    tree = Tree(np.array([[10.0, 10, 10], [10, 10, 14]]), np.array([8.0, 1.0]), np.array([-1, 0]), np.ones(2))
    alone = rasterize(tree_of([[10, 10, 10]], 8, [-1]), (21, 21, 21))
    np.testing.assert_array_equal(rasterize(tree, (21, 21, 21)), alone)


def test_radius_file_fixed_scaled_and_floored_do_what_they_say():
    tree = tree_of([[15, 15, 15]], 2, [-1])

    def width(**options):
        return int(rasterize(tree, (31, 31, 31), **options)[15, 15].sum())

    assert width() == 5
    assert width(scale=2.0) == 9
    assert width(radius="fixed", radius_um=6.0) == 13
    assert width(radius="fixed", radius_um=3.0, scale=2.0) == 13
    assert width(min_radius_um=4.0) == 9
    assert width(scale=0.0) == 1


def test_negative_radii_draw_the_line_only():
    assert rasterize(tree_of([[3, 3, 1], [3, 3, 5]], -1, [-1, 0]), (7, 7, 7)).sum() == 5


def test_flipping_the_tree_flips_the_mask():
    rng = np.random.default_rng(3)
    points = rng.integers(0, 20, (6, 3)).astype(float)
    parents = [-1, 0, 1, 1, 3, 0]
    mirrored = points * [1, -1, 1] + [0, 19, 0]
    a = rasterize(tree_of(points, 2.0, parents), (20, 20, 20))
    b = rasterize(tree_of(mirrored, 2.0, parents), (20, 20, 20))
    np.testing.assert_array_equal(a[:, ::-1], b)


def test_a_part_outside_is_clipped_and_the_rest_drawn():
    tree = tree_of([[5, 5, -40], [5, 5, 4], [5, 5, 300]], 1.0, [-1, 0, 1])
    mask = rasterize(tree, (11, 11, 11))
    assert mask[5, 5].all()
    assert mask.sum() == 5 * 11  # a plus of five voxels in every one of 11 planes


def test_a_tree_outside_is_refused_with_both_extents():
    tree = tree_of([[100, 5, 5], [120, 5, 5]], 1.0, [-1, 0])
    with pytest.raises(InputError, match=r"do not overlap: tree spans .*100.0, 5.0.* volume spans .*20.0, 20.0, 40.0"):
        rasterize(tree, (20, 20, 20), spacing_um=(1, 1, 2))
    assert not rasterize(tree, (20, 20, 20), allow_outside=True).any()


def test_a_tree_without_nodes_is_refused():
    with pytest.raises(InputError, match="no node"):
        rasterize(tree_of(np.empty((0, 3)), 1.0, []), (4, 4, 4))


def test_a_radius_column_without_radii_is_refused_before_it_takes_hours(data_dir):
    tree = read_swc(data_dir / "swc" / "CAR_mouse" / "18453_7010_x8769_y4509_VISp.swc")
    with pytest.raises(InputError, match="radius=fixed"):
        rasterize(tree, (456, 320, 528))


def test_small_chunks_give_the_same_mask(monkeypatch):
    rng = np.random.default_rng(0)
    tree = tree_of(rng.uniform(0, 30, (20, 3)), rng.uniform(0, 4, 20), [-1, *range(19)])
    whole = rasterize(tree, (30, 30, 30))
    raster = importlib.import_module("distill3d.volumes.raster")
    monkeypatch.setattr(raster, "_CHUNK", 50)
    tested, inside = [], raster._inside
    monkeypatch.setattr(raster, "_inside", lambda points, *rest: tested.append(len(points)) or inside(points, *rest))
    np.testing.assert_array_equal(rasterize(tree, (30, 30, 30)), whole)
    sphere = rasterize(tree_of([[8, 8, 8]], 8, [-1]), (17, 17, 17))  # one piece of 17^3 voxels
    np.testing.assert_array_equal(sphere, ((np.indices((17, 17, 17)) - 8) ** 2).sum(axis=0) <= 64)
    assert max(tested) == 50


def test_real_gold_lies_on_bright_voxels(data_dir):
    """The mask drawn from the real gold is far brighter than the stack: spacing, order and origin are right."""
    from distill3d.volumes.volume import read_volume

    spacing = (3.03, 1.0, 1.0)
    stack = read_volume(data_dir / "pairs" / "OP_1.tif", spacing_um=spacing)
    tree = read_swc(data_dir / "pairs" / "OP_1.swc", spacing_um=spacing)
    mask = rasterize(tree, stack.shape, spacing_um=spacing)
    assert stack.data[mask].mean() > 100 * stack.data.mean()
