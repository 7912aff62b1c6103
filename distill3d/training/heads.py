"""Whether the heads of a student and the losses that read them fit each other."""

from __future__ import annotations

from torch import nn

from distill3d.config.registry import LOSSES
from distill3d.errors import ConfigError
from distill3d.losses.base import Loss
from distill3d.students.base import Student


def check_there(student: Student, losses: nn.ModuleDict, *, name: str) -> None:
    """Refuse a loss that reads a head which the student, registered as ``name``, does not have.

    Raises:
        ConfigError: names the loss, and a student that has it.
    """
    for key, loss in losses.items():
        if isinstance(loss, Loss) and (missing := [head for head in loss.heads if head not in student.heads]):
            raise ConfigError(
                f"losses.{key}: needs a student with a {missing[0]} head, and {name!r} with these settings has none; "
                "accepted: student.name=unet3d and student.skeleton_head=shared or own_decoder"
            )


def check_trained(student: Student, losses: nn.ModuleDict) -> None:
    """Refuse a head that nothing would train: one process leaves it as it was drawn, several cannot synchronize it.

    Raises:
        ConfigError: no loss reads it; names those that would.
    """
    read = {head for loss in losses.values() if isinstance(loss, Loss) for head in loss.heads}
    if untrained := [head for head in student.heads if head not in read]:
        known = [name for name in LOSSES.names() if untrained[0] in LOSSES[name].cls.heads]
        example = f", as in losses={{overlap: {{}}, {known[0]}: {{}}}}" if known else ""
        raise ConfigError(
            f"student: no loss trains its {untrained[0]} head; accepted: a loss that does{example}, or no such head"
        )
