"""Draw a tree into a voxel mask: a sphere at every node, a tapered tube along every edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from distill3d.errors import InputError
from distill3d.volumes.tree import Tree

_CHUNK = 1 << 19  # candidate voxels tested at once, about 80 MB of temporaries
_MAX_CANDIDATES = 2_000_000_000  # more would take minutes, and means that the radius column holds no radii


@final
@dataclass(frozen=True, slots=True)
class _Tubes:
    """Segments in space: start and direction [E, 3], squared length [E], radius at both ends [E]."""

    start: np.ndarray
    along: np.ndarray
    square: np.ndarray
    radius_start: np.ndarray
    radius_end: np.ndarray


def rasterize(
    tree: Tree,
    shape_zyx: Sequence[int],
    *,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    radius: Literal["file", "fixed"] = "file",
    radius_um: float = 1.0,
    scale: float = 1.0,
    min_radius_um: float = 0.0,
    allow_outside: bool = False,
) -> np.ndarray:
    """Mark the voxels a tree fills.

    A voxel is marked if its center lies in the sphere of a node or within the radius of an edge: with t in [0, 1] the
    place on the edge nearest to the center, distance <= (1 - t) * r_child + t * r_parent. The test is exact and in
    micrometers, so it holds for anisotropic voxels. Every edge also marks the 26-connected line of voxels it runs
    through, so a neurite thinner than a voxel never vanishes. Parts outside the volume are clipped; voxel (0, 0, 0)
    has its center at the origin.

    Args:
        tree: what to draw, in micrometers.
        shape_zyx: voxels of the mask.
        spacing_um: ZYX voxel size.
        radius: ``file`` takes the tree's radii, ``fixed`` takes ``radius_um`` everywhere.
        radius_um: the fixed radius.
        scale: factor on either radius.
        min_radius_um: lower bound after scaling.
        allow_outside: return an empty mask instead of an error when no part of the tree is inside.

    Returns:
        Bool mask [Z, Y, X].

    Raises:
        InputError: no node, no overlap with the volume, or radii too large to be radii.

    >>> tree = Tree(np.array([[1.0, 1, 1], [1, 1, 3]]), np.zeros(2), np.array([-1, 0]), np.array([1, 3]))
    >>> rasterize(tree, (3, 3, 5))[1, 1].astype(int).tolist()
    [0, 1, 1, 1, 0]
    """
    z, y, x = (int(n) for n in shape_zyx)
    mask, spacing = np.zeros((z, y, x), bool), np.asarray(spacing_um, np.float64)
    if not tree.n_nodes:
        raise InputError("tree: no node found; at least one is needed to draw it")
    radii = np.full(tree.n_nodes, radius_um) if radius == "fixed" else tree.radii_um
    radii = np.maximum(np.maximum(radii * scale, min_radius_um), 0.0)
    tubes = _tubes_near(tree, radii, mask.shape, spacing)
    _mark_lines(mask, tubes, spacing)
    _mark_tubes(mask, tubes, spacing)
    if not (mask.any() or allow_outside):
        raise InputError(_no_overlap(tree, mask.shape, spacing))
    return mask


def _tubes_near(tree: Tree, radii: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray) -> _Tubes:
    """Return one tube per edge and one of length 0 per sphere that no tube holds, where they may touch the volume.

    A tube holds the spheres of its ends, but for the larger one of a tube that tapers, which sticks out.
    """
    child, parent = tree.edges.T
    larger = np.where(radii[child] > radii[parent], child, parent)[radii[child] != radii[parent]]
    spheres = np.union1d(np.setdiff1d(tree.roots, parent), larger)
    child, parent = np.append(child, spheres), np.append(parent, spheres)
    start, end = tree.points_zyx_um[child], tree.points_zyx_um[parent]
    margin = np.maximum(radii[child], radii[parent])[:, None] + spacing
    near = (np.maximum(start, end) + margin >= 0) & (np.minimum(start, end) - margin <= np.array(shape) * spacing)
    keep = near.all(axis=1)
    start, along = start[keep], (end - start)[keep]
    return _Tubes(start, along, (along**2).sum(axis=1), radii[child][keep], radii[parent][keep])


def _mark_lines(mask: np.ndarray, tubes: _Tubes, spacing: np.ndarray) -> None:
    """Mark the voxel nearest to points half a voxel apart."""
    steps = np.ceil(2 * np.abs(tubes.along / spacing).max(axis=1)).astype(np.int64) + 1
    first, counts = _runs_inside(steps + 1, tubes, -spacing, np.array(mask.shape) * spacing)
    for edge, place in _chunks(counts):
        t = (first[edge] + place) / steps[edge]
        voxel = np.floor((tubes.start[edge] + t[:, None] * tubes.along[edge]) / spacing + 0.5).astype(np.int64)
        inside = ((voxel >= 0) & (voxel < mask.shape)).all(axis=1)
        mask[tuple(voxel[inside].T)] = True


def _mark_tubes(mask: np.ndarray, tubes: _Tubes, spacing: np.ndarray) -> None:
    """Test every voxel of the boxes around short pieces of the tubes against the whole tube."""
    edge, low, size = _boxes(mask.shape, tubes, spacing)
    counts = size.prod(axis=1)
    if counts.sum() > _MAX_CANDIDATES:
        largest = max(tubes.radius_start.max(), tubes.radius_end.max())
        raise InputError(
            f"tree: radii up to {largest:g} um would take {counts.sum():.1e} voxel tests in a volume of {mask.shape}; "
            "radius=fixed draws trees whose radius column holds no radii"
        )
    for box, place in _chunks(counts):
        rest, x = np.divmod(place, size[box, 2])
        z, y = np.divmod(rest, size[box, 1])
        voxel = low[box] + np.stack([z, y, x], axis=1)
        hit = _inside(voxel * spacing, tubes, edge[box])
        mask[tuple(voxel[hit].T)] = True


def _boxes(shape: tuple[int, ...], tubes: _Tubes, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut tubes into pieces about as long as wide; return each piece's tube, first voxel and box size."""
    thick = np.maximum(np.maximum(tubes.radius_start, tubes.radius_end), spacing.min())
    pieces = np.ceil(np.sqrt(tubes.square) / (2 * thick)).astype(np.int64).clip(min=1)
    reach = thick[:, None] + spacing
    first, counts = _runs_inside(pieces, tubes, -reach, np.array(shape) * spacing + reach)
    edge = np.repeat(np.arange(len(pieces)), counts)
    t = (first[edge] + _position_in_run(counts)) / pieces[edge]
    ends = np.stack([t, t + 1 / pieces[edge]])
    points = tubes.start[edge] + ends[..., None] * tubes.along[edge]
    radius = (tubes.radius_start[edge] + ends * (tubes.radius_end - tubes.radius_start)[edge]).max(axis=0)[:, None]
    low = np.ceil((points.min(axis=0) - radius) / spacing - 1e-9).astype(np.int64).clip(min=0)
    high = np.floor((points.max(axis=0) + radius) / spacing + 1e-9).astype(np.int64)
    size = (np.minimum(high, np.array(shape) - 1) - low + 1).clip(min=0)
    keep = size.all(axis=1)
    return edge[keep], low[keep], size[keep]


def _runs_inside(pieces: np.ndarray, tubes: _Tubes, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of so many pieces of each tube, return the first and the number of those that may touch a box.

    A tube can reach as far as an SWC file says; what of it is drawn, and how much memory that takes, goes by the box.
    """
    still, inside = tubes.along == 0, (tubes.start >= low) & (tubes.start <= high)
    along = np.where(still, 1.0, tubes.along)
    with np.errstate(over="ignore"):
        near, far = (low - tubes.start) / along, (high - tubes.start) / along
    enter = np.where(still, np.where(inside, 0.0, 1.0), np.minimum(near, far)).max(axis=1).clip(0.0, 1.0)
    leave = np.where(still, np.where(inside, 1.0, 0.0), np.maximum(near, far)).min(axis=1).clip(0.0, 1.0)
    first = (np.floor(enter * pieces).astype(np.int64) - 2).clip(min=0)
    last = np.minimum(np.ceil(leave * pieces).astype(np.int64) + 2, pieces)
    return first, (last - first).clip(min=0)


def _inside(points: np.ndarray, tubes: _Tubes, edge: np.ndarray) -> np.ndarray:
    offset, along, square = points - tubes.start[edge], tubes.along[edge], tubes.square[edge]
    dot = (offset * along).sum(axis=1)
    t = np.divide(dot, square, out=np.zeros_like(dot), where=square > 0).clip(0.0, 1.0)
    gap = offset - t[:, None] * along
    radius = tubes.radius_start[edge] + t * (tubes.radius_end - tubes.radius_start)[edge]
    return (gap**2).sum(axis=1) <= radius**2


def _chunks(counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all that is counted, at most ``_CHUNK`` at a time: whose it is, and 0, 1, .., c - 1 of its count c."""
    ends = np.cumsum(counts)
    firsts, total = ends - counts, int(counts.sum())
    for start in range(0, total, _CHUNK):
        stop = min(start + _CHUNK, total)
        low, high = np.searchsorted(ends, (start, stop - 1), side="right")
        own = slice(low, high + 1)
        owner = np.repeat(np.arange(low, high + 1), np.minimum(ends[own], stop) - np.maximum(firsts[own], start))
        yield owner, np.arange(start, stop) - firsts[owner]


def _position_in_run(counts: np.ndarray) -> np.ndarray:
    """Return 0, 1, .., c - 1 for every count c, in one row."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _no_overlap(tree: Tree, shape: tuple[int, ...], spacing: np.ndarray) -> str:
    low, high = (np.round(bound, 2).tolist() for bound in tree.extent_zyx_um)
    size = np.round(np.array(shape) * spacing, 2).tolist()
    return f"volume and tree do not overlap: tree spans zyx {low} to {high} um, volume spans [0, 0, 0] to {size} um"
