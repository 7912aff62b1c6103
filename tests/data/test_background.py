"""Hard variants: real background without its own neurites, a contrast that means what it says, gold left alone."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu

from distill3d.data.background import (
    CEILING,
    COUNTS_PER_SIGMA,
    PEDESTAL_SIGMA,
    HardConfig,
    case_rng,
    clean_signal,
    harden,
    harden_patch,
    reference_of,
)
from distill3d.data.texture import Background, background_files, background_of, load_background, tile
from distill3d.errors import InputError
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.volume import Volume, read_volume

UNLABELLED = ("fmost_neuron1_crop", "fmost_neuron2_crop", "trailmap_testchunk_crop")
CONFIG = HardConfig(contrast=2.0)


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def stack(shape=(40, 60, 60), soma=True):
    """Noise of sigma 10 on a slope from 200 to 260, a neurite and a soma far above it."""
    data = np.linspace(200, 260, shape[2]) + rng(1).normal(0, 10, shape)
    truth = np.zeros(shape, bool)
    truth[20, 30, :] = True
    if soma:
        truth[14:26, 10:22, 10:22] = True
    return Volume(np.rint(data + 600 * ndimage.gaussian_filter(truth.astype(float), 1.0)).astype(np.uint16)), truth


def flat(shape=(30, 40, 40), seed=3):
    """A background model that is white noise and nothing else."""
    noise = rng(seed).standard_normal(shape)
    noise = (noise - noise.mean()) / noise.std()
    return Background(np.zeros(shape, np.float32), noise.astype(np.float32))


def neuron(shape=(20, 60, 60)):
    """A clean stack as DIADEM's: black, a bright trunk, a branch half as bright."""
    mask = np.zeros(shape, bool)
    mask[8:12, 20:24, :] = True
    mask[8:12, 24:, 30:32] = True
    data = np.zeros(shape, np.uint8)
    data[mask] = 100
    data[8:12, 20:24, :] = 200
    return Volume(data, (3.03, 1.0, 1.0)), mask


@pytest.fixture(scope="module")
def real_models(data_dir):
    return [background_of(real_cut(data_dir, name)) for name in UNLABELLED]


def real_cut(data_dir, name):
    """A quarter of each slice of a real stack, around its brightest voxel."""
    data = read_volume(data_dir / "unlabelled" / f"{name}.tif", spacing_um=(1, 1, 1)).data
    _, *brightest = np.unravel_index(data.argmax(), data.shape)
    starts = [min(max(place - n // 4, 0), n // 2) for place, n in zip(brightest, data.shape[1:], strict=True)]
    rows, columns = (slice(start, start + n // 2) for start, n in zip(starts, data.shape[1:], strict=True))
    return Volume(data[:, rows, columns], (1.0, 1.0, 1.0))


# ---------------------------------------------------------------- the background's model


def test_neurites_and_somas_are_masked_and_noise_has_sigma_one():
    volume, truth = stack()
    model = background_of(volume)
    assert abs(float(model.noise.mean())) < 1e-3
    assert float(model.noise.std()) == pytest.approx(1.0, abs=1e-3)
    assert float(model.low.min()) == 0.0
    where = ndimage.binary_dilation(truth, iterations=2)
    assert float(model.noise[where].std()) == pytest.approx(1.0, abs=0.1)  # refilled with noise, not with nothing
    assert float(model.noise.max()) < 6.0  # 60 before
    slope = model.low.mean(axis=(0, 1))
    smoothed = ndimage.gaussian_filter(np.linspace(0, 6, 60), 12.0)  # 60 counts are 6 sigmas
    assert np.abs((slope - slope.mean()) - (smoothed - smoothed.mean())).max() < 0.7


def test_real_stacks_lose_their_neurons(data_dir, real_models):
    for name, model in zip(UNLABELLED, real_models, strict=True):
        data = real_cut(data_dir, name).data.astype(float)
        center = np.median(data)
        sigma = 1.4826 * np.median(np.abs(data - center))
        assert ((data.max() - center) / sigma) > 80
        assert float(model.noise.max()) < 10
        assert float((model.noise**3).mean()) == pytest.approx(0.0, abs=0.3)  # bright leftovers would skew it
        assert float(model.low.max()) < 15
        grain = float((model.noise[..., 1:] * model.noise[..., :-1]).mean())
        assert 0.3 < grain < 0.7  # real noise is correlated, and refilling must not whiten it


def test_the_model_is_the_same_every_time():
    first, again = background_of(stack()[0]), background_of(stack()[0])
    assert np.array_equal(first.noise, again.noise)
    assert np.array_equal(first.low, again.low)


@pytest.mark.parametrize("value", [0, 7])
def test_a_blank_or_constant_stack_is_refused(value):
    with pytest.raises(InputError, match=f"background stack is {value} everywhere"):
        background_of(Volume(np.full((20, 30, 30), value, np.uint8)))


def test_a_stack_without_noise_or_with_broken_voxels_is_refused():
    clean = np.full((30, 40, 40), 5, np.uint8)
    clean[15, 20, 20] = 200
    with pytest.raises(InputError, match="no noise between its neurites"):
        background_of(Volume(clean))
    broken = rng().normal(size=(10, 20, 20)).astype(np.float32)
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        background_of(Volume(broken))


def test_missing_files_name_their_folder(tmp_path):
    with pytest.raises(InputError, match=f"background stack gone.tif not found in folder {tmp_path}"):
        background_files([tmp_path / "gone.tif"])
    with pytest.raises(InputError, match=f"gone.tif not found in folder {tmp_path}"):
        load_background(tmp_path / "gone.tif")
    (tmp_path / "notes.txt").write_text("no stack")
    with pytest.raises(InputError, match=f"{tmp_path}: no background stack in this folder"):
        background_files([tmp_path])
    (tmp_path / "b.tif").touch()
    (tmp_path / "A.TIFF").touch()
    assert [p.name for p in background_files([tmp_path, tmp_path / "b.tif"])] == ["A.TIFF", "b.tif", "b.tif"]


def test_a_bad_file_is_named_and_a_good_one_is_read_once(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tif", np.full((8, 20, 20), 9, np.uint8))
    with pytest.raises(InputError, match=r"flat.tif: background stack is 9 everywhere"):
        load_background(tmp_path / "flat.tif")
    tifffile.imwrite(tmp_path / "good.tif", stack()[0].data)
    assert load_background(tmp_path / "good.tif") is load_background(tmp_path / "good.tif")


# ---------------------------------------------------------------- tiles


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(1, 130)] * 3), st.integers(0, 2**32))
def test_any_shape_is_covered_at_full_strength(shape, seed):
    model = Background(np.full((9, 30, 40), 5.0, np.float32), flat((9, 30, 40)).noise)
    scene = tile(model, shape, rng(seed))
    assert scene.shape == shape
    assert scene.dtype == np.float32
    if scene.size > 20_000:
        assert float(scene.mean()) == pytest.approx(5.0, abs=0.2)
        assert float(scene.std()) == pytest.approx(1.0, abs=0.1)


def test_tiles_show_no_seams_and_do_not_repeat():
    slope = np.broadcast_to(np.linspace(0, 8, 40, dtype=np.float32), (30, 40, 40))
    scene = tile(Background(slope, np.zeros((30, 40, 40), np.float32)), (30, 40, 300), rng())
    assert np.abs(np.diff(scene, axis=2)).max() < 1.0  # hard edges between tiles would jump by up to 8
    noise = tile(flat(), (30, 40, 200), rng())
    assert np.abs(np.diff(noise, axis=2)).std() == pytest.approx(np.abs(np.diff(flat().noise, axis=2)).std(), rel=0.05)
    assert abs(np.corrcoef(noise[..., :100].ravel(), noise[..., 100:].ravel())[0, 1]) < 0.2


def test_a_small_patch_is_a_flipped_cut_of_the_stack():
    model = flat((6, 7, 8))
    patch = tile(model, (6, 7, 8), rng(2))
    flips = [np.flip(model.noise, [a for a in range(3) if k >> a & 1]) for k in range(8)]
    assert sum(np.array_equal(patch, flipped) for flipped in flips) == 1


def test_flips_and_places_come_from_the_generator():
    cuts = {tile(flat(), (10, 10, 10), rng(seed)).tobytes() for seed in range(20)}
    assert len(cuts) == 20
    assert np.array_equal(tile(flat(), (50, 60, 70), rng(1)), tile(flat(), (50, 60, 70), rng(1)))


# ---------------------------------------------------------------- hard stacks


def sigmas(volume):
    return volume.data.astype(float) / COUNTS_PER_SIGMA - PEDESTAL_SIGMA


@pytest.mark.parametrize("contrast", [1.0, 2.0, 6.0])
def test_contrast_is_the_reference_above_background_in_sigmas_of_its_noise(contrast):
    volume, mask = neuron()
    trunk = volume.data == 200
    assert reference_of(clean_signal(volume.data, mask), mask) == 200
    hard = sigmas(harden(volume, mask, [flat()], HardConfig(contrast=contrast, photons=1e6), rng()))
    assert hard[trunk].mean() - hard[~mask].mean() == pytest.approx(contrast, abs=0.1)
    branch = mask & ~trunk
    assert hard[branch].mean() - hard[~mask].mean() == pytest.approx(contrast / 2, abs=0.1)  # relative intensity stays
    assert hard[~mask].std() == pytest.approx(1.0, abs=0.05)


def test_what_is_far_brighter_than_the_reference_is_cut_at_the_ceiling():
    volume, mask = neuron()
    data = volume.data.astype(np.uint16)
    data[9:11, 21:23, 10:20] = 60_000  # a soma of 80 voxels, below a tenth of the gold
    hard = sigmas(harden(Volume(data), mask, [flat()], HardConfig(contrast=2.0, photons=1e6), rng()))
    soma = hard[9:11, 21:23, 10:20].mean()
    assert soma == pytest.approx(2.0 * CEILING, abs=0.4)


def test_the_neuron_brings_its_own_poisson_noise():
    # s sigmas are s * sqrt(photons) photons of variance the same, that is s / sqrt(photons) in squared sigmas.
    mask = np.zeros((30, 40, 40), bool)
    mask[:, :20] = True
    volume = Volume((mask * 100).astype(np.uint8))
    hard = sigmas(harden(volume, mask, [flat()], HardConfig(contrast=8.0, photons=16.0), rng()))
    assert hard[~mask].var() == pytest.approx(1.0, abs=0.05)
    assert hard[mask].var() == pytest.approx(1.0 + 8.0 / 4.0, rel=0.05)


def test_the_clean_background_is_taken_off_first():
    volume, mask = neuron()
    raised = Volume((volume.data + 50).astype(np.uint8), volume.spacing_um)
    one, other = (harden(v, mask, [flat()], CONFIG, rng(3)) for v in (volume, raised))
    assert np.array_equal(one.data, other.data)


def test_input_and_gold_are_left_alone_and_geometry_is_kept():
    volume, mask = neuron()
    data, gold = volume.data.copy(), mask.copy()
    hard = harden(volume, mask, [flat()], CONFIG, rng())
    assert np.array_equal(volume.data, data)
    assert np.array_equal(mask, gold)
    assert hard.data.dtype == np.uint16
    assert hard.data.shape == volume.data.shape
    assert hard.spacing_um == volume.spacing_um


def test_seed_and_case_name_decide_and_nothing_else():
    volume, mask = neuron()
    models = [flat(seed=1), flat(seed=2)]
    make = {
        key: harden(volume, mask, models, CONFIG, case_rng(*key)).data
        for key in ((0, "OP_1"), (0, "OP_2"), (1, "OP_1"))
    }
    assert np.array_equal(make[0, "OP_1"], harden(volume, mask, models, CONFIG, case_rng(0, "OP_1")).data)
    assert len({data.tobytes() for data in make.values()}) == 3


def test_every_background_gets_its_turn():
    volume, mask = neuron()
    models = [Background(np.full((30, 40, 40), 50.0 * k, np.float32), flat().noise) for k in range(3)]
    levels = {round(float(sigmas(harden(volume, mask, models, CONFIG, rng(s))).mean()) / 50) for s in range(30)}
    assert levels == {0, 1, 2}


def test_wrong_input_is_one_line():
    volume, mask = neuron()
    with pytest.raises(InputError, match="mask is empty"):
        harden(volume, np.zeros_like(mask), [flat()], CONFIG, rng())
    with pytest.raises(InputError, match=r"mask of shape \(1, 2, 3\) does not belong"):
        harden(volume, np.ones((1, 2, 3), bool), [flat()], CONFIG, rng())
    with pytest.raises(InputError, match="without a background stack"):
        harden(volume, mask, [], CONFIG, rng())
    with pytest.raises(InputError, match="no brighter than its background"):
        harden(Volume(255 - volume.data), mask, [flat()], CONFIG, rng())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"contrast": 0.0}, "contrast must be > 0, got 0.0"),
        ({"photons": -1.0}, "photons must be > 0"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"enabled": True}, "backgrounds must name at least one"),
    ],
)
def test_impossible_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        HardConfig(**wrong)


def test_a_threshold_is_lost_on_the_hard_cases(data_dir, real_models):
    spacing = (3.03, 1.0, 1.0)
    for name in ("OP_1", "OP_5"):
        volume = read_volume(data_dir / "pairs" / f"{name}.tif", spacing_um=spacing)
        tree = read_swc(data_dir / "pairs" / f"{name}.swc", spacing_um=spacing)
        mask = rasterize(tree, volume.data.shape, spacing_um=spacing, radius="fixed", radius_um=2.0)
        hard = harden(volume, mask, real_models, HardConfig(), case_rng(0, name))
        for image, accepted in ((volume, (0.15, 1.0)), (hard, (0.0, 0.1))):
            guess = image.data > threshold_otsu(image.data)
            assert accepted[0] <= 2 * (guess & mask).sum() / (guess.sum() + mask.sum()) <= accepted[1]


# ---------------------------------------------------------------- the augmentation


def patch_pair():
    volume, mask = neuron((32, 96, 96))
    return (volume.data / 255).astype(np.float32), mask


def test_a_hard_patch_has_the_contrast_and_is_scaled_to_about_one():
    image, mask = patch_pair()
    before = image.copy()
    hard = harden_patch(image, mask, flat((40, 100, 100)), 4.0, rng())
    assert np.array_equal(image, before)
    assert hard.dtype == np.float32
    assert hard.shape == image.shape
    assert np.percentile(hard, (1, 99.8)) == pytest.approx([0, 1], abs=0.05)
    trunk = image > 0.7
    assert (hard[trunk].mean() - hard[~mask].mean()) / hard[~mask].std() == pytest.approx(4.0, rel=0.05)


def test_a_patch_without_gold_is_background():
    image, mask = patch_pair()
    model = flat((40, 100, 100))
    empty = harden_patch(np.zeros_like(image), np.zeros_like(mask), model, 4.0, rng())
    assert np.isfinite(empty).all()
    assert 0.1 < empty.std() < 0.5
