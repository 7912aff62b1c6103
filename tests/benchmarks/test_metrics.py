"""Speed of metrics beside a brute-force version and MONAI: `make bench` prints it. Not part of the suite."""

import statistics
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import HausdorffDistanceMetric

from distill3d.evaluation.metrics.masks import box_of
from distill3d.evaluation.metrics.surface import padded, surface_distances
from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.evaluation.metrics.tree import tree_scores
from distill3d.evaluation.metrics.tree_distance import Segments, esa_dsa_pds
from distill3d.evaluation.metrics.voxel import voxel_scores
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import Tree

CUBE = (256, 256, 256)


@pytest.fixture(autouse=True)
def _one_thread():
    """Times are those of the processor, so that a busy machine tells the same; threads would count double."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(work, repeats):
    """Median of the processor's seconds of a call, and what it returned."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return statistics.median(times), result


def grown(n, step, seed):
    """A tree that bends, with a side branch every hundred nodes."""
    rng = np.random.default_rng(seed)
    parents, points, turn = np.arange(n) - 1, np.zeros((n, 3)), rng.normal(size=(n, 3)) * 0.3
    heading = np.tile([0.0, 0.0, 1.0], (n, 1))
    for i in range(1, n):
        if i % 100 == 0:
            parents[i] = rng.integers(0, i)
        heading[i] = heading[parents[i]] + turn[i]
        heading[i] /= np.linalg.norm(heading[i])
        points[i] = points[parents[i]] + step * heading[i]
    return Tree(points, np.ones(n), parents, np.full(n, 3))


def shaken(tree, seed=0, keep=None):
    """The tree with its nodes moved by about a voxel, and without the nodes that shall not be kept."""
    points = tree.points_zyx_um + np.random.default_rng(seed).normal(size=(tree.n_nodes, 3))
    keep = np.ones(tree.n_nodes, bool) if keep is None else keep
    new = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
    return Tree(points[keep], tree.radii_um[keep], new[tree.parents[keep]], tree.types[keep])


def segments(tree):
    child, parent = tree.edges.T
    return Segments(tree.points_zyx_um[child], tree.points_zyx_um[parent])


def brute_force(one, other):
    """ESA, DSA and PDS of two trees with every point against every edge, 64 points at once to stay in the cache."""
    means, apart, shares = [], [], []
    for own, yours in ((one, other), (other, one)):
        points = []
        for start, end in zip(own.start, own.end, strict=True):
            n = int(1 + np.linalg.norm(end - start) + 0.5)
            points.append(start + np.linspace(0, 1, n)[:, None] * (end - start))
        points = np.concatenate(points)
        along = yours.end - yours.start
        square = np.maximum((along**2).sum(axis=1), 1e-300)
        nearest = np.empty(len(points))
        for first in range(0, len(points), 64):
            offset = points[first : first + 64, None] - yours.start
            t = (np.einsum("pek,ek->pe", offset, along) / square).clip(0, 1)
            gap = offset - t[..., None] * along
            nearest[first : first + 64] = np.sqrt(np.einsum("pek,pek->pe", gap, gap).min(axis=1))
        far = nearest[nearest >= 2]
        means.append(nearest.mean())
        shares.append(len(far) / len(nearest))
        apart += [far.mean()] if len(far) else []
    return np.mean(means), np.mean(apart) if apart else 0.0, np.mean(shares)


TREES = {
    "5000 nodes 2 voxels apart, moved by 1": lambda: (grown(5000, 2.0, 0), shaken(grown(5000, 2.0, 0))),
    "5000 nodes 5 voxels apart, moved by 1": lambda: (grown(5000, 5.0, 0), shaken(grown(5000, 5.0, 0))),
    "5000 nodes 5 voxels apart, another tree": lambda: (grown(5000, 5.0, 0), grown(5000, 5.0, 1)),
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.timeout(1800)
def test_distances_of_two_trees_against_brute_force(name):
    one, other = TREES[name]()
    a, b = segments(one), segments(other)
    took, result = seconds(lambda: esa_dsa_pds(pred=a, gold=b), 7)
    brute, expected = seconds(lambda: brute_force(a, b), 1)
    whole, _ = seconds(lambda: tree_scores(pred=one, gold=other), 5)
    sys.stdout.write(
        f"\n{name}: {took * 1e3:.0f} ms, brute force {brute:.1f} s: {brute / took:.0f} times (asked: 50 and 1 s);"
        f" tree_scores {whole * 1e3:.0f} ms\n"
    )
    assert (result.esa, result.dsa, result.pds) == pytest.approx(expected, abs=1e-9)
    assert took < 1.0
    assert brute > 50 * took


def test_distances_of_two_real_trees(data_dir):
    folder = data_dir / "swc" / "navis_hemibrain"
    one, other = (read_swc(folder / f"{name}.swc") for name in ("1734350788", "1734350908"))
    took, result = seconds(lambda: esa_dsa_pds(pred=segments(one), gold=segments(other)), 3)
    assert 0 < result.esa <= result.dsa  # two neurons; DSA leaves the near nodes out
    sys.stdout.write(
        f"\nreal trees of {one.n_nodes} and {other.n_nodes} nodes, {one.length_um:.0f} and {other.length_um:.0f} voxels"
        f" long: {took:.2f} s\n"
    )


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
@pytest.mark.parametrize("kind", ["moved by 1", "moved by 1, a fifth missing"])
def test_hd95_against_monai(data_dir, radius, spacing, kind):
    tree = read_swc(data_dir / "swc" / "CWMBS" / "WS78.swc")
    keep = (np.arange(tree.n_nodes) // 60) % 5 != 0 if "missing" in kind else None
    gold, pred = (rasterize(each, CUBE, radius="fixed", radius_um=radius) for each in (tree, shaken(tree, keep=keep)))
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, gold)]

    def monai():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(HausdorffDistanceMetric(percentile=95)(*tensors, spacing=spacing))

    def in_the_box():
        box = box_of(pred | gold)
        distances = surface_distances(pred=padded(pred[box]), gold=padded(gold[box]), spacing=spacing)
        return max(float(np.percentile(each, 95)) for each in distances)

    own_seconds, result = seconds(in_the_box, 9)
    other_seconds, expected = seconds(monai, 3)
    scores, _ = seconds(lambda: voxel_scores(pred=pred, gold=gold, spacing_um=spacing), 5)
    topology, _ = seconds(lambda: topology_scores(pred=pred, gold=gold), 1)
    sys.stdout.write(
        f"\nHD95, {gold.sum()} voxels, radius {radius:g}, {kind}, z spacing {spacing[0]:g}: {own_seconds * 1e3:.0f} ms,"
        f" MONAI {other_seconds * 1e3:.0f} ms: {other_seconds / own_seconds:.1f} times (asked: 6);"
        f" voxel_scores {scores * 1e3:.0f} ms, topology_scores {topology * 1e3:.0f} ms\n"
    )
    assert result == pytest.approx(expected, rel=1e-5)
    assert other_seconds > 6 * own_seconds
