"""From the pieces of a volume larger than memory to their centerlines, as `teasar` finds them of a whole mask.

TEASAR looks at one piece alone, so each is done in its own box, with the result of the whole volume. A piece whose box
is too large is done in tiles that share a plane: on it, kimimaro lets both sides end at one voxel (`fix_borders`).
"""

from __future__ import annotations

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
from distill3d.volumes.components import label_components
from distill3d.volumes.parts import Box, box_around, box_shape, boxes, grown, within
from distill3d.volumes.pieces import Pieces

MOST = 1 << 25  # voxels of a box that is done at once, about 25 bytes each
TILE = (192, 192, 192)
_HALO = 32  # voxels around a tile; of thicker neurites the radii are too large there


@final
class _Lines(NamedTuple):
    """Centerlines: nodes as flat indices of voxels, radii in the smallest spacing, edges as pairs of such indices."""

    voxels: NDArray[np.int64]
    radii: NDArray[np.float64]
    edges: NDArray[np.int64]


_NOTHING = _Lines(np.empty(0, np.int64), np.empty(0), np.empty((0, 2), np.int64))


def skeletonize_pieces(
    pieces: Pieces,
    spacing_um: NDArray[np.float64],
    config: TraceConfig,
    *,
    most: int = MOST,
    tile: Sequence[int] = TILE,
    on_piece: Callable[[int], None] = lambda _: None,
) -> Skeleton:
    """Find the centerlines of a mask; every piece has at least one node.

    Args:
        pieces: of the mask.
        spacing_um: ZYX voxel size, float64 [3].
        config: the TEASAR settings.
        most: voxels of the largest box of a piece that is done at once.
        tile: voxels of the boxes that larger ones are done in.
        on_piece: called with the number of pieces that are done.

    Returns:
        What `teasar.skeletonize` returns of the whole mask; of a piece with a larger box about that.
    """
    work = _Teasar(pieces, spacing_um, config)
    lines: list[_Lines] = []
    large, swallowed = np.zeros(pieces.count, bool), np.zeros(pieces.count, bool)
    first = np.empty(pieces.count, np.int64)
    for number, voxels in enumerate(pieces.each()):
        first[number], box = voxels[0], box_around(pieces.points(voxels))
        large[number] = np.prod(box_shape(box)) > most
        if not large[number]:
            done, inside = work.piece(voxels, box)
            lines.append(done)
            swallowed[inside] = True
            on_piece(1)
    lines = [part for part in lines if not swallowed[pieces.numbers_at(part.voxels[:1])].any()]
    if large.any():
        lines.append(_connected(_merged(list(work.tiles(pieces.only(large), tile))), pieces))
        on_piece(int(large.sum()))
    return _as_skeleton(_merged(lines), pieces, first, spacing_um)


@final
class _Teasar:
    """Runs TEASAR on parts of a volume."""

    def __init__(self, pieces: Pieces, spacing_um: NDArray[np.float64], config: TraceConfig) -> None:
        self.pieces, self.config, self.params = pieces, config, teasar_params(spacing_um, config)
        self.anisotropy = np.array(spacing_um / spacing_um.min(), np.float32)
        self.targets: dict[int, Any] = dict(
            compute_border_targets(_Faces(pieces), self.anisotropy)
        )  # by numbers from 1

    def piece(self, voxels: NDArray[np.int64], box: Box) -> tuple[_Lines, NDArray[np.int32]]:
        """Return the lines of a piece, and the numbers of others that lie in its holes, where these are filled."""
        wide, swallowed = grown(box, 1, self.pieces.shape), np.empty(0, np.int32)
        mask = np.zeros(box_shape(wide), np.uint8, order="F")
        mask[tuple((self.pieces.points(voxels) - _corner(wide)).T)] = 1
        own = mask[within(box, wide)]
        if self.config.fill_holes:
            filled = np.asarray(fill_voids.fill(own.astype(bool, order="F")))
            holes = np.argwhere(filled & (own == 0)) + _corner(box)
            others = self.pieces.numbers_at(self.pieces.flat(holes))
            swallowed = np.unique(others[others >= 0])
            own[...] = filled
        ends = _from_corner(self.targets.get(int(self.pieces.numbers_at(voxels[:1])[0]) + 1, ()), box)
        return self.run(own, self.distances(mask)[within(box, wide)], ends, _corner(box)), swallowed

    def tiles(self, pieces: Pieces, size: Sequence[int]) -> Iterator[_Lines]:
        """Yield the lines of all pieces in tiles, each with one plane of the next."""
        for box in boxes(pieces.shape, size, shared=1):
            mask = pieces[box]
            if not mask.any():
                continue
            wide = grown(box, _HALO, pieces.shape)
            solid = np.asfortranarray(pieces[wide]).view(np.uint8)
            if self.config.fill_holes:
                fill_voids.fill(solid.view(bool), in_place=True)
                mask = solid.view(bool)[within(box, wide)]
            depth = self.distances(solid)[within(box, wide)]
            labels = np.asfortranarray(label_components(mask)[0]).view(np.uint32)
            targets: dict[int, Any] = dict(compute_border_targets(labels, self.anisotropy))
            for number, part in enumerate(find_objects(labels.view(np.int32)), 1):
                ends = _from_corner(targets.get(number, ()), part)
                yield self.run(labels[part] == number, depth[part], ends, _corner(part) + _corner(box))

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
        voxels = self.pieces.flat(np.rint(traced.vertices).astype(np.int64) + corner)
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
