"""Volumes with tubes of known course, for the tests of tracing."""

import numpy as np

from distill3d.volumes.raster import rasterize
from distill3d.volumes.tree import Tree


def tree_of(points, parents, radius=2.0):
    points = np.asarray(points, float)
    return Tree(points, np.full(len(points), float(radius)), np.asarray(parents), np.zeros(len(points)))


def tube(points, shape, *, radius=2.0, spacing_um=(1.0, 1.0, 1.0)):
    """Draw a polyline in um as a bool mask."""
    return rasterize(tree_of(points, np.arange(len(points)) - 1, radius), shape, spacing_um=spacing_um)


def random_mask(seed, shape=(9, 10, 11), share=0.15):
    return np.random.default_rng(seed).random(shape) < share
