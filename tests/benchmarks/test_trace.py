"""Speed of tracing: `make bench` prints it. Not part of the suite."""

import sys
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from distill3d.config.trace import TraceConfig
from distill3d.data.grow import GrowConfig, grow
from distill3d.tracing.trace import trace
from distill3d.volumes.raster import rasterize
from distill3d.volumes.volume import read_volume

SHAPE, SPACING = (100, 512, 512), (3.0, 1.0, 1.0)


def timed(work):
    """Return the result, and the seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    tree = work()
    return tree, time.perf_counter() - clock, time.process_time() - processor


def probability(tips):
    """A grown tree as a network would see it: blurred, faint in places, with specks and false blobs around it."""
    rng = np.random.default_rng(0)
    tree = grow((np.array(SHAPE) - 1) * SPACING, GrowConfig(tips=tips), rng)
    prob = gaussian_filter(rasterize(tree, SHAPE, spacing_um=SPACING, scale=1.5).astype(np.float32), (0.5, 1, 1))
    weak = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), (3, 8, 8))
    blobs = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), (1, 2, 2))
    prob *= 1.5 - 0.3 * np.abs(weak) / weak.std()
    return tree, np.clip(prob + 0.6 * (blobs > 4.2 * blobs.std()), 0, 1)


def test_a_probability_volume_of_100_x_512_x_512():
    for tips in (14, 100):
        gold, prob = probability(tips)
        tree, took, processor = timed(lambda prob=prob: trace(prob, SPACING))
        share = 100 * (prob >= 0.5).mean()
        sys.stdout.write(
            f"\ntrace {SHAPE}, {share:.2f} % foreground: {took:.1f} s ({processor:.1f} s of processor), "
            f"{tree.length_um:.0f} of {gold.length_um:.0f} um in {len(tree.roots)} trees\n"
        )
        assert tree.length_um > gold.length_um / 2
        assert took < 20


def test_real_images(data_dir):
    for k in (1, 2, 3, 5, 6):
        stack = read_volume(data_dir / "pairs" / f"OP_{k}.tif", spacing_um=(3.03, 1.0, 1.0))
        tree, took, processor = timed(
            lambda stack=stack: trace(stack.data, stack.spacing_um, TraceConfig(input="image"))
        )
        sys.stdout.write(
            f"\ntrace the raw OP_{k} {stack.shape}: {took:.1f} s ({processor:.1f} s of processor), "
            f"{tree.n_nodes} nodes\n"
        )
        assert took < 20
