"""Patches: cutting and padding, where they come from, and that (seed, index) decides everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.config.schema import PatchConfig
from distill3d.data.base import Case, DataSource
from distill3d.data.patches import (
    BLANK,
    StepSampler,
    TrainPatches,
    ValPatches,
    collate,
    cut,
    draw_origin,
    val_indices,
)
from distill3d.data.prepared import prepare
from distill3d.volumes.volume import Volume

SIZE = (4, 8, 8)
SHAPE = (10, 24, 20)
WHOLE_RANGE = PatchConfig(size_zyx=SIZE, low_percentile=0, high_percentile=100, val_patches=6)


class Shelf(DataSource):
    """Cases whose voxel values are their own flat index, so that a patch tells where it comes from."""

    def splits(self):
        return {"train": ("a", "b", "sparse", "blank"), "val": (), "test": ()}

    def key(self, name):
        return name

    def load(self, name):
        data = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16)
        mask, known = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
        if name != "blank":
            mask[3, 5:20, 7] = True
        if name == "sparse":
            known[:] = False
            known[3] = True
        return Case(name=name, volume=Volume(data, (2.0, 1.0, 1.0)), mask=mask, known=known, tree=None)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    source = Shelf(None, cache=tmp_path_factory.mktemp("cache"))
    return {name: prepare(source, name, WHOLE_RANGE) for name in source.splits()["train"]}


def same(a, b):
    return a.case == b.case and a.origin_zyx_vox == b.origin_zyx_vox and np.array_equal(a.image, b.image)


# ---------------------------------------------------------------- cutting


@settings(max_examples=60, deadline=None)
@given(
    origin=st.tuples(*(st.integers(-15, 30) for _ in range(3))), size=st.tuples(*(st.integers(1, 12) for _ in range(3)))
)
def test_a_cut_is_the_padded_volume_sliced(shelf, origin, size):
    # Slow and independent: pad far on every side, then slice.
    case, far = shelf["sparse"], 50
    patch = cut(case, origin, size)
    box = tuple(slice(o + far, o + far + n) for o, n in zip(origin, size, strict=True))
    for got, whole in ((patch.image, case.image), (patch.target, case.mask), (patch.known, case.known)):
        assert np.array_equal(got, np.pad(whole, far)[box])
    assert patch.origin_zyx_vox == origin


def test_voxels_outside_the_volume_are_not_known(shelf):
    patch = cut(shelf["a"], (-2, -1, 18), SIZE)
    assert patch.known.sum() == 2 * 7 * 2
    assert not patch.known[:2].any()
    assert not patch.image[~patch.known].any()


# ---------------------------------------------------------------- where patches come from


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    foreground=st.booleans(),
    name=st.sampled_from(["a", "sparse", "blank"]),
    size=st.tuples(*(st.integers(1, 30) for _ in range(3))),
)
def test_a_patch_stays_inside_and_is_centered_where_it_is_larger(shelf, seed, foreground, name, size):
    origin = draw_origin(shelf[name], size, np.random.default_rng(seed), foreground=foreground)
    for o, n, full in zip(origin, size, SHAPE, strict=True):
        if n <= full:
            assert 0 <= o <= full - n
        else:
            assert abs((-o) - (o + n - full)) <= 1  # as much padding before as after


def test_foreground_patches_hold_gold_and_others_often_do_not(shelf):
    def share(foreground):
        rng = np.random.default_rng(0)
        return np.mean(
            [
                cut(shelf["a"], draw_origin(shelf["a"], SIZE, rng, foreground=foreground), SIZE).target.any()
                for _ in range(100)
            ]
        )

    assert share(foreground=True) == 1
    assert share(foreground=False) < 0.6


def test_gold_is_not_always_at_the_center_of_a_foreground_patch(shelf):
    rng = np.random.default_rng(0)
    places = {draw_origin(shelf["a"], SIZE, rng, foreground=True)[2] for _ in range(100)}
    assert places == {1, 2, 3, 4, 5}  # gold at x = 7, size 8: 3 centers it, 2 either way


def test_random_patches_reach_every_place_alike(shelf):
    rng = np.random.default_rng(0)
    starts = np.array([draw_origin(shelf["a"], SIZE, rng, foreground=False) for _ in range(2000)])
    assert starts.min(axis=0).tolist() == [0, 0, 0]
    assert starts.max(axis=0).tolist() == [6, 16, 12]
    assert np.allclose(starts.mean(axis=0), [3, 8, 6], atol=0.4)


def test_a_case_without_gold_gives_random_patches(shelf):
    rng = np.random.default_rng(0)
    assert len({draw_origin(shelf["blank"], SIZE, rng, foreground=True) for _ in range(20)}) > 10


def test_random_patches_of_a_sparsely_labelled_case_hold_labelled_voxels(shelf):
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert cut(shelf["sparse"], draw_origin(shelf["sparse"], SIZE, rng, foreground=False), SIZE).known.any()


def test_cases_are_drawn_alike_however_much_gold_they_have(shelf):
    patches = TrainPatches([shelf["a"], shelf["blank"]], WHOLE_RANGE, seed=0)
    assert np.mean([patches[i].case == "a" for i in range(300)]) == pytest.approx(0.5, abs=0.1)


# ---------------------------------------------------------------- a function of (seed, index)


def test_a_patch_depends_on_seed_and_index_only(shelf):
    cases = [shelf["a"], shelf["b"]]
    forward, backward = TrainPatches(cases, WHOLE_RANGE, seed=3), TrainPatches(cases, WHOLE_RANGE, seed=3)
    first = [forward[i] for i in range(20)]
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    torch.manual_seed(0)
    last = [backward[i] for i in reversed(range(20))][::-1]
    assert all(same(a, b) for a, b in zip(first, last, strict=True))


def test_other_seeds_and_other_indices_give_other_patches(shelf):
    patches, other = (TrainPatches([shelf["a"]], WHOLE_RANGE, seed=seed) for seed in (0, 1))
    assert len({patches[i].origin_zyx_vox for i in range(50)}) > 30
    assert sum(same(patches[i], other[i]) for i in range(50)) < 10


@settings(max_examples=50, deadline=None)
@given(world=st.integers(1, 5), batch=st.integers(1, 4), steps=st.integers(1, 6), epoch=st.integers(0, 3))
def test_processes_together_see_at_every_step_what_one_process_would(world, batch, steps, epoch):
    one = StepSampler(steps * batch * world)
    many = [StepSampler(steps * batch, rank=rank, world=world) for rank in range(world)]
    for sampler in (one, *many):
        sampler.set_epoch(epoch)
    alone, shared = list(one), [list(sampler) for sampler in many]
    for step in range(steps):
        whole = alone[step * batch * world : (step + 1) * batch * world]
        assert sorted(whole) == sorted(i for share in shared for i in share[step * batch : (step + 1) * batch])


def test_epochs_continue_where_the_last_one_ended():
    sampler = StepSampler(3, rank=1, world=2)
    seen = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert len(sampler) == 3
        seen += list(sampler)
    assert seen == [1, 3, 5, 7, 9, 11, 13, 15, 17]


# ---------------------------------------------------------------- validation


def test_validation_patches_are_the_same_in_every_run_and_hold_gold_as_often_as_said(shelf):
    patches, again = (ValPatches([shelf["a"], shelf["b"]], WHOLE_RANGE) for _ in range(2))
    assert len(patches) == 12
    assert all(same(patches[i], again[i]) for i in range(12))
    assert [patches[i].case for i in range(12)] == ["a"] * 6 + ["b"] * 6
    assert all(patches[i].target.any() for i in range(4))  # round(0.67 * 6) around gold
    assert len({patches[i].origin_zyx_vox for i in range(6)}) == 6


def test_validation_patches_of_a_case_do_not_change_with_its_neighbors(shelf):
    both, alone = ValPatches([shelf["a"], shelf["b"]], WHOLE_RANGE), ValPatches([shelf["b"]], WHOLE_RANGE)
    assert all(same(both[6 + i], alone[i]) for i in range(6))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 40), world=st.integers(1, 5))
def test_processes_share_validation_patches_without_loss_and_with_equal_counts(count, world):
    shares = [val_indices(count, rank=rank, world=world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for i in share if i != BLANK) == list(range(count))


def test_a_blank_patch_has_no_known_voxel(shelf):
    patch = ValPatches([shelf["a"]], WHOLE_RANGE)[BLANK]
    assert patch.image.shape == SIZE
    assert not patch.known.any()


# ---------------------------------------------------------------- batches


def test_collate_makes_a_batch_with_the_documented_shapes_and_types(shelf):
    patches = [cut(shelf["a"], (-1, 2, 3), SIZE), cut(shelf["sparse"], (0, 0, 0), SIZE)]
    batch = collate(patches)
    assert batch.image.shape == batch.target.shape == batch.known.shape == (2, 1, *SIZE)
    kinds = (batch.image.dtype, batch.target.dtype, batch.known.dtype, batch.spacing_um.dtype)
    assert kinds == (torch.float32, torch.float32, torch.bool, torch.float32)
    assert batch.origin_zyx_vox.tolist() == [[-1, 2, 3], [0, 0, 0]]
    assert batch.cases == ("a", "sparse")
    assert np.array_equal(batch.target[0, 0].numpy(), patches[0].target)
    assert np.array_equal(batch.image[1, 0].numpy(), patches[1].image)
