"""How alike the layers of student and teacher are, before and after training: linear CKA per axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.patches import ValPatches, collate
from distill3d.layers.grids import Cells, resample
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.teachers.slices import Zoom, cut_slices, slice_order, stacked_maps
from distill3d.transfer.matching.relations import linear_cka
from distill3d.transfer.view import map_cells
from distill3d.types import AXES, Axis, Batch

CELL_VOX = 8  # both maps are brought to cells of this side: places that are compared
SLICE_STEP = 4  # every so many slices are shown to the teacher: two per cell are enough for a figure
PATCHES = 4  # of the validation cases, at most


Similarity = dict[str, Any]


def similarity_batch(data: DistillDataModule) -> Batch:
    """Return the patches that are looked at: the first ones of the validation, around gold before all others."""
    patches = ValPatches(data.cases("val"), data.experiment.patches)
    return collate([patches[index] for index in range(min(PATCHES, len(patches)))])


@torch.no_grad()
def layer_similarity(student: Student, teacher: Teacher, batch: Batch) -> Similarity:
    """Compare every block of the student with every block of the teacher.

    Range of each value: [0, 1]; 1 where one layer's features are a rotation and scaling of the other's. Features of
    cells of `CELL_VOX` voxels are compared, over all patches at once. Neither network nor its statistics change.

    Source: Kornblith et al. 2019, Similarity of neural network representations revisited, arXiv 1905.00414; comparing a
    3D network with a 2D one on cells of a common grid is ours.

    Args:
        student: on the same device as the teacher.
        teacher: sees the slices of the patches.
        batch: patches.

    Returns:
        ``student`` and ``teacher``: the layers; ``cka``: axis -> a row of values per layer of the student.
    """
    device = next(student.parameters()).device
    image = batch.image.to(device)
    cells = [Cells.regular(-(-size // CELL_VOX), CELL_VOX) for size in image.shape[2:]]
    student_places = _student_places(student, image, cells)
    names = teacher.map_layers()
    cka: dict[str, list[list[float]]] = {}
    for axis in AXES:
        teacher_places = _teacher_places(teacher, image, batch.spacing_um[0].tolist(), names, axis, cells)
        cka[axis] = [[float(linear_cka(a, b)) for b in teacher_places.values()] for a in student_places.values()]
    return {"student": list(student_places), "teacher": list(names), "cka": cka}


def _student_places(student: Student, image: Tensor, cells: Sequence[Cells]) -> dict[str, Tensor]:
    """Layer -> features [places, C]."""
    was_training = student.training
    features = student.eval().observe(image, student.map_layers(image[:1])).features
    student.train(was_training)
    size = tuple(image.shape[2:])
    return {
        path: _places(resample(maps, source=map_cells(maps.shape[2:], size, student.stride_zyx), target=cells))
        for path, maps in features.items()
    }


def _teacher_places(
    teacher: Teacher, image: Tensor, spacing_um: Sequence[float], layers: Sequence[str], axis: Axis, cells: list[Cells]
) -> dict[str, Tensor]:
    order = slice_order(axis)
    chosen = range(SLICE_STEP // 2, image.shape[2 + order[0]], SLICE_STEP)
    maps = stacked_maps(
        teacher,
        cut_slices(image, axis, chosen),
        layers,
        axis=axis,
        across=Cells(np.array(chosen, np.float64), 1.0),
        zoom=Zoom(),
        spacing_yx_um=[spacing_um[a] for a in order[1:]],
    )
    return {layer: _places(torch.stack([box.on_grid(cells) for box in boxes])) for layer, boxes in maps.items()}


def _places(maps: Tensor) -> Tensor:
    """Turn [B, C, Z, Y, X] into [B * Z * Y * X, C]."""
    return maps.movedim(1, -1).flatten(0, -2).float()
