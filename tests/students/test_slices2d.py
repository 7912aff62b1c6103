"""The 2D segmenter as a student: every slice stands alone, and the whole 2D encoder can be copied into it."""

import pytest
import torch

from distill3d.errors import ConfigError
from distill3d.students.slices2d import Slices2d, Slices2dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.types import AXES

SHAPE = (16, 24, 32)
every_axis = pytest.mark.parametrize("axis", AXES)


def student(axis="z", **settings):
    torch.manual_seed(0)
    settings = {"encoder": "test_efficientnet", "stages": 3, "width": 4} | settings
    return Slices2d(Slices2dConfig(axis=axis, **settings)).eval()


def volume(seed=0, batch=2):
    return torch.rand(batch, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(net, image):
    return net(image).logits


@every_axis
def test_changing_one_slice_changes_no_other(axis):
    net, along = student(axis), 2 + AXES.index(axis)
    image, other = volume(), volume()
    other.select(along, 5)[1] = torch.rand(other.select(along, 5)[1].shape)
    moved = (logits(net, image) - logits(net, other)).abs()
    changed = moved[1].sum(dim=[d for d in range(4) if d != along - 1]) > 1e-5
    assert changed.nonzero().flatten().tolist() == [5]
    assert moved[0].max() < 1e-6  # nor another patch of the batch


@every_axis
def test_a_flip_along_the_axis_commutes(axis):
    net, along = student(axis), 2 + AXES.index(axis)
    torch.testing.assert_close(logits(net, volume().flip(along)), logits(net, volume()).flip(along))


@every_axis
def test_any_order_of_slices_commutes_and_the_axis_matters(axis):
    net, along = student(axis), 2 + AXES.index(axis)
    order = torch.randperm(SHAPE[along - 2], generator=torch.Generator().manual_seed(1))
    shuffled = volume().index_select(along, order)
    torch.testing.assert_close(logits(net, shuffled), logits(net, volume()).index_select(along, order))
    for other in set(AXES) - {axis}:
        moved = logits(net, volume().flip(2 + AXES.index(other)))
        assert not torch.allclose(moved, logits(net, volume()).flip(2 + AXES.index(other)), atol=1e-4)


@every_axis
def test_a_slice_alone_is_what_the_2d_network_says_of_it(axis):
    net, along = student(axis), 2 + AXES.index(axis)
    net.set_input_statistics(mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.1))
    image = volume()
    single = image.select(along, 3)
    channels = torch.cat([(single - m) / s for m, s in ((0.2, 0.5), (0.4, 0.25), (0.6, 0.1))], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(logits(net, image).select(along, 3), net.net(channels))


@every_axis
def test_maps_of_layers_are_stacked_up_along_the_axis(axis):
    net, along = student(axis), 2 + AXES.index(axis)
    with torch.no_grad():
        maps = net.observe(volume(), ["net.encoder.blocks.1", "net.head"]).features
        one = net.observe(volume().narrow(along, 2, 1), ["net.encoder.blocks.1"]).features["net.encoder.blocks.1"]
    deep = maps["net.encoder.blocks.1"]
    sides = [n if other == axis else n // 4 for other, n in zip(AXES, SHAPE, strict=True)]
    assert list(deep.shape) == [2, 24, *sides]
    torch.testing.assert_close(deep.narrow(along, 2, 1), one)
    assert "net.encoder.blocks.2" in net.map_layers(volume(batch=1))


@every_axis
def test_only_the_plane_must_be_divisible(axis):
    net = student(axis)
    assert net.stride_zyx == tuple(1 if other == axis else 8 for other in AXES)
    assert logits(net, torch.rand(1, 1, 5, 9, 11)).shape == (1, 1, 5, 9, 11)


@pytest.mark.parametrize(("stages", "side"), [(2, 4), (3, 8), (4, 16), (5, 32)])
def test_more_stages_make_coarser_maps(stages, side):
    net = student(stages=stages)
    assert net.stride_zyx == (1, side, side)
    assert len(net.net.lateral) == stages


def test_the_whole_encoder_is_copied_from_the_2d_network():
    teacher = Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))
    net = student()
    audit = Inflate(InflateConfig()).transfer(student=net, teacher=teacher)
    encoder = [row for row in audit.rows if row.name.startswith("net.encoder.")]
    assert encoder
    assert {row.fate for row in encoder} == {"copied"}
    assert {row.fate for row in audit.rows if row not in encoder} <= {"new", "averaged"}  # input statistics
    assert tuple(net.input_mean.tolist()) == pytest.approx(teacher.input_mean)
    with torch.no_grad():
        features = net.observe(volume(), ["net.encoder.blocks.2"]).features["net.encoder.blocks.2"]
    expected = teacher.maps(volume()[0].movedim(1, 0), ["blocks.2"])["blocks.2"]
    torch.testing.assert_close(features[0].movedim(1, 0), expected)


def test_the_teacher_must_be_the_same_network():
    teacher = Timm2d(Timm2dConfig(architecture="test_resnet", weights="random"))
    with pytest.raises(ConfigError, match="the student mirrors 'test_efficientnet', the teacher is 'test_resnet'"):
        Inflate(InflateConfig()).transfer(student=student(), teacher=teacher)


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ("test_vit", " has no map per halving"),
        ("rasnet18", " is not in timm.list_models()"),
        ("resnet18.bogus", ": Invalid pretrained tag (bogus) for resnet18"),
    ],
)
def test_what_is_no_convnet_is_one_line(encoder, reason):
    with pytest.raises(ConfigError) as caught:
        student(encoder=encoder)
    (line,) = caught.value.lines
    assert line.startswith(f"encoder='{encoder}'{reason}; accepted: a convnet such as resnet18")


@pytest.mark.parametrize("settings", [{"stages": 1}, {"stages": 6}, {"width": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=rf"{next(iter(settings))}=.*accepted: "):
        Slices2dConfig(**settings)


def test_it_begins_by_saying_little_is_neuron():
    assert 0.001 < logits(student(), volume()).sigmoid().mean() < 0.2
