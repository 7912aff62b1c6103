"""A student and a teacher whose feature maps are the same known function of the image, place by place."""

from pathlib import Path

import torch
from torch import nn

from distill3d.config.schema import PatchConfig
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher, TeacherIdentity
from distill3d.transfer.features import Features, FeaturesConfig, PairConfig
from distill3d.transfer.matching.places import FeatureLossConfig
from distill3d.transfer.matching.schedule import ScheduleConfig
from distill3d.transfer.requests import ViewConfig
from distill3d.transfer.view import TeacherView
from distill3d.types import Batch

IDENTITY = TeacherIdentity(architecture="toy", weights="random", sha256="", random=True)


class Bent(nn.Module):
    """Three channels that depend on the intensity in different ways, so that directions tell places apart."""

    def forward(self, image):
        gray = image[:, :1]
        return torch.cat([gray, gray.square(), 1 - gray], dim=1)


class ImageStudent(Student):
    """Has the map of the image at full resolution (``map``) and averaged over cells of 2 voxels (``coarse``)."""

    stride_zyx = (2, 2, 2)

    def __init__(self):
        super().__init__()
        self.scale = nn.Conv3d(1, 1, 1, bias=False)
        nn.init.ones_(self.scale.weight)  # the identity, but with a gradient
        self.map = Bent()
        self.coarse = nn.AvgPool3d(2)
        self.flat = nn.Flatten()
        self.head = nn.Conv3d(3, 1, 1)
        self.unused = nn.Identity()

    def segment(self, image):
        maps = self.map(self.scale(image))
        self.flat(self.coarse(maps))
        return self.head(maps)


class ImageTeacher(Teacher):
    """Returns the map of each slice; what it says of a pixel (its logits) is a multiple of the intensity."""

    segments = True

    def __init__(self):
        net = nn.Sequential()
        net.add_module("map", Bent())
        net.add_module("head", nn.Conv2d(3, 1, 1, bias=False))
        with torch.no_grad():
            net.get_submodule("head").weight.copy_(torch.tensor([4.0, 0, -2]).view(1, 3, 1, 1))
        super().__init__(net, identity=IDENTITY, input_mean=(0.0,) * 3, input_std=(1.0,) * 3)


def batch_of(image):
    size = len(image)
    return Batch(
        image=image,
        target=(image > 0.5).float(),
        known=torch.ones_like(image, dtype=torch.bool),
        spacing_um=torch.ones(size, 3),
        origin_zyx_vox=torch.zeros(size, 3, dtype=torch.int64),
        cases=tuple(f"case{i}" for i in range(size)),
    )


def random_batch(shape=(8, 10, 12), seed=0, size=2):
    return batch_of(torch.rand(size, 1, *shape, generator=torch.Generator().manual_seed(seed)))


def prepared(strategy, student, teacher):
    """Run what comes before training."""
    torch.manual_seed(0)
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    return strategy


def look(strategy, student, teacher, batch, *, step=0, steps=10):
    """Return what student and teacher give the strategy in a step."""
    strategy.begin_step(step, steps)
    student_out = student.observe(batch.image, strategy.student_layers())
    view = TeacherView(teacher, strategy.requests(), stacks={}, cache=Path("unused"), patches=PatchConfig())
    stride = student.stride_zyx
    return student_out, view(strategy.requests_now(), student=student_out, batch=batch, stride_zyx=stride, step=step)


def terms_of(strategy, student, teacher, batch, *, step=0, steps=10):
    student_out, teacher_out = look(strategy, student, teacher, batch, step=step, steps=steps)
    return strategy(student=student_out, teacher=teacher_out, batch=batch)


def features(kind="mse", *, layer="map", weight=1.0, schedule=None, pairs=None, **view):
    return Features(
        FeaturesConfig(
            pairs=pairs or {"mid": PairConfig(student=layer, teacher="map")},
            loss=FeatureLossConfig(kind=kind, standardize=False),
            view=ViewConfig(**view),
            weight=weight,
            schedule=schedule or ScheduleConfig(),
        )
    )


def exact(strategy, student, teacher):
    """Prepare a strategy whose projections pass the student's map on as it is."""
    prepared(strategy, student, teacher)
    for projection in strategy.projections.values():
        with torch.no_grad():
            projection.net[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1, 1))
            projection.net[0].bias.zero_()
    return strategy


def value_of(strategy, batch, *, step=0, teacher=None):
    (term,) = terms_of(strategy, ImageStudent(), teacher or ImageTeacher(), batch, step=step).values()
    return term.value.item()
