"""From a volume to a tree, as a user calls it, on volumes whose course is known."""

import dataclasses
import logging

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from length_f1 import length_scores
from shapes import random_mask, tree_of, tube

from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.tracing.trace import DenseError, trace, trace_file
from distill3d.volumes.prob import write_prob
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import validate
from distill3d.volumes.volume import Volume, write_volume

ONE = (1.0, 1.0, 1.0)
ALL = TraceConfig(min_voxels=1, min_tree_um=0.0, spur_um=0.0, gap_um=0.0)
Y_SHAPED = tree_of([[15, 30, 5], [15, 30, 40], [10, 10, 80], [20, 50, 80]], [-1, 0, 1, 1])
Y_MASK = rasterize(Y_SHAPED, (31, 61, 91))


def test_a_y_comes_back_as_a_y():
    tree = trace(Y_MASK, ONE)
    f1, precision, recall = length_scores(pred=tree, gold=Y_SHAPED, tolerance_vox=2.0)
    assert (f1, precision, recall) == (pytest.approx(1, abs=0.01),) * 3
    assert len(tree.roots) == 1
    degrees = np.bincount(tree.edges.ravel(), minlength=tree.n_nodes)
    assert ((degrees == 1).sum(), (degrees == 3).sum(), (degrees > 3).sum()) == (3, 1, 0)
    assert tree.length_um == pytest.approx(Y_SHAPED.length_um + 3 * 2, rel=0.03)  # every end is a half sphere
    assert np.median(tree.radii_um) == pytest.approx(2, abs=0.3)
    assert (tree.types == 0).all()


def test_a_wrong_volume_scores_low():
    """The score the tests rest on can fail."""
    assert length_scores(pred=trace(Y_MASK[:, :, ::-1], ONE), gold=Y_SHAPED, tolerance_vox=2.0)[0] < 0.5
    assert length_scores(pred=trace(np.roll(Y_MASK, 5, axis=0), ONE), gold=Y_SHAPED, tolerance_vox=2.0)[0] < 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (0.5, 0.25, 2.0)])
def test_length_is_in_um_whatever_the_voxels(axis, spacing):
    size = np.full(3, 20.0)
    size[axis] = 100.0
    ends = np.stack([size / 2] * 2)
    ends[:, axis] = [10, 88]
    mask = tube(ends, tuple((size / spacing).astype(int) + 1), radius=4.0, spacing_um=spacing)
    tree = trace(mask, spacing)
    assert len(tree.tips) + (tree.n_children[tree.roots] == 1).sum() == 2
    assert tree.length_um == pytest.approx(78 + 8, abs=4)  # the tube ends in half spheres
    assert np.ptp(tree.points_zyx_um[:, axis]) == pytest.approx(tree.length_um, rel=0.05)


def test_a_slanted_line_on_coarse_slices_is_not_longer_than_it_is():
    spacing = (3.0, 1.0, 1.0)
    gold = tree_of([[10, 15, 10], [40, 25, 110]], [-1, 0], radius=4.0)
    mask = rasterize(gold, (18, 41, 121), spacing_um=spacing)
    rough = trace(mask, spacing, TraceConfig(smooth_um=0.0))
    tree = trace(mask, spacing)
    assert tree.length_um - 8 == pytest.approx(gold.length_um, rel=0.03)
    assert rough.length_um - 8 > 1.08 * gold.length_um


@given(scale=st.sampled_from([2.0**-8, 0.25, 0.5, 2.0, 4.0, 2.0**10]), seed=st.integers(0, 1000))
@example(scale=2.0, seed=230)  # branches of equal cost in 1 um, not in 2, where kimimaro counts in micrometers
@settings(max_examples=10, deadline=None)
def test_a_volume_twice_as_large_has_a_tree_twice_as_large(scale, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(4, 26, (5, 3))
    mask = rasterize(tree_of(points, [-1, 0, 1, 1, 3], radius=1.5), (30, 30, 30))
    config = TraceConfig(gap_um=4.0, spur_um=3.0, min_tree_um=2.0, smooth_um=5.0, invalidation_um=3.0)
    lengths = ("gap_um", "spur_um", "min_tree_um", "smooth_um", "invalidation_um")
    larger = dataclasses.replace(config, **{name: getattr(config, name) * scale for name in lengths})
    a, b = trace(mask, ONE, config), trace(mask, (scale,) * 3, larger)
    np.testing.assert_allclose(b.points_zyx_um, a.points_zyx_um * scale)
    np.testing.assert_allclose(b.radii_um, a.radii_um * scale, rtol=1e-5)
    np.testing.assert_array_equal(b.parents, a.parents)


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 0.4), gap_um=st.floats(0, 5))
@settings(max_examples=25, deadline=None)
def test_any_mask_gives_a_valid_tree(seed, share, gap_um):
    mask = random_mask(seed, share=share)
    config = dataclasses.replace(ALL, gap_um=gap_um, soma_factor=99.0)
    tree = trace(mask, (2.0, 1.0, 1.0), config)
    assert (tree.n_nodes > 0) == mask.any()
    if tree.n_nodes:
        validate(tree)
        assert (tree.parents < np.arange(tree.n_nodes)).all()
        assert (tree.radii_um > 0).all()
        assert len(tree.orphans) == 0
    low, high = np.zeros(3), np.array(mask.shape) * [2, 1, 1]
    assert ((tree.points_zyx_um >= low) & (tree.points_zyx_um <= high)).all()


def test_nothing_in_gives_nothing_out():
    for config in (TraceConfig(), TraceConfig(input="image"), TraceConfig(method="hysteresis"), ALL):
        assert trace(np.zeros((4, 5, 6), np.float32), ONE, config).n_nodes == 0


def test_one_voxel_is_one_node_where_tiny_trees_are_kept():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = True
    tree = trace(mask, (3.0, 1.0, 2.0), ALL)
    assert (tree.points_zyx_um.tolist(), tree.radii_um.tolist(), tree.parents.tolist()) == ([[3, 2, 6]], [1], [-1])
    assert trace(mask, ONE).n_nodes == 0


def test_a_plane_that_touches_all_borders_is_traced_with_finite_radii():
    mask = np.zeros((9, 40, 50), bool)
    mask[4] = True
    tree = trace(mask, (3.0, 1.0, 1.0))
    assert validate(tree).n_roots == 1
    assert (tree.radii_um == 3).all()


def test_a_full_volume_is_traced_and_the_log_says_that_something_is_wrong(caplog):
    with caplog.at_level(logging.WARNING):
        tree = trace(np.ones((8, 9, 30), np.float32), ONE)
    assert validate(tree).n_roots == 1
    assert "100 % of the volume is foreground" in caplog.text


def test_more_foreground_than_allowed_is_refused_and_as_much_is_traced():
    mask = np.zeros((10, 10, 20), bool)
    mask[4:6, 4:6] = True  # 4 of 100
    assert trace(mask, ONE, max_share=0.04).n_nodes > 0
    with pytest.raises(DenseError, match="4 % of the volume is foreground; accepted: at most 3 %"):
        trace(mask, ONE, max_share=0.03)
    mask[3, 4, 9] = True  # 81 of 2000
    with pytest.raises(DenseError, match=r"4\.05 % of the volume is foreground; accepted: at most 4 %"):
        trace(mask, ONE, max_share=0.04)


def test_a_single_slice_works():
    image = np.zeros((1, 40, 60), np.float32)
    image[0, 19:22, 5:55] = 1
    tree = trace(image, ONE)
    assert tree.length_um == pytest.approx(49, abs=2)
    assert (tree.points_zyx_um[:, 0] == 0).all()


def test_tips_that_touch_the_border_reach_it():
    mask = tube([[10, 10, -5], [10, 10, 60]], (21, 21, 50))
    tree = trace(mask, ONE)
    assert (tree.points_zyx_um[:, 2].min(), tree.points_zyx_um[:, 2].max()) == (0, 49)


def test_a_soma_is_the_root():
    gold = tree_of([[15, 30, 45], [15, 30, 85], [15, 30, 5]], [-1, 0, 0])
    ball = rasterize(tree_of([[15, 30, 45]], [-1], radius=12.0), (31, 61, 91))
    tree = trace(rasterize(gold, (31, 61, 91)) | ball, ONE)
    assert np.linalg.norm(tree.points_zyx_um[0] - [15, 30, 45]) <= 1.5
    assert tree.types.tolist().count(1) == 1
    assert tree.types[0] == 1
    assert tree.radii_um[0] == pytest.approx(12, abs=1)
    assert tree.length_um == pytest.approx(84, abs=3)


def test_gap_and_spur_work_through_the_whole_path():
    mask = tube([[10, 20, 5], [10, 20, 95]], (21, 51, 101)) | tube([[10, 20, 30], [10, 28, 30]], (21, 51, 101))
    mask[:, :, 50:55] = False
    counts = {
        (gap, spur): (len(tree.roots), (np.bincount(tree.edges.ravel()) == 3).sum())
        for gap in (4.0, 6.0)
        for spur in (4.0, 12.0)
        for tree in [trace(mask, ONE, TraceConfig(gap_um=gap, spur_um=spur))]
    }
    assert counts == {(4.0, 4.0): (2, 1), (4.0, 12.0): (2, 0), (6.0, 4.0): (1, 1), (6.0, 12.0): (1, 0)}


def test_values_are_refused_in_one_line():
    with pytest.raises(InputError, match="no probabilities"):
        trace(np.full((3, 4, 5), 2.0, np.float32), ONE)
    with pytest.raises(InputError, match="three axes"):
        trace(np.zeros((4, 5), np.float32), ONE)
    with pytest.raises(InputError, match="spacing"):
        trace(np.zeros((3, 4, 5), np.float32), (1.0, 0.0, 1.0))


def noisy_prob():
    rng = np.random.default_rng(0)
    return np.clip(0.8 * Y_MASK + rng.normal(0, 0.2, Y_MASK.shape), 0, 1).astype(np.float32)


def test_twice_the_same_bytes(tmp_path):
    write_prob(tmp_path / "prob.tif", noisy_prob(), (3.0, 1.0, 1.0))
    for name in ("a.swc", "b.swc"):
        trace_file(tmp_path / "prob.tif", tmp_path / name, TraceConfig(min_voxels=3, spur_um=0.0))
    assert (tmp_path / "a.swc").read_bytes() == (tmp_path / "b.swc").read_bytes()
    assert read_swc(tmp_path / "a.swc").n_nodes > 100


def test_a_probability_stack_carries_its_spacing_into_the_tree(tmp_path):
    write_prob(tmp_path / "prob.tif", Y_MASK.astype(np.float32), (3.0, 1.0, 1.0))
    tree = trace_file(tmp_path / "prob.tif", tmp_path / "deep" / "tree.swc")
    in_memory = trace(Y_MASK, (3.0, 1.0, 1.0))
    np.testing.assert_allclose(tree.points_zyx_um, in_memory.points_zyx_um, rtol=1e-5)
    back = read_swc(tmp_path / "deep" / "tree.swc")
    np.testing.assert_allclose(back.points_zyx_um, tree.points_zyx_um, rtol=1e-8)
    np.testing.assert_array_equal(back.parents, tree.parents)
    wider = trace_file(tmp_path / "prob.tif", tmp_path / "tree.swc", spacing_um=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(wider.points_zyx_um, trace(Y_MASK, ONE).points_zyx_um)


def test_an_empty_tree_is_a_file_with_a_header_and_the_log_says_what_was_there(tmp_path, caplog):
    write_volume(tmp_path / "mask.tif", Volume(Y_MASK))  # 0 and 1: as probability that is next to nothing
    with caplog.at_level(logging.WARNING):
        assert trace_file(tmp_path / "mask.tif", tmp_path / "tree.swc", TraceConfig()).n_nodes == 0
    assert "no neuron found; values from 0 to 1, read as input=prob" in caplog.text
    assert all(line.startswith("#") for line in (tmp_path / "tree.swc").read_text().splitlines())
    assert read_swc(tmp_path / "tree.swc", allow_empty=True).n_nodes == 0
    assert trace_file(tmp_path / "mask.tif", tmp_path / "tree.swc", TraceConfig(input="mask")).n_nodes > 0


def test_files_that_cannot_be_used_are_refused_before_the_work(tmp_path, monkeypatch):
    write_volume(tmp_path / "raw.tif", Volume((Y_MASK * 900).astype(np.uint16)))
    with pytest.raises(InputError, match=r"raw\.tif: values of type uint16"):
        trace_file(tmp_path / "raw.tif", tmp_path / "tree.swc", TraceConfig())
    with pytest.raises(InputError, match=r"ends in \.swc"):
        trace_file(tmp_path / "raw.tif", tmp_path / "raw.tif")
    with pytest.raises(InputError, match="no such file"):
        trace_file(tmp_path / "none.tif", tmp_path / "tree.swc")
    (tmp_path / "file").touch()
    monkeypatch.setattr("distill3d.tracing.trace.trace_volume", None)
    with pytest.raises(InputError, match="cannot be written"):
        trace_file(tmp_path / "raw.tif", tmp_path / "file" / "tree.swc", TraceConfig(input="image"))
    assert not list(tmp_path.glob("*.swc"))
