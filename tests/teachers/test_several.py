"""Several teachers at once: layers by member, and no member runs in vain."""

import pytest
import torch
from torch import nn

from distill3d.config.registry import Component
from distill3d.errors import ConfigError
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.teachers.base import LOGITS
from distill3d.teachers.several import Several, SeveralConfig
from distill3d.teachers.slices import Zoom, run_slices
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

CNN = Timm2dConfig(architecture="test_efficientnet", weights="random")
VIT = Timm2dConfig(architecture="test_vit", weights="random")
IMAGES = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))


def several(**members):
    chosen = {name: Component("timm2d", config) for name, config in members.items()}
    return Several(SeveralConfig(members=chosen))


@pytest.fixture
def both():
    return several(cnn=CNN, vit=VIT)


def seen(teacher):
    return {name: member.images_seen for name, member in teacher.net.items()}


def test_a_layer_is_named_by_its_member_and_gives_what_the_member_alone_gives(both):
    maps = both.maps(IMAGES, ["vit.blocks.3", "cnn.blocks.1", "cnn.blocks.2"])
    assert set(maps) == {"vit.blocks.3", "cnn.blocks.1", "cnn.blocks.2"}
    for name, config in (("cnn", CNN), ("vit", VIT)):
        alone = Timm2d(config)
        layers = [layer for layer in maps if layer.startswith(name)]
        expected = alone.maps(IMAGES, [layer.removeprefix(f"{name}.") for layer in layers])
        for layer in layers:
            assert torch.equal(maps[layer], expected[layer.removeprefix(f"{name}.")])


def test_a_member_sees_what_it_sees_alone_whatever_sides_the_others_need(both):
    slices = IMAGES[:, :, :40, :56]  # 48 x 64 for the ViT, 64 x 64 for the convnet
    how = {"zoom": Zoom(), "spacing_yx_um": (1.0, 1.0)}
    ((_, together),) = run_slices(both, slices, ["vit.blocks.5", "cnn.blocks.1"], **how)
    for name, layer, config, grid in (("vit", "blocks.5", VIT, (3, 4)), ("cnn", "blocks.1", CNN, (16, 16))):
        ((_, alone),) = run_slices(Timm2d(config), slices, [layer], **how)
        values, *cells = together[f"{name}.{layer}"]
        assert values.shape[1:3] == grid
        assert torch.equal(values, alone[layer][0])
        assert [each.pitch for each in cells] == [each.pitch for each in alone[layer][1:]]


def test_each_member_has_its_own_input_statistics(both):
    both.net["cnn"].input_mean = (0.1, 0.1, 0.1)
    other = several(cnn=CNN, vit=VIT)
    layers = ["vit.blocks.0", "cnn.blocks.0"]
    one, two = both.maps(IMAGES, layers), other.maps(IMAGES, layers)
    assert torch.equal(one["vit.blocks.0"], two["vit.blocks.0"])
    assert not torch.allclose(one["cnn.blocks.0"], two["cnn.blocks.0"])


def test_only_the_members_asked_for_run(both):
    both.maps(IMAGES, ["vit.blocks.0", "vit.blocks.1"])
    assert seen(both) == {"cnn": 0, "vit": 2}
    assert both.images_seen == 2
    both.maps(IMAGES, ["cnn.blocks.0", "vit.blocks.1"])
    assert seen(both) == {"cnn": 2, "vit": 4}
    assert both.images_seen == 6


def test_all_layers_it_names_can_be_asked_for(both):
    layers = both.map_layers()
    assert {"cnn.blocks.0", "cnn.blocks.4", "vit.blocks.0", "vit.blocks.5"} <= set(layers) <= set(both.main_layers())
    both.check_layers(layers)
    assert set(both.maps(IMAGES, layers)) == set(layers)


@pytest.mark.parametrize("layer", ["blocks.2", "cnnn.blocks.2", LOGITS])
def test_a_layer_of_no_member_is_one_line_that_names_them(both, layer):
    with pytest.raises(ConfigError) as caught:
        both.check_layers(["cnn.blocks.2", layer])
    assert caught.value.lines == (f"teacher layer {layer!r} names no member; accepted: cnn.<path>, vit.<path>",)


def test_a_layer_that_a_member_does_not_have_is_told_with_that_members_layers(both):
    with pytest.raises(
        ConfigError, match=r"has no layer 'block\.2'; did you mean 'blocks\.2'\?.*cls_|patch_embed"
    ) as e:
        both.check_layers(["vit.block.2", "cnn.blocks.2"])
    assert "conv_stem" not in str(e.value)
    with pytest.raises(ConfigError, match="'test_efficientnet' does not segment"):
        both.check_layers([f"cnn.{LOGITS}"])


def test_sides_fit_all_members():
    assert several(cnn=CNN, vit=VIT).multiple == 32
    assert several(vit=VIT).multiple == 16


def test_what_it_is_says_all_members_and_depends_on_each():
    one, same = several(cnn=CNN, vit=VIT), several(cnn=CNN, vit=VIT)
    other = several(cnn=CNN, vit=Timm2dConfig(architecture="test_vit", weights="random", seed=1))
    assert one.identity == same.identity
    assert one.identity.architecture == "test_efficientnet + test_vit"
    assert one.identity.random
    assert len({one.identity.sha256, other.identity.sha256, several(cnn=CNN).identity.sha256}) == 3
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, other.fingerprint, several(a=CNN, b=VIT).fingerprint}) == 3


def test_all_members_stay_frozen_and_out_of_every_checkpoint(both):
    parent = nn.Module()
    parent.student, parent.teacher = nn.Conv3d(1, 1, 1), both
    parent.train()
    assert not any(module.training for module in both.modules())
    assert not any(p.requires_grad for p in both.parameters())
    assert {key.split(".")[0] for key in parent.state_dict()} == {"student"}
    parent.load_state_dict(parent.state_dict(), strict=True)


def test_weights_are_copied_from_one_teacher_only(both):
    student = ConvNet3d(ConvNet3dConfig(encoder="test_efficientnet", stages=2))
    with pytest.raises(ConfigError, match=r"the teacher is 'test_efficientnet \+ test_vit'"):
        Inflate(InflateConfig()).transfer(student=student, teacher=both)


@pytest.mark.parametrize("members", [{}, {"a.b": Component("timm2d", CNN)}])
def test_no_member_or_a_name_with_a_dot_is_refused(members):
    with pytest.raises(ValueError, match="accepted: one or more, with names that have no dot"):
        SeveralConfig(members=members)
