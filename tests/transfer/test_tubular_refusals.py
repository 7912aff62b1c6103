"""What `tubular` refuses, each in one line that says what to change."""

import pytest
import torch

from distill3d.errors import ConfigError
from distill3d.experiment import load_experiment
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.tubular import Tubular, TubularConfig


def _adapted(**settings):
    student, strategy = Vit3d(Vit3dConfig(**settings)), Tubular(TubularConfig())
    strategy.adapt(student)
    return student, strategy


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("axes=[]", r"axes=\[\]: accepted: one or more of z, y, x, each once"),
        ("axes=[z,x,z]", r"axes=\['z', 'x', 'z'\]: accepted: one or more of z, y, x, each once"),
        ("axes=[z,w]", r"axes: \['z', 'w'\] is not accepted"),
        ("taps=0", "taps=0 is too small; accepted: 1 or more"),
        ("tap_spacing=0", "tap_spacing=0.0 is too small; accepted: more than 0"),
        ("extent=0", "extent=0.0 is too small; accepted: more than 0"),
        ("hidden=0", "hidden=0 is too small; accepted: more than 0"),
        ("fusion=max", "'max' is not accepted"),
    ],
)
def test_a_setting_out_of_range_is_one_line(tmp_path, setting, says):
    path = tmp_path / "tubes.yaml"
    path.write_text("data: {name: simulated}\nstudent: {name: vit3d}\nstrategy: {name: tubular}\n")
    with pytest.raises(ConfigError, match=says) as caught:
        load_experiment(path, [f"strategy.{setting}"])
    assert len(caught.value.lines) == 1
    assert "\n" not in str(caught.value)
    assert "strategy" in str(caught.value)


def test_angles_beyond_45_degrees_are_one_line(tmp_path):
    path = tmp_path / "tubes.yaml"
    path.write_text(
        "data: {name: simulated}\nstudent: {name: vit3d}\nstrategy: {name: tubular, law: angles, extent: 2}\n"
    )
    with pytest.raises(ConfigError, match=r"extent=2.0 is out of range; accepted with law='angles': up to 1") as caught:
        load_experiment(path)
    assert "\n" not in str(caught.value)


def test_a_student_without_blocks_is_told_which_has_them():
    with pytest.raises(ConfigError, match=r"^strategy tubular: student UNet3d .*; set student.name=vit3d$"):
        Tubular(TubularConfig()).adapt(UNet3d(UNet3dConfig(channels=(4, 8), depth_strides=(1,))))


def test_a_run_without_teacher_is_told_to_name_one():
    student, strategy = _adapted()
    with pytest.raises(ConfigError, match=r"^strategy tubular needs a teacher; set teacher.name$"):
        strategy.transfer(student=student, teacher=NoTeacher(NoTeacherConfig()))


def test_a_convnet_has_no_patch_to_unroll():
    student, strategy = _adapted()
    net = Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))
    with pytest.raises(ConfigError, match=r"^strategy tubular: .*'test_efficientnet' is no ViT; set teacher.arch"):
        strategy.transfer(student=student, teacher=net)


def test_a_block_one_pixel_wide_names_both_patches_and_changes_nothing():
    name = "vit_tiny_patch16_224"
    student, strategy = _adapted(encoder=name, block_zyx=(4, 8, 1))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    net = Timm2d(Timm2dConfig(architecture=name, weights="random"))
    says = (
        r"student.block_zyx: the student's patch is \(8, 1\), that of the teacher 'vit_tiny_patch16_224' is \(16, 16\)"
    )
    with pytest.raises(ConfigError, match=says):
        strategy.transfer(student=student, teacher=net)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
