"""Reading a volume's rows of channels at the taps of tubes, and the transpose of it: pure functions without gradients.

They differ from `geometry.sample` in that the channels of a voxel are read together, and slopes if wanted.

Shapes: ``V`` voxels of one volume in memory order, ``n`` those looked at, ``K`` taps of a tube, ``T`` those looked at,
``Q`` corners of a tap (1, 2, 4 or 8), ``C`` channels.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from distill3d.layers.tubes.geometry import Points


@final
class Neighbors(NamedTuple):
    """The one or two voxels around taps along one axis, [n, T] each.

    Args:
        addresses: what they add to the address of a voxel of the volume.
        inside: whether they count; 1 or 0 of the moves' dtype if there are two of them.
        part: how far the tap is from the first one to the second, if there is one.
    """

    addresses: tuple[Tensor, ...]
    inside: tuple[Tensor, ...]
    part: Tensor | None

    def shares(self) -> tuple[Tensor, ...]:
        """Return their shares in the value of a tap."""
        if self.part is None:
            return self.inside
        low, high = self.inside
        return low * (1 - self.part), high * self.part

    def slopes(self) -> tuple[Tensor, ...]:
        """Return the derivatives of `shares` with respect to the move."""
        if self.part is None:
            raise ValueError("a move of integer dtype has no slope; accepted: an axis of floating moves")
        low, high = self.inside
        return -low, high


@final
class Corners(NamedTuple):
    """The voxels around taps; beyond the volume there is the nearest voxel, or none with a share in anything.

    Args:
        lines: neighbors along Z, Y and X.
    """

    lines: tuple[Neighbors, ...]

    def addresses(self) -> Tensor:
        """Return where they are in the volume, [n, T, Q]."""
        parts = sorted((line.addresses for line in self.lines), key=len)
        return torch.stack([a + b + c for a, b, c in itertools.product(*parts)], -1)

    def shares(self, *, slope_along: int | None = None) -> Tensor:
        """Return their shares in the value of a tap, [n, T, Q].

        Args:
            slope_along: return the derivatives with respect to the move along this axis (0 is z).
        """
        parts = [line.slopes() if axis == slope_along else line.shares() for axis, line in enumerate(self.lines)]
        parts.sort(key=len)  # as above: one order of corners, and axes with a single neighbor are combined first
        return torch.stack([a * b * c for a, b, c in itertools.product(*parts)], -1)


@final
class TapGrid(NamedTuple):
    """Where the taps of every voxel of one volume lie.

    Args:
        moves: Z, Y and X in voxels from a voxel to its taps: [K, V] of floating dtype or [K, 1] of integer dtype.
        places: Z, Y and X of every voxel, [V, 1] of integer dtype.
        shape_zyx: of the volume.
        border: beyond the volume lies its nearest voxel again; else nothing.
    """

    moves: Points
    places: Points
    shape_zyx: tuple[int, int, int]
    border: bool

    def corners(self, voxels: slice, *, tap: int | None = None) -> Corners:
        """Find the corners of some voxels' taps.

        Args:
            voxels: which, n of them.
            tap: the only one to look at; None looks at all but the middle one.
        """
        lines, stride = [], math.prod(self.shape_zyx)
        for move, place, size in zip(self.moves, self.places, self.shape_zyx, strict=True):
            stride //= size
            part = move[:, voxels] if move.is_floating_point() else move
            part = without_middle(part) if tap is None else part[tap : tap + 1]
            moved = part.T.contiguous()
            lines.append(_neighbors(place[voxels], moved, size=size, stride=stride, border=self.border))
        return Corners(tuple(lines))


def tap_grids(shape_zyx: tuple[int, int, int], moves: Points, *, batch: int, border: bool) -> list[TapGrid]:
    """Split moves by volume, with the places of their voxels.

    Args:
        shape_zyx: of a volume.
        moves: Z, Y and X: [B, K, Z, Y, X] of floating dtype or [K, 1, 1, 1] of integer dtype.
        batch: B.
        border: see `TapGrid`.
    """
    # 32 bits hold the address of any voxel that fits into memory, and sort twice as fast as 64.
    ranges = [torch.arange(size, dtype=torch.int32, device=moves[0].device) for size in shape_zyx]
    z, y, x = (place.reshape(-1, 1) for place in torch.meshgrid(*ranges, indexing="ij"))
    flat = [
        move.flatten(2) if move.is_floating_point() else move.view(1, -1, 1).expand(batch, -1, -1) for move in moves
    ]
    return [TapGrid(volume_moves, (z, y, x), shape_zyx, border) for volume_moves in zip(*flat, strict=True)]


def gather(rows: Tensor, address: Tensor, share: Tensor) -> Tensor:
    """Add up rows by their shares.

    Args:
        rows: [V, C].
        address: [n, T, Q].
        share: [n, T, Q].

    Returns:
        [n, T, C].

    Example:
        >>> address, share = torch.tensor([[[0, 2]]]), torch.tensor([[[0.5, 0.25]]])
        >>> gather(torch.tensor([[2.0, 4.0], [9.0, 9.0], [8.0, 0.0]]), address, share).tolist()
        [[[3.0, 2.0]]]
    """
    share = share.to(rows.dtype).flatten(0, 1)
    values = F.embedding_bag(address.flatten(0, 1), rows, mode="sum", per_sample_weights=share)
    return values.unflatten(0, address.shape[:2])


def scatter(rows: Tensor, address: Tensor, share: Tensor) -> Tensor:
    """Add every row, times its shares, at its addresses: the transpose of `gather` for a single tap.

    Sorted by address it is a gather itself, of the same sums in the same order on every run.

    Args:
        rows: [V, C].
        address: [V, 1, Q].
        share: [V, 1, Q].

    Returns:
        [V, C].

    Example:
        >>> address, share = torch.tensor([[[0, 1]], [[1, 0]]]), torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
        >>> scatter(torch.tensor([[8.0], [3.0]]), address, share).tolist()
        [[4.0], [7.0]]
    """
    source_bits = address.shape[-1].bit_length() - 1  # log2(Q)
    address, order = address.flatten().sort(stable=True)
    count = torch.bincount(address, minlength=len(rows))
    share = share.to(rows.dtype).flatten().index_select(0, order)
    starts, source = count.cumsum(0) - count, order.bitwise_right_shift_(source_bits)
    return F.embedding_bag(source, rows, starts, mode="sum", per_sample_weights=share)


def without_middle(taps: Tensor) -> Tensor:
    """Leave out the middle one of an odd number of entries.

    Example:
        >>> without_middle(torch.tensor([1, 2, 3])).tolist()
        [1, 3]
    """
    half = len(taps) // 2
    return torch.cat([taps[:half], taps[half + 1 :]])


def _neighbors(place: Tensor, move: Tensor, *, size: int, stride: int, border: bool) -> Neighbors:
    if not move.is_floating_point():
        nearest, inside = _clamp(place + move.to(place.dtype), size, border=border)
        return Neighbors((nearest.mul_(stride),), (inside,), None)
    floor = move.floor()
    index = floor.to(place.dtype).add_(place)
    (low, low_inside), (high, high_inside) = (_clamp(neighbor, size, border=border) for neighbor in (index, index + 1))
    inside = low_inside.to(move.dtype), high_inside.to(move.dtype)
    return Neighbors((low.mul_(stride), high.mul_(stride)), inside, move - floor)


def _clamp(index: Tensor, size: int, *, border: bool) -> tuple[Tensor, Tensor]:
    """Return the nearest index of the volume, and whether it counts: always at the border, else if it is the index."""
    nearest = index.clamp(0, size - 1)
    return nearest, torch.ones_like(index, dtype=torch.bool) if border else nearest == index
