"""A timm convnet becomes a 3D encoder with timm's own names, or says which layer cannot."""

import pytest
import timm
import torch
from torch import nn

from distill3d.errors import ConfigError
from distill3d.layers.conv3d import PlaneConv3d
from distill3d.students.encoder3d import build_encoder

FAMILIES = [
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "mobilenetv3_small_100",
    "resnet18",
    "resnet50",
    "seresnet50",
    "resnet50d",
    "convnext_atto",
    "convnext_atto_ols",
    "convnextv2_atto",
]


def _build(name, stages=3, **changes):
    settings = {"depth_kernel": "three", "depth_strides": (2,) * stages, "depth_padding": "zeros"}
    return build_encoder(name, stages=stages, **(settings | {"norm": "batch", "pool": "volume"} | changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_name_is_timms_and_every_plane_has_its_shape(name):
    flat = timm.create_model(name, pretrained=False).state_dict()
    for key, value in _build(name).state_dict().items():
        if key.endswith(".shift"):
            continue
        expected = flat[key].shape
        if value.ndim == 5:
            assert value.shape[0] == expected[0], key
            assert value.shape[3:] == expected[2:], key
        else:
            assert value.shape == expected, key


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 2), (1, 1, 1)])
def test_maps_shrink_by_the_strides_asked_for(name, strides):
    encoder = _build(name, depth_strides=strides).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, 1, 16, 32, 32))
    for octave, channels, feature in zip(encoder.octaves, encoder.channels, features, strict=True):
        depth = 16
        for stride in strides[:octave]:
            depth //= stride
        assert feature.shape == (1, channels, depth, 32 // 2**octave, 32 // 2**octave)


def test_neurino_halves_once_in_the_stem():
    encoder = _build("convnext_atto", stages=4, depth_kernel="neurino")
    assert encoder.octaves == (1, 2, 3, 4)
    stem = encoder.get_submodule("stem.0")
    assert (stem.kernel_size, stem.stride, stem.padding) == ((4, 4, 4), (2, 2, 2), (1, 1, 1))
    depthwise = encoder.get_submodule("stages.0.blocks.0.conv_dw")
    assert (depthwise.kernel_size, depthwise.padding) == ((3, 7, 7), (1, 3, 3))
    down = encoder.get_submodule("stages.1.downsample.1")
    assert (down.kernel_size, down.stride, down.padding) == ((2, 2, 2), (2, 2, 2), (0, 0, 0))
    with torch.no_grad():
        assert [f.shape[2:] for f in encoder(torch.rand(1, 1, 32, 32, 32))] == [(16,) * 3, (8,) * 3, (4,) * 3, (2,) * 3]


def test_depth_kernels_follow_the_rule():
    for rule, expected in (("full", {1, 3, 5}), ("three", {1, 3}), ("one", {1})):
        convs = [m for m in _build("efficientnet_b0", depth_kernel=rule).modules() if isinstance(m, PlaneConv3d)]
        assert {conv.kernel_size[0] for conv in convs} == expected


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
def test_random_kernels_keep_the_2d_variance_of_responses(name):
    torch.manual_seed(0)
    flat = timm.create_model(name, pretrained=False)
    for path, layer in _build(name).named_modules():
        if isinstance(layer, PlaneConv3d) and layer.weight.numel() > 2000:
            spread = float(flat.get_submodule(path).weight.detach().std())
            assert layer.weight.std().item() * layer.kernel_size[0] ** 0.5 == pytest.approx(spread, rel=0.15), path


@pytest.mark.parametrize("norm", ["batch", "frozen", "instance", "group"])
def test_no_2d_layer_is_left(norm):
    for name in ("efficientnet_b0", "resnet18"):
        left = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)
        assert not [m for m in _build(name, norm=norm).modules() if isinstance(m, left)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("efficientnet_b0_gn", r"layer GroupNormAct at 'bn1' has no 3D form"),
        ("resnetblur50", r"layer BlurPool2d at 'maxpool\.1' has no 3D form"),
        ("mobilenetv4_conv_small", r"layer UniversalInvertedResidual at 'blocks\.2\.0'"),
        ("vit_tiny_patch16_224", "is a VisionTransformer, which has no 3D form"),
        ("densenet121", "is a DenseNet, which has no 3D form"),
        ("resnet_18", r"^student\.encoder='resnet_18' is not in timm\.list_models\(\); accepted: encoders of"),
        ("tf_efficientnet_lite0.bogus", r"lite0\.bogus': Invalid pretrained tag \(bogus\) .*; accepted: encoders"),
    ],
)
def test_what_has_no_3d_form_is_named_in_one_line(name, says):
    with pytest.raises(ConfigError, match=says) as caught:
        _build(name, stages=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto_ols"])
def test_neurino_is_for_convnext_with_one_convolution_as_stem(name):
    with pytest.raises(ConfigError, match=rf"a rule for ConvNeXt .*, student\.encoder='{name}'"):
        _build(name, depth_kernel="neurino")
