"""Strategy `warm_start`: a student that begins as one of its kind that was trained before. It knows no teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from distill3d.config.paths import ConfigPath
from distill3d.config.registry import STRATEGIES
from distill3d.errors import InputError
from distill3d.storage.checkpoint import read_checkpoint
from distill3d.storage.models import checkpoint_of, find_model
from distill3d.storage.trained_on import seen_by
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.base import TransferAudit, TransferStrategy, parameter_norm, untouched

PREFIX = "student."


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStartConfig:
    """Settings of ``warm_start``."""

    # A name of `distill3d list models`, or a run's folder, or a file that `distill3d export` wrote
    model: ConfigPath = ConfigPath("simulated_only")  # noqa: RUF009 - frozen


@STRATEGIES.register("warm_start", config=WarmStartConfig)
@final
class WarmStart(TransferStrategy):
    """Copy all weights and statistics of a trained student, once; all or nothing.

    So all of the student counts as transferred: ``optimizer.transferred_lr_ratio`` is of its whole learning rate.
    """

    name = "warm_start"
    config: WarmStartConfig

    @torch.no_grad()
    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Fill the student; the audit names the file, and its hash.

        Raises:
            InputError: there is no such model or run, or it is of another architecture.
        """
        del teacher
        place = Path(self.config.model)
        file = checkpoint_of(place) if place.exists() else find_model(str(place))
        checkpoint = read_checkpoint(file)
        state = checkpoint["state_dict"]
        values = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        self._check(student, values, file)
        rows = untouched(student).rows
        student.load_state_dict(values)
        own = student.state_dict()
        return TransferAudit(
            tuple(
                replace(
                    row,
                    source=PREFIX + row.name,
                    fate="copied",
                    source_shape=row.shape,
                    norm_after=parameter_norm(own[row.name]),
                )
                for row in rows
            ),
            part=f"{file}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}",
            seen=seen_by(checkpoint, file),
        )

    def _check(self, student: Student, values: Mapping[str, Tensor], file: Path) -> None:
        """Refuse what was another student, by its first difference."""
        own = {name: tuple(value.shape) for name, value in student.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in values.items()}
        different = [name for name in (*own, *given) if own.get(name) != given.get(name)]
        if different:
            name = different[0]
            raise InputError(
                f"strategy {self.name}: {file} has {_size(given, name)}, the student {_size(own, name)} "
                f"({len(set(different))} of {len({*own, *given})} entries differ); accepted: the student that it was "
                "trained as, so the same settings under student"
            )


def _size(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return f"{name} {'x'.join(map(str, shapes[name])) or 'scalar'}" if name in shapes else f"no {name}"
