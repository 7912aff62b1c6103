"""A term that pulls tubes onto the gold centerline of training patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill3d.layers.tubes.geometry import Points, block_centers, sample


def guide_loss(
    tubes: Sequence[Points], *, line: Tensor, known: Tensor, block_zyx: tuple[int, int, int], reach_vox: float
) -> Tensor:
    """Return the mean distance of taps to the nearest centerline, over tubes whose block is near one.

    Distances are clipped at ``reach_vox``: a tap that is farther away, as most of a tube that crosses a neurite are, is
    pulled nowhere. Blocks whose center is farther away, or unknown, do not count; without any block it is 0.

    Source: ours.

    Args:
        tubes: of each axis, see `distill3d.layers.tubes.geometry`.
        line: centerline [B, 1, Z, Y, X].
        known: [B, 1, Z, Y, X]; False where nobody labelled.
        block_zyx: edges of a block in voxels.
        reach_vox: 1 or more.

    Returns:
        A scalar in voxels, 0 to ``reach_vox``, with a gradient at the tubes.
    """
    distance = distance_to(line, reach_vox).squeeze(1)
    z, y, x = line.shape[2:]
    centers = block_centers((z, y, x), block_zyx, device=line.device)
    near = ((distance < reach_vox) & known.squeeze(1))[:, *centers].unsqueeze(1)
    terms = [(sample(distance, points, outside="border") * near).mean(1).sum() for points in tubes]
    return torch.stack(terms).mean() / near.sum().clamp(min=1)


def distance_to(line: Tensor, reach_vox: float) -> Tensor:
    """Return the Euclidean distance to the nearest voxel of a line, at most ``reach_vox``; exact below it.

    Squared distances are minimized along one axis after the other within the reach, on the line's own device: a patch
    needs no transform over its whole size.

    Args:
        line: [B, 1, Z, Y, X] bool.
        reach_vox: 1 or more.

    Returns:
        [B, 1, Z, Y, X] float32 in voxels.

    Example:
        >>> distance_to(torch.tensor([False, True, False, False, False]).view(1, 1, 1, 1, 5), 2.0).flatten().tolist()
        [1.0, 0.0, 1.0, 2.0, 2.0]
    """
    steps = math.ceil(reach_vox)
    squared = torch.where(line, 0.0, reach_vox**2)
    for axis in range(2, 5):
        padding = [0, 0] * 3
        padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = steps
        padded = F.pad(squared, padding, value=reach_vox**2)
        for step in range(-steps, steps + 1):
            moved = padded.narrow(axis, steps + step, squared.shape[axis]) + step**2
            squared = torch.minimum(squared, moved)
    return squared.sqrt()
