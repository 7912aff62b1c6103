"""Speed of metrics beside a brute-force version and MONAI, in CPU time: waits for others count less."""

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


TREES = {  # voxels between nodes, seed of the other tree, None: the same one with its nodes moved by 1
    "near": (2.0, None),
    "far": (5.0, None),
    "other": (5.0, 1),
}


@pytest.mark.rows("trees-{kind}", "trees-{kind}-time", "trees-{kind}-scores")
@pytest.mark.parametrize("kind", TREES)
def test_distances_of_two_trees_against_brute_force(bench, kind):
    step, seed = TREES[kind]
    one = grown(5000, step, 0)
    other = shaken(one) if seed is None else grown(5000, step, seed)
    a, b = segments(one), segments(other)
    result = esa_dsa_pds(pred=a, gold=b)
    assert (result.esa, result.dsa, result.pds) == pytest.approx(brute_force(a, b), abs=1e-9)
    calls = {
        "ours": lambda: esa_dsa_pds(pred=a, gold=b),
        "scores": lambda: tree_scores(pred=one, gold=other),
        "brute": lambda: brute_force(a, b),
    }
    seconds = bench.seconds(calls, rounds=7, fewer={"brute": 2}, clock=time.process_time)
    first, absolute, scores = bench.names
    nodes, second = "2 trees of 5000 nodes", "another tree" if seed else "the same, moved by 1"
    what = f"ESA, DSA, PDS, {step:g} voxels between nodes, {second}"
    against, sides = f"{what}: against brute force", {"ours": seconds["ours"], "other": seconds["brute"]}
    assert bench.row(first, against, nodes, **sides, at_least=50) > 50
    assert bench.row(absolute, what, nodes, ours=seconds["ours"], at_most=1) < 1
    bench.row(scores, f"tree_scores of the same ({kind})", nodes, ours=seconds["scores"])


@pytest.mark.rows("trees-real")
def test_distances_of_two_real_trees(bench, data_dir):
    folder = data_dir / "swc" / "navis_hemibrain"
    one, other = (read_swc(folder / f"{name}.swc") for name in ("1734350788", "1734350908"))
    result = esa_dsa_pds(pred=segments(one), gold=segments(other))
    assert 0 < result.esa <= result.dsa  # two neurons; DSA leaves the near nodes out
    calls = {"ours": lambda: esa_dsa_pds(pred=segments(one), gold=segments(other))}
    seconds = bench.seconds(calls, rounds=3, clock=time.process_time)
    nodes = f"{one.n_nodes} and {other.n_nodes} nodes"
    bench.row("trees-real", "ESA, DSA, PDS of two real trees", nodes, ours=seconds["ours"])


def masks_of(data_dir, radius, *, missing=False):
    """A real tree, drawn, and the same moved by 1; a fifth of that may be missing."""
    tree = read_swc(data_dir / "swc" / "CWMBS" / "WS78.swc")
    keep = (np.arange(tree.n_nodes) // 60) % 5 != 0 if missing else None
    return [rasterize(each, CUBE, radius="fixed", radius_um=radius) for each in (tree, shaken(tree, keep=keep))]


@pytest.mark.rows("hd95-r{radius:g}-z{spacing[0]:g}-{kind}")
@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
@pytest.mark.parametrize("kind", ["moved", "missing"])
def test_hd95_against_monai(bench, data_dir, radius, spacing, kind):
    gold, pred = masks_of(data_dir, radius, missing=kind == "missing")
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, gold)]

    def monai():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(HausdorffDistanceMetric(percentile=95)(*tensors, spacing=spacing))

    def in_the_box():
        box = box_of(pred | gold)
        distances = surface_distances(pred=padded(pred[box]), gold=padded(gold[box]), spacing=spacing)
        return max(float(np.percentile(each, 95)) for each in distances)

    assert in_the_box() == pytest.approx(monai(), rel=1e-5)
    calls = {"ours": in_the_box, "monai": monai}
    seconds = bench.seconds(calls, rounds=9, fewer={"monai": 2}, clock=time.process_time)
    what = f"HD95, radius {radius:g}, z spacing {spacing[0]:g}, {kind}: against MONAI"
    (name,) = bench.names
    shape = f"256^3, {gold.sum()} voxels"
    assert bench.row(name, what, shape, ours=seconds["ours"], other=seconds["monai"], at_least=6) > 6


@pytest.mark.rows("scores-voxel", "scores-topology")
def test_scores_of_a_mask(bench, data_dir):
    gold, pred = masks_of(data_dir, 2.0)
    calls = {
        "voxel": lambda: voxel_scores(pred=pred, gold=gold, spacing_um=(3.0, 1.0, 1.0)),
        "topology": lambda: topology_scores(pred=pred, gold=gold),
    }
    assert 0 < calls["voxel"]().dice < 1  # pred is gold, shaken
    assert calls["topology"]().betti0_gold >= 1
    seconds = bench.seconds(calls, rounds=3, clock=time.process_time)
    for kind, values in seconds.items():
        bench.row(f"scores-{kind}", f"{kind}_scores of a thin mask", f"256^3, {gold.sum()} voxels", ours=values)
