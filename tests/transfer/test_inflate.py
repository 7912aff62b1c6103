"""`inflate` moves all it can, refuses what does not fit, and its control differs in the order of values only."""

import dataclasses
import json

import pytest
import torch

from distill3d.errors import ConfigError, InputError
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

PLACEMENTS = ["average", "center", "center_noise", "multi_axis"]


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig())


def _student(**changes):
    torch.manual_seed(0)
    return ConvNet3d(ConvNet3dConfig(stages=3, **changes))


def _inflated(teacher, mode, **changes):
    student = _student(encoder_norm="batch")
    audit = Inflate(InflateConfig(mode=mode, **changes)).transfer(student=student, teacher=teacher)
    return student, audit


@pytest.mark.parametrize("mode", [*PLACEMENTS, "shuffled"])
def test_everything_in_the_encoder_comes_from_the_teacher(teacher, mode):
    student, audit = _inflated(teacher, mode)
    encoder = {name for name in student.state_dict() if name.startswith("encoder.")}
    assert encoder == audit.transferred - {"input_mean", "input_std"}
    assert 0.5 < audit.copy_rate < 1


def test_fates_are_told_apart(teacher):
    _, audit = _inflated(teacher, "center")
    rows = {row.name: row for row in audit.rows}
    assert rows["encoder.blocks.1.0.conv_dw.weight"].fate == "inflated"
    assert rows["encoder.blocks.1.0.conv_pw.weight"].fate == "copied"
    assert rows["encoder.bn1.running_var"].fate == "copied"
    assert rows["encoder.conv_stem.weight"].note == "sum over input channels"
    assert rows["encoder.conv_stem.weight"].source_shape == (32, 3, 3, 3)
    assert rows["head.weight"].fate == "new"
    assert not rows["encoder.bn1.running_var"].trainable
    _, average = _inflated(teacher, "average")
    assert {row.name: row for row in average.rows}["encoder.blocks.1.0.conv_dw.weight"].fate == "averaged"


def test_audit_is_plain_json(teacher):
    _, audit = _inflated(teacher, "center")
    assert json.loads(json.dumps(audit.as_dict()))["copy_rate"] == pytest.approx(audit.copy_rate)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_without_running_statistics_still_take_the_affine_values(teacher, norm):
    student = _student(encoder_norm=norm)
    Inflate(InflateConfig()).transfer(student=student, teacher=teacher)
    assert torch.equal(student.state_dict()["encoder.bn1.weight"], teacher.net.state_dict()["bn1.weight"])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_shuffled_control_differs_in_the_order_of_values_only(teacher, placement):
    real = dict(_inflated(teacher, placement, noise_std=0.0)[0].state_dict())
    control_student, _ = _inflated(teacher, "shuffled", shuffled=placement, noise_std=0.0)
    moved = 0
    for name, value in control_student.state_dict().items():
        stem_sum = name == "encoder.conv_stem.weight"  # three permuted channels sum to other values
        overlap = placement == "multi_axis" and value.ndim == 5 and value.shape[2:].numel() > 1  # so do placements
        if not stem_sum and not overlap:
            torch.testing.assert_close(value.flatten().sort().values, real[name].flatten().sort().values)
        moved += int(name.startswith("encoder.") and value.ndim == 5 and not torch.equal(value, real[name]))
    assert moved == sum(value.ndim == 5 for name, value in real.items() if name.startswith("encoder."))


def test_shuffled_control_gives_other_features(teacher):
    volume = torch.rand(1, 1, 8, 32, 32)
    real, control = (_inflated(teacher, mode)[0].eval() for mode in ("average", "shuffled"))
    with torch.no_grad():
        one, other = real.encoder(volume)[-1].flatten(), control.encoder(volume)[-1].flatten()
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.5


def test_shuffled_control_is_seeded(teacher):
    one, same, other = (_inflated(teacher, "shuffled", seed=seed)[0].state_dict() for seed in (0, 0, 1))
    key = "encoder.conv_stem.weight"
    assert torch.equal(one[key], same[key])
    assert not torch.equal(one[key], other[key])


def test_mean_over_channels_is_a_third(teacher):
    total, mean = (_inflated(teacher, "center", channels=rule)[0].state_dict() for rule in ("sum", "mean"))
    torch.testing.assert_close(total["encoder.conv_stem.weight"], 3 * mean["encoder.conv_stem.weight"])


def test_dtype_and_memory_of_the_student_are_kept(teacher):
    student = _student().double()
    before = {name: value.data_ptr() for name, value in student.state_dict().items()}
    Inflate(InflateConfig()).transfer(student=student, teacher=teacher)
    for name, value in student.state_dict().items():
        assert value.dtype in {torch.float64, torch.int64}
        assert value.data_ptr() == before[name]


def test_without_a_teacher_it_says_what_to_set():
    with pytest.raises(ConfigError, match=r"^strategy inflate needs a teacher; set teacher\.name$"):
        Inflate(InflateConfig()).transfer(student=_student(), teacher=NoTeacher(NoTeacherConfig()))


def test_a_student_that_mirrors_nothing_is_told_the_way_out(teacher):
    with pytest.raises(ConfigError, match=r"set student\.name=convnet3d or vit3d, and student\.encoder=tf_eff"):
        Inflate(InflateConfig()).transfer(student=UNet3d(UNet3dConfig()), teacher=teacher)


def test_another_architecture_names_both_and_the_options(teacher):
    student = _student(encoder="resnet18")
    with pytest.raises(ConfigError, match=r"'resnet18', the teacher is 'tf_efficientnet_lite0'; set student.encoder"):
        Inflate(InflateConfig()).transfer(student=student, teacher=teacher)


def test_another_width_names_both_shapes_and_changes_nothing():
    teacher = Timm2d(Timm2dConfig(architecture="resnet50", weights="random"))
    teacher.identity = dataclasses.replace(teacher.identity, architecture="resnet18")  # says one thing, is another
    student = _student(encoder="resnet18")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(InputError, match=r"is \(64, 64, 3, 3, 3\), its counterpart \(64, 64, 1, 1\)") as caught:
        Inflate(InflateConfig()).transfer(student=student, teacher=teacher)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match="noise_std=-1 is negative"):
        InflateConfig(noise_std=-1)
