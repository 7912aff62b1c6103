"""The pieces of a sparse mask of a volume larger than memory: only its marked voxels are kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill3d.volumes.calls import Workers, made
from distill3d.volumes.components import label_components
from distill3d.volumes.memory import require_room
from distill3d.volumes.parts import PART, Box, box_shape, boxes

_ROOM = 40  # bytes that a voxel takes while pieces are put together
_AHEAD = [move for move in itertools.product((-1, 0, 1), repeat=3) if move > (0, 0, 0)]
Marks = Callable[[Box], tuple[NDArray[np.bool_], NDArray[np.bool_] | None]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """A mask and its pieces (26-connected).

    Attributes:
        shape: voxels of the volume along ZYX.
        voxels: of the mask, as flat indices, ascending, int64 [N].
        numbers: of their pieces, from 0 in the order of the first voxels, int32 [N].
        count: of pieces.
    """

    shape: tuple[int, int, int]
    voxels: NDArray[np.int64]
    numbers: NDArray[np.int32]
    count: int

    @property
    def dtype(self) -> np.dtype[np.bool_]:
        """Of the mask."""
        return np.dtype(bool)

    def __getitem__(self, box: Box) -> NDArray[np.bool_]:
        """Return a part of the mask."""
        return self.labels(box) > 0

    def labels(self, box: Box) -> NDArray[np.int32]:
        """Return a part of the volume with the numbers of pieces, from 1; 0 elsewhere."""
        lines, lengths, which = self._along(box)
        labels = np.zeros(box_shape(box), np.int32)
        places = self.voxels[which] - np.repeat(lines - np.arange(len(lines)) * labels.shape[2], lengths)
        labels.ravel()[places] = self.numbers[which] + 1
        return labels

    def cut(self, box: Box) -> Pieces:
        """Return what of the mask lies in a box of the same volume; the numbers and the count of pieces stay."""
        which = self._along(box)[2]
        return Pieces(self.shape, self.voxels[which], self.numbers[which], self.count)

    def _along(self, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return where the lines of a box along x begin, how many voxels of the mask each has, and which these are."""
        z, y, x = (np.arange(part.start, part.stop) for part in box)
        lines = ((z[:, None] * self.shape[1] + y) * self.shape[2] + box[2].start).ravel()
        first, last = (np.searchsorted(self.voxels, lines + end) for end in (0, len(x)))
        lengths = last - first
        return lines, lengths, np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())

    def numbers_at(self, voxels: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the numbers of pieces at flat indices, -1 where there is none."""
        at = np.searchsorted(self.voxels, voxels)
        inside = at < len(self.voxels)
        inside[inside] = self.voxels[at[inside]] == voxels[inside]
        numbers = np.full(len(voxels), -1, np.int32)
        numbers[inside] = self.numbers[at[inside]]
        return numbers

    def points(self, voxels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ZYX indices of flat ones, int64 [N, 3]."""
        return points_of(voxels, self.shape)

    def flat(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the flat indices of voxels, int64 [N]."""
        return flat_of(points, self.shape)

    def each(self) -> Iterator[NDArray[np.int64]]:
        """Yield the flat indices of each piece."""
        order = np.argsort(self.numbers, kind="stable")
        ends = np.cumsum(np.bincount(self.numbers, minlength=self.count)).tolist()
        for low, high in itertools.pairwise([0, *ends]):
            yield self.voxels[order[low:high]]

    def only(self, chosen: NDArray[np.bool_]) -> Pieces:
        """Return the pieces that are chosen, bool [count]."""
        kept = chosen[self.numbers]
        new = (np.cumsum(chosen) - 1).astype(np.int32)
        return Pieces(self.shape, self.voxels[kept], new[self.numbers[kept]], int(chosen.sum()))


def points_of(voxels: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the ZYX indices of flat ones of a volume, int64 [N, 3]."""
    return np.stack(np.unravel_index(voxels, shape), axis=1).astype(np.int64, copy=False)


def flat_of(points: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat indices of voxels of a volume, int64 [N]."""
    return (points[:, 0] * shape[1] + points[:, 1]) * shape[2] + points[:, 2]


@final
class _Part(NamedTuple):
    """What is marked in a box: flat indices, ascending, and the pieces within the box that they belong to, from 0."""

    voxels: NDArray[np.int64]
    numbers: NDArray[np.int32]
    first: NDArray[np.int64]  # voxel of each piece
    size: NDArray[np.int64]
    sure: NDArray[np.bool_]
    on_face: NDArray[np.bool_]  # of the box, of each voxel


def find_pieces(
    shape: tuple[int, int, int],
    marks: Marks,
    *,
    size: tuple[int, int, int] = PART,
    min_voxels: int = 1,
    on_part: Callable[[], None] = lambda: None,
    workers: Workers | None = None,
) -> Pieces:
    """Collect the voxels that are marked, part by part, and join the parts' pieces where they touch.

    Args:
        shape: of the volume.
        marks: returns the voxels of a box that are marked; and which of them are sure, where a piece needs one. For
            workers it has to be what can be pickled.
        size: of the boxes.
        min_voxels: of a piece; smaller ones are left out.
        on_part: called after each box.
        workers: look at the boxes; None: this process does.

    Raises:
        InputError: there are more marked voxels than there is room for.
    """
    found: list[_Part] = []
    total = 0
    for part in made(_look, (marks, shape), boxes(shape, size), workers):
        if part is not None:
            found.append(part)
            total += len(part.voxels)
            require_room(f"{total} voxels of foreground in a volume of {shape}", total * _ROOM, claims="claim")
        on_part()
    if not found:
        return Pieces(shape, np.empty(0, np.int64), np.empty(0, np.int32), 0)
    return _joined(found, shape, min_voxels)


def _look(shared: tuple[Marks, tuple[int, int, int]], box: Box) -> _Part | None:
    marks, shape = shared
    mask, sure = marks(box)
    return _marked(mask, sure, box, shape) if mask.any() else None


def _marked(mask: NDArray[np.bool_], sure: NDArray[np.bool_] | None, box: Box, shape: tuple[int, int, int]) -> _Part:
    labels, count = label_components(mask)
    where = np.flatnonzero(mask)
    numbers = labels.ravel()[where] - 1
    inside = np.unravel_index(where, mask.shape)
    z, y, x = (axis + part.start for axis, part in zip(inside, box, strict=True))
    voxels = (z.astype(np.int64) * shape[1] + y) * shape[2] + x
    on_face = np.zeros(len(where), bool)
    for axis, n in zip(inside, mask.shape, strict=True):
        on_face |= (axis == 0) | (axis == n - 1)
    known = np.ones(count, bool)
    if sure is not None:
        known = np.bincount(numbers, sure.ravel()[where], minlength=count) > 0
    _, first = np.unique(numbers, return_index=True)
    return _Part(voxels, numbers, voxels[first], np.bincount(numbers, minlength=count), known, on_face)


def _joined(found: list[_Part], shape: tuple[int, int, int], min_voxels: int) -> Pieces:
    """Put parts together; of what their own pieces are made of only the numbers change."""
    offsets = np.cumsum([0, *(len(part.size) for part in found)])
    numbered = list(zip(found, offsets[:-1].tolist(), strict=True))
    faces = np.concatenate([part.voxels[part.on_face] for part in found])
    own = np.concatenate([part.numbers[part.on_face].astype(np.int64) + offset for part, offset in numbered])
    order = np.argsort(faces)
    touching = _touching(faces[order], own[order], shape)
    links = coo_array((np.ones(len(touching), bool), tuple(touching.T)), shape=(offsets[-1], offsets[-1]))
    count, piece = connected_components(links, directed=False)
    size = np.bincount(piece, np.concatenate([part.size for part in found]), minlength=count)
    sure = np.bincount(piece, np.concatenate([part.sure for part in found]), minlength=count) > 0
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, piece, np.concatenate([part.first for part in found]))
    kept = np.flatnonzero(sure & (size >= min_voxels))
    kept = kept[np.argsort(first[kept])]
    new = np.full(count, -1, np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    new = new[piece]
    numbers = np.concatenate([new[part.numbers + offset] for part, offset in numbered])
    voxels = np.concatenate([part.voxels for part in found])[numbers >= 0]
    found.clear()
    numbers = numbers[numbers >= 0]
    order = np.argsort(voxels)
    return Pieces(shape, voxels[order], numbers[order], len(kept))


def _touching(voxels: NDArray[np.int64], numbers: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return pairs of numbers of neighboring voxels (26); flat indices, ascending."""
    points = np.stack(np.unravel_index(voxels, shape), axis=1)
    pairs = [np.empty((0, 2), np.int64)]
    for move in _AHEAD:
        ahead = points + move
        inside = np.flatnonzero(((ahead >= 0) & (ahead < shape)).all(axis=1))
        wanted = voxels[inside] + (move[0] * shape[1] + move[1]) * shape[2] + move[2]
        at = np.minimum(np.searchsorted(voxels, wanted), len(voxels) - 1)
        hit = voxels[at] == wanted
        pairs.append(np.unique(np.stack([numbers[inside[hit]], numbers[at[hit]]], axis=1), axis=0))
    return np.concatenate(pairs)
