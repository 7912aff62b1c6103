"""Strategy `combine`: several at once, such as inflated weights and matched features. It has no method of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast, final

from torch import nn

from distill3d.config.registry import STRATEGIES, Component, components
from distill3d.errors import ConfigError
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.base import TRANSFERRED, TransferAudit, TransferStrategy
from distill3d.transfer.requests import TeacherRequest
from distill3d.types import Batch, LossTerm, Prediction, SkeletonTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class CombineConfig:
    """Settings of ``combine``."""

    parts: dict[str, Component] = components("strategy", default="none")  # by a name of yours, in the order they run

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts={}: accepted: one or more strategies, each by a name of yours")


@STRATEGIES.register("combine", config=CombineConfig)
@final
class Combine(TransferStrategy):
    """Run strategies one after the other: each adapts the student, transfers, and adds its terms in every step.

    Terms carry the part's name before their own. Where two parts fill the same entry of the student, the later wins.
    """

    name = "combine"

    def __init__(self, config: CombineConfig) -> None:
        super().__init__(config)
        self.parts = nn.ModuleDict({name: STRATEGIES.build(part) for name, part in config.parts.items()})

    @classmethod
    def wants(cls, config: CombineConfig) -> tuple[SkeletonTarget, ...]:
        """Return what any part wants."""
        each = (STRATEGIES[part.name].cls.wants(part.config) for part in config.parts.values())
        return tuple(dict.fromkeys(target for targets in each for target in targets))

    def lr_ratios(self) -> dict[str, float]:
        """Return those of all parts."""
        return {path: ratio for _, part in self._each() for path, ratio in part.lr_ratios().items()}

    def student_layers(self) -> tuple[str, ...]:
        """Return what any part needs."""
        return tuple(dict.fromkeys(path for _, part in self._each() for path in part.student_layers()))

    def adapt(self, student: Student) -> None:
        """Let each part change the structure."""
        for _, part in self._each():
            part.adapt(student)

    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Let each part copy; an entry's row is the last one's that filled it, with the norm before the first."""
        audits = [part.transfer(student=student, teacher=teacher) for _, part in self._each()]
        merged = {row.name: row for row in audits[0].rows}
        for audit in audits[1:]:
            for row in audit.rows:
                if row.fate in TRANSFERRED or row.name not in merged:
                    merged[row.name] = replace(row, norm_before=merged.get(row.name, row).norm_before)
        return TransferAudit(
            tuple(merged.values()),
            part=next((each.part for each in audits if each.part), ""),
            seen=tuple(each for audit in audits for each in audit.seen),
        )

    def requests(self) -> tuple[TeacherRequest, ...]:
        """Return what any part needs."""
        return _once(part.requests() for _, part in self._each())

    def requests_now(self) -> tuple[TeacherRequest, ...]:
        """Return what any part needs in this step."""
        return _once(part.requests_now() for _, part in self._each())

    def begin_step(self, step: int, steps: int) -> None:
        """Tell each part."""
        super().begin_step(step, steps)
        for _, part in self._each():
            part.begin_step(step, steps)

    def forward(self, *, student: Prediction, teacher: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return all terms."""
        return {
            f"{name}_{key}": term
            for name, part in self._each()
            for key, term in part(student=student, teacher=teacher, batch=batch).items()
        }

    def _each(self) -> Iterator[tuple[str, TransferStrategy]]:
        return ((name, cast("TransferStrategy", part)) for name, part in self.parts.items())


def _once(requests: Iterable[tuple[TeacherRequest, ...]]) -> tuple[TeacherRequest, ...]:
    """Return each request once, in order.

    Raises:
        ConfigError: two views of the same map would need two names.
    """
    by_key: dict[str, TeacherRequest] = {}
    for request in (each for some in requests for each in some):
        if by_key.setdefault(request.key, request) != request:
            raise ConfigError(
                f"strategy combine: two parts ask for {request.key!r} with different views; accepted: the same view"
            )
    return tuple(by_key.values())
