"""Speed of files, trees and patches: `make bench` prints it. Not part of the suite."""

import statistics
import sys
import time

import numpy as np

from distill3d.data.background import harden_patch
from distill3d.data.texture import Background
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import Tree


def median_ms(work, repeats=7):
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def test_a_tree_of_700_nodes_into_256_cubed():
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(700, 3))
    points = np.clip(128 + np.cumsum(steps / np.linalg.norm(steps, axis=1, keepdims=True) * 5, axis=0), 0, 255)
    tree = Tree(points, np.full(700, 2.0), np.arange(700) - 1, np.zeros(700, np.int64))
    took = median_ms(lambda: rasterize(tree, (256, 256, 256)))
    sys.stdout.write(f"\nrasterize 700 nodes, radius 2, into 256^3: {took:.0f} ms; 245 trees: {took * 0.245:.0f} s\n")
    assert rasterize(tree, (256, 256, 256)).any()


def test_all_real_trees(data_dir):
    paths = sorted((data_dir / "swc").rglob("*.swc"))
    took = median_ms(lambda: [read_swc(path) for path in paths], repeats=3)
    sys.stdout.write(f"\nread {len(paths)} real SWC files: {took:.0f} ms\n")
    assert len(paths) == 115


def test_a_hard_patch():
    rng = np.random.default_rng(0)
    image = rng.random((32, 96, 96), np.float32)
    model = Background(np.zeros((64, 128, 128), np.float32), rng.normal(size=(64, 128, 128)).astype(np.float32))
    took = median_ms(lambda: harden_patch(image, image > 0.99, model, 2.0, rng))
    sys.stdout.write(f"\nharden a patch of 32x96x96: {took:.0f} ms\n")
    assert harden_patch(image, image > 0.99, model, 2.0, rng).shape == image.shape
