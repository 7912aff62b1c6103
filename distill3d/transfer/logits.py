"""Strategy `logits`: the student learns to say what a 2D network that segments slices says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from distill3d.config.registry import STRATEGIES
from distill3d.students.base import Student
from distill3d.teachers.base import LOGITS, Teacher
from distill3d.transfer.base import TransferAudit, TransferStrategy, untouched
from distill3d.transfer.matching.places import soft_binary_kl
from distill3d.transfer.matching.schedule import ScheduleConfig, schedule_factor
from distill3d.transfer.requests import TeacherRequest, ViewConfig
from distill3d.types import Batch, LossTerm, Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitsConfig:
    """Settings of ``logits``."""

    temperature: float = 2.0  # of both sigmoids, above 0
    view: ViewConfig = ViewConfig()
    weight: float = 1.0  # relative to the supervised loss
    schedule: ScheduleConfig = ScheduleConfig()  # of the weight

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} is too small; accepted: above 0")
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} is negative; accepted: 0 or more")
        if self.view.slices is not None:
            raise ValueError(f"view.slices={self.view.slices}: accepted: null, every voxel has a logit to match")


@STRATEGIES.register("logits", config=LogitsConfig)
@final
class Logits(TransferStrategy):
    """Match the probability of every known voxel, softened by a temperature; several axes vote by their mean logit.

    The teacher is a 2D network with a segmentation head that was trained before on slices of the training volumes
    (experiment ``teacher2d``) and is then frozen.

    Source: Hinton et al. 2015, Distilling the knowledge in a neural network, arXiv 1503.02531, for two classes;
    the vote over axes is ours.
    """

    name = "logits"
    config: LogitsConfig

    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Copy nothing, but make sure that the teacher segments.

        Raises:
            ConfigError: it does not.
        """
        teacher.check_layers([LOGITS])
        return untouched(student)

    def requests(self) -> tuple[TeacherRequest, ...]:
        """Return one request for all voxels per axis."""
        view = self.config.view
        return tuple(TeacherRequest(layer=LOGITS, axis=axis, grid_of="", view=view) for axis in view.axes)

    def requests_now(self) -> tuple[TeacherRequest, ...]:
        """Return all, but none while the weight is 0."""
        return self.requests() if self._factor() else ()

    def forward(self, *, student: Prediction, teacher: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return the one term."""
        factor = self._factor()
        value = student.logits.sum() * 0
        if factor:
            # Not `teacher.logits`, in which the axes of another part of a combination would vote too.
            vote = torch.stack([teacher.features[request.key] for request in self.requests()]).mean(0)
            value = soft_binary_kl(
                student_logits=student.logits,
                teacher_logits=vote,
                temperature=self.config.temperature,
                known=batch.known,
            )
        return {"logits": LossTerm(value, factor)}

    def _factor(self) -> float:
        return self.config.weight * schedule_factor(self.config.schedule, step=self.step, steps=self.steps)
