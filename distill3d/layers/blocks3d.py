"""Convolution blocks that students are made of. It holds no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from distill3d.layers.norm3d import Norm, make_norm


@final
class ConvNormAct3d(nn.Sequential):
    """A 3x3x3 convolution without bias, a normalization, a leaky ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: ZYX.
        norm: see `distill3d.layers.norm3d`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: tuple[int, int, int] = (1, 1, 1), norm: Norm = "instance"
    ) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            make_norm(norm, out_channels, act=nn.LeakyReLU(0.01, inplace=True)),
        )


def upsample(image: Tensor, factors: tuple[int, int, int]) -> Tensor:
    """Repeat every voxel ``factors`` (ZYX) times: nearest-neighbor upsampling, deterministic on GPUs too.

    Example:
        >>> upsample(torch.ones(1, 1, 1, 1, 1), (1, 2, 3)).shape
        torch.Size([1, 1, 1, 2, 3])
    """
    batch, channels, z, y, x = image.shape
    fz, fy, fx = factors
    wide = image[:, :, :, None, :, None, :, None].expand(batch, channels, z, fz, y, fy, x, fx)
    return wide.reshape(batch, channels, z * fz, y * fy, x * fx)


@final
class DecoderStep(nn.Module):
    """One step up: reduce the channels, upsample, join the skip if there is one, convolve.

    Reducing before upsampling is what makes full resolution affordable.

    Args:
        in_channels: of the coarse map.
        skip_channels: of the finer map; 0 where there is none.
        out_channels: of the output.
        factors: ZYX, from coarse to fine.
        norm: see `distill3d.layers.norm3d`.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, *, factors: tuple[int, int, int], norm: Norm
    ) -> None:
        super().__init__()
        self.factors = factors
        self.reduce = nn.Conv3d(in_channels, out_channels, 1)
        self.conv = ConvNormAct3d(out_channels + skip_channels, out_channels, norm=norm)

    def forward(self, coarse: Tensor, skip: Tensor | None) -> Tensor:
        """Return [B, out_channels, ...] at the finer grid."""
        fine = upsample(self.reduce(coarse), self.factors)
        return self.conv(fine if skip is None else torch.cat([fine, skip], dim=1))


def conv_layers(module: nn.Module) -> Iterator[nn.Conv3d]:
    """Iterate over the 3D convolutions of a network, in order."""
    return (layer for layer in module.modules() if isinstance(layer, nn.Conv3d))


def init_leaky(module: nn.Module) -> None:
    """Draw every 3D convolution's weights as He et al. 2015 do for (leaky) rectifiers; biases start at 0."""
    for layer in conv_layers(module):
        nn.init.kaiming_normal_(layer.weight, a=0.01, nonlinearity="leaky_relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
