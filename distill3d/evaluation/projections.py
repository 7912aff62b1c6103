"""What a test case looks like from above, as `evaluate` leaves it for a page that reads run folders only."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.evaluation.figures.canvas import Flags, Spacing, gray
from distill3d.evaluation.figures.case import KIND_COLORS, error_kinds
from distill3d.storage.run_folder import write_bytes
from distill3d.volumes.memory import DEFLATE, require_room
from distill3d.volumes.swc_text import FARTHEST
from distill3d.volumes.tree import Tree


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Projections:
    """A case seen along z.

    Args:
        image: [Y, X], shades of `gray`.
        gold: [Y, X].
        errors: [Y, X], kinds of `error_kinds`.
        spacing_um: ZYX voxel size.
        depth: slices of the stack.
        tree: of gold; None where the case has none.
        along_y: [Z, X], shades of `gray`; None in files of an older version.
        along_x: [Z, Y], the same.
    """

    image: NDArray[np.uint8]
    gold: Flags
    errors: NDArray[np.uint8]
    spacing_um: Spacing
    depth: int
    tree: Tree | None
    along_y: NDArray[np.uint8] | None = None
    along_x: NDArray[np.uint8] | None = None


def project(
    image: NDArray[np.number], *, gold: Flags, known: Flags, pred: Flags, spacing_um: Spacing, tree: Tree | None
) -> Projections:
    """Project a case along z, and its image along y and x too.

    Args:
        image: [Z, Y, X] intensities as they were recorded.
        gold: [Z, Y, X].
        known: [Z, Y, X], voxels that somebody labelled.
        pred: [Z, Y, X].
        spacing_um: ZYX voxel size.
        tree: of gold.
    """
    return Projections(
        image=gray(image),
        gold=np.asarray(gold.any(axis=0)),
        errors=error_kinds(pred=pred, gold=gold, known=known, axis=0),
        spacing_um=spacing_um,
        depth=len(image),
        tree=tree,
        along_y=gray(image, 1),
        along_x=gray(image, 2),
    )


def write_projections(path: Path, projections: Projections) -> None:
    """Write one compressed file atomically; makes the folder."""
    fields = {field.name: getattr(projections, field.name) for field in dataclasses.fields(Projections)}
    tree = fields.pop("tree")
    fields = {name: value for name, value in fields.items() if value is not None}
    if tree is not None:
        fields |= {f"tree_{field.name}": getattr(tree, field.name) for field in dataclasses.fields(Tree)}
    packed = io.BytesIO()
    np.savez_compressed(packed, **fields)
    write_bytes(path, packed.getvalue())


def read_projections(path: Path) -> Projections:
    """Read what `write_projections` wrote.

    Raises:
        InputError: there is none, or it is broken.
    """
    try:
        # Opened here: numpy leaves a broken file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            unpacked = sum(entry.file_size for entry in arrays.zip.infolist())
            require_room(path, unpacked, stored=path.stat().st_size, expansion=DEFLATE)
            fields = dict(arrays)
        of_tree = {name.removeprefix("tree_"): fields.pop(name) for name in list(fields) if name.startswith("tree_")}
        z, y, x = fields.pop("spacing_um").tolist()
        depth = int(fields.pop("depth"))
        tree = Tree(**of_tree) if of_tree else None
        projections = Projections(**fields, spacing_um=(z, y, x), depth=depth, tree=tree)
        _require_drawable(projections)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a broken file
        raise InputError(f"{path}: no projections ({error}); accepted: what `distill3d evaluate` writes") from error
    return projections


def _require_drawable(projections: Projections) -> None:
    arrays = (projections.image, projections.gold, projections.errors)
    shapes, types = {array.shape for array in arrays}, [array.dtype for array in arrays]
    flat = len(shapes) == 1 and arrays[0].ndim == 2 and arrays[0].size > 0
    if not flat or types != [np.uint8, bool, np.uint8]:
        raise ValueError(f"arrays of shapes {shapes} and types {types}")
    walls = [wall for wall in (projections.along_y, projections.along_x) if wall is not None]
    if not all(wall.ndim == 2 and wall.size and wall.dtype == np.uint8 for wall in walls):
        raise ValueError("walls that are no pictures")
    if projections.errors.max() >= len(KIND_COLORS):
        raise ValueError(f"error kind {projections.errors.max()}")
    if not all(np.isfinite(size) and size > 0 for size in projections.spacing_um):
        raise ValueError(f"spacing {projections.spacing_um}")
    if projections.tree is not None and not (np.abs(projections.tree.points_zyx_um) <= FARTHEST).all():
        raise ValueError("a tree without a place")
