import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from shapes import tube

from distill3d.config.trace import TraceConfig
from distill3d.tracing.graph import Skeleton
from distill3d.tracing.teasar import skeletonize
from distill3d.tracing.teasar_pieces import skeletonize_pieces
from distill3d.tracing.trace import trace, trace_file
from distill3d.tracing.trace_large import Sizes, trace_by_part
from distill3d.volumes import parts
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.pieces import find_pieces
from distill3d.volumes.prob import write_prob
from distill3d.volumes.volume import Volume, read_volume, write_volume

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
        {"input": "mask", "fill_holes": True, "min_tree_um": 0.0, "min_voxels": 1},
    ],
)
def test_the_tree_of_a_volume_read_by_part_is_that_of_the_whole(settings):
    config, prob, spacing = TraceConfig(**settings), stained(gap=True), (2.0, 1.0, 1.5)
    data = (prob * 255).astype(np.uint8) if settings.get("input") != "image" else prob
    data = np.where(data > 140, data, 0) if settings.get("input") == "mask" else data
    whole = trace(data, spacing, config)
    assert whole.length_um > 90
    assert_same(trace_by_part(LazyVolume(data, spacing), config, sizes=SMALL), whole)
