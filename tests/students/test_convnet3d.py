"""The convnet student's settings, names and statistics."""

import pytest
import torch

from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.unet3d import UNet3dConfig


def _tiny(**changes):
    return ConvNet3d(ConvNet3dConfig(encoder="test_efficientnet", stages=3, **changes))


@pytest.mark.parametrize(
    ("strides", "expected"), [((2, 2, 2), (8, 8, 8)), ((1, 2, 2), (4, 8, 8)), ((1, 1, 1), (1, 8, 8))]
)
def test_stride_is_per_axis(strides, expected):
    assert _tiny(depth_strides=strides).stride_zyx == expected


def test_full_resolution_detail_reaches_the_logits_past_the_encoder():
    student = _tiny(norm="batch").eval()
    image = torch.zeros(1, 1, 16, 32, 32)
    with torch.no_grad():
        for parameter in student.encoder.parameters():
            parameter.zero_()
        dark, lit = student(image).logits, image.index_fill(2, torch.tensor([8]), 1.0)
        change = (student(lit).logits - dark).abs().amax((0, 1, 3, 4))
    assert change[8] > 0
    assert change[4] == 0  # and only nearby


def test_encoder_names_lead_to_the_teacher_and_others_do_not():
    student = _tiny()
    keys = {name: student.teacher_key(name) for name in student.state_dict()}
    assert keys["encoder.conv_stem.weight"] == "conv_stem.weight"
    assert {name for name, key in keys.items() if key is None} == {
        name for name in keys if not name.startswith("encoder.") or name.endswith(".shift")
    }


def test_input_entries_exist():
    for encoder in ("test_efficientnet", "resnet18", "convnext_atto"):
        student = ConvNet3d(ConvNet3dConfig(encoder=encoder, stages=3))
        own = student.state_dict()
        assert own[student.input_weight].shape[1] == 1
        assert own[student.input_shift].shape == own[student.input_weight].shape[:1]


def test_input_statistics_are_saved_and_used():
    student, other = _tiny().eval(), _tiny().eval()
    image = torch.rand(1, 1, 16, 32, 32)
    with torch.no_grad():
        before = student(image).logits
        student.set_input_statistics(mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.1))
        after = student(image).logits
        other.load_state_dict(student.state_dict())
        assert torch.equal(other(image).logits, after)
    assert not torch.allclose(before, after)
    assert student.input_mean.item() == pytest.approx(0.4)
    assert student.input_std.item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stages": 1}, "stages=1 is out of range; accepted: 2 to 5"),
        ({"depth_strides": (1, 2)}, r"depth_strides=\[1, 2\] is too short"),
        ({"decoder": (8,)}, r"decoder=\[8\] is too short"),
        ({"depth_strides": (1, 2, 3, 1)}, "accepted: 1 or 2"),
        ({"decoder": (8, 8, 8, 0)}, "1 channel or more"),
        ({"depth_kernel": "neurino", "depth_strides": (1, 2, 2, 2)}, "'neurino' accepts 2 everywhere"),
    ],
)
def test_wrong_settings_say_what_is_accepted(settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        ConvNet3dConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"channels": ()}, "1 or more"),
        ({"channels": (4, 8), "depth_strides": (2, 2)}, "accepted: 1 entries"),
        ({"channels": (4, 8), "depth_strides": (3,)}, "accepted: 1 or 2"),
    ],
)
def test_wrong_unet_settings_say_what_is_accepted(settings, says):
    with pytest.raises(ValueError, match=says):
        UNet3dConfig(**settings)
