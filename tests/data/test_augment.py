"""Augmentation: image, gold and known move together, planes respect spacing, and a seed decides everything."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from distill3d.config.schema import AugmentConfig
from distill3d.data.augment import Augment, read_turn
from distill3d.data.patches import Patch
from distill3d.errors import InputError
from distill3d.types import UNTURNED, Turn
from distill3d.volumes.volume import Volume, write_volume

OFF = AugmentConfig(flip=0, rotate90=0, scale_intensity=0, shift_intensity=0, gamma=0, noise=0, blur=0)
GEOMETRY = ("flip", "rotate90", "rotate")
INTENSITY = ("scale_intensity", "shift_intensity", "gamma", "noise", "blur")


def patch_of(shape=(6, 16, 16), spacing=(3.0, 1.0, 1.0), seed=0):
    """Gold with no symmetry; the image is the gold, so that they must stay equal."""
    rng = np.random.default_rng(seed)
    target = rng.random(shape) < 0.3
    target[0, 0, :5] = True
    known = np.ones(shape, bool)
    known[:2, :3] = False
    return Patch(
        image=target.astype(np.float32),
        target=target,
        known=known,
        spacing_um=spacing,
        origin_zyx_vox=(1, 2, 3),
        case="a",
    )


def only(**settings):
    return Augment(replace(OFF, **settings))


def rng(seed):
    return np.random.default_rng(seed)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("image", "target", "known"))


def test_everything_off_changes_nothing():
    patch = patch_of()
    assert same(Augment(OFF)(patch, rng(0)), patch)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("settings", [{"flip": 1}, {"rotate90": 1}, {"flip": 0.5, "rotate90": 0.5}])
def test_image_gold_and_known_move_together(settings, seed):
    patch = patch_of()
    # known is marked in the image too: value 2 where nobody labelled
    marked = replace(patch, image=np.where(patch.known, patch.image, 2).astype(np.float32))
    moved = only(**settings)(marked, rng(seed))
    assert np.array_equal(moved.image == 2, ~moved.known)
    assert np.array_equal((moved.image == 1)[moved.known], moved.target[moved.known])
    assert moved.target.sum() == patch.target.sum()


def test_geometry_really_moves():
    patch = patch_of()
    assert not np.array_equal(only(flip=1)(patch, rng(0)).image, patch.image)
    assert any(not np.array_equal(only(rotate90=1)(patch, rng(k)).image, patch.image) for k in range(4))
    assert not np.array_equal(only(rotate=1)(patch, rng(0)).image, patch.image)


def test_a_flip_with_probability_1_mirrors_all_three_axes():
    patch = patch_of()
    assert np.array_equal(only(flip=1)(patch, rng(0)).image, patch.image[::-1, ::-1, ::-1])


def test_all_eight_flips_occur():
    patch, augment = patch_of(), only(flip=0.5)
    assert len({augment(patch, rng(k)).image.tobytes() for k in range(100)}) == 8


def test_quarter_turns_stay_in_the_plane_of_an_anisotropic_stack():
    patch = patch_of((16, 16, 16))
    counts = patch.target.sum(axis=(1, 2))
    for seed in range(20):
        assert np.array_equal(only(rotate90=1)(patch, rng(seed)).target.sum(axis=(1, 2)), counts)


def test_quarter_turns_use_all_planes_where_the_voxel_and_the_patch_are_cubes():
    patch = patch_of((16, 16, 16), (1.0, 1.0, 1.0))
    counts = patch.target.sum(axis=(1, 2))
    turned = [only(rotate90=0.5)(patch, rng(seed)).target.sum(axis=(1, 2)) for seed in range(20)]
    assert any(not np.array_equal(other, counts) for other in turned)


@pytest.mark.parametrize(("shape", "spacing"), [((6, 16, 12), (3.0, 1.0, 1.0)), ((6, 16, 16), (3.0, 1.0, 0.5))])
def test_no_quarter_turn_where_it_would_change_shape_or_scale_and_the_log_says_so(shape, spacing, caplog):
    patch = patch_of(shape, spacing)
    assert same(only(rotate90=1)(patch, rng(0)), patch)
    assert "no quarter turns" in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_free_rotation_keeps_slices_apart_and_gold_on_the_image(seed):
    # A bar in one slice: after any rotation the image is bright on it, and nothing appears in other slices.
    image = np.zeros((5, 33, 33), np.float32)
    image[2, 14:19, 4:29] = 1
    patch = Patch(
        image=image,
        target=image > 0,
        known=np.ones(image.shape, bool),
        spacing_um=(3.0, 1.0, 1.0),
        origin_zyx_vox=(0, 0, 0),
        case="a",
    )
    turned = only(rotate=1)(patch, rng(seed))
    assert not turned.target[[0, 1, 3, 4]].any()
    assert turned.target.sum() == pytest.approx(125, rel=0.15)
    assert turned.image[turned.target].mean() > 0.85
    assert turned.image[~turned.target].mean() < 0.01
    assert turned.image[turned.target].min() >= 0.25  # bilinear and nearest agree to within half a voxel


def test_corners_turned_in_from_outside_are_not_known_and_not_gold():
    patch = replace(patch_of((3, 32, 32)), known=np.ones((3, 32, 32), bool), target=np.ones((3, 32, 32), bool))
    seen = [only(rotate=1)(patch, rng(seed)) for seed in range(6)]
    assert any(not turned.known.all() for turned in seen)
    for turned in seen:
        assert np.array_equal(turned.target, turned.known)
        assert turned.known[:, 12:20, 12:20].all()


@pytest.mark.parametrize("name", INTENSITY)
def test_intensity_changes_leave_gold_and_known_alone_and_change_the_image_within_bounds(name):
    patch = patch_of()
    changed = [only(**{name: 1})(patch, rng(seed)) for seed in range(5)]
    for other in changed:
        assert np.array_equal(other.target, patch.target)
        assert np.array_equal(other.known, patch.known)
        assert np.isfinite(other.image).all()
        assert other.image.dtype == np.float32
        if name != "noise":
            assert -0.11 <= other.image.min() <= other.image.max() <= 1.26
    assert sum(not np.allclose(other.image, patch.image, atol=1e-4) for other in changed) >= (
        0 if name == "gamma" else 4
    )


def test_gamma_bends_the_middle_and_keeps_the_ends():
    image = np.linspace(0, 1, 6 * 16 * 16, dtype=np.float32).reshape(6, 16, 16)
    bent = only(gamma=1)(replace(patch_of(), image=image), rng(1)).image
    assert bent.ravel()[[0, -1]] == pytest.approx([0, 1], abs=1e-4)
    assert abs(bent.ravel()[len(bent.ravel()) // 2] - 0.5) > 0.02
    assert (np.diff(bent.ravel()) >= 0).all()


def test_the_same_random_numbers_give_the_same_patch_whatever_came_before():
    config = replace(OFF, **dict.fromkeys((*GEOMETRY, *INTENSITY), 0.5))
    fresh, used = Augment(config), Augment(config)
    for seed in range(20, 30):
        used(patch_of((4, 8, 8), seed=seed), rng(seed))
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    for seed in range(10):
        assert same(fresh(patch_of(), rng(seed)), used(patch_of(), rng(seed)))


def test_other_random_numbers_give_other_patches():
    augment = Augment(AugmentConfig())
    assert len({augment(patch_of(), rng(seed)).image.tobytes() for seed in range(20)}) > 15


def test_the_patch_given_is_not_changed():
    patch, copy = patch_of(), patch_of()
    Augment(replace(OFF, **dict.fromkeys((*GEOMETRY, *INTENSITY), 1)))(patch, rng(0))
    assert same(patch, copy)


def test_arrays_come_back_contiguous_and_typed_so_that_collating_copies_once():
    changed = Augment(replace(OFF, **dict.fromkeys((*GEOMETRY, *INTENSITY), 1)))(patch_of(), rng(0))
    for name, dtype in (("image", np.float32), ("target", bool), ("known", bool)):
        array = getattr(changed, name)
        assert type(array) is np.ndarray
        assert array.dtype == dtype
        assert array.flags.c_contiguous


def test_every_switch_is_tested_here():
    switches = {f.name for f in fields(AugmentConfig)} - {"hard", "hard_backgrounds", "hard_contrast"}
    assert switches == {*GEOMETRY, *INTENSITY}


def turned(turn, array):
    return turn.apply(torch.from_numpy(np.ascontiguousarray(array))).numpy()


CUBE = {"shape": (16, 16, 16), "spacing": (1.0, 1.0, 1.0)}  # turns in all three planes
SQUARE = {"shape": (6, 16, 16), "spacing": (3.0, 1.0, 1.0)}  # in one
ROW_SQUARE = {"shape": (16, 6, 16), "spacing": (1.0, 2.0, 1.0)}  # in another
FLAT = {"shape": (6, 16, 12), "spacing": (3.0, 1.0, 1.0)}  # in none


@pytest.mark.parametrize("kind", [CUBE, SQUARE, ROW_SQUARE], ids=["cube", "yx square", "zx square"])
@pytest.mark.parametrize("settings", [{"flip": 0.5}, {"rotate90": 0.7}, {"flip": 0.5, "rotate90": 0.7}])
def test_the_turn_a_patch_carries_is_what_became_of_it(kind, settings):
    patch, augment = patch_of(**kind), only(**settings)
    turns = set()
    for seed in range(60):
        moved = augment(patch, rng(seed))
        turns.add(moved.turn)
        for name in ("image", "target", "known"):
            assert np.array_equal(turned(moved.turn, getattr(patch, name)), getattr(moved, name)), (seed, moved.turn)
        assert moved.origin_zyx_vox == patch.origin_zyx_vox  # of the box it was cut from
    assert len(turns) > 3


def test_the_turn_is_right_where_only_flips_are_possible():
    patch = patch_of(**FLAT)
    for seed in range(20):
        moved = only(flip=0.5)(patch, rng(seed))
        assert moved.turn.source_axes == (0, 1, 2)
        assert np.array_equal(turned(moved.turn, patch.target), moved.target)


def test_intensity_changes_and_free_rotations_leave_the_turn_of_flips_and_quarter_turns():
    patch = patch_of(**SQUARE)
    settings = {"flip": 0.5, "rotate90": 0.7}
    for seed in range(20):
        plain = only(**settings)(patch, rng(seed))
        changed = only(**settings, **dict.fromkeys(INTENSITY, 1))(patch, rng(seed))
        assert changed.turn == plain.turn
        assert np.array_equal(turned(changed.turn, patch.target), changed.target)
        assert only(**settings, rotate=1)(patch, rng(seed)).turn == plain.turn


def test_a_patch_that_nothing_turned_says_so():
    assert only(blur=1)(patch_of(), rng(0)).turn == UNTURNED


def test_a_cube_is_turned_to_every_order_of_axes_and_every_flip():
    augment, patch = only(flip=0.5, rotate90=0.7), patch_of((2, 2, 2), (1.0, 1.0, 1.0))
    turns = [augment(patch, rng(seed)).turn for seed in range(50)]
    assert len({turn.source_axes for turn in turns}) == 6
    assert len({turn.flipped for turn in turns}) == 8


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_every_turn_of_the_corners_is_read_as_numpy_made_it(axes):
    corners = np.arange(8).reshape(2, 2, 2)
    box = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for flipped in itertools.product((False, True), repeat=3):
        backwards = tuple(axis for axis, flip in enumerate(flipped) if flip)
        turn = read_turn(np.flip(corners.transpose(axes), backwards))
        assert turn == Turn(axes, flipped)
        assert np.array_equal(turned(turn, box), np.flip(box.transpose(axes), backwards))


def test_a_turn_leaves_leading_axes_alone():
    maps = torch.rand(5, 2, 3, 4, 6)
    turn = Turn((2, 0, 1), (True, False, True))
    expected = torch.stack([turn.apply(each) for each in maps.flatten(0, 1)]).unflatten(0, (5, 2))
    assert torch.equal(turn.apply(maps), expected)


@pytest.fixture
def noisy_stack(tmp_path):
    data = np.random.default_rng(0).normal(200, 10, (24, 48, 48)).clip(0).astype(np.uint16)
    write_volume(tmp_path / "noise.tif", Volume(data))
    return tmp_path / "noise.tif"


def test_hard_lays_a_background_under_the_patch_and_keeps_its_gold(noisy_stack):
    patch = patch_of((8, 24, 24))
    hard = only(hard=1, hard_backgrounds=(str(noisy_stack),))(patch, rng(0))
    assert np.array_equal(hard.target, patch.target)
    assert hard.image[~patch.target].std() > 0.05  # was 0
    assert hard.image[patch.target].mean() > hard.image[~patch.target].mean()


def test_a_missing_background_is_one_line():
    with pytest.raises(InputError, match=r"nowhere\.tif"):
        only(hard=1, hard_backgrounds=("nowhere.tif",))
