"""Speed of tracing, by the clock."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from distill3d.config.trace import TraceConfig
from distill3d.data.grow import GrowConfig, grow
from distill3d.tracing.trace import trace
from distill3d.volumes.raster import rasterize
from distill3d.volumes.volume import read_volume

SHAPE, SPACING, ASKED = (100, 512, 512), (3.0, 1.0, 1.0), 20.0


def probability(tips):
    """A grown tree as a network would see it: blurred, faint in places, with specks and false blobs around it."""
    rng = np.random.default_rng(0)
    tree = grow((np.array(SHAPE) - 1) * SPACING, GrowConfig(tips=tips), rng)
    prob = gaussian_filter(rasterize(tree, SHAPE, spacing_um=SPACING, scale=1.5).astype(np.float32), (0.5, 1, 1))
    weak = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), (3, 8, 8))
    blobs = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), (1, 2, 2))
    prob *= 1.5 - 0.3 * np.abs(weak) / weak.std()
    return tree, np.clip(prob + 0.6 * (blobs > 4.2 * blobs.std()), 0, 1)


def traced(bench, work):
    """Return the tree and the seconds."""
    trees = []
    return trees, bench.seconds({"ours": lambda: trees.append(work())}, rounds=1)["ours"]


@pytest.mark.rows("trace-{tips}-tips")
@pytest.mark.parametrize("tips", [14, 100])
def test_a_probability_volume_of_100_x_512_x_512(bench, tips):
    gold, prob = probability(tips)
    (tree, *_), seconds = traced(bench, lambda: trace(prob, SPACING))
    assert tree.length_um > gold.length_um / 2
    took = bench.row(
        f"trace-{tips}-tips",
        f"trace a probability with {100 * (prob >= 0.5).mean():.2f} % foreground",
        "100x512x512",
        ours=seconds,
        at_most=ASKED,
        note=f"{tree.length_um:.0f} of {gold.length_um:.0f} um in {len(tree.roots)} trees",
    )
    assert took < ASKED


@pytest.mark.rows("trace-op{k}")
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_real_images(bench, data_dir, k):
    stack = read_volume(data_dir / "pairs" / f"OP_{k}.tif", spacing_um=(3.03, 1.0, 1.0))
    (tree, *_), seconds = traced(bench, lambda: trace(stack.data, stack.spacing_um, TraceConfig(input="image")))
    shape = "x".join(map(str, stack.shape))
    nodes = f"{tree.n_nodes} nodes"
    assert bench.row(f"trace-op{k}", f"trace the raw OP_{k}", shape, ours=seconds, at_most=ASKED, note=nodes) < ASKED
