"""Positions of tokens on a 3D grid: tables that are resampled, sinusoids, rotations."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

Grid = tuple[int, int, int]


def resample_plane(table: Tensor, *, old_yx: tuple[int, int], new_yx: tuple[int, int], prefix: int) -> Tensor:
    """Interpolate a 2D position table (bicubic, antialiased, as timm does); entries of prefix tokens stay.

    Args:
        table: [1, prefix + Y * X, E].
        old_yx: grid of the table.
        new_yx: grid of the result.
        prefix: number of leading entries without a place.

    Returns:
        [1, prefix + Y' * X', E]; the table itself where the grids agree.
    """
    return resample_abs_pos_embed(table, new_size=list(new_yx), old_size=list(old_yx), num_prefix_tokens=prefix)


def resample_depth(table: Tensor, depth: int) -> Tensor:
    """Interpolate a table along depth, linearly between the centers of slices.

    Args:
        table: [Z, E].
        depth: Z'.

    Returns:
        [Z', E]; the table itself where the depths agree.

    Example:
        >>> resample_depth(torch.tensor([[0.0], [1.0]]), 4).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if table.shape[0] == depth:
        return table
    return F.interpolate(table.T.unsqueeze(0), size=depth, mode="linear", align_corners=False)[0].T


def resample_volume(table: Tensor, *, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Interpolate a 3D position table trilinearly; entries of prefix tokens stay.

    Args:
        table: [1, prefix + Z * Y * X, E].
        old: grid of the table.
        new: grid of the result.
        prefix: number of leading entries without a place.

    Returns:
        [1, prefix + Z' * Y' * X', E]; the table itself where the grids agree.
    """
    if old == new:
        return table
    grid = table[:, prefix:].transpose(1, 2).unflatten(2, old)
    grid = F.interpolate(grid, size=new, mode="trilinear", align_corners=False)
    return torch.cat([table[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1)


def depth_sinusoid(depth: int, embed_dim: int) -> Tensor:
    """Return sines and cosines of the slice's number, wavelengths 2 pi to 20000 pi, scaled to root mean square 1.

    Source: Vaswani et al. 2017, Attention is all you need, section 3.5, arXiv 1706.03762, along depth only.

    Args:
        depth: Z.
        embed_dim: E, even.

    Returns:
        [Z, E].

    Example:
        >>> round(float(depth_sinusoid(7, 8).square().mean()), 5)
        1.0
    """
    frequency = 10000 ** (-torch.arange(embed_dim // 2) / (embed_dim // 2))
    angle = torch.arange(depth).view(-1, 1) * frequency
    return math.sqrt(2) * torch.cat([angle.sin(), angle.cos()], dim=1)


@final
class AxialRope3d(nn.Module):
    """Rotary positions of DINOv3 on a 3D grid.

    In 2D half of a head's channel pairs turn with y and half with x, at periods of a geometric series. In 3D ``rotary``
    turns every second pair of both halves by z too; without it depth turns nothing. Attention within a slice is the 2D
    one either way, since only differences of angles count. Which pairs take z is our choice.

    Source: Siméoni et al. 2025, DINOv3, arXiv 2508.10104 (coordinates from -1 to 1 on each axis, periods).

    Args:
        periods: [D / 4] of the 2D network, D channels per head.
        rotate_half: pairs are (c, c + D/2), else (2c, 2c + 1).
        rotary: let depth turn too.
    """

    periods: Tensor

    def __init__(self, periods: Tensor, *, rotate_half: bool, rotary: bool) -> None:
        super().__init__()
        self.rotate_half = rotate_half
        self.rotary = rotary
        self.register_buffer("periods", periods.detach().clone(), persistent=False)

    def forward(self, grid: Grid, *, prefix: int) -> Tensor:
        """Return [prefix + Z * Y * X, 2 * D], sines then cosines; prefix tokens are not turned."""
        z, y, x = ((torch.arange(n, device=self.periods.device) + 0.5) / n * 2 - 1 for n in grid)
        places = torch.stack(torch.meshgrid(z, y, x, indexing="ij"), dim=-1).flatten(0, 2)
        angle = 2 * math.pi * places[:, 1:, None] / self.periods
        if self.rotary:
            every_second = torch.arange(len(self.periods), device=self.periods.device) % 2
            angle = angle + 2 * math.pi * places[:, :1, None] / self.periods * every_second
        angle = F.pad(angle.flatten(1), (0, 0, prefix, 0))
        angle = torch.cat([angle, angle], dim=-1) if self.rotate_half else angle.repeat_interleave(2, dim=-1)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)
