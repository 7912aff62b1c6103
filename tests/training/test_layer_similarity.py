"""CKA between layers of student and teacher: known answers, and networks that stay as they were."""

import itertools
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch

from distill3d.config.registry import TEACHERS
from distill3d.data.datamodule import DistillDataModule
from distill3d.evaluation.figures.similarity import similarity_figure
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.training import similarity
from distill3d.training.similarity import PATCHES, kept, layer_similarity, mirrored_blocks, similarity_batch
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.transfer.matching.alignment import linear_cka
from distill3d.types import AXES, Batch


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))


def student_of(teacher, *, inflated):
    torch.manual_seed(1)
    settings = {"stages": 3, "depth_strides": (1, 1, 1), "encoder_norm": "batch", "decoder": (4, 4, 4)}
    student = ConvNet3d(ConvNet3dConfig(encoder="test_efficientnet", **settings))
    if inflated:
        Inflate(InflateConfig(mode="center")).transfer(student=student, teacher=teacher)
    return student


@pytest.fixture(scope="module")
def batch():
    """Blobs that do not change within a cell of slices; sides of 64, so that the teacher needs no padding."""
    coarse = torch.rand(3, 1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    image = coarse.repeat_interleave(8, dim=2).repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    return Batch(
        image=image,
        target=torch.zeros_like(image),
        known=torch.ones_like(image, dtype=torch.bool),
        spacing_um=torch.ones(3, 3),
        origin_zyx_vox=torch.zeros(3, 3, dtype=torch.int64),
        cases=("a", "b", "c"),
    )


@pytest.fixture(scope="module")
def tables(teacher, batch):
    return layer_similarity(student_of(teacher, inflated=True), teacher, batch)


def table(tables, axis):
    return np.array(tables["cka"][axis])


SAME = ("conv_stem", "blocks.0", "blocks.1", "blocks.2")


def pair(tables, layer, axis, other=None):
    return table(tables, axis)[tables["student"].index(f"encoder.{layer}"), tables["teacher"].index(other or layer)]


def test_all_blocks_of_both_are_compared_along_all_axes(tables):
    assert set(tables["student"]) >= {f"encoder.{layer}" for layer in SAME}
    assert set(tables["teacher"]) >= {*SAME, "blocks.3"}
    assert "global_pool" not in tables["teacher"]
    assert list(tables["cka"]) == list(AXES)
    for axis in AXES:
        assert table(tables, axis).shape == (len(tables["student"]), len(tables["teacher"]))


@pytest.mark.parametrize("layer", SAME)
def test_a_student_that_is_its_teacher_slice_by_slice_is_like_it_across_z_and_less_so_elsewhere(tables, layer):
    assert pair(tables, layer, "z") > 0.99
    assert pair(tables, layer, "y") < 0.9
    assert pair(tables, layer, "x") < 0.9
    others = [pair(tables, layer, "z", other) for other in tables["teacher"] if other != layer]
    assert max(others) < pair(tables, layer, "z")


def test_a_student_from_scratch_is_less_like_it(tables, teacher, batch):
    scratch = layer_similarity(student_of(teacher, inflated=False), teacher, batch)
    for layer in SAME:
        assert pair(scratch, layer, "z") < pair(tables, layer, "z")
    assert pair(scratch, "blocks.2", "z") < 0.8


def test_all_values_are_between_0_and_1(tables):
    for axis in AXES:
        assert table(tables, axis).min() >= 0
        assert table(tables, axis).max() <= 1 + 1e-6


def test_the_deepest_value_is_linear_cka_of_maps_averaged_by_hand(tables, teacher, batch):
    # Cells of 8 voxels: blocks.2 halves three times, so a cell is one of its places, and 8 equal slices of depth.
    student = student_of(teacher, inflated=True).eval()
    with torch.no_grad():
        student_map = student.observe(batch.image, ["encoder.blocks.2"]).features["encoder.blocks.2"]
        student_map = student_map.unflatten(2, (2, 8)).mean(3)
        slices = [batch.image[:, :, z] for z in (0, 8)]
        teacher_map = torch.stack([teacher.maps(each, ["blocks.2"])["blocks.2"] for each in slices], dim=2)
    rows = [maps.movedim(1, -1).flatten(0, 3) for maps in (student_map, teacher_map)]
    assert pair(tables, "blocks.2", "z") == pytest.approx(linear_cka(*rows).item(), abs=1e-3)


def test_patches_one_slice_deep_are_compared_on_that_slice(teacher, batch):
    flat = replace(batch, image=batch.image[:, :, :1])
    tables = layer_similarity(student_of(teacher, inflated=True), teacher, flat)
    assert pair(tables, "conv_stem", "z") > 0.9


def test_a_teacher_among_several_is_read_as_alone(tiny, batch):
    vit = "{name: timm2d, architecture: test_vit, weights: random}"
    alone, several = (
        TEACHERS.build(tiny(f"teacher={each}").teacher) for each in (vit, f"{{name: several, members: {{vit: {vit}}}}}")
    )
    student = student_of(None, inflated=False)

    expected, found = (layer_similarity(student, teacher, batch) for teacher in (alone, several))

    assert found["teacher"] == [f"vit.{layer}" for layer in expected["teacher"]]
    assert found["cka"] == expected["cka"]


@pytest.mark.parametrize("training", [True, False])
def test_neither_mode_nor_weights_nor_statistics_change(teacher, batch, training):
    student = student_of(teacher, inflated=False).train(training)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    layer_similarity(student, teacher, batch)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert all(module.training is training for module in student.modules())
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    assert not any(module._forward_hooks for module in itertools.chain(student.modules(), teacher.net.modules()))


def prepared(experiment):
    data = DistillDataModule(experiment)
    data.prepare_data()
    data.setup("fit")
    return data


def test_it_looks_at_patches_of_all_training_cases_around_gold_first_and_always_the_same(tiny):
    looked = similarity_batch(prepared(tiny("patches.val_patches=6", "patches.augment.flip=1")))
    assert looked.cases == ("sim_000", "sim_001", "sim_000", "sim_001")
    assert len(looked.cases) == PATCHES
    assert looked.target.flatten(1).any(1).all()
    again = similarity_batch(prepared(tiny("patches.val_patches=6", "seed=3")))
    assert torch.equal(looked.image, again.image)
    assert len(similarity_batch(prepared(tiny("patches.val_patches=1"))).cases) == 2


def test_so_many_places_are_compared_at_most(teacher, batch, monkeypatch):
    seen = []
    monkeypatch.setattr(similarity, "PLACES", 20)
    original = similarity.linear_cka_table
    monkeypatch.setattr(similarity, "linear_cka_table", lambda a, b: seen.extend(map(len, [*a, *b])) or original(a, b))
    layer_similarity(student_of(teacher, inflated=True), teacher, batch)
    assert set(seen) == {20}


class TestKept:
    def tables(self, *rows):
        layers = {"student": ["blocks.0", "blocks.1", "head"], "teacher": ["stem", "blocks.0", "blocks.1"]}
        return {**layers, "cka": {"z": list(rows), "y": [[1.0] * 3] * 3}}

    def test_it_is_the_mean_of_the_blocks_with_their_own_after_over_the_mean_before(self):
        before = self.tables([0.9, 0.8, 0.7], [0.9, 0.9, 0.4], [1, 1, 1])
        after = self.tables([0.9, 0.5, 0.9], [0.9, 0.9, 0.1], [0, 0, 0])
        blocks = {"blocks.0": "blocks.0", "blocks.1": "blocks.1"}
        assert kept(before, after, blocks) == pytest.approx((0.5 + 0.1) / (0.8 + 0.4))
        assert kept(before, after, {"blocks.1": "blocks.1"}) == pytest.approx(0.25)
        assert kept(before, before, blocks) == 1

    def test_it_is_none_without_a_block_that_both_have(self):
        table = self.tables([1, 1, 1], [1, 1, 1], [1, 1, 1])
        assert kept(table, table, {}) is None
        assert kept(table, table, {"blocks.7": "blocks.7", "blocks.0": "blocks.9"}) is None

    def test_blocks_are_those_that_took_weights_over_and_no_stem(self, teacher):
        student = student_of(teacher, inflated=True)
        moved = {name for name in student.state_dict() if name.startswith("encoder.")}
        assert mirrored_blocks(student, moved) == {f"encoder.blocks.{n}": f"blocks.{n}" for n in range(3)}
        assert mirrored_blocks(student, {n for n in moved if "blocks.1" in n}) == {"encoder.blocks.1": "blocks.1"}
        assert mirrored_blocks(student, {"encoder.conv_stem.weight", "input_mean"}) == {}

    def test_an_encoder_that_is_overwritten_keeps_less(self, teacher, batch, tables):
        scratch = layer_similarity(student_of(teacher, inflated=False), teacher, batch)
        blocks = {f"encoder.blocks.{n}": f"blocks.{n}" for n in range(3)}
        own = [table(scratch, "z")[scratch["student"].index(s), scratch["teacher"].index(t)] for s, t in blocks.items()]
        assert kept(tables, scratch, blocks) == pytest.approx(np.mean(own), rel=0.01)  # all were 1 before
        assert kept(tables, scratch, blocks) < 0.95


def made(value, *, axes=("z", "x"), rows=3, columns=2):
    cka = {axis: [[value] * columns for _ in range(rows)] for axis in axes}
    names = [f"blocks.{k}" for k in range(rows)]
    return {"student": names, "teacher": names[:columns], "cka": cka}


def share_of(image, color):
    return (np.abs(image * 255 - np.array(color)) < 2).all(axis=-1).mean()


def test_the_picture_shows_before_above_after(tmp_path):
    path = similarity_figure(tmp_path / "new" / "map.png", "title", before=made(0.0), after=made(1.0))
    image = matplotlib.image.imread(path)[..., :3]
    top, bottom = np.array_split(image, 2)
    dark, bright = (68, 1, 84), (253, 231, 37)  # ends of viridis
    assert share_of(top, dark) > 0.1
    assert share_of(bottom, bright) > 0.1
    assert share_of(bottom, dark) < 0.05
    assert share_of(top, bright) < 0.05
