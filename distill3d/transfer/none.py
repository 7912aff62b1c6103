"""Strategy `none`: train from scratch, the baseline of every other. It moves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from distill3d.registry import STRATEGIES
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.base import AuditRow, TransferAudit, TransferStrategy, parameter_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class NoTransferConfig:
    """``none`` has no settings."""


@STRATEGIES.register("none", config=NoTransferConfig)
@final
class NoTransfer(TransferStrategy):
    """Leave the student as it was drawn; the audit lists every entry as new."""

    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Return an audit in which all is new."""
        del teacher
        trainable = {name for name, _ in student.named_parameters()}
        norms = {name: parameter_norm(value) for name, value in student.state_dict().items()}
        return TransferAudit.collect(
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
