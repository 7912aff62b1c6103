"""Strategy `logits`: what a 2D segmenter says of every known voxel, in one vote over the axes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_nets import IDENTITY, ImageStudent, ImageTeacher, look, prepared, random_batch, terms_of
from torch import nn

from distill3d.config.registry import Component
from distill3d.errors import ConfigError
from distill3d.teachers.base import Teacher
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.transfer.combine import Combine, CombineConfig
from distill3d.transfer.logits import Logits, LogitsConfig
from distill3d.transfer.matching.schedule import ScheduleConfig
from distill3d.transfer.requests import ViewConfig
from distill3d.types import AXES, Prediction


def logits(**settings):
    axes = settings.pop("axes", ("z",))
    return Logits(LogitsConfig(view=ViewConfig(axes=axes), **settings))


def agreeing_student():
    """Return one whose head says what the teacher's says."""
    student = ImageStudent()
    with torch.no_grad():
        student.head.weight.copy_(torch.tensor([4.0, 0, -2]).view(1, 3, 1, 1, 1))
        student.head.bias.zero_()
    return student


class Dim(Teacher):
    """Says of a pixel how far the slice's mean is from it: so each axis says something else."""

    segments = True

    def __init__(self):
        class Contrast(nn.Module):
            def forward(self, image):
                return 5 * (image[:, :1] - image[:, :1].mean((2, 3), keepdim=True))

        super().__init__(Contrast(), identity=IDENTITY, input_mean=(0.0,) * 3, input_std=(1.0,) * 3)


def slow_kl(student, teacher, temperature, known):
    """Mean over known voxels of each patch, then over patches, one voxel at a time in float64."""
    means = []
    for s, t, k in zip(student.double().numpy(), teacher.double().numpy(), known.numpy(), strict=True):
        total = []
        for a, b, labelled in zip(s.ravel(), t.ravel(), k.ravel(), strict=True):
            if labelled:
                p, q = (1 / (1 + np.exp(-x / temperature)) for x in (b, a))
                total.append(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        means.append(np.mean(total) if total else 0.0)
    return temperature**2 * np.mean(means)


@pytest.mark.parametrize("axes", [("z",), ("y",), ("x",), ("z", "y", "x")], ids="".join)
def test_a_student_that_says_the_same_has_no_loss(axes):
    (term,) = terms_of(logits(axes=axes), agreeing_student(), ImageTeacher(), random_batch()).values()
    assert term.value.item() == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)
    (term,) = terms_of(logits(axes=axes), ImageStudent(), ImageTeacher(), random_batch()).values()
    assert term.value > 0.01


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_term_is_the_softened_divergence_over_known_voxels(temperature):
    torch.manual_seed(0)
    student, batch = ImageStudent(), random_batch((4, 6, 8))
    known = torch.rand(batch.known.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    known[1] = False  # nobody labelled the second patch
    batch = replace(batch, known=known)
    strategy = logits(temperature=temperature)
    student_out, teacher_out = look(strategy, student, ImageTeacher(), batch)
    (term,) = strategy(student=student_out, teacher=teacher_out, batch=batch).values()
    votes = 4 * batch.image - 2 * (1 - batch.image)
    expected = slow_kl(student_out.logits.detach(), votes, temperature, known)
    assert term.value.item() == pytest.approx(expected, rel=1e-4)


def test_several_axes_vote_by_their_mean_logit():
    torch.manual_seed(0)
    student, batch = ImageStudent(), random_batch()
    gray = batch.image
    planes = {"z": (3, 4), "y": (2, 4), "x": (2, 3)}
    votes = {axis: 5 * (gray - gray.mean(plane, keepdim=True)) for axis, plane in planes.items()}
    for axes in [("z",), ("x", "y"), AXES]:
        strategy = logits(axes=axes)
        student_out, teacher_out = look(strategy, student, Dim(), batch)
        vote = sum(votes[axis] for axis in axes) / len(axes)
        torch.testing.assert_close(teacher_out.logits, vote)
        (term,) = strategy(student=student_out, teacher=teacher_out, batch=batch).values()
        assert term.value.item() == pytest.approx(
            slow_kl(student_out.logits.detach(), vote, 2.0, batch.known), rel=1e-4
        )


def test_two_parts_with_axes_of_their_own_each_hear_their_own_axes():
    torch.manual_seed(0)
    student, batch = ImageStudent(), random_batch()
    configs = {axis: LogitsConfig(view=ViewConfig(axes=(axis,))) for axis in ("z", "x")}
    parts = {name: Component("logits", config) for name, config in configs.items()}
    both = terms_of(Combine(CombineConfig(parts=parts)), student, Dim(), batch)
    for axis, config in configs.items():
        (alone,) = terms_of(Logits(config), student, Dim(), batch).values()
        assert both[f"{axis}_logits"].value.item() == pytest.approx(alone.value.item())


def test_gradient_reaches_the_student_and_pulls_towards_the_teacher():
    student, teacher = agreeing_student(), ImageTeacher()
    with torch.no_grad():
        student.head.bias.fill_(1.0)
    (term,) = terms_of(logits(), student, teacher, random_batch()).values()
    term.value.backward()
    assert student.head.bias.grad > 0  # too sure: downhill is less
    assert all(p.grad is None for p in teacher.parameters())


def test_an_unsure_voxel_nobody_labelled_adds_nothing():
    batch = random_batch()
    strategy, student = logits(), agreeing_student()
    known = batch.known.clone()
    known[:, :, 3] = False
    student_out, teacher_out = look(strategy, student, ImageTeacher(), batch)
    wrong = student_out.logits.clone()
    wrong[:, :, 3] = 50
    student_out = Prediction(logits=wrong, features=student_out.features)
    (term,) = strategy(student=student_out, teacher=teacher_out, batch=replace(batch, known=known)).values()
    assert term.value.item() == pytest.approx(0, abs=1e-6)
    (all_known,) = strategy(student=student_out, teacher=teacher_out, batch=batch).values()
    assert all_known.value > 0.1


@pytest.mark.parametrize(
    ("settings", "on"),
    [
        ({"schedule": ScheduleConfig(stop_step=3)}, range(3)),
        ({"schedule": ScheduleConfig(kind="warmup", warmup_steps=2)}, range(1, 6)),
        ({"weight": 0.0}, range(0)),
    ],
)
def test_the_teacher_is_asked_only_while_the_weight_is_not_0(settings, on):
    student, teacher = ImageStudent(), ImageTeacher()
    strategy = logits(**settings)
    for step in range(6):
        before = teacher.images_seen
        terms = terms_of(strategy, student, teacher, random_batch(), step=step)
        assert list(terms) == ["logits"]
        assert terms["logits"].value.requires_grad
        assert (teacher.images_seen > before) == (terms["logits"].weight > 0) == (step in on)


def test_a_teacher_that_does_not_segment_is_refused():
    teacher = ImageTeacher()
    teacher.segments = False
    with pytest.raises(ConfigError) as caught:
        prepared(logits(), ImageStudent(), teacher)
    (line,) = caught.value.lines
    assert line == (
        "the teacher 'toy' does not segment, so it has no 'logits'; accepted: teacher.name=segmenter2d, trained by an "
        "experiment such as teacher2d"
    )


def test_no_teacher_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"teacher\.name=none has no layer 'logits'; accepted: "):
        prepared(logits(), ImageStudent(), NoTeacher(NoTeacherConfig()))


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0 is too small"),
        ({"weight": -1.0}, r"weight=-1\.0 is negative"),
        ({"view": ViewConfig(slices=2)}, r"view\.slices=2: accepted: null"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, fragment):
    with pytest.raises(ValueError, match=fragment):
        LogitsConfig(**settings)
