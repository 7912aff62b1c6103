"""Simulated neurons: the same everywhere, true to their tree, and seen as a microscope would."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from distill3d.config.registry import DATA, Component
from distill3d.data.base import DataSource
from distill3d.data.grow import GrowConfig, fit_tree, grow, tapered_radii
from distill3d.data.microscope import GAIN, OFFSET, MicroscopeConfig, expose, fluorescence, node_brightness
from distill3d.data.simulate import Simulated, SimulatedConfig, _swc_files
from distill3d.errors import InputError
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc, write_swc
from distill3d.volumes.tree import Tree

# sha256 of the little-endian uint16 counts of `small`, sim_000. Made once by this code (numpy 2.4, scipy 1.17, x86-64);
# it changes when the pictures change: then every published number on simulated data has to be made again.
GOLDEN = "867fa8c1b61ad6921503222b00026eb66f278f44c6f537c031cc87e1a1d08856"
SPACING = (2.0, 1.0, 1.0)
QUIET = MicroscopeConfig(  # no chance but the photons'
    background=0.0, unevenness=0.0, read_noise=0.0, variation=0.0, gaps=0, puncta=0, neighbors=0
)
REAL = (  # one file of each kind of trouble
    "CAR_human/00030_P001_MFG.swc",  # radius column holds color codes
    "CWMBS/SN1.swc",  # 18 roots, radius 1
    "MouseLight/AA0001.swc",  # um, a whole brain
    "navis_hemibrain/722817260.swc",  # 8 nm voxels, true radii, 656 tips
    "PyNeval/demo__gold.swc",  # pixels
)


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def line(start_zyx, stop_zyx, radius=1.2, n=40):
    points = np.linspace(start_zyx, stop_zyx, n)
    return Tree(points, np.full(n, radius), np.arange(n) - 1, np.full(n, 2))


def voxels_of(tree):
    """Voxel that holds each node; a voxel's center is at its index, halves go up."""
    return tuple(np.floor(tree.points_zyx_um / SPACING + 0.5).astype(int).T)


@pytest.fixture(scope="module")
def small():
    return SimulatedConfig(train=2, val=1, test=1, shape_zyx=(16, 48, 48), grow=GrowConfig(tips=4, length_um=20.0))


@pytest.fixture
def real_folder(data_dir, tmp_path):
    for name in REAL:
        shutil.copy(data_dir / "swc" / name, tmp_path)
    return tmp_path


def test_the_registry_builds_it_and_names_are_dealt_to_splits_in_order(tmp_path, small):
    source = DATA.build(Component("simulated", small), cache=tmp_path)
    assert isinstance(source, DataSource)
    assert source.splits() == {"train": ("sim_000", "sim_001"), "val": ("sim_002",), "test": ("sim_003",)}
    assert not any(tmp_path.iterdir())  # caching is the data module's business


def test_the_same_case_is_the_same_to_the_last_bit_and_others_differ(tmp_path, small):
    first, again = (Simulated(small, cache=tmp_path).load("sim_000") for _ in range(2))
    other = Simulated(small, cache=tmp_path).load("sim_001")
    reseeded = Simulated(replace(small, seed=1), cache=tmp_path).load("sim_000")
    assert np.array_equal(first.volume.data, again.volume.data)
    assert np.array_equal(first.tree.points_zyx_um, again.tree.points_zyx_um)
    assert not np.array_equal(first.volume.data, other.volume.data)
    assert not np.array_equal(first.volume.data, reseeded.volume.data)


def test_the_pictures_are_those_every_machine_makes(tmp_path, small):
    counts = Simulated(small, cache=tmp_path).load("sim_000").volume.data
    assert counts.dtype == np.uint16
    assert hashlib.sha256(counts.astype("<u2").tobytes()).hexdigest() == GOLDEN


def test_chance_of_the_whole_process_plays_no_part(tmp_path, small):
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
    first = Simulated(small, cache=tmp_path).load("sim_002").volume.data
    np.random.seed(2)  # noqa: NPY002 - as above
    assert np.array_equal(first, Simulated(small, cache=tmp_path).load("sim_002").volume.data)


def test_a_case_does_not_depend_on_how_many_there_are(tmp_path, small):
    few, many = Simulated(small, cache=tmp_path), Simulated(replace(small, test=50), cache=tmp_path)
    assert few.key("sim_001") == many.key("sim_001")
    assert np.array_equal(few.load("sim_001").volume.data, many.load("sim_001").volume.data)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"shape_zyx": (16, 48, 50)},
        {"grow": GrowConfig(tips=5)},
        {"microscope": MicroscopeConfig(photons=301.0)},
    ],
)
def test_every_setting_that_changes_the_picture_changes_the_key(tmp_path, small, change):
    key = Simulated(small, cache=tmp_path).key("sim_000")
    assert Simulated(replace(small, **change), cache=tmp_path).key("sim_000") != key
    assert Simulated(small, cache=tmp_path).key("sim_001") != key


def test_gold_mask_and_tree_agree(tmp_path):
    case = Simulated(SimulatedConfig(), cache=tmp_path).load("sim_000")
    assert case.mask[voxels_of(case.tree)].all()
    assert case.mask.dtype == np.bool_
    assert case.known.all()
    assert case.mask.shape == case.known.shape == case.volume.data.shape == (48, 128, 128)
    assert case.volume.spacing_um == SPACING
    assert np.array_equal(case.mask, rasterize(case.tree, case.mask.shape, spacing_um=SPACING))


def test_default_neurons_are_neither_given_away_nor_hidden_from_a_threshold(tmp_path):
    source = Simulated(SimulatedConfig(), cache=tmp_path)
    scores = []
    for name in ("sim_000", "sim_003", "sim_009"):
        case = source.load(name)
        guess = case.volume.data > threshold_otsu(case.volume.data)
        scores.append(2 * (guess & case.mask).sum() / (guess.sum() + case.mask.sum()))
        assert 0.001 < case.mask.mean() < 0.01
    assert 0.2 < np.mean(scores) < 0.5


@pytest.mark.parametrize("tips", [1, 2, 9, 30])
def test_a_grown_tree_is_one_tree_with_the_ends_asked_for_inside_its_margin(tips):
    size = np.array([94.0, 127.0, 127.0])
    config = GrowConfig(tips=tips)
    tree = grow(size, config, rng(tips))
    assert len(tree.roots) == 1
    assert len(tree.tips) == tips
    assert (tree.points_zyx_um >= config.margin_um).all()
    assert (tree.points_zyx_um <= size - config.margin_um).all()
    assert (tree.parents < np.arange(tree.n_nodes)).all()
    assert tree.edge_lengths_um.max() <= config.step_um * (1 + 1e-9)


def test_radii_shrink_from_root_to_tips():
    config = GrowConfig(tips=8, root_radius_um=3.0, tip_radius_um=1.0)
    tree = grow((94.0, 127.0, 127.0), config, rng())
    child, parent = tree.edges.T
    assert (tree.radii_um[child] <= tree.radii_um[parent]).all()
    assert tree.radii_um[tree.roots] == pytest.approx(3.0)
    assert tree.radii_um[tree.tips] == pytest.approx(1.0)


def test_radii_of_a_fork_are_those_worked_out_by_hand():
    # Root, 6 um to the fork, then branches of 3 and 1 um: downstream 10, 4, 0, 0 of 10; taper 1.
    points = np.array([[0.0, 0, 0], [0, 0, 6], [0, 3, 6], [0, 0, 7]])
    fork = Tree(points, np.zeros(4), np.array([-1, 0, 1, 1]), np.full(4, 2))
    config = GrowConfig(tip_radius_um=1.0, root_radius_um=2.0, taper=1.0)
    assert tapered_radii(fork, config) == pytest.approx([2.0, 1.4, 1.0, 1.0])


def test_dye_is_conserved_however_thin_the_neurite():
    # A tube of radius r and length 40 um holds pi r^2 40 um^3; a voxel holds 2 um^3.
    for radius in (0.3, 1.0, 2.5):
        tree = line((30, 40, 20), (30, 40, 60), radius)
        dye = fluorescence(tree, np.ones(40), (32, 80, 80), SPACING, rng())
        assert dye.sum() == pytest.approx(np.pi * radius**2 * 40 / 2)


def test_the_blur_is_longer_in_z_as_the_config_says():
    config = replace(QUIET, psf_sigma_um=(4.0, 1.5, 1.5), photons=1e5)
    counts = expose([(line((40, 40, 10), (40, 40, 70), 0.2), 1.0)], (40, 80, 80), SPACING, config, rng())
    light = (counts[:, :, 20:60].astype(float) - OFFSET).sum(axis=2)
    z, y = np.arange(40) * 2.0, np.arange(80) * 1.0
    spread_z = np.sqrt(np.average((z - 40) ** 2, weights=light.sum(axis=1)))
    spread_y = np.sqrt(np.average((y - 40) ** 2, weights=light.sum(axis=0)))
    assert spread_z == pytest.approx(4.0, rel=0.1)
    assert spread_y == pytest.approx(1.5, rel=0.1)


def test_counts_without_dye_have_the_mean_and_noise_of_the_camera_model():
    config = replace(QUIET, background=25.0, read_noise=3.0)
    counts = expose([], (40, 80, 80), SPACING, config, rng()).astype(float)
    photons = (counts - OFFSET) / GAIN
    assert photons.mean() == pytest.approx(25.0, rel=0.01)
    assert photons.var() == pytest.approx(25.0 + 9.0, rel=0.02)  # Poisson's variance is its mean


def test_an_uneven_background_is_smooth_and_as_uneven_as_asked():
    config = replace(QUIET, background=1000.0, unevenness=0.2, unevenness_um=60.0)
    counts = (expose([], (40, 80, 80), SPACING, config, rng()).astype(float) - OFFSET) / GAIN
    assert counts.std() / counts.mean() == pytest.approx(0.2, rel=0.15)
    steps = np.diff(counts, axis=2)
    assert steps.var() == pytest.approx(2 * 1000.0, rel=0.2)  # neighbors differ by hardly more than photon noise


def test_gaps_really_dim_the_signal():
    tree = line((16, 24, 2), (16, 24, 92), n=91)
    config = replace(QUIET, gaps=1, gap_um=9.0, gap_level=0.0, psf_sigma_um=(1.0, 0.5, 0.5))
    brightness = node_brightness(tree, config, rng(4))
    assert (brightness == 0).sum() == 9  # nodes 1 um apart, 4.5 um to each side
    profile = expose([(tree, 1.0)], (16, 48, 95), SPACING, config, rng(4))[8, 24].astype(float) - OFFSET
    gap = tree.points_zyx_um[brightness == 0, 2].astype(int)
    lit = np.setdiff1d(np.arange(5, 90), np.arange(gap.min() - 3, gap.max() + 4))
    assert profile[gap[3:-3]].mean() < 0.05 * profile[lit].mean()


def test_brightness_changes_slowly_along_a_neurite():
    tree = line((0, 0, 0), (0, 0, 4000), n=4001)
    config = replace(QUIET, variation=0.5, variation_um=15.0)
    logs = np.log(node_brightness(tree, config, rng()))
    assert logs.std() == pytest.approx(0.5, rel=0.15)
    assert np.exp(logs).mean() == pytest.approx(1.0, rel=0.15)
    apart = np.corrcoef(logs[:-15], logs[15:])[0, 1]
    assert apart == pytest.approx(np.exp(-1), abs=0.12)  # correlation at one length


def test_neighbors_and_puncta_are_seen_but_not_gold(tmp_path, small):
    bare = replace(small, microscope=replace(QUIET, background=10.0))
    crowded = replace(bare, microscope=replace(bare.microscope, neighbors=3, puncta=80, neighbor_brightness=1.0))
    quiet, busy = (Simulated(c, cache=tmp_path).load("sim_000") for c in (bare, crowded))
    assert np.array_equal(quiet.mask, busy.mask)
    far = ~rasterize(quiet.tree, quiet.mask.shape, spacing_um=SPACING, min_radius_um=8.0)
    limit = quiet.volume.data[far].max()
    assert (busy.volume.data[far] > 2 * limit).sum() > 50


def test_real_trees_of_every_kind_are_rendered(real_folder, tmp_path):
    source = Simulated(SimulatedConfig(train=3, val=1, test=1, swc_folder=str(real_folder)), cache=tmp_path)
    keys = set()
    for name in sum(source.splits().values(), ()):
        case = source.load(name)
        inside, outside = case.volume.data[case.mask].mean(), case.volume.data[~case.mask].mean()
        assert case.mask[voxels_of(case.tree)].all()
        assert 0.001 < case.mask.mean() < 0.03
        assert inside > 3 * outside
        assert case.tree.radii_um.min() >= 0.8
        assert case.tree.radii_um.max() < 3.0
        keys.add(source.key(name))
    assert len(keys) == len(REAL)


def test_no_real_tree_is_used_twice_and_too_few_are_an_error(real_folder, tmp_path):
    config = SimulatedConfig(train=4, val=1, test=1, swc_folder=str(real_folder))
    with pytest.raises(InputError, match=r"holds 5 .swc files, 0 of them for test; .*as cases, 1$"):
        Simulated(config, cache=tmp_path)


def test_trees_of_one_source_can_be_kept_for_the_test(tmp_path):
    for name in ("fly/a", "fly/b", "fly/c", "mouse/d", "mouse/e", "worm/f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_swc(tmp_path / f"{name}.swc", line((0, 0, 0), (0, 0, 50)))
    patterns = {"swc_folder": str(tmp_path), "swc_test": ("mouse/*",)}
    pools = [Path(path).parent.name for path in _swc_files(SimulatedConfig(train=3, val=1, test=2, **patterns))]
    assert sorted(pools[:4]) == ["fly", "fly", "fly", "worm"]
    assert pools[4:] == ["mouse", "mouse"]
    flies = _swc_files(SimulatedConfig(train=2, val=1, test=1, swc_train=("fly/*",), **patterns))
    assert [path.parent.name for path in flies] == ["fly", "fly", "fly", "mouse"]
    with pytest.raises(InputError, match=r"6 .swc files, 3 of them for train and val; .* as cases, 4$"):
        _swc_files(SimulatedConfig(train=3, val=1, test=1, swc_train=("fly/*",), **patterns))


def test_the_key_follows_the_content_of_the_swc_file(tmp_path):
    config = SimulatedConfig(train=1, val=0, test=0, swc_folder=str(tmp_path))
    write_swc(tmp_path / "a.swc", line((0, 0, 0), (0, 0, 50)))
    key = Simulated(config, cache=tmp_path).key("sim_000")
    write_swc(tmp_path / "a.swc", line((0, 0, 0), (0, 0, 51)))
    assert Simulated(config, cache=tmp_path).key("sim_000") != key


def test_the_unit_of_a_real_tree_does_not_matter(data_dir):
    tree = read_swc(data_dir / "swc" / "PyNeval" / "demo__gold.swc")
    nanometers = Tree(tree.points_zyx_um * 1000 + 7e5, tree.radii_um * 1000, tree.parents, tree.types)
    size = (94.0, 127.0, 127.0)
    one, other = (fit_tree(t, size, 0.006, GrowConfig()) for t in (tree, nanometers))
    assert one.points_zyx_um == pytest.approx(other.points_zyx_um)
    assert one.radii_um == pytest.approx(other.radii_um)
    assert len(np.unique(one.radii_um)) > 100  # true radii are kept


def test_color_codes_are_not_taken_for_radii(data_dir):
    tree = read_swc(data_dir / "swc" / "CAR_human" / "00030_P001_MFG.swc")
    config = GrowConfig()
    fitted = fit_tree(tree, (94.0, 127.0, 127.0), 0.006, config)
    assert fitted.radii_um[fitted.tips] == pytest.approx(config.tip_radius_um)
    assert fitted.radii_um.max() == pytest.approx(config.root_radius_um)


def test_a_tree_too_dense_to_be_seen_is_shown_in_part_and_long_edges_get_nodes():
    comb = [line((y % 7, y, 0), (y % 7, y, 1000), n=2) for y in range(0, 1000, 10)]  # 100 lines, edges of 1000
    points = np.concatenate([t.points_zyx_um for t in comb])
    parents = np.concatenate([t.parents + (t.parents >= 0) * 2 * k for k, t in enumerate(comb)])
    dense = Tree(points, np.ones(200), parents, np.full(200, 2))
    fitted = fit_tree(dense, (94.0, 127.0, 127.0), 0.01, GrowConfig())
    assert fitted.edge_lengths_um.max() <= GrowConfig().step_um * (1 + 1e-9)
    assert ((fitted.points_zyx_um >= 0) & (fitted.points_zyx_um <= (94.0, 127.0, 127.0))).all()
    volume = 94.0 * 127.0 * 127.0
    assert 0.002 * volume < fitted.length_um * np.pi * GrowConfig().tip_radius_um ** 2 < 0.012 * volume
    assert len(fitted.roots) < 100


def test_a_tree_that_no_zoom_thins_out_is_shown_whole():
    points = np.array([[0.0, 0, 0], [0, 0, 1000], [1000, 0, 500]])  # 300 edges at one place
    parents = np.array([-1, *[0, 0] * 150])
    bundle = Tree(points[[0, *[1, 2] * 150]], np.ones(301), parents, np.full(301, 2))
    fitted = fit_tree(bundle, (94.0, 127.0, 127.0), 0.001, GrowConfig())
    assert len(fitted.roots) == 1
    assert np.ptp(fitted.points_zyx_um[:, 0]) > 80


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"train": 0}, "train must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"shape_zyx": (4, 64, 64)}, "shape_zyx must be >= 8"),
        ({"spacing_um": (0.0, 1.0, 1.0)}, "spacing_um must be > 0"),
        ({"swc_fill": 1.0}, r"swc_fill must be in \(0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        SimulatedConfig(**wrong)


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (GrowConfig, {"tips": 0}, "tips must be > 0, got 0"),
        (GrowConfig, {"tortuosity": -0.1}, "tortuosity must be >= 0"),
        (GrowConfig, {"root_radius_um": 0.5}, "root_radius_um must be >= tip_radius_um"),
        (MicroscopeConfig, {"photons": -1.0}, "photons must be >= 0, got -1.0"),
        (MicroscopeConfig, {"psf_sigma_um": (1.0, -1.0, 1.0)}, "psf_sigma_um must be >= 0"),
        (MicroscopeConfig, {"read_noise": float("nan")}, "read_noise must be >= 0, got nan"),
        (MicroscopeConfig, {"gap_level": 1.5}, r"gap_level must be in \[0, 1\]"),
        (MicroscopeConfig, {"variation_um": 0.0}, "variation_um must be > 0"),
    ],
)
def test_impossible_nested_settings_are_refused(kind, wrong, says):
    with pytest.raises(ValueError, match=says):
        kind(**wrong)


def test_wrong_folders_files_and_names_are_one_line_each(tmp_path, small):
    with pytest.raises(InputError, match=r"swc_folder .*nowhere is not a folder"):
        Simulated(replace(small, swc_folder=str(tmp_path / "nowhere")), cache=tmp_path)
    with pytest.raises(InputError, match=r"no simulated case 'sim_004'; accepted: sim_000 to sim_003"):
        Simulated(small, cache=tmp_path).load("sim_004")
    (tmp_path / "dot.swc").write_text("1 2 5 5 5 1 -1\n")
    source = Simulated(SimulatedConfig(train=1, val=0, test=0, swc_folder=str(tmp_path)), cache=tmp_path)
    with pytest.raises(InputError, match=r"dot.swc: tree with 1 nodes has no length"):
        source.load("sim_000")
