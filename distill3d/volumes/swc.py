"""Read and write neuron trees as SWC; the only place where the file's XYZ meets the package's ZYX."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.swc_text import read_table, read_text
from distill3d.volumes.tree import Tree, TreeReport, cycle_member, node_depths, validate

__all__ = ["Tree", "TreeReport", "read_swc", "stated_spacing", "validate", "write_swc"]

_LOG = logging.getLogger(__name__)
TREE_SUFFIXES = (".swc", ".eswc", ".swc.gz", ".eswc.gz")
MICROMETERS = (1.0, 1.0, 1.0)
_STATED = "distill3d; voxel size zyx "
_STATED_LINE = re.compile(rf"# {_STATED}([0-9.e+-]+)x([0-9.e+-]+)x([0-9.e+-]+) um$")


def read_swc(
    path: str | os.PathLike[str],
    *,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    allow_empty: bool = False,
) -> Tree:
    """Read an SWC file; commas, tabs, comments, any order of nodes, float ids and missing parents are accepted.

    A node whose parent is not in the file becomes a root and is listed in ``Tree.orphans``. A radius that is not a
    finite number becomes 0. Lines ``# SCALE x y z`` and ``# OFFSET x y z`` of the header are applied, in this order,
    before the spacing, with a warning.

    Args:
        path: file with the columns id, type, x, y, z, radius, parent; further columns (those of .eswc) are ignored. It
            may be UTF-8 or UTF-16 and may be packed with gzip.
        spacing_um: ZYX size of the voxels the file counts in; (1, 1, 1) for a file that is in micrometers already.
            Radii are scaled by the in-plane size, sqrt(y * x).
        allow_empty: return a tree without nodes instead of an error.

    Raises:
        InputError: one line with the path and, where there is one, the line or id.
    """
    path = Path(path)
    table = read_table(path)
    if not len(table.ids) and not allow_empty:
        raise InputError(f"{path}: no node found; an SWC file has lines of id type x y z radius parent")
    index, missing = _parent_index(path, table.ids, table.parents)
    looping = node_depths(index) < 0
    if looping.any():
        raise InputError(
            f"{path}: node {table.ids[cycle_member(index, looping)]} is its own ancestor; a tree has no cycle"
        )
    if len(missing):
        _LOG.info("%s: %d nodes name a parent that is not in the file and become roots", path, len(missing))
    header_zyx, offset_zyx = table.scale_xyz[::-1], table.offset_xyz[::-1]
    remarks = [f"decimal commas (line {table.decimal_commas}) are read as points"] * bool(table.decimal_commas)
    if (header_zyx != 1).any() or offset_zyx.any():
        remarks.append(f"its header's SCALE {table.scale_xyz} and OFFSET {table.offset_xyz} (x y z) are applied")
        _LOG.warning("%s: %s", path, remarks[-1])
    scale_zyx = _spacing(spacing_um)
    points = (table.values[:, 4:1:-1] * header_zyx + offset_zyx) * scale_zyx
    radii = np.nan_to_num(table.values[:, 5], nan=0.0, posinf=0.0, neginf=0.0)
    radii = radii * _radius_scale(header_zyx) * _radius_scale(scale_zyx)
    return Tree(points, radii, index, table.values[:, 1].astype(np.int64), missing, tuple(remarks))


def write_swc(
    path: str | os.PathLike[str],
    tree: Tree,
    *,
    spacing_um: Sequence[float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a tree as SWC: ids from 1, parents before children, ten digits; the file appears whole or not at all.

    Args:
        path: file to write; its folder is made.
        tree: what to write; a tree without nodes gives a file with a header only.
        spacing_um: ZYX size of the voxels the file shall count in, which its first line then states; `MICROMETERS`
            for a file in micrometers. None writes the tree's numbers as they are and states nothing.
        notes: further lines ``key=value`` of the header, see `distill3d.volumes.origin`.

    Raises:
        InputError: the tree has a cycle.
    """
    path, scale_zyx = Path(path), _spacing(MICROMETERS if spacing_um is None else spacing_um)
    depths = node_depths(tree.parents)
    if (depths < 0).any():
        raise InputError(f"{path}: the tree has a cycle and is not written")
    parents_first = bool((tree.parents < np.arange(tree.n_nodes)).all())
    order = np.arange(tree.n_nodes) if parents_first else np.argsort(depths, kind="stable")
    new_id = np.empty(tree.n_nodes + 1, np.int64)
    new_id[order], new_id[-1] = np.arange(1, tree.n_nodes + 1), -1  # parent -1 picks the last entry
    xyz = (tree.points_zyx_um / scale_zyx)[order, ::-1]
    radii = tree.radii_um[order] / _radius_scale(scale_zyx)
    rows = np.column_stack([new_id[order], tree.types[order], xyz, radii, new_id[tree.parents[order]]])
    text = io.StringIO()
    stated = "distill3d" if spacing_um is None else f"{_STATED}{'x'.join(str(float(s)) for s in scale_zyx)} um"
    lines = [stated, *(f"{key}={value}" for key, value in (notes or {}).items()), "id type x y z radius parent"]
    np.savetxt(text, rows, fmt=["%d", "%d", *["%.10g"] * 4, "%d"], header="\n".join(lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text.getvalue(), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_tree_file(path: Path) -> bool:
    """Tell by the name whether a file is a tree.

    >>> is_tree_file(Path("a.SWC")), is_tree_file(Path("a.v3draw.eswc")), is_tree_file(Path("a.tif"))
    (True, True, False)
    """
    return path.name.lower().endswith(TREE_SUFFIXES)


def stated_spacing(path: str | os.PathLike[str]) -> tuple[float, float, float] | None:
    """Return the ZYX size in um of the voxels that a file counts in, where `write_swc` stated it in the first line.

    None for files that do not state one, such as those of other programs; `MICROMETERS` for what `trace` writes.
    """
    try:
        match = _STATED_LINE.match(read_text(Path(path)).partition("\n")[0].rstrip())
    except InputError:
        return None  # `read_swc` says what is wrong with it
    if not match:
        return None
    z, y, x = (float(size) for size in match.groups())
    return z, y, x


def _parent_index(path: Path, ids: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn parent ids into row numbers; return them and the rows whose parent is missing."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise InputError(f"{path}: id {ordered[twice[0]]} is used by more than one node; ids must differ")
    if not len(ids):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.minimum(np.searchsorted(ordered, parents), len(ids) - 1)
    present = (ordered[place] == parents) & (parents >= 0)
    return np.where(present, order[place], -1), np.flatnonzero(~present & (parents >= 0))


def _spacing(spacing_um: Sequence[float]) -> np.ndarray:
    scale = np.asarray(spacing_um, np.float64)
    if scale.shape != (3,) or not (np.isfinite(scale) & (scale > 0)).all():
        raise InputError(f"spacing_um: {tuple(spacing_um)} found; three finite numbers > 0 (z, y, x) are accepted")
    return scale


def _radius_scale(scale_zyx: np.ndarray) -> float:
    """Return the factor from a radius in voxels to um: tracing tools draw radii in the plane, in its voxels."""
    return float(np.sqrt(scale_zyx[1] * scale_zyx[2]))
