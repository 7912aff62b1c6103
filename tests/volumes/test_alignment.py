import zipfile

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.volumes.alignment import detect_flip, flip_y
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.parts import Parted
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import Tree, read_swc
from distill3d.volumes.volume import Volume, read_volume


def simulated(seed: int = 0, contrast: float = 100.0, n: int = 200) -> tuple[Volume, Tree]:
    """A random walk in the upper half, drawn over a noisy background of 1000."""
    rng = np.random.default_rng(seed)
    points = np.clip(np.array([15, 12, 30]) + np.cumsum(rng.normal(0, 2, (n, 3)), axis=0), 0, [29, 25, 59])
    tree = Tree(points, np.ones(n), np.arange(-1, n - 1), np.ones(n))
    shape = (30, 60, 60)
    data = 1000 + rng.normal(0, 20, shape) + contrast * rasterize(tree, shape)
    return Volume(data.astype(np.float32)), tree


def test_a_tree_on_its_image_is_fine_and_mirrored_is_flipped():
    """Also over a high background, where the raw means differ by 10 percent only."""
    volume, tree = simulated()
    assert detect_flip(volume, tree).verdict == "fine"
    report = detect_flip(volume, flip_y(tree, volume))
    assert report.verdict == "flipped"
    assert report.mean_flipped == pytest.approx(1100, abs=10)
    assert report.background == pytest.approx(1000, abs=2)


def test_an_image_that_stays_on_disk_is_judged_alike():
    volume, tree = simulated()
    lazy = LazyVolume(Parted(np.copy, volume.data), volume.spacing_um)
    for own in (tree, flip_y(tree, lazy)):
        whole, parted = detect_flip(volume, own), detect_flip(lazy, own)
        assert (parted.verdict, parted.mean_as_is, parted.n_inside) == (whole.verdict, whole.mean_as_is, whole.n_inside)
        assert parted.volume_mean == pytest.approx(whole.volume_mean)
        assert parted.background == pytest.approx(whole.background, abs=3)


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_unclear(seed):
    volume, tree = simulated(seed, contrast=0.0)
    assert detect_flip(volume, tree).verdict == "unclear"


def test_a_neuron_that_is_its_own_mirror_image_is_unclear():
    tree = Tree(np.array([[5.0, y, 5] for y in range(21)]), np.ones(21), np.arange(-1, 20), np.ones(21))
    volume = Volume(rasterize(tree, (11, 21, 11)) * np.uint8(200))
    assert detect_flip(volume, tree).verdict == "unclear"


def test_flipping_twice_is_no_flip():
    volume, tree = simulated()
    np.testing.assert_allclose(flip_y(flip_y(tree, volume), volume).points_zyx_um, tree.points_zyx_um)


def test_nodes_outside_do_not_count_and_none_inside_is_refused():
    volume, tree = simulated()
    far = Tree(np.vstack([tree.points_zyx_um, [[0, 1000, 0]]]), np.ones(201), np.append(tree.parents, 0), np.ones(201))
    assert detect_flip(volume, far).n_inside == 200
    away = Tree(tree.points_zyx_um + 500, tree.radii_um, tree.parents, tree.types)
    with pytest.raises(InputError, match="do not overlap"):
        detect_flip(volume, away)


@pytest.mark.parametrize("name", ["OP_1", "OP_2", "OP_3", "OP_5", "OP_6"])
def test_real_gold_is_not_flipped(data_dir, name):
    spacing = (3.03, 1.0, 1.0)
    volume = read_volume(data_dir / "pairs" / f"{name}.tif", spacing_um=spacing)
    tree = read_swc(data_dir / "pairs" / f"{name}.swc", spacing_um=spacing)
    assert detect_flip(volume, tree).verdict == "fine"
    assert detect_flip(volume, flip_y(tree, volume)).verdict == "flipped"


def test_the_real_rivuletpy_trace_is_flipped_by_the_known_figures(data_dir, tmp_path):
    with zipfile.ZipFile(data_dir / "flip_pairs" / "rivuletpy_test.tif.zip") as archive:
        archive.extractall(tmp_path)
    report = detect_flip(
        read_volume(tmp_path / "test.tif"), read_swc(data_dir / "flip_pairs" / "rivuletpy_test-expected.swc")
    )
    assert report.verdict == "flipped"
    assert report.mean_flipped == pytest.approx(133.7, abs=0.1)
    assert report.mean_as_is == pytest.approx(12.0, abs=0.1)
    assert "133.7 with y flipped" in str(report)


def test_the_real_neurotorch_trace_is_flipped(data_dir):
    folder = data_dir / "flip_pairs"
    volume = read_volume(folder / "neurotorch_segmentation.tif")
    assert detect_flip(volume, read_swc(folder / "neurotorch_segmentation.swc")).verdict == "flipped"
