"""Reading a volume's rows of channels at the taps of tubes, and the transpose of it: pure functions without gradients.

They differ from `tubes.sample` in that the channels of a voxel travel together and that slopes come for the asking.

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

from distill3d.layers.tubes import Points


@final
class Corners(NamedTuple):
    """The voxels around taps: address in the volume and share in the value, [n, T, Q] each."""

    address: Tensor
    share: Tensor


@final
class TapGrid(NamedTuple):
    """Where the taps of every voxel of one volume lie.

    Args:
        moves: Z, Y and X in voxels from a voxel to its taps: [K, V] of floating dtype or [K, 1] of integer dtype.
        places: Z, Y and X of every voxel, [V, 1] of integer dtype.
        shape_zyx: of the volume.
    """

    moves: Points
    places: Points
    shape_zyx: tuple[int, int, int]

    def corners(self, voxels: slice, *, tap: int | None = None, slope_along: int | None = None) -> Corners:
        """Return the corners of some voxels' taps; those beyond the volume have no share in anything.

        Args:
            voxels: which, n of them.
            tap: the only one to look at; None looks at all but the middle one.
            slope_along: return the derivatives of shares with respect to the move along this axis (0 is z).
        """
        lines, stride = [], math.prod(self.shape_zyx)
        for axis, (move, place, size) in enumerate(zip(self.moves, self.places, self.shape_zyx, strict=True)):
            stride //= size
            part = move[:, voxels] if move.is_floating_point() else move
            part = without_middle(part) if tap is None else part[tap : tap + 1]
            find = _between_voxels if move.is_floating_point() else _on_voxel
            lines.append(find(place[voxels], part.T, size=size, stride=stride, slope=axis == slope_along))
        lines.sort(key=len)  # what has a single way is combined first
        corners = [(a + b + c, u * v * w) for (a, u), (b, v), (c, w) in itertools.product(*lines)]
        return Corners(*(torch.stack(parts, -1) for parts in zip(*corners, strict=True)))


def tap_grids(shape_zyx: tuple[int, int, int], moves: Points, *, batch: int) -> list[TapGrid]:
    """Split moves by volume, with the places of their voxels.

    Args:
        shape_zyx: of a volume.
        moves: Z, Y and X: [B, K, Z, Y, X] of floating dtype or [K, 1, 1, 1] of integer dtype.
        batch: B.
    """
    # 32 bits hold the address of any voxel that fits into memory, and sort twice as fast as 64.
    ranges = [torch.arange(size, dtype=torch.int32, device=moves[0].device) for size in shape_zyx]
    z, y, x = (place.reshape(-1, 1) for place in torch.meshgrid(*ranges, indexing="ij"))
    flat = [
        move.flatten(2) if move.is_floating_point() else move.view(1, -1, 1).expand(batch, -1, -1) for move in moves
    ]
    return [TapGrid(own, (z, y, x), shape_zyx) for own in zip(*flat, strict=True)]


def gather(rows: Tensor, corners: Corners) -> Tensor:
    """Add up rows by their shares: [V, C] to [n, T, C].

    Example:
        >>> corners = Corners(torch.tensor([[[0, 2]]]), torch.tensor([[[0.5, 0.25]]]))
        >>> gather(torch.tensor([[2.0, 4.0], [9.0, 9.0], [8.0, 0.0]]), corners).tolist()
        [[[3.0, 2.0]]]
    """
    address, share = (part.flatten(0, 1) for part in corners)
    values = F.embedding_bag(address, rows, mode="sum", per_sample_weights=share.to(rows.dtype))
    return values.unflatten(0, corners.address.shape[:2])


def scatter(rows: Tensor, corners: Corners) -> Tensor:
    """Add each of V rows, times its shares, at its corners: the transpose of `gather` for one tap, [V, C] to [V, C].

    The same sums in the same order on every run: sorted by address, it is a gather itself.

    Example:
        >>> corners = Corners(torch.tensor([[[0, 1]], [[1, 0]]]), torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]]))
        >>> scatter(torch.tensor([[8.0], [3.0]]), corners).tolist()
        [[4.0], [7.0]]
    """
    share = corners.share.to(rows.dtype).flatten()
    address, order = corners.address.flatten().sort(stable=True)
    count = torch.bincount(address, minlength=len(rows))
    source = order >> (corners.address.shape[-1].bit_length() - 1)  # order // Q
    return F.embedding_bag(source, rows, count.cumsum(0) - count, mode="sum", per_sample_weights=share[order])


def without_middle(taps: Tensor) -> Tensor:
    """Leave out the middle one of an odd number of entries.

    Example:
        >>> without_middle(torch.tensor([1, 2, 3])).tolist()
        [1, 3]
    """
    half = len(taps) // 2
    return torch.cat([taps[:half], taps[half + 1 :]])


_Ways = list[tuple[Tensor, Tensor]]  # address and share (or its slope) of the neighbors along one axis, [n, T] each


def _between_voxels(place: Tensor, move: Tensor, *, size: int, stride: int, slope: bool) -> _Ways:
    move = move.contiguous()
    floor = move.floor()
    index = floor.to(place.dtype).add_(place)
    (low, low_inside), (high, high_inside) = (_clamp(neighbor, size) for neighbor in (index, index + 1))
    low_inside, high_inside = low_inside.to(move.dtype), high_inside.to(move.dtype)
    if slope:
        shares = low_inside.neg_(), high_inside
    else:
        part = move - floor
        shares = low_inside.mul_(1 - part), high_inside.mul_(part)
    return list(zip((low.mul_(stride), high.mul_(stride)), shares, strict=True))


def _on_voxel(place: Tensor, move: Tensor, *, size: int, stride: int, slope: bool) -> _Ways:
    if slope:
        raise ValueError("a move of integer dtype has no slope; accepted: an axis of floating moves")
    nearest, inside = _clamp(place + move.to(place.dtype), size)
    return [(nearest.mul_(stride), inside)]


def _clamp(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the nearest index of the volume, and whether it is the index itself."""
    nearest = index.clamp(0, size - 1)
    return nearest, nearest == index
