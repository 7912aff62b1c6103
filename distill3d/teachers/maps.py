"""Feature maps of timm's 2D networks: tokens back on their grid, images of any size.

No other file knows how families of networks differ.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distill3d.errors import ConfigError


def side_multiple(net: nn.Module) -> int:
    """Return what the sides of an image must be divisible by, so that all cells of a map cover equally many pixels."""
    if isinstance(net, VisionTransformer | Eva):
        return int(net.patch_embed.patch_size[0])
    info = getattr(net, "feature_info", None)  # timm's convnets state their reductions
    return max(int(each["reduction"]) for each in info) if info else 1


def at_size(net: nn.Module, size_yx: tuple[int, int], copies: dict[tuple[int, int], nn.Module]) -> nn.Module:
    """Return a network that takes images of this size: itself, or a copy whose position table is interpolated.

    Args:
        net: of timm.
        size_yx: of the images, in pixels.
        copies: those made so far, by size; the new one is put there too.
    """
    if not isinstance(net, VisionTransformer | Eva) or net.patch_embed.img_size == size_yx:
        return net
    device = next(net.parameters()).device
    if size_yx not in copies or next(copies[size_yx].parameters()).device != device:
        resized = copy.deepcopy(net)
        resized.set_input_size(img_size=size_yx)
        copies[size_yx] = resized.requires_grad_(requires_grad=False).eval()
    return copies[size_yx]


def is_map(value: Tensor, net: nn.Module) -> bool:
    """Whether a layer's output is a feature map of more than one cell."""
    tokens = value.ndim == 3 and isinstance(net, VisionTransformer | Eva)
    return tokens or (value.ndim == 4 and value.shape[2:].numel() > 1)


def as_map(value: Tensor, net: nn.Module, size_yx: Sequence[int], *, path: str) -> Tensor:
    """Bring a layer's output to [N, C, y, x].

    Args:
        value: [N, C, y, x], or tokens [N, prefix + y * x, C] of a ViT.
        net: whose layer it is.
        size_yx: of the image, in pixels.
        path: of the layer, for the error.

    Raises:
        ConfigError: it is neither.
    """
    if value.ndim == 4:
        return value
    if value.ndim == 3 and isinstance(net, VisionTransformer | Eva):
        patch = cast("tuple[int, int]", net.patch_embed.patch_size)
        grid = (size_yx[0] // patch[0], size_yx[1] // patch[1])
        prefix = value.shape[1] - grid[0] * grid[1]
        if prefix >= 0:
            return value[:, prefix:].transpose(1, 2).unflatten(2, grid)
    raise ConfigError(
        f"the teacher's layer {path!r} gives {tuple(value.shape)}, which is no feature map; "
        "accepted: layers that give [N, C, Y, X] or one token per patch"
    )
