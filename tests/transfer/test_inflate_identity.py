"""Identity: the inflated encoder computes the 2D network's features. The reference is timm's own forward.

EfficientNet-Lite0 has its real ImageNet weights. The other families have random ones whose normalization layers are
random too: timm starts some at 0, which would hide half of the network.
"""

import pytest
import timm
import torch

from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def _restless(name, folder):
    """Build a teacher from a file of random weights in which no layer is idle."""
    torch.manual_seed(0)
    state = timm.create_model(name, pretrained=False).state_dict()
    for key, value in state.items():
        if value.ndim == 1 and key.endswith(("weight", "running_var", "gamma")):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.uniform_(-0.3, 0.3)
    path = folder / f"{name}.pth"
    torch.save(state, path)
    return Timm2d(Timm2dConfig(architecture=name, weights="file", path=str(path)))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    known = {"tf_efficientnet_lite0": Timm2d(Timm2dConfig())}
    folder = tmp_path_factory.mktemp("weights")

    def get(name):
        if name not in known:
            known[name] = _restless(name, folder)
        return known[name]

    return get


def _student(teacher, mode, **changes):
    torch.manual_seed(1)
    settings = {"encoder_norm": "frozen", "depth_padding": "replicate"} | changes
    student = ConvNet3d(ConvNet3dConfig(encoder=teacher.identity.architecture, **settings))
    Inflate(InflateConfig(mode=mode)).transfer(student=student, teacher=teacher)
    return student  # left in training mode: frozen statistics must make no difference


@torch.no_grad()
def _flat(teacher, image, count):
    """Features of [N, 1, Y, X] by timm's own forward."""
    gray = teacher.normalize(image.expand(-1, 3, -1, -1))
    return teacher.net.forward_intermediates(gray, intermediates_only=True)[:count]


@torch.no_grad()
def _solid(student, volume):
    return student.encoder((volume - student.input_mean) / student.input_std)


def _scaled(feature):
    """Bring deep features of large networks to a common scale, so that one tolerance fits."""
    return feature / feature.abs().mean()


AVERAGE = [
    ("tf_efficientnet_lite0", {"stages": 5, "depth_strides": (1, 1, 1, 1, 1)}),
    ("tf_efficientnet_lite0", {"stages": 4, "depth_strides": (2, 2, 2, 2)}),
    ("tf_efficientnet_lite0", {"stages": 4, "depth_strides": (1, 2, 1, 2), "depth_kernel": "full"}),
    ("tf_efficientnet_lite0", {"stages": 4, "depth_kernel": "one"}),
    ("tf_efficientnet_lite0", {"stages": 4, "encoder_norm": "batch"}),
    ("resnet18", {"stages": 4}),
    ("resnet50d", {"stages": 3}),
    ("seresnet50", {"stages": 3}),
    ("efficientnet_b0", {"stages": 4}),
    ("mobilenetv3_small_100", {"stages": 4}),
    ("convnext_atto", {"stages": 4}),
    ("convnext_atto", {"stages": 4, "depth_kernel": "full"}),
    ("convnext_tiny", {"stages": 2}),
    ("convnextv2_atto", {"stages": 4, "depth_strides": (1, 1, 2, 2)}),
]


@pytest.mark.parametrize(("name", "changes"), AVERAGE)
def test_average_on_a_volume_constant_along_depth_is_the_2d_network(teachers, name, changes):
    teacher = teachers(name)
    student = _student(teacher, "average", **changes)
    student.train(changes.get("encoder_norm") != "batch")
    image = torch.rand(1, 1, 32, 64)
    if name != "tf_efficientnet_lite0":  # these have ImageNet's statistics: gray alone is tested below
        teacher = _without_statistics(teacher, student)
    depth = max(2, student.stride_zyx[0])
    solid = _solid(student, image.unsqueeze(2).expand(-1, -1, depth, -1, -1))
    flat = _flat(teacher, image, 5)[-5:][: len(solid)]
    assert solid
    for one, other in zip(solid, flat, strict=True):
        for z in range(one.shape[2]):
            torch.testing.assert_close(_scaled(one[:, :, z]), _scaled(other), **CLOSE)


def _without_statistics(teacher, student):
    """Give teacher and student the same plain input statistics, and inflate again."""
    teacher.input_mean = teacher.input_std = (0.5, 0.5, 0.5)
    Inflate(InflateConfig(mode="average")).transfer(student=student, teacher=teacher)
    return teacher


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tf_efficientnet_lite0", {"stages": 5}),
        ("tf_efficientnet_lite0", {"stages": 4, "depth_kernel": "full", "depth_padding": "zeros"}),
        ("resnet18", {"stages": 4, "depth_padding": "zeros"}),
        ("convnext_atto", {"stages": 4, "depth_padding": "zeros"}),
        ("convnext_tiny", {"stages": 2, "depth_kernel": "full"}),
        ("seresnet50", {"stages": 3, "pool": "slice"}),
        ("efficientnet_b0", {"stages": 4, "pool": "slice"}),
        ("mobilenetv3_small_100", {"stages": 4, "pool": "slice"}),
        ("convnextv2_atto", {"stages": 4, "pool": "slice"}),
    ],
)
def test_center_without_depth_strides_is_the_2d_network_slice_by_slice(teachers, name, changes):
    teacher = teachers(name)
    teacher.input_mean = teacher.input_std = (0.5, 0.5, 0.5)
    student = _student(teacher, "center", depth_strides=(1, 1, 1, 1, 1), **changes)
    volume = torch.rand(1, 1, 3, 32, 64)
    solid = _solid(student, volume)
    for z in range(3):
        for one, other in zip(solid, _flat(teacher, volume[:, :, z], len(solid)), strict=True):
            torch.testing.assert_close(_scaled(one[:, :, z]), _scaled(other), **CLOSE)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_100", "convnextv2_atto"])
def test_pooling_over_the_volume_is_not_the_2d_network_and_the_student_says_so(teachers, name):
    teacher = teachers(name)
    teacher.input_mean = teacher.input_std = (0.5, 0.5, 0.5)
    volume = torch.rand(1, 1, 2, 32, 64)
    for pool, exact in (("volume", False), ("slice", True)):
        student = _student(teacher, "center", stages=3, depth_strides=(1, 1, 1), pool=pool)
        solid = _solid(student, volume)
        flat = _flat(teacher, volume[:, :, 0], len(solid))
        assert torch.allclose(_scaled(solid[-1][:, :, 0]), _scaled(flat[-1]), **CLOSE) is exact
        assert [line.split(":")[0] for line in student.departures()] == ([] if exact else ["pool=volume"])


def test_average_is_not_the_2d_network_on_a_volume_that_changes(teachers):
    teacher = teachers("tf_efficientnet_lite0")
    student = _student(teacher, "average", stages=3, depth_strides=(1, 1, 1))
    volume = torch.rand(1, 1, 8, 64, 64)
    one, other = _solid(student, volume)[-1][:, :, 4], _flat(teacher, volume[:, :, 4], 3)[-1]
    assert (one - other).abs().mean() > 0.1 * other.abs().mean()


class TestGraySlice:
    """ImageNet's statistics differ per channel; one gray channel must stand in for all three."""

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def pair(self, teachers, name):
        teacher = teachers(name)
        teacher.input_mean, teacher.input_std = self.MEAN, self.STD
        student = _student(teacher, "center", stages=3, depth_strides=(1, 1, 1))
        volume = torch.rand(1, 1, 2, 64, 64)
        return student, volume, _flat(teacher, volume[:, :, 0], 2)

    def test_same_features_away_from_the_border(self, teachers):
        student, volume, flat = self.pair(teachers, "resnet18")
        inside = (..., slice(2, -2), slice(2, -2))  # the 7 x 7 stem at stride 2 meets padding in its first two outputs
        torch.testing.assert_close(_solid(student, volume)[0][:, :, 0][inside], flat[0][inside], **CLOSE)

    def test_same_features_everywhere_where_the_stem_pads_nothing(self, teachers):
        student, volume, flat = self.pair(teachers, "convnext_atto")
        for one, other in zip(_solid(student, volume), flat, strict=True):
            torch.testing.assert_close(one[:, :, 0], other, **CLOSE)

    def test_the_stem_had_to_absorb_something(self, teachers):
        student, volume, flat = self.pair(teachers, "resnet18")
        student.get_buffer(student.input_shift).zero_()
        inside = (..., slice(2, -2), slice(2, -2))
        assert not torch.allclose(_solid(student, volume)[0][:, :, 0][inside], flat[0][inside], **CLOSE)
