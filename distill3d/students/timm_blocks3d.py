"""3D forms of timm's blocks whose code names the axes of a 2D map; parameters keep their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, final

import torch
from torch import Tensor, nn

Pool = Literal["volume", "slice"]


def _adopt(module: nn.Module, children: Mapping[str, nn.Module]) -> None:
    for name, child in children.items():
        module.add_module(name, child)


@final
class SqueezeExcite3d(nn.Module):
    """Scale every channel by a gate computed from the channels' means over the volume, or over each slice.

    Source: Hu et al. 2018, Squeeze-and-Excitation Networks, arXiv 1709.01507.

    Args:
        children: the layers from mean to gate, in order, under their 2D names.
        pool: over the volume, or slice by slice as the 2D network does.
    """

    def __init__(self, children: Mapping[str, nn.Module], *, pool: Pool) -> None:
        super().__init__()
        _adopt(self, children)
        self.pool: Pool = pool

    def forward(self, image: Tensor) -> Tensor:
        """Gate [B, C, Z, Y, X]."""
        gate = image.mean((3, 4) if self.pool == "slice" else (2, 3, 4), keepdim=True)
        for layer in self.children():
            gate = layer(gate)
        return image * gate


@final
class ConvNeXtBlock3d(nn.Module):
    """Depthwise convolution, layer normalization, MLP over the channels, layer scale, shortcut.

    Source: Liu et al. 2022, A ConvNet for the 2020s, arXiv 2201.03545.

    Args:
        children: ``conv_dw``, ``norm``, ``mlp``, ``shortcut`` and ``drop_path`` of the 2D block, in their 3D forms.
        gamma: layer scale [C], None for none.
        channels_last: the normalization and the MLP take [B, Z, Y, X, C].
    """

    conv_dw: nn.Module
    norm: nn.Module
    mlp: nn.Module
    shortcut: nn.Module
    drop_path: nn.Module

    def __init__(self, children: Mapping[str, nn.Module], *, gamma: nn.Parameter | None, channels_last: bool) -> None:
        super().__init__()
        _adopt(self, children)
        self.gamma = gamma
        self.channels_last = channels_last

    def forward(self, image: Tensor) -> Tensor:
        """Run the block on [B, C, Z, Y, X]."""
        change = self.conv_dw(image)
        if self.channels_last:
            change = self.mlp(self.norm(change.movedim(1, -1))).movedim(-1, 1)
        else:
            change = self.mlp(self.norm(change))
        if self.gamma is not None:
            change = change * self.gamma.view(1, -1, 1, 1, 1)
        return self.drop_path(change) + self.shortcut(image)


@final
class GlobalResponseNorm3d(nn.Module):
    """Let the channels of a volume, or of each slice, compete by their Euclidean norms over space.

    On a volume of D equal slices every norm grows by the root of D and the ratio stays, as in 2D.

    Source: Woo et al. 2023, ConvNeXt V2, arXiv 2301.00808, algorithm 1.

    Args:
        channels: C.
        eps: added to the mean norm.
        channels_last: the input is [B, Z, Y, X, C].
        pool: over the volume, or slice by slice as the 2D network does.
    """

    def __init__(self, channels: int, *, eps: float, channels_last: bool, pool: Pool) -> None:
        super().__init__()
        self.eps, self.pool = eps, pool
        space, self.channel_axis = ((1, 2, 3), -1) if channels_last else ((2, 3, 4), 1)
        self.space = space[1:] if pool == "slice" else space
        self.shape = (1, 1, 1, 1, -1) if channels_last else (1, -1, 1, 1, 1)
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor) -> Tensor:
        """Normalize [B, C, Z, Y, X] or [B, Z, Y, X, C]."""
        norm = torch.linalg.vector_norm(image, dim=self.space, keepdim=True)
        share = norm / (norm.mean(self.channel_axis, keepdim=True) + self.eps)
        return image + self.bias.view(self.shape) + self.weight.view(self.shape) * image * share
