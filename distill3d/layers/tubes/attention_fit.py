"""Curves through what a learned attention map says is neurite: a law of bending that is smooth by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int, int]
DEGREE = 2  # of the curves: a parabola per transverse axis
RIDGE = (
    0.05  # what slope and curvature cost, relative to the attention: a cloud without direction leaves tubes straight
)
SHARPEST = 4.0  # bound of the log-attention: a voxel counts at most exp(8) times as much as another


@final
class AttentionFit(nn.Module):
    """Predict an attention map, and fit a parabola to it around every block's center, along each axis.

    The curve ``c0 + c1 u + c2 u^2`` of both transverse axes (u from -1 to 1 along the tube) is the least-squares fit to
    the attention in a window of one block to each side, weighted by a Gaussian of half a block about the straight
    tube. An even map, as at the start, has its fit on the axis: tubes start straight, yet their gradient is not zero.
    Where the map has a ridge, tubes shift onto it and take its slope and bend.

    Source: ours.

    Args:
        axes: of the tubes (0 is z).
        block_zyx: edges of a block in voxels.
        reach: voxels from a tube's center to its farthest tap.
        hidden: channels of the network that predicts the map.
        extent: bound of a curve's slope: voxels sideways per voxel along the tube.
    """

    def __init__(self, axes: Sequence[int], *, block_zyx: Grid, reach: float, hidden: int, extent: float) -> None:
        super().__init__()
        self.axes, self.block_zyx, self.reach, self.extent = tuple(axes), block_zyx, reach, extent
        # Half resolution is enough to find a ridge, where a block's center lies on that grid.
        self.cell_zyx = cast("Grid", tuple(2 if edge >= 8 and edge % 4 == 0 else 1 for edge in block_zyx))
        last = nn.Conv3d(hidden, 1, 1, bias=False)  # a constant would change no fit
        nn.init.zeros_(last.weight)
        self.net = nn.Sequential(
            nn.Conv3d(1, hidden, 3, stride=self.cell_zyx, padding=1),
            nn.GELU(),
            nn.Conv3d(hidden, hidden, 3, padding=1),
            nn.GELU(),
            last,
        )
        for axis in self.axes:
            self.register_buffer(f"moments_{axis}", self._moments(axis), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the log-attention of [B, 1, Z, Y, X] on the grid of cells, [B, 1, Z / cz, Y / cy, X / cx]."""
        return SHARPEST * (2 / SHARPEST * self.net(image)).tanh()

    def curves(self, log_attention: Tensor, axis: int) -> Tensor:
        """Fit the curves of the tubes along ``axis``.

        Returns:
            [B, 2, DEGREE + 1, Gz, Gy, Gx] in voxels: of both transverse axes in ZYX order, the coefficients of u^k.
        """
        windows = self._windows(log_attention.exp(), axis)
        mass, sideways = windows[:, :1], windows[:, 1:]
        steps = mass.shape[-1]
        # Cells reach a little less or more far than the taps where the reach is no multiple of a cell
        ends = self._cells_along(axis) * self.cell_zyx[axis] / self.reach
        u = torch.linspace(-ends, ends, steps, dtype=mass.dtype, device=mass.device)
        powers = torch.stack([u**k for k in range(2 * DEGREE + 1)])
        total = mass.sum(-1, keepdim=True)
        moments = torch.einsum("bczyxs,ks->bzyxk", mass / total, powers)
        goals = torch.einsum("bczyxs,ks->bzyxkc", sideways / total, powers[: DEGREE + 1])
        order = torch.arange(DEGREE + 1, device=mass.device)
        normal = moments[..., order[:, None] + order]
        ridge = RIDGE * (order > 0).to(mass.dtype)
        fitted = torch.linalg.solve(normal + ridge.diag(), goals)  # [B, Gz, Gy, Gx, DEGREE + 1, 2]
        return self._bounded(fitted.permute(0, 5, 4, 1, 2, 3))

    def _bounded(self, fitted: Tensor) -> Tensor:
        """Shrink slope and bend together so that no slope exceeds the extent."""
        slopes = torch.stack([k * fitted[:, :, k].abs() for k in range(1, DEGREE + 1)])
        steepest = slopes.sum(0) / (self.reach * self.extent)
        shrink = torch.where(steepest > 1e-6, steepest.tanh() / steepest.clamp(min=1e-6), 1.0)
        return torch.cat([fitted[:, :, :1], fitted[:, :, 1:] * shrink.unsqueeze(2)], dim=2)

    def _windows(self, attention: Tensor, axis: int) -> Tensor:
        """Return mass and both sideways moments [B, 3, Gz, Gy, Gx, S] of the S cells along every tube."""
        kernel = self.get_buffer(f"moments_{axis}").to(attention.dtype)
        blocks = [edge // cell for edge, cell in zip(self.block_zyx, self.cell_zyx, strict=True)]  # in cells
        stride = [1 if a == axis else block for a, block in enumerate(blocks)]
        along = self._cells_along(axis)
        margins = [along if a == axis else kernel.shape[2 + a] // 2 for a in range(3)]
        padding = [margin for margin in reversed(margins) for _ in range(2)]
        padded = F.pad(attention, padding, mode="replicate")
        for a, (edge, cell) in enumerate(zip(self.block_zyx, self.cell_zyx, strict=True)):
            first = edge // 2 // cell  # so that the first window is that of the first block's center
            padded = padded.narrow(2 + a, first, padded.shape[2 + a] - first)
        moments = F.conv3d(padded, kernel, stride=stride)
        windows = moments.unfold(2 + axis, 2 * along + 1, blocks[axis])
        grid = [size // block for size, block in zip(attention.shape[2:], blocks, strict=True)]
        return windows[:, :, : grid[0], : grid[1], : grid[2]]

    def _cells_along(self, axis: int) -> int:
        return max(1, round(self.reach / self.cell_zyx[axis]))

    def _moments(self, axis: int) -> Tensor:
        """Return kernels [3, 1, kz, ky, kx] that sum a window across the tube: its mass, and its moments."""
        lines = []
        for a, (edge, cell) in enumerate(zip(self.block_zyx, self.cell_zyx, strict=True)):
            count = 0 if a == axis else max(1, edge // cell)
            places = torch.arange(-count, count + 1) * float(cell)
            lines.append((places, (-2 * (places / edge) ** 2).exp()))
        window = torch.einsum("z,y,x->zyx", *(weight for _, weight in lines))
        places = torch.meshgrid(*(place for place, _ in lines), indexing="ij")
        return torch.stack([window, *(window * places[a] for a in range(3) if a != axis)]).unsqueeze(1)
