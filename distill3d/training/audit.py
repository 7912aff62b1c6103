"""What a fresh run would transfer, entry by entry, without its data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L

from distill3d.config.plain import as_plain
from distill3d.config.schema import Experiment
from distill3d.experiment import load_experiment
from distill3d.teachers.base import TeacherIdentity
from distill3d.training.module import fresh_module
from distill3d.transfer.base import TransferAudit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """A transfer audit and what was audited.

    Attributes:
        experiment: with all its settings.
        teacher: the network the values came from.
        audit: a row per entry of the student's state dict.
    """

    experiment: Experiment
    teacher: TeacherIdentity
    audit: TransferAudit

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for JSON: what was audited and the totals, then all of `TransferAudit.as_dict`."""
        return {
            "experiment": self.experiment.name,
            "seed": self.experiment.seed,
            "student": as_plain(self.experiment.student),
            "strategy": as_plain(self.experiment.strategy),
            "teacher": asdict(self.teacher),
            "totals": self.audit.totals(),
            **self.audit.as_dict(),
        }


def audit_experiment(experiment: Experiment | str | Path) -> AuditReport:
    """Build student, strategy and teacher as a fresh run does, with its seed, and transfer once.

    The global random generators are left as the run's seed and the building leave them.

    Args:
        experiment: a loaded experiment, or its name or path.

    Raises:
        ConfigError: the settings are wrong, or student and teacher do not fit.
        InputError: the teacher's weights cannot be used.
    """
    experiment = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    _, teacher, audit = fresh_module(experiment)
    return AuditReport(experiment=experiment, teacher=teacher.identity, audit=audit)
