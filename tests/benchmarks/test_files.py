"""Speed of trees, hard patches and reports."""

import numpy as np
import pytest
from report.conftest import made_up, write_folder

from distill3d.data.background import harden_patch
from distill3d.data.texture import Background
from distill3d.report.build import compare_places, write_report
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import Tree


@pytest.mark.rows("rasterize")
def test_a_tree_of_700_nodes_into_256_cubed(bench):
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(700, 3))
    points = np.clip(128 + np.cumsum(steps / np.linalg.norm(steps, axis=1, keepdims=True) * 5, axis=0), 0, 255)
    tree = Tree(points, np.full(700, 2.0), np.arange(700) - 1, np.zeros(700, np.int64))
    assert rasterize(tree, (256, 256, 256)).any()
    seconds = bench.seconds({"ours": lambda: rasterize(tree, (256, 256, 256))}, rounds=7)
    bench.row("rasterize", "draw a tree of 700 nodes, radius 2", "256^3", ours=seconds["ours"])


@pytest.mark.rows("read-swc")
def test_all_real_trees(bench, data_dir):
    paths = sorted((data_dir / "swc").rglob("*.swc"))
    assert len(paths) == 115
    seconds = bench.seconds({"ours": lambda: [read_swc(path) for path in paths]}, rounds=3)
    bench.row("read-swc", "read 115 real SWC files", ours=seconds["ours"])


@pytest.mark.rows("hard-patch")
def test_a_hard_patch(bench):
    rng = np.random.default_rng(0)
    image = rng.random((32, 96, 96), np.float32)
    model = Background(np.zeros((64, 128, 128), np.float32), rng.normal(size=(64, 128, 128)).astype(np.float32))
    assert harden_patch(image, image > 0.99, model, 2.0, rng).shape == image.shape
    seconds = bench.seconds({"ours": lambda: harden_patch(image, image > 0.99, model, 2.0, rng)}, rounds=7)
    bench.row("hard-patch", "dim a patch, add a background", "32x96x96", ours=seconds["ours"])


@pytest.mark.rows("report")
def test_a_report_of_30_runs(bench, tmp_path):
    for seed in range(10):
        for k, (name, gain) in enumerate({"scratch": 0.0, "inflate": 0.08, "kd": 0.01}.items()):
            write_folder(tmp_path / "runs", name, seed, dice=made_up(gain, 10 * k + seed))

    def report():
        comparison = compare_places([tmp_path / "runs"], baseline="scratch")
        assert sum(len(arm.runs) for arm in comparison.arms) == 30
        assert "index.html" in {path.name for path in write_report(comparison, tmp_path / "report")}

    bench.row(
        "report", "compare 30 runs of 6 cases, write all files", ours=bench.seconds({"ours": report}, rounds=5)["ours"]
    )
