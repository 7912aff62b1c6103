"""Simulated cases of wide variety: what is drawn, and that the picture is what was drawn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from distill3d.data.background import clean_signal, reference_of
from distill3d.data.grow import GrowConfig
from distill3d.data.microscope import GAIN, OFFSET, MicroscopeConfig, expose
from distill3d.data.simulate import Simulated, SimulatedConfig
from distill3d.data.vary import VaryConfig, varied
from distill3d.volumes.raster import rasterize
from distill3d.volumes.tree import Tree

SHAPE, SPACING = (24, 64, 64), (2.0, 1.0, 1.0)
EVEN = MicroscopeConfig(background=40.0, unevenness=0.0, read_noise=3.0, variation=0.0, gaps=0, puncta=0, neighbors=0)
LINE = Tree(np.linspace((24, 32, 8), (24, 32, 56), 40), np.full(40, 1.5), np.arange(40) - 1, np.full(40, 2))
GOLD = rasterize(LINE, SHAPE, spacing_um=SPACING)
AROUND = ndimage.binary_dilation(GOLD, iterations=8)  # beyond it is background


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def picture(**settings):
    return expose([(LINE, 1.0)], SHAPE, SPACING, replace(EVEN, **settings), rng(), neurites=GOLD).astype(float)


def draw(seed, **ranges):
    return varied(VaryConfig(**ranges), GrowConfig(), MicroscopeConfig(), (1.0, 1.0, 1.0), rng(seed))


@pytest.mark.parametrize("texture", [0.0, 1.5])
@pytest.mark.parametrize("contrast", [10.0, 40.0])
def test_the_contrast_asked_for_is_the_one_that_the_hard_variant_would_measure(contrast, texture):
    counts = picture(contrast=contrast, texture=texture)
    noise = counts[~AROUND].std()
    assert reference_of(clean_signal(counts, AROUND), GOLD) / noise == pytest.approx(contrast, rel=0.12)


def test_grains_of_the_tissue_are_as_strong_and_as_wide_as_asked():
    counts = (picture(contrast=1.0, texture=3.0, texture_um=6.0) - OFFSET) / GAIN
    noise = EVEN.noise
    assert counts[~AROUND].std() == pytest.approx(noise * np.hypot(1, 3.0), rel=0.1)
    field = np.where(AROUND, counts[~AROUND].mean(), counts) - counts[~AROUND].mean()
    near, far = (np.mean(field * np.roll(field, step, axis=2)) / field.var() for step in (1, 12))
    assert near > 0.7  # neighbors share a grain of 6 um
    assert abs(far) < 0.15  # 12 um away is another one


@pytest.mark.parametrize(("black", "share"), [(-2.0, 0.977), (0.0, 0.5), (2.0, 0.023)])
def test_a_background_cut_off_at_so_many_sigmas_leaves_the_share_of_a_normal_distribution(black, share):
    counts = picture(contrast=20.0, black=black)
    assert (counts[~AROUND] > 0).mean() == pytest.approx(share, abs=0.03)
    assert counts[GOLD].mean() > 5 * EVEN.noise * GAIN


def test_what_is_drawn_lies_in_its_range_and_fills_it():
    config = VaryConfig()
    drawn = [draw(seed) for seed in range(200)]
    contrasts = np.array([microscope.contrast for _, microscope, _ in drawn])
    assert config.contrast[0] <= contrasts.min() < 2.3
    assert 50 < contrasts.max() <= config.contrast[1]
    assert np.median(contrasts) == pytest.approx(np.sqrt(2 * 60), rel=0.2)  # evenly in the logarithm
    depths = np.array([spacing[0] for *_, spacing in drawn])
    assert depths.min() >= 1
    assert depths.max() <= 5
    assert np.mean(depths) == pytest.approx(3, rel=0.1)
    assert all(spacing[1:] == (1.0, 1.0) for *_, spacing in drawn)
    assert all(isinstance(grow.tips, int) and grow.root_radius_um >= grow.tip_radius_um for grow, *_ in drawn)
    assert np.mean([grow.soma_um > 0 for grow, *_ in drawn]) == pytest.approx(config.soma, abs=0.1)
    cut = [microscope.black / microscope.contrast for _, microscope, _ in drawn if microscope.black is not None]
    assert len(cut) == pytest.approx(200 * config.black, abs=25)
    assert max(cut) <= 0.25


def test_a_range_of_one_value_is_that_value_and_chance_is_its_generators():
    assert draw(3, contrast=(7.0, 7.0))[1].contrast == pytest.approx(7.0)
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_a_case_holds_its_spacing_its_soma_and_with_neighbors_every_neurite(tmp_path):
    vary = VaryConfig(enabled=True, soma=1.0, neighbors=(2.0, 2.0), contrast=(30.0, 30.0))
    config = SimulatedConfig(train=1, val=0, test=0, shape_zyx=SHAPE, vary=vary, neighbors_gold=True)
    case = Simulated(config, cache=tmp_path).load("sim_000")
    alone = Simulated(replace(config, neighbors_gold=False), cache=tmp_path).load("sim_000")
    assert case.tree is not None
    assert len(case.tree.roots) == 3
    assert alone.tree is not None
    assert len(alone.tree.roots) == 1
    assert 1 <= case.volume.spacing_um[0] <= 5
    root = tuple(np.rint(case.tree.points_zyx_um[0] / case.volume.spacing_um).astype(int))
    assert case.mask[root]
    soma = ndimage.label(case.mask & (case.volume.data > 0))[0]
    assert soma[root]
    ball = np.linalg.norm((np.indices(SHAPE).T - root) * case.volume.spacing_um, axis=-1).T <= 3.5  # at least 4 um
    assert case.mask[ball].all()
    assert (case.mask & ~alone.mask).any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"contrast": (5.0, 2.0)}, r"contrast must be a finite range low to high, >= 0, got \(5.0, 2.0\)"),
        ({"contrast": (0.0, 2.0)}, "contrast must be above 0"),
        ({"contrast": (1.0, float("inf"))}, "contrast must be a finite range"),
        ({"depth": (0.0, 2.0)}, "depth must be above 0"),
        ({"tips": (0.4, 3.0)}, r"tips and root_radius must begin at 1 or more, .* got \(0.4, 3.0\)"),
        ({"root_radius": (0.5, 2.0)}, "root_radius must begin at 1 or more"),
        ({"length_um": (0.0, 0.0)}, "length_um must reach above 0"),
        ({"soma": 1.5}, r"soma must be in \[0, 1\], got 1.5"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        VaryConfig(**wrong)


@pytest.mark.parametrize("setting", [{"contrast": 5.0}, {"texture": 1.0}, {"black": 0.0}])
def test_what_is_measured_in_noise_needs_some(setting):
    with pytest.raises(ValueError, match="measured in noise: background or read_noise must be > 0"):
        MicroscopeConfig(background=0.0, read_noise=0.0, **setting)
