"""Where the taps of bent tubes lie in a volume and what they read there: pure functions.

Shapes: ``B`` batch, ``K`` taps of a tube, ``Gz Gy Gx`` the grid of blocks. A coordinate is a tensor that broadcasts to
[B, K, Gz, Gy, Gx]; one of integer dtype lies on voxels and costs no interpolation.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

OffsetLaw = Literal["snake", "angles"]
Outside = Literal["border", "zeros"]
Points = tuple[Tensor, Tensor, Tensor]


def block_centers(
    shape_zyx: tuple[int, int, int], block_zyx: tuple[int, int, int], *, device: torch.device | None = None
) -> Points:
    """Return the coordinates ``i * b + b // 2`` of every block's center, of integer dtype.

    Args:
        shape_zyx: of the volume.
        block_zyx: of a block.
        device: of the result.

    Returns:
        Z [Gz, 1, 1], Y [Gy, 1] and X [Gx] in voxels.

    Example:
        >>> block_centers((4, 4, 6), (4, 2, 3))[1].flatten().tolist()
        [1, 3]
    """
    z, y, x = (
        torch.arange(size // block, device=device) * block + block // 2
        for size, block in zip(shape_zyx, block_zyx, strict=True)
    )
    return z.view(-1, 1, 1), y.view(-1, 1), x


def tap_distances(
    taps: int, spacing: float, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Return the signed distances ``(k - K // 2) * spacing`` of a tube's taps from its center.

    Args:
        taps: K, at least 1.
        spacing: voxels.
        dtype: of the result where ``spacing`` is not a whole number; else it is of integer dtype.
        device: of the result.

    Returns:
        [K, 1, 1, 1] in voxels.

    Example:
        >>> tap_distances(4, 2.0).flatten().tolist(), tap_distances(3, 0.5).flatten().tolist()
        ([-4, -2, 0, 2], [-0.5, 0.0, 0.5])
    """
    steps = torch.arange(-(taps // 2), taps - taps // 2, device=device).view(-1, 1, 1, 1)
    return steps * int(spacing) if float(spacing).is_integer() else steps.to(dtype) * spacing


def share_outside(size: int, *, block: int, taps: int, spacing: float) -> float:
    """Return the share, in [0, 1], of the taps of straight tubes along an axis that lie beyond the volume.

    Args:
        size: of the volume along the axis, in voxels.
        block: of a block; there is a tube through every block's center.
        taps: K, per tube.
        spacing: voxels between taps.

    Example:
        >>> share_outside(4, block=2, taps=3, spacing=1.0), share_outside(6, block=2, taps=3, spacing=2.0)
        (0.16666666666666666, 0.2222222222222222)
    """
    centers = torch.arange(size // block) * block + block // 2
    places = centers + tap_distances(taps, spacing).flatten(1)
    return float(((places < 0) | (places > size - 1)).double().mean())


def straight_tube(axis: int, centers: Points, distances: Tensor) -> Points:
    """Return the taps of straight tubes along ``axis`` (0 is z) through every center.

    Example:
        >>> _, _, x = straight_tube(2, block_centers((2, 2, 4), (2, 2, 2)), tap_distances(3, 1.0))
        >>> x[:, 0, 0].T.tolist()
        [[0, 1, 2], [2, 3, 4]]
    """
    z, y, x = (center + distances if a == axis else center for a, center in enumerate(centers))
    return z, y, x


def snake_tube(axis: int, centers: Points, distances: Tensor, steps: Tensor) -> Points:
    """Bend tubes by cumulative transverse steps: along ``axis`` the taps stay where they are.

    With ``c = K // 2``: ``o[c] = 0``, ``o[c+j] = o[c+j-1] + d[c+j]`` and ``o[c-j] = o[c-j+1] + d[c-j]``. Both halves
    add, so equal steps everywhere make a V, not a slanted line.

    Source: Qi et al. 2023, Dynamic Snake Convolution (DSCNet), equations 2 to 4, arXiv 2307.08388; there one transverse
    component moves per 2D kernel, here both do.

    Args:
        axis: the tube's, 0 is z.
        centers: see `block_centers`.
        distances: see `tap_distances`.
        steps: [B, 2, K - 1, Gz, Gy, Gx] in voxels: both transverse axes in ZYX order; first the ``K // 2`` steps of the
            taps before the center, from the center outwards (``d[c-1], d[c-2], ...``), then those of the taps after it.

    Example:
        >>> steps = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1, 1, 1).repeat(1, 2, 1, 1, 1, 1)
        >>> z, _, _ = snake_tube(2, block_centers((2, 2, 2), (2, 2, 2)), tap_distances(4, 1.0), steps)
        >>> z.flatten().tolist()
        [4.0, 2.0, 1.0, 5.0]
    """
    half = distances.shape[0] // 2
    before, after = steps[:, :, :half].cumsum(2).flip(2), steps[:, :, half:].cumsum(2)
    return moved_tube(axis, centers, distances, torch.cat([before, torch.zeros_like(steps[:, :, :1]), after], dim=2))


def curved_tube(axis: int, centers: Points, distances: Tensor, curves: Tensor) -> Points:
    """Bend tubes into polynomials: along ``axis`` the taps stay where they are.

    Args:
        axis: the tube's, 0 is z.
        centers: see `block_centers`.
        distances: see `tap_distances`.
        curves: [B, 2, D, Gz, Gy, Gx] in voxels: of both transverse axes in ZYX order the coefficients of u^0 to
            u^(D-1), where u is the distance over the largest one.

    Example:
        >>> curves = torch.tensor([1.0, 0.0, 2.0]).view(1, 1, 3, 1, 1, 1).repeat(1, 2, 1, 1, 1, 1)
        >>> z, _, _ = curved_tube(2, block_centers((2, 2, 2), (2, 2, 2)), tap_distances(3, 1.0), curves)
        >>> z.flatten().tolist()
        [4.0, 2.0, 4.0]
    """
    u = distances / distances.abs().max()
    powers = torch.stack([u**k for k in range(curves.shape[2])]).to(curves.dtype).flatten(1)  # [D, K]
    return moved_tube(axis, centers, distances, torch.einsum("bcdzyx,dk->bckzyx", curves, powers))


def moved_tube(axis: int, centers: Points, distances: Tensor, sideways: Tensor) -> Points:
    """Move the taps of straight tubes by [B, 2, K, Gz, Gy, Gx] voxels along both transverse axes."""
    points = list(straight_tube(axis, centers, distances))
    for moved, a in enumerate(a for a in range(3) if a != axis):
        points[a] = points[a] + sideways[:, moved]
    return points[0], points[1], points[2]


def angle_tube(axis: int, centers: Points, distances: Tensor, angles: Tensor) -> Points:
    """Bend straight tubes once, at their center: each half is a straight line with a direction of its own.

    Taps lie at their ``distances`` along the halves' directions; two zero angles give the direction of ``axis``.

    Source: Wu et al. 2025, TfeNet (direction-aware convolution), Medical Image Analysis.

    Args:
        axis: of the tube, 0 is z.
        centers: see `block_centers`.
        distances: see `tap_distances`.
        angles: [B, 4, Gz, Gy, Gx] in radians: two of the taps before the center, two of those after it. About the axes
            x and y for a tube along z, x and z for one along y, y and z for one along x.

    Example:
        >>> angles = torch.tensor([0.0, 0.0, 0.0, math.pi / 6]).view(1, 4, 1, 1, 1)
        >>> _, y, _ = angle_tube(2, block_centers((2, 2, 2), (2, 2, 2)), tap_distances(3, 2.0), angles)
        >>> [round(v, 4) for v in y.flatten().tolist()]
        [1.0, 1.0, 2.0]
    """
    half = distances.shape[0] // 2
    before, after = (_direction(axis, pair[:, None, 0], pair[:, None, 1]) for pair in angles.split(2, dim=1))
    z, y, x = (
        center + torch.cat([distances[:half] * b, distances[half:] * a], dim=1)
        for center, b, a in zip(centers, before, after, strict=True)
    )
    return z, y, x


def _direction(axis: int, first: Tensor, second: Tensor) -> Points:
    """Return the unit vector (ZYX) of a half tube."""
    (cos1, sin1), (cos2, sin2) = (first.cos(), first.sin()), (second.cos(), second.sin())
    if axis == 0:
        return cos1 * cos2, -sin1, cos1 * sin2
    if axis == 1:
        return sin1, cos1 * cos2, -cos1 * sin2
    return -sin1, cos1 * sin2, cos1 * cos2


class _Corner(NamedTuple):
    """Flat index of the lower and the upper neighbor along one axis, and how far the tap is between them (0 to 1)."""

    low: Tensor
    high: Tensor | None
    fraction: Tensor | None


def sample(image: Tensor, points: Points, *, outside: Outside) -> Tensor:
    """Read a volume at points by linear interpolation, with gradients to both.

    Only coordinates of floating dtype are interpolated: 1, 2, 4 or 8 corners. It needs memory for some tensors of the
    points' own shape; "zeros" adds one copy of the volume.

    Args:
        image: [B, Z, Y, X].
        points: Z, Y and X in voxels, see this module's docstring.
        outside: "border" reads the nearest voxel of the volume there, "zeros" counts every corner there as 0.

    Returns:
        The points' shape broadcast with B.

    Example:
        >>> y = torch.tensor([-1.0, 0.25, 1.5])
        >>> volume, zero = torch.tensor([[[[8.0], [4.0]]]]), torch.tensor(0)
        >>> [sample(volume, (zero, y, zero), outside=o).flatten().tolist() for o in ("border", "zeros")]
        [[8.0, 7.0, 4.0], [0.0, 7.0, 2.0]]
    """
    # A clamped index into a rim of zeros reads 0, so that both rules share the rest.
    margin = int(outside == "zeros")
    volume = F.pad(image, (margin,) * 6) if margin else image
    dtype = torch.int32 if volume.numel() < 2**31 else torch.int64
    sizes = volume.shape[1:]
    first = torch.arange(volume.shape[0], device=volume.device, dtype=dtype) * math.prod(sizes)
    corners = [
        _corner(point, margin=margin, size=size, stride=stride, dtype=dtype)
        for point, size, stride in zip(points, sizes, (sizes[1] * sizes[2], sizes[2], 1), strict=True)
    ]
    corners.sort(key=lambda corner: corner.fraction is not None)  # small index tensors are added up first
    return _interpolate(volume.reshape(-1), first.view(-1, 1, 1, 1, 1), corners)


def _corner(point: Tensor, *, margin: int, size: int, stride: int, dtype: torch.dtype) -> _Corner:
    if not point.is_floating_point():
        return _Corner((point + margin).clamp(0, size - 1).to(dtype) * stride, None, None)
    floor = point.detach().floor()
    low = floor.to(dtype) + margin
    indices = (index.clamp(0, size - 1) * stride for index in (low, low + 1))
    return _Corner(*indices, fraction=point - floor)


def _interpolate(flat: Tensor, index: Tensor, corners: list[_Corner]) -> Tensor:
    if not corners:
        return flat.index_select(0, index.reshape(-1)).view(index.shape)
    corner, rest = corners[0], corners[1:]
    low = _interpolate(flat, index + corner.low, rest)
    if corner.high is None or corner.fraction is None:
        return low
    return torch.lerp(low, _interpolate(flat, index + corner.high, rest), corner.fraction)
