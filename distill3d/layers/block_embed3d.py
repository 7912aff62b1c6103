"""The block embedding of a 3D ViT: one token per block of voxels."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@final
class BlockEmbed(nn.Module):
    """Embed every block of voxels by one linear map; the 3D form of a ViT's patch embedding.

    It is a convolution whose stride is its kernel, computed as one matrix product: several times faster on CPUs.

    Args:
        embed_dim: E.
        block_zyx: voxels per token along each axis.
    """

    def __init__(self, embed_dim: int, *, block_zyx: tuple[int, int, int]) -> None:
        super().__init__()
        self.block_zyx = block_zyx
        self.proj = nn.Conv3d(1, embed_dim, block_zyx, stride=block_zyx)

    def forward(self, image: Tensor) -> Tensor:
        """Turn [B, 1, Z, Y, X], divisible by the block, into tokens on their grid [B, E, Z/bz, Y/by, X/bx]."""
        bz, by, bx = self.block_zyx
        blocks = rearrange(image, "b c (z d) (y h) (x w) -> b z y x (c d h w)", d=bz, h=by, w=bx)
        # Flattening gives the gradient the weight's own strides, which DistributedDataParallel insists on.
        weight = self.proj.weight.flatten(1)
        return F.linear(blocks, weight, self.proj.bias).movedim(-1, 1)
