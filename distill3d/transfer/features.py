"""Strategy `features`: the student's feature maps learn to match the frozen 2D teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, nn

from distill3d.config.registry import STRATEGIES
from distill3d.errors import ConfigError
from distill3d.layers.grids import Cells, resample
from distill3d.layers.projection import Projection, ProjectionKind
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.base import TransferAudit, TransferStrategy, untouched
from distill3d.transfer.matching.places import FeatureLossConfig, feature_loss, needs_same_channels
from distill3d.transfer.matching.schedule import ScheduleConfig, schedule_factor
from distill3d.transfer.requests import TeacherRequest, ViewConfig
from distill3d.transfer.view import map_cells
from distill3d.types import AXES, Axis, Batch, LossTerm, Prediction

_PROBE_SIDE = 32  # of the image that shows how many channels a teacher's layer has


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig:
    """A layer of the student that learns from one of the teacher."""

    student: str  # path in the student, such as encoder.blocks.2
    teacher: str  # path in the teacher, such as blocks.2
    weight: float = 1.0  # beside the other pairs, >= 0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} is negative; accepted: 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """Settings of ``features``."""

    # By a name of yours. None: the deepest layer of a student that mirrors a 2D network, and its counterpart
    pairs: dict[str, PairConfig] = field(default_factory=dict)
    loss: FeatureLossConfig = FeatureLossConfig()
    projection: ProjectionKind = "linear"  # from the student's channels to the teacher's, where the loss needs it
    view: ViewConfig = ViewConfig()
    weight: float = 1.0  # of all pairs together, relative to the supervised loss
    schedule: ScheduleConfig = ScheduleConfig()  # of the weight

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} is negative; accepted: 0 or more")


@STRATEGIES.register("features", config=FeaturesConfig)
@final
class Features(TransferStrategy):
    """Match feature maps of student and teacher, layer by layer and axis by axis.

    Each pair adds one term, the mean over the axes; a term's raw value does not depend on its weight. If the loss
    compares channels one by one, the student's go through a projection that trains with it.

    Source: see `distill3d.transfer.matching` for each loss; slicing along several axes and the teacher cache are ours.
    """

    name = "features"
    config: FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__(config)
        self.loss = feature_loss(config.loss)
        self.pairs: dict[str, PairConfig] = dict(config.pairs)
        self.projections = nn.ModuleDict()
        self.stride_zyx: tuple[int, int, int] = (1, 1, 1)

    def adapt(self, student: Student) -> None:
        """Check the student's layers and make room for projections.

        Raises:
            ConfigError: a layer that the student does not have.
        """
        if not self.pairs:
            self.pairs = {"deepest": _deepest(student)}
        student.check_layers([pair.student for pair in self.pairs.values()])
        self.stride_zyx = student.stride_zyx
        if needs_same_channels(self.config.loss.kind):
            self.projections.update({name: Projection(self.config.projection) for name in self.pairs})

    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Draw the projections; nothing of the teacher's weights is taken.

        Raises:
            ConfigError: a layer that the teacher does not have, or one of either side that gives no map.
        """
        teacher.check_layers([pair.teacher for pair in self.pairs.values()])
        student_widths = student_channels(student, [pair.student for pair in self.pairs.values()])
        teacher_widths = teacher_channels(teacher, [pair.teacher for pair in self.pairs.values()])
        for name, projection in self.projections.items():
            pair = self.pairs[name]
            cast("Projection", projection).build(student_widths[pair.student], teacher_widths[pair.teacher])
        return untouched(student)

    def requests(self) -> tuple[TeacherRequest, ...]:
        """Return one request per pair and axis."""
        return tuple(self._request(pair, axis) for pair in self.pairs.values() for axis in self.config.view.axes)

    def requests_now(self) -> tuple[TeacherRequest, ...]:
        """Return all, but none while the weight is 0."""
        return self.requests() if self._factor() else ()

    def forward(self, *, student: Prediction, teacher: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return a term per pair."""
        factor = self._factor()
        terms = {}
        for number, (name, pair) in enumerate(self.pairs.items()):
            if not factor:  # the same terms, and all parameters in use, on every rank and in every step
                idle = [p.sum() * 0 for p in self.projections[name].parameters()] if self.projections else []
                value = torch.stack([student.logits.sum() * 0, *idle]).sum()
            else:
                value = self._value(number, name, pair, student, teacher, batch)
            terms[f"features_{name}"] = LossTerm(value, factor * pair.weight)
        return terms

    def _value(
        self, number: int, name: str, pair: PairConfig, student: Prediction, teacher: Prediction, batch: Batch
    ) -> Tensor:
        maps = student.features[pair.student]
        maps = self.projections[name](maps) if self.projections else maps
        values = []
        for axis in self.config.view.axes:
            key = self._request(pair, axis).key
            places = teacher.slices_vox.get(key)
            seen = maps if places is None else at_slices(maps, axis, places, batch, self.stride_zyx)
            seed = self.step * len(self.pairs) + number
            values.append(self.loss(student=seen, teacher=teacher.features[key], seed=seed))
        return torch.stack(values).mean()

    def _request(self, pair: PairConfig, axis: Axis) -> TeacherRequest:
        return TeacherRequest(layer=pair.teacher, axis=axis, grid_of=pair.student, view=self.config.view)

    def _factor(self) -> float:
        return self.config.weight * schedule_factor(self.config.schedule, step=self.step, steps=self.steps)


def _deepest(student: Student) -> PairConfig:
    if student.deepest_layer is None:
        raise ConfigError(
            f"strategy features: student {type(student).__name__} mirrors no 2D network, so strategy.pairs must say "
            f"which layers to match; accepted for the student: {', '.join(student.main_layers())}"
        )
    return PairConfig(student=student.deepest_layer, teacher=student.deepest_layer.removeprefix("encoder."))


def at_slices(maps: Tensor, axis: Axis, places_vox: Tensor, batch: Batch, stride_zyx: tuple[int, int, int]) -> Tensor:
    """Interpolate a student's map [B, C, Z, Y, X] at some slices of the patch, along one axis."""
    along = AXES.index(axis)
    have = map_cells(maps.shape[2:], batch.image.shape[2:], stride_zyx)[along]
    want = Cells(places_vox.numpy().astype(np.float64), 1.0)
    return resample(maps.movedim(2 + along, -1), source=[have], target=[want]).movedim(-1, 2 + along)


@torch.no_grad()
def student_channels(student: Student, layers: Sequence[str]) -> dict[str, int]:
    """Return the channels of some layers, from a forward of a small image; changes no statistics."""
    was_training = student.training
    device = next(student.parameters()).device
    image = torch.zeros(1, 1, *(2 * stride for stride in student.stride_zyx), device=device)
    features = student.eval().observe(image, tuple(layers)).features
    student.train(was_training)
    return {path: each.shape[1] for path, each in features.items()}


def teacher_channels(teacher: Teacher, layers: Sequence[str]) -> dict[str, int]:
    """Return the channels of some layers, from a forward of a small image."""
    side = -(-_PROBE_SIDE // teacher.multiple) * teacher.multiple
    image = torch.zeros(1, 1, side, side, device=next(teacher.net.parameters()).device)
    return {path: each.shape[1] for path, each in teacher.maps(image, layers).items()}
