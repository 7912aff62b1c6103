"""Convolutions along bent tubes, and a block of them.

A thin neurite leaves a cubic kernel after a few voxels; these kernels are as thin as it is, and follow it.
"""

from __future__ import annotations

from typing import final, get_args

import torch
from torch import Tensor, nn

from distill3d.layers.blocks3d import ConvNormAct3d
from distill3d.layers.conv3d import PlaneConv3d
from distill3d.layers.norm3d import BatchNormAct3d, GroupNormAct3d, Norm, group_count
from distill3d.layers.tubes.geometry import (
    OffsetLaw,
    Outside,
    Points,
    angle_tube,
    share_outside,
    snake_tube,
    tap_distances,
)
from distill3d.layers.tubes.op import tube_conv
from distill3d.types import Axis


@final
class TubularConv3d(nn.Module):
    """Convolve along a tube of K taps that bends at every voxel with the image; then normalize, then ReLU.

    Tap k lies ``k - K // 2`` voxels along the axis from its voxel, unless it is bent:

    * ``snake``: every tap steps ``extent * tanh(BN(conv3(image)))`` voxels sideways from its inner neighbor, in both
      transverse axes (`snake_tube`).
    * ``angles``: each half turns by two angles, ``extent * pi / 4 * tanh(IN(conv3(image)))`` (`angle_tube`).

    Values are interpolated linearly. No map of all taps is stored (`tube_conv`). The output is normalized in groups of
    4 channels, or of the next larger number that divides them.

    Parameters: ``weight`` [O, C, K], ``bias`` [O]; children: ``bend``, ``bend_norm`` (of predicted bends), ``norm``.

    Source: "snake" is Qi et al. 2023, Dynamic Snake Convolution (DSCNet), arXiv 2307.08388, in 3D; the authors' code
    predicts more than it uses, is written for one K and moves the center of one axis. "angles" is Wu et al. 2025,
    TfeNet (direction-aware convolution), Medical Image Analysis; it is DMAC-like (Cheng et al. 2025, of which we know
    the abstract). TfeNet clamps taps to the border, as DSCNet's 2D code does. Our choice: ``extent``, which is 1 for
    both, and ``straight_start``.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: K, odd, 3 or more.
        axis: of the tube.
        law: how it bends, see above.
        extent: bound of a step in voxels ("snake"), or of an angle in units of pi / 4 ("angles", at most 1); above 0.
        outside: what taps beyond the volume read: "border" the nearest voxel, "zeros" nothing.
        straight_start: start as a convolution of K voxels along the axis. For that the scale of ``bend_norm`` starts at
            0: zero weights before a normalization would come out of it with unit variance after the first step.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> conv = TubularConv3d(4, 8, kernel_size=5, axis="z")
        >>> conv(torch.rand(2, 4, 6, 7, 8)).shape
        torch.Size([2, 8, 6, 7, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 9,
        axis: Axis = "x",
        law: OffsetLaw = "snake",
        extent: float = 1.0,
        *,
        outside: Outside = "border",
        straight_start: bool = True,
    ) -> None:
        super().__init__()
        _check(kernel_size=kernel_size, axes=(axis,), law=law, extent=extent, outside=outside)
        self.kernel_size, self.law, self.extent = kernel_size, law, extent
        self.axis: Axis = axis
        self.outside: Outside = outside
        bound = (in_channels * kernel_size) ** -0.5  # torch's default for a convolution
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        bends = 2 * (kernel_size - 1) if law == "snake" else 4
        self.bend = PlaneConv3d(in_channels, bends, kernel_size=(3, 3, 3), plane_padding=(1, 1), bias=False)
        self.bend_norm = BatchNormAct3d(bends) if law == "snake" else GroupNormAct3d(bends, bends)
        if straight_start:
            nn.init.zeros_(self.bend_norm.weight)
        groups = group_count(out_channels, at_most=max(1, out_channels // 4))
        self.norm = GroupNormAct3d(groups, out_channels, act=nn.ReLU(inplace=True))

    def forward(self, image: Tensor) -> Tensor:
        """Convolve [B, C, Z, Y, X] to [B, O, Z, Y, X]."""
        # Both convolutions want a voxel's channels together, so it is rearranged, and kept for the gradient, once.
        image = image.contiguous(memory_format=torch.channels_last_3d)
        return self.norm(self.convolve(image, self.tap_moves(image)))

    def tap_moves(self, image: Tensor) -> Points:
        """Return the moves from every voxel of [B, C, Z, Y, X] to its taps: Z, Y and X in voxels, see `tube_conv`."""
        predicted = self.bend(image)
        # bfloat16 would round steps to 1/256 voxel, and they add up
        bends = self.bend_norm(predicted.to(torch.promote_types(predicted.dtype, torch.float32))).tanh()
        distances = tap_distances(self.kernel_size, 1.0, device=image.device)
        origin = distances.new_zeros(())
        centers, axis = (origin, origin, origin), "zyx".index(self.axis)
        if self.law == "snake":
            return snake_tube(axis, centers, distances, self.extent * bends.unflatten(1, (2, -1)))
        return angle_tube(axis, centers, distances, self.extent * torch.pi / 4 * bends)

    def shares_outside(self, size_zyx: tuple[int, int, int]) -> dict[Axis, float]:
        """Return, for its axis, the share of the taps of straight tubes that lie beyond a volume of this size."""
        size = size_zyx["zyx".index(self.axis)]
        return {self.axis: share_outside(size, block=1, taps=self.kernel_size, spacing=1.0)}

    def convolve(self, image: Tensor, moves: Points) -> Tensor:
        """Convolve [B, C, Z, Y, X] along given tubes (`tube_conv`), without normalization."""
        device = image.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else image.dtype
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return tube_conv(image.to(dtype), moves, weight, bias, outside=self.outside)


@final
class TubularBlock3d(nn.Module):
    """Look at a map with a cubic kernel and along tubes, fuse the views, add the map itself.

    ``shortcut(image) + fuse(cat(plain(image), tubes(image)))``: ``plain`` and ``fuse`` are 3x3x3 convolutions with
    normalization and activation, ``tubes`` a `TubularConv3d` per axis, and ``shortcut`` a 1x1x1 convolution where the
    number of channels changes.

    Source: the views, their concatenation and fusion are of DSCNet and TfeNet, see `TubularConv3d`. Our choice: any
    subset of axes, the normalization of ``plain`` and ``fuse``, and that nothing follows the sum.

    Args:
        in_channels: of the map.
        out_channels: of the result and of every view.
        kernel_size: see `TubularConv3d`.
        axes: of the tubes, each once, at least one.
        law: see `TubularConv3d`.
        extent: see `TubularConv3d`.
        outside: see `TubularConv3d`.
        straight_start: see `TubularConv3d`.
        norm: of ``plain`` and ``fuse``, see `distill3d.layers.norm3d`.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> TubularBlock3d(4, 8, kernel_size=3, axes=("z", "x"))(torch.rand(1, 4, 6, 7, 8)).shape
        torch.Size([1, 8, 6, 7, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 9,
        *,
        axes: tuple[Axis, ...] = ("x", "y", "z"),
        law: OffsetLaw = "snake",
        extent: float = 1.0,
        outside: Outside = "border",
        straight_start: bool = True,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        _check(kernel_size=kernel_size, axes=axes, law=law, extent=extent, outside=outside)
        self.plain = ConvNormAct3d(in_channels, out_channels, norm=norm)
        self.tubes = nn.ModuleList(
            TubularConv3d(
                in_channels,
                out_channels,
                kernel_size,
                axis,
                law,
                extent,
                outside=outside,
                straight_start=straight_start,
            )
            for axis in axes
        )
        self.fuse = ConvNormAct3d((1 + len(axes)) * out_channels, out_channels, norm=norm)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else PlaneConv3d(in_channels, out_channels, kernel_size=(1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return [B, out_channels, Z, Y, X] for [B, in_channels, Z, Y, X]."""
        image = image.contiguous(memory_format=torch.channels_last_3d)
        views = [self.plain(image), *(tube(image) for tube in self.tubes)]
        return self.shortcut(image) + self.fuse(torch.cat(views, dim=1))


def _check(*, kernel_size: int, axes: tuple[str, ...], law: str, extent: float, outside: str) -> None:
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} has no center or no neighbors; accepted: odd, 3 or more")
    if not axes or len(set(axes)) < len(axes) or set(axes) - set(get_args(Axis)):
        raise ValueError(f"axes={axes} do not name axes; accepted: one or more of z, y, x, each once")
    if law not in get_args(OffsetLaw):
        raise ValueError(f"law={law} is unknown; accepted: {', '.join(get_args(OffsetLaw))}")
    if outside not in get_args(Outside):
        raise ValueError(f"outside={outside} is unknown; accepted: {', '.join(get_args(Outside))}")
    if not extent > 0 or (law == "angles" and extent > 1):
        raise ValueError(f"extent={extent} is out of range for {law}; accepted: above 0, for angles at most 1")
