"""What every strategy that starts a student from a 2D network's weights shares.

Biases, normalization and linear layers are copied; kernels with a plane are placed by the strategy; three input
channels become one and absorb the teacher's input statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from distill3d.errors import ConfigError, InputError
from distill3d.layers.inflate2d import (
    ChannelRule,
    channel_shift,
    gray_statistics,
    merge_channels,
    resample_patch,
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
        shuffled: permute the values of every matrix, kernel and table, resampled to the student's size, before it is
            placed: the control, of the same scale.
        seed: of the permutations and of whatever else a placement draws.
    """

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
            InputError: an entry's shape does not fit its counterpart's, too few entries have one, or the student has no
                place for one of the teacher's that it mirrors.
        """
        self._refuse(student, teacher)
        source, own = teacher.net.state_dict(), student.state_dict()
        trainable = {name for name, _ in student.named_parameters()}
        keys = {name: self.counterpart(student, name) for name in own}
        self._check_rate(student, keys, source)
        self._refuse_lost(student, teacher, set(keys.values()))
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
        return TransferAudit(tuple(rows), part=student.part_of(teacher.net))

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

    def _refuse_lost(self, student: Student, teacher: Teacher, taken: Collection[str | None]) -> None:
        lost = [entry for entry in teacher.net.state_dict() if entry not in taken and student.mirrors(entry)]
        if lost:
            name = teacher.identity.architecture
            raise InputError(
                f"strategy {self.name}: the student has no place for {lost[0]} of the teacher {name!r} ({len(lost)} "
                f"entries in all), so the copy would be another network; set student.encoder={name}"
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
            counterpart = source.get(keys[name] or "")
            if counterpart is None:
                continue
            gain = self.image_gain(student, name) if counterpart.ndim == 4 else 0.0
            kernel, notes = _resampled(student, name, counterpart, meets_image=gain > 0)
            resampled = kernel.shape != counterpart.shape
            if self.shuffled and kernel.ndim > 1:
                kernel = shuffle_control(kernel, generator=generator)
                notes.append("values permuted")
            if gain:
                more = gain * channel_shift(kernel, rule=self.channels, offsets=gray.offsets)
                shift = more if shift is None else shift + more
                kernel = merge_channels(kernel, rule=self.channels, gains=gray.gains)
                notes.append(f"{self.channels} over input channels")
            entry = self._fit(name, kernel, value, generator, notes)
            moved[name] = replace(entry, fate="interpolated") if resampled else entry
        if shift is not None and student.input_shift is not None:
            moved[student.input_shift] = _shifted(moved.get(student.input_shift), shift)
        return moved

    def _fit(self, name: str, kernel: Tensor, value: Tensor, generator: torch.Generator, notes: Sequence[str]) -> Moved:
        """Bring a counterpart of the right plane to the shape of the student's entry."""
        if kernel.shape == value.shape:
            return Moved(kernel, "copied", "; ".join(notes))
        placed = self.place(name, kernel, value, generator)
        if placed is None:
            raise InputError(
                f"strategy {self.name}: {name} is {tuple(value.shape)}, its counterpart {tuple(kernel.shape)}; "
                "accepted: the same shape but for one depth axis (change student.encoder or teacher.architecture)"
            )
        return Moved(placed.value, placed.fate, "; ".join(note for note in (*notes, placed.note) if note))


def _resampled(student: Student, name: str, kernel: Tensor, *, meets_image: bool) -> tuple[Tensor, list[str]]:
    """Bring a counterpart to the student's patch or grid; also returns a note where one is due."""
    if not meets_image or student.patch_yx is None:
        table = student.from_2d(name, kernel)
        return (kernel if table is None else table), []
    resampled = resample_patch(kernel, student.patch_yx)
    if resampled.shape == kernel.shape:
        return kernel, []
    old, new = ("x".join(map(str, each.shape[2:])) for each in (kernel, resampled))
    return resampled, [f"patch {old} resampled to {new}"]


def _shifted(entry: Moved | None, shift: Tensor) -> Moved:
    if entry is None:
        return Moved(shift, "averaged", _REST)
    return Moved(entry.value + shift, entry.fate, f"plus {_REST}" if shift.any() else entry.note)
