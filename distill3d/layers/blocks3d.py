"""Convolution blocks that students are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from distill3d.layers.conv3d import PlaneConv3d
from distill3d.layers.norm3d import Norm, make_norm

PRIOR = 0.01  # expected share of foreground
PRIOR_BIAS = math.log(PRIOR / (1 - PRIOR))


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
            PlaneConv3d(
                in_channels, out_channels, kernel_size=(3, 3, 3), stride=stride, plane_padding=(1, 1), bias=False
            ),
            make_norm(norm, out_channels, act=nn.LeakyReLU(0.01, inplace=True)),
        )


def double_conv(in_channels: int, out_channels: int, *, stride: tuple[int, int, int], norm: Norm) -> nn.Sequential:
    """Build a U-Net's stage: two `ConvNormAct3d`, the first with the stride (ZYX)."""
    return nn.Sequential(
        ConvNormAct3d(in_channels, out_channels, stride=stride, norm=norm),
        ConvNormAct3d(out_channels, out_channels, norm=norm),
    )


def upsample(image: Tensor, factors: tuple[int, int, int]) -> Tensor:
    """Repeat every voxel ``factors`` (ZYX) times: nearest-neighbor upsampling, deterministic on GPUs too.

    Example:
        >>> upsample(torch.ones(1, 1, 1, 1, 1), (1, 2, 3)).shape
        torch.Size([1, 1, 1, 2, 3])
    """
    batch, channels, z, y, x = image.shape
    fz, fy, fx = factors
    if image.is_contiguous():
        wide = image[:, :, :, None, :, None, :, None].expand(batch, channels, z, fz, y, fy, x, fx)
        return wide.reshape(batch, channels, z * fz, y * fy, x * fx)
    last = image.movedim(1, -1)[:, :, None, :, None, :, None].expand(batch, z, fz, y, fy, x, fx, channels)
    return last.reshape(batch, z * fz, y * fy, x * fx, channels).movedim(-1, 1)  # channels last, as the input


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
        self.reduce = PlaneConv3d(in_channels, out_channels, kernel_size=(1, 1, 1))
        self.conv = ConvNormAct3d(out_channels + skip_channels, out_channels, norm=norm)

    def forward(self, coarse: Tensor, skip: Tensor | None) -> Tensor:
        """Return [B, out_channels, ...] at the finer grid."""
        fine = upsample(self.reduce(coarse), self.factors)
        return self.conv(fine if skip is None else torch.cat([fine, skip], dim=1))


@final
class TokenSkip(nn.Module):
    """Bring tokens to a finer grid: reduce their channels, then repeat each.

    Args:
        embed_dim: of the tokens.
        channels: of the output.
        factors: ZYX, from the tokens' grid to the finer one.
    """

    def __init__(self, embed_dim: int, channels: int, *, factors: tuple[int, int, int]) -> None:
        super().__init__()
        self.factors = factors
        self.reduce = PlaneConv3d(embed_dim, channels, kernel_size=(1, 1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn [B, E, Z, Y, X] into [B, channels, Z * fz, Y * fy, X * fx]."""
        return upsample(self.reduce(tokens), self.factors)


def conv_layers(module: nn.Module) -> Iterator[nn.Conv3d]:
    """Iterate over the 3D convolutions of a network, in order."""
    return (layer for layer in module.modules() if isinstance(layer, nn.Conv3d))


def init_leaky(module: nn.Module) -> None:
    """Draw every 3D convolution's weights as He et al. 2015 do for (leaky) rectifiers; biases start at 0."""
    for layer in conv_layers(module):
        nn.init.kaiming_normal_(layer.weight, a=0.01, nonlinearity="leaky_relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def segmentation_head(in_channels: int) -> nn.Conv3d:
    """Build the last layer, a 1x1x1 convolution to one logit, so that at first each voxel has probability ``PRIOR``.

    A neuron fills less than a percent of a volume. From probability 1/2 the first hundred steps would only learn that.

    Source: Lin et al. 2017, Focal loss, section 4.1, arXiv 1708.02002.

    Example:
        >>> round(float(segmentation_head(4).bias.detach().sigmoid()), 4)
        0.01
    """
    head = PlaneConv3d(in_channels, 1, kernel_size=(1, 1, 1))
    nn.init.normal_(head.weight, std=0.01)
    nn.init.constant_(head.bias, PRIOR_BIAS)  # pyright: ignore[reportArgumentType] - it has a bias
    return head
