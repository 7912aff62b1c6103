"""How alike the layers of student and teacher are, before and after training: linear CKA per axis, and what is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.patches import ValPatches, collate
from distill3d.layers.grids import Cells, resample
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher
from distill3d.teachers.slices import Zoom, cut_slices, slice_order, stacked_maps
from distill3d.transfer.matching.alignment import linear_cka_table
from distill3d.transfer.view import map_cells
from distill3d.types import AXES, Axis, Batch

CELL_VOX = 8  # both maps are brought to cells of this side: places that are compared
SLICE_STEP = 4  # every so many slices are shown to the teacher: two per cell are enough for a figure
PATCHES = 4  # of the training cases, at most
PLACES = 2304  # cells that are compared, at most: those of 4 patches of 32 x 96 x 96 voxels


Similarity = dict[str, Any]


def similarity_batch(data: DistillDataModule) -> Batch:
    """Return the patches that are looked at: always the same of the training cases, unaugmented, first around gold."""
    cases, config = data.cases("train"), data.experiment.patches
    patches = ValPatches(cases, config)
    by_turns = [case * config.val_patches + n for n in range(config.val_patches) for case in range(len(cases))]
    return collate([patches[index] for index in by_turns[:PATCHES]])


def mirrored_blocks(student: Student, transferred: Collection[str]) -> dict[str, str]:
    """Return the path of each block of the student that took over weights -> its own block in the teacher.

    Args:
        student: a stem, prefix tokens and a last norm are no blocks of it.
        transferred: entries of its state dict.
    """
    moved = [name for name, depth in student.depths().items() if depth and name in transferred]
    blocks = {
        path: student.teacher_key(path)
        for path in student.main_layers()
        if path.rpartition(".")[2].isdigit() and any(name.startswith(f"{path}.") for name in moved)
    }
    return {path: own for path, own in blocks.items() if own is not None}


def kept(before: Similarity, after: Similarity, blocks: Mapping[str, str]) -> float | None:
    """Return how much of its likeness to the teacher a student has kept: mean CKA after training over mean before.

    Each block is compared with its own teacher block on slices across z. 1 where nothing was lost, as for a frozen
    encoder; 0 where nothing is left; None where there is no such block. A ratio of means, not a mean of ratios: a block
    that was unlike its teacher from the start must not decide.

    Args:
        before: as `layer_similarity` returns it.
        after: likewise, on the same patches.
        blocks: from `mirrored_blocks`.
    """
    sums = [
        sum(
            table["cka"]["z"][table["student"].index(path)][table["teacher"].index(own)]
            for path, own in blocks.items()
            if path in table["student"] and own in table["teacher"]
        )
        for table in (before, after)
    ]
    return sums[1] / sums[0] if sums[0] else None


@torch.no_grad()
def layer_similarity(student: Student, teacher: Teacher, batch: Batch) -> Similarity:
    """Compare every block of the student with every block of the teacher.

    Range of each value: [0, 1]; 1 where one layer's features are a rotation and scaling of the other's, 0 where nothing
    is alike (the unbiased estimate may be below it, which counts as 0). Features of
    cells of `CELL_VOX` voxels are compared, over all patches at once. Neither network nor its statistics change.

    What a block of a ViT adds is only ever read through a LayerNorm, the next block's or the last one, so each token is
    compared as it is read: centered over channels and scaled to the variance 1, without the affine map, which is the
    reader's own. Maps of convnets are read as they are.

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
    student_places, names = _student_places(student, image, cells), teacher.map_layers()
    spacing_um = batch.spacing_um[0].tolist()
    zoom = Zoom(student.magnification(teacher.net))
    by_axis = {axis: _teacher_places(teacher, image, spacing_um, names, axis, cells, zoom) for axis in AXES}
    if not student_places:  # as in some students of MONAI
        return {"student": [], "teacher": list(names), "cka": {}}
    table = linear_cka_table(
        [*student_places.values()], [places for of_axis in by_axis.values() for places in of_axis.values()]
    )
    table = table.clamp(0, 1)
    cka = {axis: part.tolist() for axis, part in zip(AXES, table.split(len(names), dim=1), strict=True)}
    return {"student": list(student_places), "teacher": list(names), "cka": cka}


def _student_places(student: Student, image: Tensor, cells: Sequence[Cells]) -> dict[str, Tensor]:
    """Layer -> features [places, C]."""
    was_training = student.training
    features = student.eval().observe(image, student.map_layers(image[:1])).features
    student.train(was_training)
    size, modules = tuple(image.shape[2:]), dict(student.named_modules())
    places = {}
    for path, maps in features.items():
        read = _as_read(modules.get(path), maps.movedim(1, -1)).movedim(-1, 1)
        places[path] = _places(resample(read, source=map_cells(maps.shape[2:], size, student.stride_zyx), target=cells))
    return places


def _teacher_places(
    teacher: Teacher,
    image: Tensor,
    spacing_um: Sequence[float],
    layers: Sequence[str],
    axis: Axis,
    cells: list[Cells],
    zoom: Zoom,
) -> dict[str, Tensor]:
    order = slice_order(axis)
    depth = image.shape[2 + order[0]]
    chosen = range(min(SLICE_STEP // 2, depth - 1), depth, SLICE_STEP)
    maps = stacked_maps(
        teacher,
        cut_slices(image, axis, chosen),
        layers,
        axis=axis,
        across=Cells(np.array(chosen, np.float64), 1.0),
        zoom=zoom,
        spacing_yx_um=[spacing_um[a] for a in order[1:]],
    )
    places = {}
    for layer, boxes in maps.items():
        read = [replace(box, values=_as_read(teacher.block(layer), box.values)) for box in boxes]
        places[layer] = _places(torch.stack([box.on_grid(cells) for box in read]))
    return places


def _as_read(block: nn.Module | None, values: Tensor) -> Tensor:
    """Scale tokens [..., C] of a transformer's block as its reader does, see `layer_similarity`; leave other maps."""
    is_pre_norm = isinstance(getattr(block, "norm1", None), nn.LayerNorm)
    return F.layer_norm(values, values.shape[-1:]) if is_pre_norm else values


def _places(maps: Tensor) -> Tensor:
    """Turn [B, C, Z, Y, X] into [B * Z * Y * X, C], `PLACES` at most, evenly chosen."""
    places = maps.movedim(1, -1).flatten(0, -2).float()
    if len(places) <= PLACES:
        return places
    return places[torch.linspace(0, len(places) - 1, PLACES, device=places.device).long()]
