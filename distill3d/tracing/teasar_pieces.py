"""From the pieces of a volume larger than memory to their centerlines, as `teasar` finds them of a whole mask.

TEASAR looks at one piece alone, so each is done in its own box, with the result of the whole volume. A piece whose box
is too large is done in tiles that share a plane: on it, kimimaro lets both sides end at one voxel (`fix_borders`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, final

import edt
import fill_voids
import numpy as np
from kimimaro.intake import compute_border_targets
from kimimaro.trace import trace as teasar
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from distill3d.config.trace import TraceConfig
from distill3d.tracing.graph import Skeleton
from distill3d.tracing.teasar import teasar_params
from distill3d.volumes.calls import Workers, grouped, made
from distill3d.volumes.components import label_components
from distill3d.volumes.parts import Box, box_around, box_shape, boxes, grown, within
from distill3d.volumes.pieces import Pieces, flat_of, points_of

MOST = 1 << 25  # voxels of a box that is done at once, about 25 bytes each
TILE = (192, 192, 192)
_GROUP = 1 << 20  # voxels of the boxes of pieces that are done by one call of a worker
_HALO = 32  # voxels around a tile; of thicker neurites the radii are too large there


@final
class _Lines(NamedTuple):
    """Centerlines: nodes as flat indices of voxels, radii in the smallest spacing, edges as pairs of such indices."""

    voxels: NDArray[np.int64]
    radii: NDArray[np.float64]
    edges: NDArray[np.int64]


@final
class _Piece(NamedTuple):
    """A piece that is done at once: flat indices of its voxels, its box, and voxels where its lines have to end."""

    voxels: NDArray[np.int64]
    box: Box
    ends: ArrayLike


@final
class _Tile(NamedTuple):
    """A box, and what of the mask lies in and around it."""

    around: Pieces
    box: Box


_NOTHING = _Lines(np.empty(0, np.int64), np.empty(0), np.empty((0, 2), np.int64))


def skeletonize_pieces(
    pieces: Pieces,
    spacing_um: NDArray[np.float64],
    config: TraceConfig,
    *,
    most: int = MOST,
    tile: Sequence[int] = TILE,
    on_piece: Callable[[int], None] = lambda _: None,
    workers: Workers | None = None,
) -> Skeleton:
    """Find the centerlines of a mask; every piece has at least one node.

    Args:
        pieces: of the mask.
        spacing_um: ZYX voxel size, float64 [3].
        config: the TEASAR settings.
        most: voxels of the largest box of a piece that is done at once.
        tile: voxels of the boxes that larger ones are done in.
        on_piece: called with the number of pieces that are done.
        workers: do the pieces and tiles; None: this process does.

    Returns:
        What `teasar.skeletonize` returns of the whole mask; of a piece with a larger box about that.
    """
    work = _Teasar(pieces.shape, spacing_um, config)
    ends: dict[int, Any] = dict(compute_border_targets(_Faces(pieces), work.anisotropy))  # by numbers from 1
    whole: list[_Lines] = []
    large, swallowed = np.zeros(pieces.count, bool), np.zeros(pieces.count, bool)
    first = np.empty(pieces.count, np.int64)

    def small() -> Iterator[_Piece]:
        for number, voxels in enumerate(pieces.each()):
            first[number], box = voxels[0], box_around(pieces.points(voxels))
            large[number] = math.prod(box_shape(box)) > most
            if not large[number]:
                yield _Piece(voxels, box, ends.get(number + 1, ()))

    groups = grouped(small(), lambda piece: math.prod(box_shape(piece.box)), _GROUP)
    for group in made(_do_pieces, work, groups, workers):
        for done, holes in group:
            whole.append(done)
            inside = pieces.numbers_at(holes)
            swallowed[inside[inside >= 0]] = True
        on_piece(len(group))
    lines = [part for part in whole if not swallowed[pieces.numbers_at(part.voxels[:1])].any()]
    if large.any():
        tiles = made(_do_tile, work, _tiles(pieces.only(large), tile), workers)
        lines.append(_connected(_merged(list(itertools.chain.from_iterable(tiles))), pieces))
        on_piece(int(large.sum()))
    return _as_skeleton(_merged(lines), pieces, first, spacing_um)


def _tiles(pieces: Pieces, size: Sequence[int]) -> Iterator[_Tile]:
    """Yield the tiles in which something is, each with one plane of the next."""
    for box in boxes(pieces.shape, size, shared=1):
        around = pieces.cut(grown(box, _HALO, pieces.shape))
        if len(around.voxels):
            yield _Tile(around, box)


def _do_pieces(work: _Teasar, group: list[_Piece]) -> list[tuple[_Lines, NDArray[np.int64]]]:
    return [work.piece(piece) for piece in group]


def _do_tile(work: _Teasar, tile: _Tile) -> list[_Lines]:
    return list(work.tile(tile))


@final
class _Teasar:
    """Runs TEASAR on parts of a volume."""

    def __init__(self, shape: tuple[int, int, int], spacing_um: NDArray[np.float64], config: TraceConfig) -> None:
        self.shape, self.config, self.params = shape, config, teasar_params(spacing_um, config)
        self.anisotropy = np.array(spacing_um / spacing_um.min(), np.float32)

    def piece(self, piece: _Piece) -> tuple[_Lines, NDArray[np.int64]]:
        """Return the lines of a piece, and the voxels of its holes, where these are filled."""
        wide, holes = grown(piece.box, 1, self.shape), np.empty(0, np.int64)
        mask = np.zeros(box_shape(wide), np.uint8, order="F")
        mask[tuple((points_of(piece.voxels, self.shape) - _corner(wide)).T)] = 1
        own = mask[within(piece.box, wide)]
        if self.config.fill_holes:
            filled = np.asarray(fill_voids.fill(own.astype(bool, order="F")))
            holes = flat_of(np.argwhere(filled & (own == 0)) + _corner(piece.box), self.shape)
            own[...] = filled
        ends = _from_corner(piece.ends, piece.box)
        return self.run(own, self.distances(mask)[within(piece.box, wide)], ends, _corner(piece.box)), holes

    def tile(self, tile: _Tile) -> Iterator[_Lines]:
        """Yield the lines of all pieces in a tile."""
        mask, wide = tile.around[tile.box], grown(tile.box, _HALO, self.shape)
        if not mask.any():
            return
        solid = np.asfortranarray(tile.around[wide]).view(np.uint8)
        if self.config.fill_holes:
            fill_voids.fill(solid.view(bool), in_place=True)
            mask = solid.view(bool)[within(tile.box, wide)]
        depth = self.distances(solid)[within(tile.box, wide)]
        labels = np.asfortranarray(label_components(mask)[0]).view(np.uint32)
        targets: dict[int, Any] = dict(compute_border_targets(labels, self.anisotropy))
        for number, part in enumerate(find_objects(labels.view(np.int32)), 1):
            ends = _from_corner(targets.get(number, ()), part)
            yield self.run(labels[part] == number, depth[part], ends, _corner(part) + _corner(tile.box))

    def distances(self, mask: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the distance to the nearest voxel out of a mask, beyond which counts as inside."""
        return edt.edt(mask, anisotropy=self.anisotropy, black_border=bool(mask.all()), parallel=1)

    def run(
        self,
        own: NDArray[np.generic],
        depth: NDArray[np.float32],
        ends: NDArray[np.int64],
        corner: NDArray[np.int64],
    ) -> _Lines:
        """Return the lines of a piece in its box, from the last of the voxels where they have to end, if there are."""
        mask = np.asfortranarray(own).astype(bool)
        if mask.size <= 1:
            return _NOTHING
        *others, root = ends.tolist() or [None]
        traced = teasar(
            mask,
            np.where(mask, depth, np.float32(0)),
            anisotropy=self.anisotropy,
            fix_branching=self.config.fix_branching,
            manual_targets_before=others,
            manual_targets_after=[],
            root=root,
            **self.params,
        )
        if not len(traced.edges):
            return _NOTHING
        voxels = flat_of(np.rint(traced.vertices).astype(np.int64) + corner, self.shape)
        return _Lines(voxels, traced.radii.astype(np.float64), voxels[traced.edges.astype(np.int64)])


@final
class _Faces:
    """The faces of a volume as kimimaro asks for them; it breaks ties by places on the whole face."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces, self.shape = pieces, pieces.shape

    def __getitem__(self, key: tuple[slice | int, ...]) -> NDArray[np.uint32]:
        at = [part if isinstance(part, slice) else part % n for part, n in zip(key, self.shape, strict=True)]
        z, y, x = (
            slice(0, n) if isinstance(part, slice) else slice(part, part + 1)
            for part, n in zip(at, self.shape, strict=True)
        )
        inside = tuple(slice(None) if isinstance(part, slice) else 0 for part in at)
        return self.pieces.labels((z, y, x)).view(np.uint32)[inside]


def _corner(box: Sequence[slice]) -> NDArray[np.int64]:
    return np.array([part.start for part in box])


def _from_corner(points: ArrayLike, box: Sequence[slice]) -> NDArray[np.int64]:
    return np.asarray(points, np.int64).reshape(-1, 3) - _corner(box)


def _merged(lines: Sequence[_Lines]) -> _Lines:
    """Return all lines as one: nodes ascending, each once, and so edges; of several radii the smallest."""
    all_voxels = np.concatenate([_NOTHING.voxels, *(part.voxels for part in lines)])
    all_radii = np.concatenate([_NOTHING.radii, *(part.radii for part in lines)])
    order = np.lexsort((all_radii, all_voxels))
    voxels, first = np.unique(all_voxels[order], return_index=True)
    edges = np.concatenate([_NOTHING.edges, *(part.edges for part in lines)])
    return _Lines(voxels, all_radii[order][first], np.unique(np.sort(edges, axis=1), axis=0))


def _connected(lines: _Lines, pieces: Pieces) -> _Lines:
    """Join what belongs to one piece of the mask where tiles left it apart: nearest nodes, by straight edges."""
    owner, points = pieces.numbers_at(lines.voxels), pieces.points(lines.voxels)
    edges = np.searchsorted(lines.voxels, lines.edges)
    while True:
        n = len(owner)
        _, part = connected_components(coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(n, n)), directed=False)
        _, one_of = np.unique(part, return_index=True)
        by_piece = np.argsort(owner[one_of], kind="stable")
        several = by_piece[1:][np.diff(owner[one_of][by_piece]) == 0]  # all parts of a piece but one
        if not len(several):
            return lines._replace(edges=lines.voxels[edges])
        new = [_nearest(np.flatnonzero(part == number), np.flatnonzero(owner == owner[one_of[number]]), points)
               for number in several.tolist()]  # fmt: skip
        edges = np.unique(np.sort(np.concatenate([edges, np.array(new)]), axis=1), axis=0)


def _nearest(part: NDArray[np.int64], all_of_piece: NDArray[np.int64], points: NDArray[np.int64]) -> tuple[int, int]:
    others = np.setdiff1d(all_of_piece, part)
    distance, at = KDTree(points[others]).query(points[part])
    nearest = int(np.argmin(distance))
    return int(part[nearest]), int(others[np.asarray(at)[nearest]])


def _as_skeleton(lines: _Lines, pieces: Pieces, first: NDArray[np.int64], spacing_um: NDArray[np.float64]) -> Skeleton:
    """Return lines in micrometers, and the first voxel of every piece that has none."""
    seen = np.zeros(pieces.count, bool)
    numbers = pieces.numbers_at(lines.voxels)
    seen[numbers[numbers >= 0]] = True
    lone = first[~seen]
    unit_um = float(spacing_um.min())
    return Skeleton(
        pieces.points(np.concatenate([lines.voxels, lone])) * spacing_um,
        np.concatenate([lines.radii * unit_um, np.full(len(lone), unit_um)]),
        np.searchsorted(lines.voxels, lines.edges),
    )
