"""What every strategy that starts a student from a 2D network's weights shares.

Biases, normalization and linear layers are copied; kernels with a plane are placed by the strategy; three input
channels become one and absorb the teacher's input statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from distill3d.errors import ConfigError, InputError
from distill3d.layers.inflate2d import (
    ChannelRule,
    channel_shift,
    gray_statistics,
    merge_channels,
    shuffle_control,
)
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.base import AuditRow, Fate, TransferAudit, TransferStrategy, parameter_norm


@dataclass(frozen=True, slots=True)
class Moved:
    """What an entry of the student's state dict becomes."""

    value: Tensor
    fate: Fate
    note: str = ""


_NEW = Moved(torch.empty(0), "new")
_STATISTICS = Moved(torch.empty(0), "averaged", "input statistics, over the teacher's channels")
_REST = "what the means of the teacher's input channels leave over"


class WeightTransfer(TransferStrategy, ABC):
    """Fills every entry of the student that has a counterpart in the teacher, once.

    A subclass says where a 2D kernel goes (`place`), and may say which entry is whose counterpart.

    Attributes:
        channels: three input channels -> one; ``sum`` keeps the response to gray, ``mean`` is a third of it.
        shuffled: permute the values of every matrix, kernel and table before it is placed: the control.
        seed: of the permutations and of whatever else a placement draws.
    """

    needs_weights = True
    channels: ChannelRule
    shuffled: bool
    seed: int

    @abstractmethod
    def place(self, name: str, kernel: Tensor, value: Tensor, generator: torch.Generator) -> Moved | None:
        """Bring a 2D kernel to the shape of the student's entry; None if this strategy cannot."""

    def counterpart(self, student: Student, name: str) -> str | None:
        """Name the teacher's entry that ``name`` of the student takes its value from."""
        return student.teacher_key(name)

    def image_gain(self, student: Student, name: str) -> float:
        """Return how strongly the response of an entry that meets the image is felt; 0 for one that does not.

        Such an entry has one input channel where its counterpart has three.
        """
        return float(name == student.input_weight)

    @final
    @torch.no_grad()
    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Fill every entry of the student that has a counterpart, in place; all or nothing.

        Raises:
            ConfigError: there is no teacher, or its sizes are not those of the network the student mirrors.
            InputError: an entry's shape does not fit its counterpart's, or too few entries have one.
        """
        self._refuse(student, teacher)
        source, own = teacher.net.state_dict(), student.state_dict()
        trainable = {name for name, _ in student.named_parameters()}
        keys = {name: self.counterpart(student, name) for name in own}
        self._check_rate(student, keys, source)
        moved = self._moved(student, teacher, keys, source)
        before = {name: parameter_norm(value) for name, value in own.items()}
        student.set_input_statistics(mean=teacher.input_mean, std=teacher.input_std)
        for name, entry in moved.items():
            own[name].copy_(entry.value)
        rows: list[AuditRow] = []
        for name, value in own.items():
            after = parameter_norm(value)
            entry = moved.get(name, _NEW if after == before[name] else _STATISTICS)
            counterpart = source.get(keys[name] or "")
            rows.append(
                AuditRow(
                    name=name,
                    source=keys[name],
                    fate=entry.fate,
                    shape=tuple(value.shape),
                    source_shape=None if counterpart is None else tuple(counterpart.shape),
                    norm_before=before[name],
                    norm_after=after,
                    trainable=name in trainable,
                    note=entry.note,
                )
            )
        return TransferAudit.collect(rows)

    def _refuse(self, student: Student, teacher: Teacher) -> None:
        name = teacher.identity.architecture
        if name == "none":
            raise ConfigError(f"strategy {self.name} needs a teacher; set teacher.name")
        if reason := student.misfit(teacher.net, name):
            raise ConfigError(f"strategy {self.name}: {reason}")

    def _check_rate(self, student: Student, keys: Mapping[str, str | None], source: Mapping[str, Tensor]) -> None:
        """Compare by values, not by entries: a network whose large matrices are missing has not been transferred."""
        sizes = {name: parameter.numel() for name, parameter in student.named_parameters() if keys[name] is not None}
        missing = [name for name in sizes if keys[name] not in source]
        rate = 1 - sum(sizes[name] for name in missing) / sum(sizes.values()) if sizes else 0.0
        if rate < student.expected_copy_rate or not sizes:
            shown = ", ".join(f"{name} <- {keys[name]}" for name in missing[:3]) or "nothing"
            raise InputError(
                f"strategy {self.name}: the teacher has {rate:.3%} of the values that {student.architecture_2d!r} "
                f"takes over; accepted: {student.expected_copy_rate:.3%} or more; without counterpart: {shown}"
            )

    def _moved(
        self, student: Student, teacher: Teacher, keys: Mapping[str, str | None], source: Mapping[str, Tensor]
    ) -> dict[str, Moved]:
        """Return what each entry of the student becomes; entries without a counterpart are left out."""
        gray = gray_statistics(mean=teacher.input_mean, std=teacher.input_std)
        generator = torch.Generator().manual_seed(self.seed)
        moved: dict[str, Moved] = {}
        shift: Tensor | None = None
        for name, value in student.state_dict().items():
            kernel, note = source.get(keys[name] or ""), ""
            if kernel is None:
                continue
            if self.shuffled and kernel.ndim > 1:
                kernel, note = shuffle_control(kernel, generator=generator), "values permuted"
            if (gain := self.image_gain(student, name)) and kernel.ndim == 4:
                more = gain * channel_shift(kernel, rule=self.channels, offsets=gray.offsets)
                shift = more if shift is None else shift + more
                kernel = merge_channels(kernel, rule=self.channels, gains=gray.gains)
                note = f"{note}; {self.channels} over input channels".removeprefix("; ")
            moved[name] = self._fit(student, name, kernel, value, generator, note)
        if shift is not None and student.input_shift is not None:
            moved[student.input_shift] = _shifted(moved.get(student.input_shift), shift)
        return moved

    def _fit(
        self, student: Student, name: str, kernel: Tensor, value: Tensor, generator: torch.Generator, note: str
    ) -> Moved:
        """Bring a counterpart to the shape of the student's entry."""
        resized = student.from_2d(name, kernel)
        if resized is not None and resized.shape == value.shape:
            return Moved(resized, "copied" if resized.shape == kernel.shape else "interpolated", note)
        if kernel.shape == value.shape:
            return Moved(kernel, "copied", note)
        placed = self.place(name, kernel, value, generator)
        if placed is None:
            raise InputError(
                f"strategy {self.name}: {name} is {tuple(value.shape)}, its counterpart {tuple(kernel.shape)}; "
                "accepted: the same shape but for one depth axis (change student.encoder or teacher.architecture)"
            )
        return Moved(placed.value, placed.fate, "; ".join(part for part in (note, placed.note) if part))


def _shifted(entry: Moved | None, shift: Tensor) -> Moved:
    if entry is None:
        return Moved(shift, "averaged", _REST)
    return Moved(entry.value + shift, entry.fate, f"plus {_REST}" if shift.any() else entry.note)
