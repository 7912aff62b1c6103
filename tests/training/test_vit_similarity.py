"""Layers of ViTs are compared as what comes after them reads them, so that weights that are kept and lost are apart."""

import copy

import pytest
import torch

from distill3d.layers.photo_vit import PHOTO_VIT
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.training.similarity import _as_read, kept, layer_similarity, mirrored_blocks
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.types import Batch


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig(architecture=PHOTO_VIT))


@pytest.fixture(scope="module")
def student(teacher):
    student = Vit3d(Vit3dConfig(input_zyx=(8, 48, 48), decoder=(2, 2, 2, 2)))
    Inflate(InflateConfig(mode="average")).transfer(student=student, teacher=teacher)
    return student


@pytest.fixture(scope="module")
def batch():
    """Blobs that do not change along z."""
    coarse = torch.rand(4, 1, 1, 12, 12, generator=torch.Generator().manual_seed(0)) ** 3
    image = torch.nn.functional.interpolate(coarse[:, :, 0], (48, 48), mode="bilinear")[:, :, None].repeat(
        1, 1, 8, 1, 1
    )
    return Batch(
        image=image,
        target=torch.zeros_like(image),
        known=torch.ones_like(image, dtype=torch.bool),
        spacing_um=torch.ones(4, 3),
        origin_zyx_vox=torch.zeros(4, 3, dtype=torch.int64),
        cases=tuple("abcd"),
    )


def test_tokens_of_a_block_are_compared_as_a_layer_norm_reads_them_and_other_maps_as_they_are(student):
    tokens = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 7 + 2
    read = (tokens - tokens.mean(-1, keepdim=True)) / tokens.var(-1, keepdim=True, correction=0).sqrt()
    torch.testing.assert_close(_as_read(student.encoder.blocks[0], tokens), read, rtol=1e-4, atol=1e-5)
    for other in (student.encoder.norm, student.encoder.patch_embed, student.decoder, None):
        assert _as_read(other, tokens) is tokens


def test_an_untrained_student_has_kept_all_and_one_of_shuffled_weights_less_than_half(student, teacher, batch):
    before = layer_similarity(student, teacher, batch)
    blocks = mirrored_blocks(student, set(student.state_dict()))
    assert len(blocks) == len(teacher.net.blocks)
    own = [before["cka"]["z"][before["student"].index(s)][before["teacher"].index(t)] for s, t in blocks.items()]
    assert min(own) > 0.98
    generator, shuffled = torch.Generator().manual_seed(0), copy.deepcopy(student)
    with torch.no_grad():
        for value in shuffled.encoder.parameters():
            value.copy_(value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value))
    after = layer_similarity(shuffled, teacher, batch)
    assert kept(before, before, blocks) == 1
    assert kept(before, after, blocks) < 0.5
