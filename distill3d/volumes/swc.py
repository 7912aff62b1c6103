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
from distill3d.volumes.tree import Tree, TreeReport, cycle_member, node_depths, validate

__all__ = ["Tree", "TreeReport", "read_swc", "stated_spacing", "validate", "write_swc"]

_LOG = logging.getLogger(__name__)
_COLUMNS = 7  # id, type, x, y, z, radius, parent
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
    finite number becomes 0.

    Args:
        path: file with the columns id, type, x, y, z, radius, parent; further columns are ignored.
        spacing_um: ZYX size of the voxels the file counts in; (1, 1, 1) for a file that is in micrometers already.
            Radii are scaled by the in-plane size, sqrt(y * x).
        allow_empty: return a tree without nodes instead of an error.

    Raises:
        InputError: one line with the path and, where there is one, the line or id.
    """
    path = Path(path)
    table = _parse(path)
    if not len(table) and not allow_empty:
        raise InputError(f"{path}: no node found; an SWC file has lines of id type x y z radius parent")
    _require_finite(path, table)
    ids, parents = table[:, 0].astype(np.int64), table[:, 6].astype(np.int64)
    index, missing = _parent_index(path, ids, parents)
    looping = node_depths(index) < 0
    if looping.any():
        raise InputError(f"{path}: node {ids[cycle_member(index, looping)]} is its own ancestor; a tree has no cycle")
    if len(missing):
        _LOG.info("%s: %d nodes name a parent that is not in the file and become roots", path, len(missing))
    scale_zyx = _spacing(spacing_um)
    radii = np.nan_to_num(table[:, 5], nan=0.0, posinf=0.0, neginf=0.0) * _radius_scale(scale_zyx)
    points = table[:, 4:1:-1] * scale_zyx
    return Tree(points, radii, index, table[:, 1].astype(np.int64), missing)


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


def stated_spacing(path: str | os.PathLike[str]) -> tuple[float, float, float] | None:
    """Return the ZYX size in um of the voxels that a file counts in, where `write_swc` stated it in the first line.

    None for files that do not state one, such as those of other programs; `MICROMETERS` for what `trace` writes.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            match = _STATED_LINE.match(file.readline().rstrip())
    except OSError:
        return None  # `read_swc` says what is wrong with it
    if not match:
        return None
    z, y, x = (float(size) for size in match.groups())
    return z, y, x


def _parse(path: Path) -> np.ndarray:
    """Return the numbers of a file, float64 [N, 7]."""
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace").replace(",", " ")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); an SWC file is expected") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return np.empty((0, _COLUMNS))
    try:
        return np.loadtxt(lines, comments="#", usecols=range(_COLUMNS), ndmin=2)
    except ValueError as error:
        raise InputError(
            f"{path}: {_first_bad_line(text)}; seven numbers id type x y z radius parent are accepted"
        ) from error


def _first_bad_line(text: str) -> str:
    """Return in words which line is not seven numbers; only runs once parsing has failed."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        try:
            values = [float(word) for word in words[:_COLUMNS]]
        except ValueError:
            return f"line {number} reads {line.strip()[:60]!r}"
        if words and len(values) < _COLUMNS:
            return f"line {number} has {len(words)} columns"
    return "not a table of numbers"


def _require_finite(path: Path, table: np.ndarray) -> None:
    """Refuse coordinates, ids, types and parents that are not finite, and ids that are not whole."""
    needed = table[:, [0, 1, 2, 3, 4, 6]]
    bad = np.logical_not(np.isfinite(needed).all(axis=1))
    if bad.any():
        raise InputError(
            f"{path}: line {_line_of(path, bad)} holds a value that is not finite; finite numbers are accepted"
        )
    broken = (needed[:, [0, 1, 5]] != np.rint(needed[:, [0, 1, 5]])).any(axis=1)
    if broken.any():
        raise InputError(f"{path}: line {_line_of(path, broken)} has an id, type or parent that is not whole")


def _line_of(path: Path, rows: np.ndarray) -> int:
    """Return the line number, from 1, of the first marked row."""
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").replace(",", " ").splitlines()
    numbers = [n for n, line in enumerate(lines, start=1) if line.split("#")[0].strip()]
    return numbers[int(np.flatnonzero(rows)[0])]


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
