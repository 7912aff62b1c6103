"""The shipped ViT, inflated, computes its own 2D tokens. The reference is timm's own forward."""

import pytest
import torch

from distill3d.layers.photo_vit import PHOTO_VIT
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # of tokens of size 1


@pytest.mark.parametrize(("mode", "depth"), [("average", 16), ("center", 8)])
@torch.no_grad()
def test_tokens_are_those_of_the_2d_network(mode, depth):
    teacher = Timm2d(Timm2dConfig(architecture=PHOTO_VIT))
    student = Vit3d(Vit3dConfig(input_zyx=(depth, 96, 96)))
    Inflate(InflateConfig(mode=mode)).transfer(student=student, teacher=teacher)
    image = torch.rand(1, 1, 96, 96)
    volume = torch.rand(1, 1, depth, 96, 96)
    volume[:, :, depth // 2] = image
    if mode == "average":
        volume = image.unsqueeze(2).expand(-1, -1, depth, -1, -1)
    tokens = student.encoder(student.normalize(volume))[-1]
    flat = teacher.net.forward_intermediates(teacher.normalize(image), norm=True, intermediates_only=True)[-1]
    for z in range(tokens.shape[2]):
        torch.testing.assert_close(tokens[:, :, z], flat, **CLOSE)
