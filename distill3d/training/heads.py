"""Whether a student, its losses and its strategy make something to train: every head is read, and there is a term."""

from __future__ import annotations

from torch import nn

from distill3d.config.registry import LOSSES
from distill3d.errors import ConfigError
from distill3d.losses.base import Loss
from distill3d.students.base import Student
from distill3d.transfer.base import TransferStrategy


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


def check_terms(losses: nn.ModuleDict, strategy: TransferStrategy) -> None:
    """Refuse to train without labels if the strategy takes nothing from the teacher in training either.

    Raises:
        ConfigError: there is no loss, and the strategy cannot have a term.
    """
    if not losses and type(strategy).forward is TransferStrategy.forward:
        raise no_term(strategy)


def check_learns(module: nn.Module) -> None:
    """Refuse a network of which every parameter is frozen.

    Raises:
        ConfigError: all of them were transferred, at a rate of 0.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(
            "optimizer.transferred_lr_ratio=0: every parameter was transferred, so nothing is left to train; accepted: "
            "above 0, or a strategy that leaves some new"
        )


def no_term(strategy: TransferStrategy) -> ConfigError:
    """Say in one line that there is nothing to train with."""
    return ConfigError(
        f"losses={{}} and the strategy {strategy.name} adds no term, so there is nothing to train with; accepted: one "
        "loss or more, as in losses={overlap: {}}"
    )
