"""3D convolutions agree with 2D ones in the plane, to the voxel."""

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from distill3d.layers.blocks3d import upsample
from distill3d.layers.conv3d import PlaneConv3d, depth_kernel_size, depth_padding_size


def _same_pair(kernel, stride, size):
    flat = Conv2dSame(2, 3, kernel, stride=stride)
    solid = PlaneConv3d(2, 3, kernel_size=(1, kernel, kernel), stride=(1, stride, stride), plane_padding=None)
    with torch.no_grad():
        solid.weight.copy_(flat.weight.unsqueeze(2))
        solid.bias.copy_(flat.bias)
    volume = torch.rand(1, 2, 3, *size)
    return torch.stack([flat(volume[:, :, z]) for z in range(3)], dim=2), solid(volume)


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (10, 13)])
def test_same_padding_is_tensorflows(kernel, size):
    flat, solid = _same_pair(kernel, 2, size)
    torch.testing.assert_close(solid, flat)


@pytest.mark.parametrize("rule", ["full", "three", "one", "neurino"])
@pytest.mark.parametrize("plane", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_depth_shrinks_by_its_stride_exactly(rule, plane, stride):
    depth = depth_kernel_size(plane, rule=rule, stride=stride)
    conv = PlaneConv3d(1, 1, kernel_size=(depth, 1, 1), stride=(stride, 1, 1))
    assert conv(torch.rand(1, 1, 16, 2, 2)).shape[2] == 16 // stride


def test_neurino_kernels_are_the_published_ones():
    # methods.md, section 2: stem 4x4x4 / 2 padding 1, downsample 2x2x2 / 2, depthwise (3, 7, 7) padding (1, 3, 3)
    sizes = [depth_kernel_size(plane, rule="neurino", stride=stride) for plane, stride in ((4, 2), (2, 2), (7, 1))]
    paddings = [depth_padding_size(depth, stride=s) for depth, s in zip(sizes, (2, 2, 1), strict=True)]
    assert (sizes, paddings) == ([4, 2, 3], [1, 0, 1])


@pytest.mark.parametrize(("padding", "constant"), [("replicate", True), ("zeros", False)])
def test_replicate_padding_keeps_constant_volumes_constant(padding, constant):
    conv = PlaneConv3d(1, 1, kernel_size=(3, 1, 1), depth_padding=padding, bias=False)
    out = conv(torch.ones(1, 1, 4, 1, 1)).flatten()
    assert torch.allclose(out, out[1].expand(4)) is constant


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_depthwise_on_cpu_equals_torchs_own(padding):
    torch.manual_seed(0)
    plane = PlaneConv3d(6, 6, kernel_size=(3, 3, 3), plane_padding=(1, 1), groups=6, depth_padding=padding)
    torchs = nn.Conv3d(6, 6, 3, padding=1, groups=6)
    torchs.load_state_dict(plane.state_dict())
    volume = torch.rand(2, 6, 5, 8, 8)
    inside = slice(1, -1) if padding == "replicate" else slice(None)
    torch.testing.assert_close(plane(volume)[:, :, inside], torchs(volume)[:, :, inside])


def test_shift_acts_like_a_bias_and_is_never_trained():
    conv = PlaneConv3d(1, 2, kernel_size=(1, 1, 1), bias=False, shift=True)
    conv.shift.copy_(torch.tensor([1.0, -2.0]))
    assert conv(torch.zeros(1, 1, 1, 1, 1)).flatten().tolist() == [1.0, -2.0]
    assert "shift" in conv.state_dict()
    assert {name for name, _ in conv.named_parameters()} == {"weight"}


def test_shift_beside_a_bias_is_refused():
    with pytest.raises(ValueError, match="needs no shift"):
        PlaneConv3d(1, 1, kernel_size=(1, 1, 1), bias=True, shift=True)


def test_upsampling_repeats_voxels():
    image = torch.rand(2, 3, 2, 3, 4)
    expected = nn.Upsample(scale_factor=(1, 2, 2), mode="nearest")(image)
    assert torch.equal(upsample(image, (1, 2, 2)), expected)
