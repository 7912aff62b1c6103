"""How far a student is from its teacher's function before its first step: per level, on slices of training patches."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.patches import ValPatches, collate
from distill3d.layers.grids import filled_up
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.teachers.slices import Zoom, cut_slices, run_slices
from distill3d.training.similarity import mirrored_blocks
from distill3d.transfer.matching.alignment import linear_cka
from distill3d.types import Batch

PATCHES = 2  # of the first training case
SLICES = 4  # of a patch, or as many as the deepest level sees at once
LEVELS = 5  # blocks that are compared, at most


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStart:
    """A block of the student against its own in the teacher.

    Attributes:
        layer: of the student.
        source: the teacher's.
        relative_error: Euclidean norm of the difference of their maps over that of the teacher's; 0 or more.
        cka: linear CKA of their maps, unbiased; 1 where they agree up to a rotation and a scale, about 0 for
            unrelated ones.
    """

    layer: str
    source: str
    relative_error: float
    cka: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How far a student starts from its teacher's function.

    Attributes:
        levels: finest first; empty where nothing could be compared.
        slices: how many the teacher saw.
        departures: see `Student.departures`.
        missing: why nothing was measured; empty if it was.
    """

    levels: tuple[LevelStart, ...] = ()
    slices: int = 0
    departures: tuple[str, ...] = ()
    missing: str = ""


def start_batch(data: DistillDataModule) -> Batch:
    """Return the patches that are looked at: of the first training case, unaugmented, around gold.

    Raises:
        ConfigError: there is no training case.
        InputError: it cannot be used.
    """
    patches = ValPatches((data.first_case("train"),), data.experiment.patches)
    return collate([patches[n] for n in range(min(PATCHES, len(patches)))])


@torch.no_grad()
def start_of(student: Student, teacher: Teacher, batch: Batch, transferred: Collection[str]) -> Start | None:
    """Compare the student, in training mode, with what its teacher gives on slices across z.

    A student's cell that covers several slices is compared with the mean of the teacher's maps of these. Neither
    network nor its statistics change, nor do the global random generators.

    Args:
        student: after the transfer.
        teacher: sees `SLICES` neighboring slices from the middle of every patch.
        batch: patches.
        transferred: entries of the student's state dict that came from the teacher.

    Returns:
        None where no block came from the teacher.
    """
    blocks = mirrored_blocks(student, transferred)
    wanted = set(teacher.map_layers()) if blocks else set()
    pairs = [(path, own) for path, own in blocks.items() if own in wanted]
    if not pairs:
        return None
    chosen = [pairs[round(i * (len(pairs) - 1) / max(1, LEVELS - 1))] for i in range(LEVELS)]
    pairs = list(dict.fromkeys(chosen))
    image = filled_up(batch.image, student.stride_zyx)
    with torch.random.fork_rng(devices=[]):  # the student is on the CPU
        maps = copy.deepcopy(student).train().observe(image, [path for path, _ in pairs]).features
    first, count = _middle(image.shape[2], max(image.shape[2] // each.shape[2] for each in maps.values()))
    slices = cut_slices(image, "z", range(first, first + count))
    seen = _teacher_maps(teacher, slices, [own for _, own in pairs], student.magnification(teacher.net), batch)
    levels = [
        LevelStart(layer=path, source=own, relative_error=error, cka=cka)
        for path, own in pairs
        if (both := _cells(maps[path], seen[own], first=first, count=count, depth=image.shape[2])) is not None
        for error, cka in [_compare(*both)]
    ]
    return Start(levels=tuple(levels), slices=len(slices), departures=student.departures())


def _middle(depth: int, deepest: int) -> tuple[int, int]:
    """Return the first of the slices to compare, and how many: whole cells of the deepest level."""
    count = min(depth, -(-SLICES // deepest) * deepest)
    return (depth - count) // 2 // deepest * deepest, count


def _teacher_maps(teacher: Teacher, slices: Tensor, layers: list[str], scale: float, batch: Batch) -> dict[str, Tensor]:
    """Layer -> maps [N, y, x, C] of the slices."""
    spacing_yx_um = batch.spacing_um[0].tolist()[1:]
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for _, maps in run_slices(teacher, slices, layers, zoom=Zoom(scale), spacing_yx_um=spacing_yx_um):
        for layer, (values, _, _) in maps.items():
            parts[layer].append(values)
    return {layer: torch.cat(values) for layer, values in parts.items()}


def _cells(own: Tensor, seen: Tensor, *, first: int, count: int, depth: int) -> tuple[Tensor, Tensor] | None:
    """Return a student's [B, C, Z, Y, X] and a teacher's [B * S, y, x, C] as [places, C]; None if they do not match."""
    step = depth // own.shape[2]
    own = own[:, :, first // step : (first + count) // step].permute(0, 2, 3, 4, 1)
    means = seen.unflatten(0, (len(own), count // step, step)).mean(2)
    means = means[:, :, : own.shape[2], : own.shape[3]]  # the teacher's image may have been padded further
    return (own.flatten(0, 3), means.flatten(0, 3)) if own.shape == means.shape else None


def _compare(own: Tensor, seen: Tensor) -> tuple[float, float]:
    """Return relative error and linear CKA of [places, C]."""
    error = (own - seen).norm() / seen.norm().clamp(min=torch.finfo(seen.dtype).tiny)
    return float(error), float(linear_cka(own, seen))
