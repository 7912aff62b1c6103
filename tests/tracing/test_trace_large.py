"""The tree of a volume that is read by part is that of the whole."""

import numpy as np
import pytest
from length_f1 import length_scores
from scipy.ndimage import gaussian_filter
from shapes import tube

from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.tracing.teasar import skeletonize
from distill3d.tracing.teasar_pieces import skeletonize_pieces
from distill3d.tracing.trace import DenseError, trace, trace_file
from distill3d.tracing.trace_large import Sizes, trace_by_part
from distill3d.volumes import parts
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.pieces import find_pieces
from distill3d.volumes.volume import Volume, write_volume

SMALL = Sizes(part=(7, 11, 13))
TILED = Sizes(part=(7, 11, 13), most=0, tile=(12, 12, 12))


def stained(shape=(24, 40, 50), *, gap=False):
    """Two neurites that fork, and dust; as probability."""
    mask = tube([[12, 8, 4], [12, 20, 24], [6, 32, 46]], shape) | tube([[12, 20, 24], [20, 30, 30]], shape)
    mask |= tube([[3, 4, 30], [3, 4, 49]], shape, radius=1.5) | tube([[20, 8, 0], [20, 8, 40]], shape)
    mask[:, :, 35:38] &= not gap
    prob = gaussian_filter(mask.astype(np.float32), 0.7)
    return np.where(np.random.default_rng(0).random(shape) < 0.01, np.float32(0.9), prob)


def assert_same(one, other):
    for name in ("points_zyx_um", "radii_um", "parents", "types"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "hysteresis", "threshold": 0.8, "low_threshold": 0.3},
        {"input": "image"},
        {"input": "image", "method": "fixed", "threshold": 0.3},
        {"input": "mask", "fill_holes": True, "min_tree_um": 5.0, "min_voxels": 2},
    ],
)
def test_the_tree_of_a_volume_read_by_part_is_that_of_the_whole(settings):
    config, prob, spacing = TraceConfig(**settings), stained(gap=True), (2.0, 1.0, 1.5)
    data = (prob * 255).astype(np.uint8) if settings.get("input") != "image" else prob
    data = np.where(data > 140, data, 0) if settings.get("input") == "mask" else data
    whole = trace(data, spacing, config)
    assert whole.length_um > 90
    assert_same(trace_by_part(LazyVolume(data, spacing), config, sizes=SMALL), whole)


def blobs(seed, share, shape=(19, 24, 27)):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 1 - share)


@pytest.mark.parametrize(("seed", "share", "fill"), [(0, 0.05, False), (1, 0.15, False), (2, 0.3, True)])
def test_centerlines_of_pieces_in_their_own_boxes_are_those_of_the_whole_also_at_its_faces(seed, share, fill):
    mask, spacing, config = blobs(seed, share), np.array([3.0, 1.0, 1.5]), TraceConfig(fill_holes=fill)
    if fill:
        mask[2:14, 2:14, 2:14], mask[4:12, 4:12, 4:12], mask[7, 7, 6:9] = True, False, True
    pieces = find_pieces(mask.shape, lambda box: (mask[box], None), size=(7, 11, 13))
    assert pieces.count > 2
    whole, parted = skeletonize(mask, spacing, config), skeletonize_pieces(pieces, spacing, config)
    for name in ("points_zyx_um", "radii_um", "edges"):
        np.testing.assert_array_equal(getattr(parted, name), getattr(whole, name))
    tiled = skeletonize_pieces(pieces, spacing, config, most=0, tile=(10, 10, 10))
    assert fill or tiled.pieces()[0] == whole.pieces()[0]


@pytest.mark.parametrize("gap", [False, True])
def test_pieces_thinned_in_tiles_give_the_same_trees(gap):
    prob = stained((30, 60, 70), gap=gap)
    whole, tiled = trace(prob, (1.0, 1.0, 1.0)), trace_by_part(LazyVolume(prob), sizes=TILED)
    assert len(tiled.roots) == len(whole.roots)
    assert length_scores(pred=tiled, gold=whole)[0] >= 0.999
    assert length_scores(pred=tiled, gold=whole, tolerance_vox=1.5)[0] >= 0.98
    assert tiled.length_um == pytest.approx(whole.length_um, rel=0.02)


def test_a_gap_across_the_border_of_two_parts_is_bridged():
    mask = tube([[6, 6, 2], [6, 6, 38]], (13, 13, 41))
    mask[:, :, 18:22] = False
    data = mask.astype(np.uint8) * 255
    for sizes in (Sizes(part=(13, 13, 20)), Sizes(part=(13, 13, 20), most=0, tile=(13, 13, 20))):
        assert len(trace_by_part(LazyVolume(data), sizes=sizes).roots) == 1
        assert len(trace_by_part(LazyVolume(data), TraceConfig(gap_um=2.0), sizes=sizes).roots) == 2


def test_a_large_stack_on_disk_is_traced_by_part_and_its_tree_appears_whole(tmp_path, monkeypatch, caplog):
    prob = stained()
    write_volume(tmp_path / "raw.zarr", Volume((prob * 900).astype(np.uint16), (2.0, 1.0, 1.0)))
    whole = trace_file(tmp_path / "raw.zarr", tmp_path / "whole.swc")
    monkeypatch.setattr(parts, "LARGE", prob.size - 1)
    monkeypatch.setattr("distill3d.tracing.trace.trace", None)
    assert "read by part" not in caplog.text
    assert_same(trace_file(tmp_path / "raw.zarr", tmp_path / "parted.swc"), whole)
    assert "raw.zarr: of ZYX (24, 40, 50) voxels; it stays on disk and is read by part" in caplog.text
    assert (tmp_path / "parted.swc").read_text() == (tmp_path / "whole.swc").read_text()
    chunk = max((tmp_path / "raw.zarr" / "0").rglob("[0-9]*"), key=lambda path: path.is_file())
    chunk.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"^\S*raw.zarr\S*: damaged"):
        trace_file(tmp_path / "raw.zarr", tmp_path / "none.swc", TraceConfig(input="image"))
    assert not [path for path in tmp_path.iterdir() if "none" in path.name]


def test_a_dense_volume_and_values_that_are_no_probability_are_refused():
    with pytest.raises(DenseError, match="foreground"):
        trace_by_part(LazyVolume(np.full((9, 9, 9), 255, np.uint8)), max_share=0.1)
    with pytest.raises(InputError, match="no probabilities"):
        trace_by_part(LazyVolume(np.full((9, 9, 9), 3.0)))
    with pytest.raises(InputError, match="NaN"):
        trace_by_part(LazyVolume(np.full((9, 9, 9), np.nan)), TraceConfig(input="image"))
