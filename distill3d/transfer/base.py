"""The contract of a transfer strategy and the audit of what it moved. It knows no concrete strategy."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from distill3d.storage.trained_on import Seen
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.requests import TeacherRequest
from distill3d.types import Batch, LossTerm, Prediction, SkeletonTarget

Fate = Literal["copied", "inflated", "averaged", "interpolated", "new"]
TRANSFERRED: frozenset[Fate] = frozenset({"copied", "inflated", "averaged", "interpolated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """What became of one entry of the student's state dict.

    Attributes:
        name: the student's parameter or buffer.
        source: the teacher's, None when it has none.
        fate: see `Fate`; ``new`` has no counterpart.
        shape: of the student's entry.
        source_shape: of the teacher's, None when it has none.
        norm_before: Euclidean norm of the student's entry before the transfer.
        norm_after: and after it.
        trainable: True for a parameter, False for a buffer.
        note: why, where the fate alone does not say it.
    """

    name: str
    source: str | None
    fate: Fate
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    norm_before: float
    norm_after: float
    trainable: bool
    note: str = ""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TransferAudit:
    """One row per entry of the student's state dict.

    Attributes:
        rows: in the order of the state dict.
        part: which part of the teacher the student mirrors, in words; empty for all of it.
        seen: cases behind values that came from elsewhere than the teacher.
    """

    rows: tuple[AuditRow, ...] = ()
    part: str = ""
    seen: tuple[Seen, ...] = ()

    @property
    def transferred(self) -> frozenset[str]:
        """Names of the entries whose values came from the teacher."""
        return frozenset(row.name for row in self.rows if row.fate in TRANSFERRED)

    @property
    def copy_rate(self) -> float:
        """Share, in [0, 1], of the student's trainable values that came from the teacher; 0 without rows."""
        total = sum(row.size for row in self.rows if row.trainable)
        moved = sum(row.size for row in self.rows if row.trainable and row.fate in TRANSFERRED)
        return moved / total if total else 0.0

    def totals(self) -> dict[Fate, dict[str, int]]:
        """Entries and values, buffers included, per fate; fates in the order in which they first occur."""
        totals: dict[Fate, dict[str, int]] = {}
        for row in self.rows:
            total = totals.setdefault(row.fate, {"entries": 0, "values": 0})
            total["entries"] += 1
            total["values"] += row.size
        return totals

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        return {
            "copy_rate": self.copy_rate,
            "part": self.part,
            "counts": {fate: total["entries"] for fate, total in self.totals().items()},
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }


class TransferStrategy(nn.Module, ABC):
    """How knowledge gets from a 2D teacher into a 3D student.

    Three steps, in the order in which they run. A strategy is a Module so that its projections train with the student.

    Attributes:
        name: as it is registered, for messages.
        step: number of the optimizer step that `forward` is called for, see `begin_step`.
        steps: of the whole run.
    """

    name: str = "unnamed"
    step: int = 0
    steps: int = 1

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - each strategy has its own config class
        super().__init__()
        self.config = config

    @classmethod
    def wants(cls, config: Any) -> tuple[SkeletonTarget, ...]:  # noqa: ANN401, ARG003 - as above; subclasses use it
        """Return the centerlines that batches for a strategy of these settings must carry."""
        return ()

    def lr_ratios(self) -> dict[str, float]:
        """Return by how much the learning rate of new layers of the student, by path, differs from the decoder's."""
        return {}

    def adapt(self, student: Student) -> None:
        """Change the student's structure; runs whenever a model is built, so a checkpoint loads without a teacher."""

    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:  # noqa: ARG002 - subclasses use it
        """Copy values into the student, once, at the start of a fresh run; by default all stays as it was drawn."""
        return untouched(student)

    @property
    def wants_teacher(self) -> bool:
        """Whether `forward` needs the teacher's maps during training; the teacher is kept only if it does."""
        return bool(self.requests())

    def requests(self) -> tuple[TeacherRequest, ...]:
        """Return the maps of the teacher that `forward` needs; none for a strategy that only initializes."""
        return ()

    def requests_now(self) -> tuple[TeacherRequest, ...]:
        """Return those that `forward` needs in the step `begin_step` named."""
        return self.requests()

    def student_layers(self) -> tuple[str, ...]:
        """Return the student's layers, by path, whose maps `forward` needs."""
        return tuple(dict.fromkeys(request.grid_of for request in self.requests() if request.grid_of))

    def begin_step(self, step: int, steps: int) -> None:
        """Say which step comes next, for schedules."""
        self.step, self.steps = step, steps

    def forward(self, *, student: Prediction, teacher: Prediction, batch: Batch) -> dict[str, LossTerm]:  # noqa: ARG002
        """Return the raw, named terms this strategy adds to the loss in every step.

        Args:
            student: the student's prediction for the batch, with the maps of `student_layers`.
            teacher: the maps of `requests`, by `TeacherRequest.key`; `Prediction.nothing()` where there are none.
            batch: what both saw.
        """
        return {}


def untouched(student: Student) -> TransferAudit:
    """Return the audit of a student that nothing was copied into: a row per entry, all new."""
    trainable = {name for name, _ in student.named_parameters()}
    norms = {name: parameter_norm(value) for name, value in student.state_dict().items()}
    return TransferAudit(
        tuple(
            AuditRow(
                name=name,
                source=None,
                fate="new",
                shape=tuple(value.shape),
                source_shape=None,
                norm_before=norms[name],
                norm_after=norms[name],
                trainable=name in trainable,
            )
            for name, value in student.state_dict().items()
        )
    )


def parameter_norm(value: Tensor) -> float:
    """Euclidean norm of a tensor of any dtype, for the audit."""
    return float(value.detach().double().norm())
