"""MONAI's networks behind one door."""

import pytest
import torch

from distill3d.errors import InputError
from distill3d.students.monai_nets import MonaiConfig, MonaiStudent

SETTINGS = {
    "UNETR": {"features": 4, "patch_zyx": (16, 32, 32), "hidden_size": 24, "num_heads": 2},
    "SwinUNETR": {"features": 12},
    "SegResNet": {"features": 8},
    "DynUNet": {"features": 4, "depth_strides": (1, 2)},
}


def _build(network):
    torch.manual_seed(0)
    return MonaiStudent(MonaiConfig(network=network, **SETTINGS[network]))


@pytest.mark.parametrize("network", SETTINGS)
@pytest.mark.parametrize("size", [(9, 40, 33)])
def test_any_size_trains(network, size):
    student = _build(network).train()
    image = torch.rand(1, 1, *size)
    logits = student(image).logits
    assert logits.shape == image.shape
    logits.square().mean().backward()
    trainable = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert len(trainable) > 0.85 * len(list(student.parameters()))


def test_bf16_gives_about_what_float32_gives():
    """Forward only: on a CPU gradients of kernels over 2 x 5 x 5 maps are at times not finite (torch 2.14)."""
    student = _build("SegResNet").eval()
    image = torch.rand(1, 1, 9, 40, 33)
    with torch.no_grad():
        exact = student(image).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = student(image).logits
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.05 * float(exact.abs().max()))


def test_unetr_tiles_a_larger_image():
    student = _build("UNETR").eval()
    image = torch.rand(1, 1, 16, 64, 32)
    with torch.no_grad():
        whole = student(image).logits
        parts = [student(image[:, :, :, y : y + 32]).logits for y in (0, 32)]
    torch.testing.assert_close(whole, torch.cat(parts, dim=3))


@pytest.mark.parametrize("network", ["SwinUNETR"])
def test_a_patch_too_small_to_normalize_is_one_line(network):
    with pytest.raises(InputError, match="a patch of 32 x 32 x 32 voxels is too small") as caught:
        _build(network).train()(torch.rand(1, 1, 32, 32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"network": "SwinUNETR", "features": 20}, "multiples of 12"),
        ({"network": "SegResNet", "features": 20}, "multiples of 8"),
        ({"patch_zyx": (20, 32, 32)}, "multiples of 16"),
        ({"hidden_size": 100, "num_heads": 6}, "multiple of num_heads=6"),
        ({"depth_strides": (4,)}, "1 or 2"),
    ],
)
def test_wrong_settings_say_what_is_accepted(settings, says):
    with pytest.raises(ValueError, match=says):
        MonaiConfig(**settings)
