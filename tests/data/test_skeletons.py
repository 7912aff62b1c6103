"""Skeletons of gold: what they are, that they are made once, and that they move with the patch."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_cases import SPACING, experiment_of, patches_of, tree_of, write_case
from scipy.ndimage import distance_transform_edt, label
from skimage.morphology import skeletonize

from distill3d.config.registry import Component
from distill3d.config.schema import AugmentConfig, PatchConfig
from distill3d.data import centerline
from distill3d.data.augment import Augment
from distill3d.data.base import Case, DataSource
from distill3d.data.centerline import add_skeletons, skeleton_of
from distill3d.data.datamodule import DistillDataModule
from distill3d.data.patches import TrainPatches, ValPatches, collate, cut
from distill3d.data.prepared import PreparedCase, prepare
from distill3d.errors import InputError
from distill3d.losses.centerline import SkeletonHeadConfig, SkeletonRecallConfig
from distill3d.types import MAX_DILATION_VOX, SkeletonTarget
from distill3d.volumes.raster import rasterize
from distill3d.volumes.volume import Volume, write_volume

SHAPE = (12, 40, 40)
CONFIG = PatchConfig(size_zyx=(8, 16, 16))
EVERY = tuple(SkeletonTarget(source=s, dilation_vox=d) for s in ("mask", "tree") for d in range(MAX_DILATION_VOX + 1))


class Shelf(DataSource):
    """A thick neurite with its tree, one without tree, and one without any gold."""

    def splits(self):
        return {"train": ("a", "treeless", "blank"), "val": (), "test": ()}

    def key(self, name):
        return name

    def load(self, name):
        tree = tree_of()
        mask = rasterize(tree, SHAPE, spacing_um=SPACING, radius="fixed", radius_um=3.0)
        image = (200 * mask + np.arange(mask.size).reshape(SHAPE) % 7).astype(np.uint8)
        return Case(
            name=name,
            volume=Volume(image, SPACING),
            mask=mask & (name != "blank"),
            known=np.ones(SHAPE, bool),
            tree=tree if name == "a" else None,
        )


@pytest.fixture
def shelf(tmp_path):
    source = Shelf(None, cache=tmp_path)
    return {name: prepare(source, name, CONFIG) for name in source.splits()["train"]}


def grown(mask, times):
    """Dilate by the six face neighbors, in loops."""
    for _ in range(times):
        larger = mask.copy()
        for place in np.argwhere(mask):
            for axis, step in itertools.product(range(3), (-1, 1)):
                near = place.copy()
                near[axis] += step
                if 0 <= near[axis] < mask.shape[axis]:
                    larger[tuple(near)] = True
        mask = larger
    return mask


# ---------------------------------------------------------------- what a skeleton is


def test_the_skeleton_of_the_mask_is_a_thin_connected_line_inside_it(shelf):
    mask, line = shelf["a"].mask, skeleton_of(shelf["a"], SkeletonTarget(source="mask", dilation_vox=0))
    assert line.dtype == bool
    assert not (line & ~mask).any()
    assert label(line, np.ones((3, 3, 3)))[1] == 1
    assert line.sum() < 0.1 * mask.sum()
    along_x = np.flatnonzero(line.any((0, 1)))
    assert len(along_x) > 25  # of about 31
    assert np.array_equal(along_x, np.arange(along_x[0], along_x[-1] + 1))


def test_both_sources_run_along_the_middle_of_the_neurite(shelf):
    depth = distance_transform_edt(shelf["a"].mask, sampling=SPACING)
    for source in ("mask", "tree"):
        line = skeleton_of(shelf["a"], SkeletonTarget(source=source, dilation_vox=0))
        assert np.median(depth[line]) > 0.7 * depth.max()


def test_the_line_of_the_tree_is_one_voxel_wide_and_passes_every_node(shelf):
    line = skeleton_of(shelf["a"], SkeletonTarget(source="tree", dilation_vox=0))
    nodes = np.rint(tree_of().points_zyx_um / SPACING).astype(int)
    assert line[tuple(nodes.T)].all()
    assert label(line, np.ones((3, 3, 3)))[1] == 1
    assert line.sum() < 2 * len(np.flatnonzero(line.any((0, 1))))


@pytest.mark.parametrize("target", EVERY, ids=lambda t: t.name)
def test_dilation_grows_the_line_by_face_neighbors_within_gold(shelf, target):
    case = shelf["a"]
    line = skeleton_of(case, SkeletonTarget(source=target.source, dilation_vox=0))
    expected = line | (grown(line, target.dilation_vox) & case.mask)
    assert np.array_equal(skeleton_of(case, target), expected)
    if target.dilation_vox:
        assert expected.sum() > line.sum()


def test_a_neurite_of_even_thickness_keeps_its_line(shelf, monkeypatch):
    """scikit-image alone deletes such a bar as a whole (its issue 3757)."""
    bar = np.zeros(SHAPE, bool)
    bar[3:5, 4:6, 4:24] = True
    assert not skeletonize(bar).any()
    monkeypatch.setattr(PreparedCase, "mask", property(lambda _: bar))
    line = skeleton_of(shelf["a"], SkeletonTarget(source="mask", dilation_vox=0))
    assert np.count_nonzero(line) >= 15
    assert not (line & ~bar).any()


@pytest.mark.parametrize("dilation", range(3))
def test_a_case_without_gold_has_an_empty_skeleton(shelf, dilation):
    assert not skeleton_of(shelf["blank"], SkeletonTarget(source="mask", dilation_vox=dilation)).any()


def test_a_tree_that_is_not_there_is_one_line_that_names_the_case(shelf):
    with pytest.raises(InputError, match="treeless: a skeleton from the tree is wanted") as caught:
        add_skeletons(shelf["treeless"], [SkeletonTarget(source="tree", dilation_vox=0)])
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the cache


def test_a_skeleton_is_made_once_and_opened_as_a_memory_map(shelf, monkeypatch):
    first = add_skeletons(shelf["a"], EVERY)
    assert set(first.skeletons) == {target.name for target in EVERY}

    def fail(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(centerline, "skeleton_of", fail)
    again = add_skeletons(PreparedCase(shelf["a"].folder), EVERY)
    for target in EVERY:
        assert isinstance(again.skeletons[target.name], np.memmap)
        assert np.array_equal(again.skeletons[target.name], first.skeletons[target.name])


def test_cases_and_targets_do_not_share_files(shelf):
    cases = [add_skeletons(shelf[name], EVERY[:3]) for name in ("a", "treeless", "blank")]
    assert len({file for case in cases for _, file in case.skeleton_files}) == 9


def test_other_code_makes_another_skeleton(shelf, monkeypatch):
    before = add_skeletons(shelf["a"], EVERY[:1])
    monkeypatch.setattr(centerline, "code_hash", lambda *_: "other")
    assert add_skeletons(shelf["a"], EVERY[:1]).skeleton_files != before.skeleton_files


@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_a_damaged_skeleton_is_never_read_but_made_again(shelf, harm):
    case = add_skeletons(shelf["a"], EVERY[:1])
    ((name, file),) = case.skeleton_files
    whole = case.skeletons[name].copy()
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        file.unlink()
    assert np.array_equal(add_skeletons(shelf["a"], EVERY[:1]).skeletons[name], whole)


def test_a_failure_leaves_nothing_behind(shelf, monkeypatch):
    def fail(*_):
        raise InputError("no")

    monkeypatch.setattr(centerline, "skeleton_of", fail)
    before = sorted(path for path in shelf["a"].folder.parent.iterdir() if path.is_dir())
    with pytest.raises(InputError, match="no"):
        add_skeletons(shelf["a"], EVERY[:1])
    assert sorted(path for path in shelf["a"].folder.parent.iterdir() if path.is_dir()) == before


def test_a_case_sent_to_another_process_brings_its_skeletons_as_paths(shelf):
    case = add_skeletons(shelf["a"], EVERY)
    assert case.skeletons["mask_0"].any()
    sent = pickle.dumps(case)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).skeletons["tree_1"], case.skeletons["tree_1"])  # noqa: S301 - made above


# ---------------------------------------------------------------- patches


def test_a_skeleton_is_cut_like_gold(shelf):
    case, far = add_skeletons(shelf["a"], EVERY), 30
    for origin in ((-3, 5, -2), (2, 4, 10), (8, 30, 35)):
        patch = cut(case, origin, (8, 16, 16))
        box = tuple(slice(o + far, o + far + n) for o, n in zip(origin, (8, 16, 16), strict=True))
        for name, whole in case.skeletons.items():
            assert np.array_equal(patch.skeletons[name], np.pad(whole, far)[box])


def test_skeletons_change_nothing_else_about_a_patch(shelf):
    config = AugmentConfig(flip=0.5, rotate90=0.5, rotate=0.5)
    plain, more = (
        TrainPatches([case], CONFIG, seed=3, augment=Augment(config))
        for case in (shelf["a"], add_skeletons(shelf["a"], EVERY))
    )
    for index in range(10):
        one, other = plain[index], more[index]
        assert not one.skeletons
        assert one.origin_zyx_vox == other.origin_zyx_vox
        for name in ("image", "target", "known"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("settings", [{"flip": 0.5, "rotate90": 0.5, "rotate": 0.0}, {"rotate": 1.0}])
def test_skeletons_stay_on_the_gold_they_came_from(shelf, settings):
    # Each of these lies within the next, and still does wherever all of them are moved alike.
    case = add_skeletons(shelf["a"], EVERY)
    patches = TrainPatches([case], CONFIG, seed=1, augment=Augment(AugmentConfig(**settings)))
    for index in range(12):
        patch = patches[index]
        for name in ("mask_0", "mask_1", "mask_2"):
            skeleton = patch.skeletons[name]
            assert skeleton.dtype == bool
            assert skeleton.flags.c_contiguous
            assert not (skeleton & ~patch.target).any()
        assert not (patch.skeletons["mask_0"] & ~patch.skeletons["mask_1"]).any()
        assert not (patch.skeletons["tree_1"] & ~patch.skeletons["tree_2"]).any()


@pytest.mark.parametrize("target", EVERY, ids=lambda t: t.name)
def test_dilation_before_flips_and_quarter_turns_is_dilation_after_them(shelf, target):
    case = add_skeletons(shelf["a"], [SkeletonTarget(source=target.source, dilation_vox=0), target])
    config = AugmentConfig(flip=0.5, rotate90=1.0, scale_intensity=0, shift_intensity=0, gamma=0, noise=0, blur=0)
    size = (12, 40, 40)  # the whole case: at the border of a patch, dilation after cutting lacks what lies outside
    for seed in range(6):
        patch = Augment(config)(cut(case, (0, 0, 0), size), np.random.default_rng(seed))
        line = patch.skeletons[f"{target.source}_0"]
        after = line | (grown(line, target.dilation_vox) & patch.target)
        assert np.array_equal(patch.skeletons[target.name], after)


def test_a_batch_holds_skeletons_by_name_and_moves_them_too(shelf):
    case = add_skeletons(shelf["a"], EVERY[:2])
    patches = [cut(case, (0, 0, z), (8, 16, 16)) for z in (0, 10)]
    batch = collate(patches)
    assert list(batch.skeletons) == ["mask_0", "mask_1"]
    for name, skeleton in batch.skeletons.items():
        assert (skeleton.shape, skeleton.dtype) == (batch.known.shape, torch.bool)
        assert np.array_equal(skeleton[1, 0].numpy(), patches[1].skeletons[name])
    moved = batch.to("meta")
    assert {s.device.type for s in (moved.image, *moved.skeletons.values())} == {"meta"}
    assert collate([cut(shelf["a"], (0, 0, 0), (8, 16, 16))]).skeletons == {}


# ---------------------------------------------------------------- who asks


def experiment_with(folder, **losses):
    return replace(experiment_of(folder, patches=patches_of(foreground=1.0)), losses=losses)


@pytest.fixture
def folder(tmp_path):
    for k in range(4):
        write_case(tmp_path, f"n{k}", seed=k)
    return tmp_path


HEAD = Component("skeleton_head", SkeletonHeadConfig(source="tree", dilation_vox=0))
RECALL = Component("skeleton_recall", SkeletonRecallConfig(source="mask", dilation_vox=2))
SAME = Component("skeleton_recall", SkeletonRecallConfig(source="tree", dilation_vox=0, weight=0.1))


def test_training_batches_carry_what_the_losses_want_each_once(folder):
    module = DistillDataModule(experiment_with(folder, a=HEAD, b=RECALL, c=SAME))
    module.prepare_data()
    batch = next(iter(module.train_dataloader()))
    assert list(batch.skeletons) == ["tree_0", "mask_2"]
    assert all(skeleton.any() for skeleton in batch.skeletons.values())
    assert (batch.skeletons["mask_2"] <= (batch.target > 0)).all()


def test_validation_and_test_cases_have_no_skeleton_made(folder):
    module = DistillDataModule(experiment_with(folder, a=HEAD))
    module.prepare_data()
    made = list((folder / "cache" / "prepared").rglob("skeleton.npy"))
    assert len(made) == len(module.case_names("train")) == 2
    assert next(iter(module.val_dataloader())).skeletons == {}
    assert ValPatches(module.cases("val"), CONFIG)[0].skeletons == {}


def test_without_a_loss_that_asks_no_skeleton_is_made(folder):
    module = DistillDataModule(experiment_with(folder))
    module.prepare_data()
    assert not list((folder / "cache" / "prepared").rglob("skeleton.npy"))
    assert next(iter(module.train_dataloader())).skeletons == {}


def test_cases_without_the_tree_a_loss_wants_are_reported_before_training_one_line_each(folder):
    for name in ("n0", "n1"):
        mask = DistillDataModule(experiment_of(folder)).cases("train")[0].mask
        write_volume(folder / f"{name}_mask.tif", Volume(mask.astype(np.uint8), SPACING))
        (folder / f"{name}.swc").unlink()
    with pytest.raises(InputError) as caught:
        DistillDataModule(experiment_with(folder, a=HEAD)).prepare_data()
    assert len(caught.value.lines) == 2
    assert "accepted: source=mask" in caught.value.lines[0]
