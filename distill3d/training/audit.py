"""What a fresh run would transfer, entry by entry, and how near its teacher that starts it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L

from distill3d.config.plain import as_plain
from distill3d.config.schema import Experiment
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import ConfigError, InputError
from distill3d.experiment import load_experiment
from distill3d.teachers.base import Teacher, TeacherIdentity
from distill3d.training.module import DistillModule, fresh_module
from distill3d.training.start import Start, start_batch, start_of
from distill3d.training.tubes import TapsOutside, taps_outside
from distill3d.transfer.base import TransferAudit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """A transfer audit and what was audited.

    Attributes:
        experiment: with all its settings.
        teacher: the network the values came from.
        audit: a row per entry of the student's state dict.
        taps: of its tubes, if it has any: how many lie outside a patch.
        start: how far it is from the teacher's function; None where no block of it came from the teacher.
    """

    experiment: Experiment
    teacher: TeacherIdentity
    audit: TransferAudit
    taps: tuple[TapsOutside, ...] = ()
    start: Start | None = None

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
            "taps_outside": [asdict(each) for each in self.taps],
            "start": None if self.start is None else asdict(self.start),
        }


def audit_experiment(experiment: Experiment | str | Path) -> AuditReport:
    """Build student, strategy and teacher as a fresh run does, with its seed, and transfer once.

    The global random generators are left as the run's seed and the building leave them. Patches of the first training
    case show how far the start is from the teacher; where it cannot be read, that alone is missing.

    Args:
        experiment: a loaded experiment, or its name or path.

    Raises:
        ConfigError: the settings are wrong, or student and teacher do not fit.
        InputError: the teacher's weights cannot be used.
    """
    experiment = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    module, teacher, audit = fresh_module(experiment)
    return AuditReport(
        experiment=experiment,
        teacher=teacher.identity,
        audit=audit,
        taps=taps_outside(module.student, experiment.patches.size_zyx),
        start=_start(experiment, module, teacher) if audit.transferred else None,
    )


def _start(experiment: Experiment, module: DistillModule, teacher: Teacher) -> Start | None:
    try:
        batch = start_batch(DistillDataModule(experiment))
    except (ConfigError, InputError) as error:
        return Start(missing=error.lines[0], departures=module.student.departures())
    return start_of(module.student, teacher, batch, module.transferred)
