"""Strategy `inflate`: a 2D convnet's weights, made 3D, start the student. It adds no loss.

Biases, normalization and pointwise layers are copied; kernels with a plane are inflated by one of the rules of
`distill3d.layers.inflate2d`; the stem's three channels become one and absorb the teacher's input statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from distill3d.errors import ConfigError, InputError
from distill3d.layers.inflate2d import (
    ChannelRule,
    GrayStatistics,
    channel_shift,
    gray_statistics,
    inflate_average,
    inflate_center,
    inflate_center_noise,
    inflate_multi_axis,
    merge_channels,
    shuffle_control,
)
from distill3d.registry import STRATEGIES
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.transfer.base import AuditRow, Fate, TransferAudit, TransferStrategy, parameter_norm

Placement = Literal["average", "center", "center_noise", "multi_axis"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InflateConfig:
    """Settings of ``inflate``."""

    mode: Literal["average", "center", "center_noise", "multi_axis", "shuffled"] = "center"
    channels: ChannelRule = "sum"  # three input channels -> one: "sum" keeps the response to gray, "mean" is a third
    noise_std: float = 0.01  # center_noise only: relative to each kernel's own standard deviation
    shuffled: Placement = "average"  # mode=shuffled only: the placement this is the control of
    seed: int = 0  # of the noise and of the permutations

    def __post_init__(self) -> None:
        if self.noise_std < 0:
            raise ValueError(f"noise_std={self.noise_std} is negative; accepted: 0 or more")


@dataclass(frozen=True, slots=True)
class _Moved:
    value: Tensor
    fate: Fate
    note: str = ""


_NEW = _Moved(torch.empty(0), "new")
_STATISTICS = _Moved(torch.empty(0), "averaged", "input statistics, over the teacher's channels")


@STRATEGIES.register("inflate", config=InflateConfig)
@final
class Inflate(TransferStrategy):
    """Start the student's encoder from the teacher's weights.

    ``shuffled`` is the control: the values of each kernel are permuted before they are placed, all else is the same.
    Norms and biases are copied as they are: a permuted variance would change the scale, which the control must keep.

    Source: Carreira & Zisserman 2017 (average); Cheng et al. 2024, arXiv 2405.02686 (center); the rest is ours.
    """

    needs_weights = True

    @torch.no_grad()
    def transfer(self, *, student: Student, teacher: Teacher) -> TransferAudit:
        """Fill every entry of the student that has a counterpart, in place.

        Raises:
            ConfigError: there is no teacher, or it is not the network the student mirrors, or nothing fits.
            InputError: an entry's shape does not fit its counterpart's.
        """
        _refuse(student, teacher)
        source, own = teacher.net.state_dict(), student.state_dict()
        trainable = {name for name, _ in student.named_parameters()}
        gray = gray_statistics(mean=teacher.input_mean, std=teacher.input_std)
        moved = self._moved(student, own, source, gray)
        if not moved.keys() & trainable:
            raise ConfigError(f"strategy inflate: nothing fits {teacher.identity.architecture!r}, the copy rate is 0")
        before = {name: parameter_norm(value) for name, value in own.items()}
        student.set_input_statistics(mean=teacher.input_mean, std=teacher.input_std)
        for name, entry in moved.items():
            own[name].copy_(entry.value)
        rows: list[AuditRow] = []
        for name, value in own.items():
            key, after = student.teacher_key(name), parameter_norm(value)
            untouched = _NEW if after == before[name] else _STATISTICS
            entry = moved.get(name, untouched)
            rows.append(
                AuditRow(
                    name=name,
                    source=key,
                    fate=entry.fate,
                    shape=tuple(value.shape),
                    source_shape=tuple(source[key].shape) if key in source else None,
                    norm_before=before[name],
                    norm_after=after,
                    trainable=name in trainable,
                    note=entry.note,
                )
            )
        return TransferAudit.collect(rows)

    def _moved(
        self, student: Student, own: dict[str, Tensor], source: dict[str, Tensor], gray: GrayStatistics
    ) -> dict[str, _Moved]:
        """Return what each entry of the student's state dict becomes; entries without a counterpart are left out."""
        generator = torch.Generator().manual_seed(self.config.seed)
        moved: dict[str, _Moved] = {}
        shift: Tensor | None = None
        for name, value in own.items():
            key = student.teacher_key(name)
            if key is None:
                continue
            if key not in source:
                raise InputError(
                    f"strategy inflate: the teacher has no {key!r}, the counterpart of the student's {name!r}"
                )
            kernel, note = source[key], ""
            if self.config.mode == "shuffled" and kernel.ndim == value.ndim - 1 == 4:
                kernel, note = shuffle_control(kernel, generator=generator), "values permuted"
            if name == student.input_weight and kernel.shape[1] != value.shape[1]:
                shift = channel_shift(kernel, rule=self.config.channels, offsets=gray.offsets)
                kernel = merge_channels(kernel, rule=self.config.channels, gains=gray.gains)
                note = f"{note}; {self.config.channels} over input channels".removeprefix("; ")
            moved[name] = self._fit(name, kernel, value, generator, note)
        if shift is not None and student.input_shift is not None:
            moved[student.input_shift] = _shifted(moved.get(student.input_shift), shift)
        return moved

    def _fit(self, name: str, kernel: Tensor, value: Tensor, generator: torch.Generator, note: str) -> _Moved:
        """Bring a counterpart to the shape of the student's entry."""
        if kernel.shape == value.shape:
            return _Moved(kernel, "copied", note)
        plane_fits = kernel.ndim == 4 and value.ndim == 5 and value.shape[:2] + value.shape[3:] == kernel.shape
        if not plane_fits:
            raise InputError(
                f"strategy inflate: {name} is {tuple(value.shape)}, its counterpart {tuple(kernel.shape)}; "
                "accepted: the same shape but for one depth axis (change student.encoder or teacher.architecture)"
            )
        placement: Placement = self.config.shuffled if self.config.mode == "shuffled" else self.config.mode
        inflated = self._inflate(kernel, value.shape[2], placement, generator)
        pointwise = value.shape[2:].numel() == 1
        return _Moved(inflated, "copied" if pointwise else ("averaged" if placement == "average" else "inflated"), note)

    def _inflate(self, kernel: Tensor, depth: int, placement: Placement, generator: torch.Generator) -> Tensor:
        if placement == "average":
            return inflate_average(kernel, depth)
        if placement == "center":
            return inflate_center(kernel, depth)
        if placement == "center_noise":
            return inflate_center_noise(kernel, depth, noise_std=self.config.noise_std, generator=generator)
        return inflate_multi_axis(kernel, depth)


def _shifted(entry: _Moved | None, shift: Tensor) -> _Moved:
    note = "what the means of the teacher's input channels leave over"
    if entry is None:
        return _Moved(shift, "averaged", note)
    return _Moved(entry.value + shift, entry.fate, f"plus {note}")


def _refuse(student: Student, teacher: Teacher) -> None:
    name = teacher.identity.architecture
    if name == "none":
        raise ConfigError("strategy inflate needs a teacher; set teacher.name")
    if student.architecture_2d is None:
        raise ConfigError(
            f"strategy inflate: student {type(student).__name__} mirrors no 2D network, so {name!r} does not fit; "
            f"set student.name=convnet3d and student.encoder={name}"
        )
    if student.architecture_2d != name:
        raise ConfigError(
            f"strategy inflate: the student mirrors {student.architecture_2d!r}, the teacher is {name!r}; "
            "set student.encoder and teacher.architecture to the same network"
        )
