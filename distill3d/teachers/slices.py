"""Slices of a volume through the teacher and their maps stacked up again, with the exact place of every cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from distill3d.layers.grids import Cells, resample
from distill3d.teachers.base import Teacher
from distill3d.types import AXES, Axis

PIXELS_AT_ONCE = 2**21  # of slices in one forward; bounds the memory of the teacher's activations


def slice_order(axis: Axis) -> tuple[int, int, int]:
    """Return the axes of a volume in the order of its slices: the one that is cut across, rows, columns.

    Example:
        >>> slice_order("y")
        (1, 0, 2)
    """
    first = AXES.index(axis)
    rest = [a for a in range(3) if a != first]
    return first, rest[0], rest[1]


@dataclass(frozen=True, slots=True, eq=False)
class SliceMaps:
    """Maps of the slices of one box.

    Attributes:
        values: [S, y, x, C], channels last so that a crop is read in long runs.
        cells: of slices, rows and columns, in the voxels of the box.
        axis: that the slices were cut across.
    """

    values: Tensor
    cells: tuple[Cells, Cells, Cells]
    axis: Axis

    def on_grid(self, target_zyx: Sequence[Cells], *, device: torch.device | None = None) -> Tensor:
        """Return the maps on a grid of the same box, [C, Z, Y, X] float32, on a device (by default the maps' own)."""
        order = slice_order(self.axis)
        moved = self.values.to(device or self.values.device).permute(3, 0, 1, 2).float()
        grid = resample(moved, source=self.cells, target=[target_zyx[a] for a in order])
        return grid.permute(0, *(1 + order.index(a) for a in range(3)))

    def crop(self, target_zyx: Sequence[Cells]) -> Self:
        """Return the part that `on_grid` needs for this grid; of a memory map only that part is read."""
        order = slice_order(self.axis)
        ranges = [have.around(target_zyx[a]) for have, a in zip(self.cells, order, strict=True)]
        values = self.values[tuple(slice(low, high) for low, high in ranges)]
        s, y, x = (have.part(low, high) for have, (low, high) in zip(self.cells, ranges, strict=True))
        return type(self)(values, (s, y, x), self.axis)


def cut_slices(volumes: Tensor, axis: Axis, chosen: Sequence[int]) -> Tensor:
    """Cut [B, 1, Z, Y, X] across an axis into slices [B * S, 1, rows, columns], those of one volume together."""
    order = slice_order(axis)
    turned = volumes[:, 0].permute(0, *(1 + a for a in order))
    picked = turned[:, torch.as_tensor(list(chosen), device=volumes.device)]
    return picked.flatten(0, 1).unsqueeze(1)


@dataclass(frozen=True, slots=True)
class Zoom:
    """How slices are resized before the teacher sees them.

    Attributes:
        scale: of both sides.
        square: first make pixels square.
    """

    scale: float = 1.0
    square: bool = False

    def sides(self, rows: int, columns: int, spacing_yx_um: Sequence[float]) -> tuple[int, int]:
        """Return the sides in pixels that a slice is resized to."""
        finest = min(spacing_yx_um)
        factors = [self.scale * (um / finest if self.square else 1.0) for um in spacing_yx_um]
        return max(1, round(rows * factors[0])), max(1, round(columns * factors[1]))


def run_slices(
    teacher: Teacher, slices: Tensor, layers: Sequence[str], *, zoom: Zoom, spacing_yx_um: Sequence[float]
) -> Iterator[tuple[slice, dict[str, tuple[Tensor, Cells, Cells]]]]:
    """Send slices through the teacher, a few at once.

    Args:
        teacher: frozen.
        slices: [N, 1, rows, columns] intensities in [0, 1].
        layers: of the teacher.
        zoom: resizes the slices first.
        spacing_yx_um: of their pixels.

    Yields:
        Which slices, and layer -> (maps [n, y, x, C] float32, cells of rows, cells of columns in voxels).
    """
    rows, columns = slices.shape[2:]
    sides = zoom.sides(rows, columns, spacing_yx_um)
    parts = teacher.by_multiple(layers)
    pixels = max(math.prod(side + -side % multiple for side in sides) for multiple in parts)
    step = max(1, PIXELS_AT_ONCE // pixels)
    for first in range(0, len(slices), step):
        part = slices[first : first + step]
        if sides != (rows, columns):
            part = F.interpolate(part, size=sides, mode="bilinear", align_corners=False, antialias=True)
        on_cells: dict[str, tuple[Tensor, Cells, Cells]] = {}
        for multiple, chosen in parts.items():
            on_cells |= _padded(teacher, part, chosen, multiple=multiple, voxels_yx=(rows, columns))
        yield slice(first, first + len(part)), on_cells


def _padded(
    teacher: Teacher, images: Tensor, layers: Sequence[str], *, multiple: int, voxels_yx: tuple[int, int]
) -> dict[str, tuple[Tensor, Cells, Cells]]:
    """Fill images up to sides that a multiple divides; return layer -> maps, and cells in the voxels they were."""
    sides = images.shape[2:]
    rows, columns = (-side % multiple for side in sides)
    if rows or columns:
        images = F.pad(images, (0, columns, 0, rows), mode="replicate")
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=images.device.type == "cuda"):
        maps = teacher.maps(images, layers)
    on_cells = {}
    for layer, values in maps.items():
        y, x = (
            Cells.regular(count, full / side * voxels / count)
            for count, full, side, voxels in zip(values.shape[2:], images.shape[2:], sides, voxels_yx, strict=True)
        )
        on_cells[layer] = (values.permute(0, 2, 3, 1), y, x)
    return on_cells


def stacked_maps(
    teacher: Teacher,
    slices: Tensor,
    layers: Sequence[str],
    *,
    axis: Axis,
    across: Cells,
    zoom: Zoom,
    spacing_yx_um: Sequence[float],
) -> dict[str, list[SliceMaps]]:
    """Run the teacher on the slices of one or several boxes and stack the maps up again.

    Args:
        teacher: frozen.
        slices: as `cut_slices` gives them, [B * S, 1, rows, columns].
        layers: of the teacher.
        axis: that the slices were cut across.
        across: where the S slices of a box lie.
        zoom: resizes the slices first.
        spacing_yx_um: of their pixels.

    Returns:
        Layer -> one `SliceMaps` per box.
    """
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    plane: dict[str, tuple[Cells, Cells]] = {}
    for _, maps in run_slices(teacher, slices, layers, zoom=zoom, spacing_yx_um=spacing_yx_um):
        for layer, (values, y, x) in maps.items():
            parts[layer].append(values)
            plane[layer] = y, x
    return {
        layer: [
            SliceMaps(box, (across, *plane[layer]), axis) for box in torch.cat(parts[layer]).split(len(across.starts))
        ]
        for layer in parts
    }
