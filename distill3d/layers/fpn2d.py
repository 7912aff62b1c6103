"""A 2D network that segments slices: a timm convnet and a light decoder."""

from __future__ import annotations

from typing import Any, cast, final

import torch.nn.functional as F
from torch import Tensor, nn

from distill3d.errors import ConfigError
from distill3d.layers.blocks3d import PRIOR_BIAS
from distill3d.layers.networks2d import create_2d


@final
class Segmenter2d(nn.Module):
    """Feature maps of a convnet, joined from coarse to fine, to one logit per pixel.

    Source: Ronneberger et al. 2015, U-Net, arXiv 1505.04597, for the shape of the decoder; its width is our choice.

    Args:
        encoder: timm's name of a convnet.
        stages: halvings up to the coarsest map used, 2 to 5.
        width: channels of the decoder.

    Raises:
        ConfigError: timm has no such network, or it is no convnet with a map per halving.
    """

    def __init__(self, encoder: str, *, stages: int, width: int) -> None:
        super().__init__()
        self.encoder = _convnet(encoder)
        info = cast("list[dict[str, Any]]", self.encoder.feature_info)
        used = [each for each in info if each["reduction"] <= 2**stages]
        self.levels = list(range(len(used)))
        cast("Any", self.encoder).prune_intermediate_layers(self.levels, prune_norm=True, prune_head=True)
        self.reductions = [int(each["reduction"]) for each in used]
        self.feature_info = [{"reduction": self.reductions[-1]}]  # what the sides of an image must be divisible by
        self.lateral = nn.ModuleList(nn.Conv2d(int(each["num_chs"]), width, 1) for each in used)
        self.smooth = nn.ModuleList(_block(width) for _ in used)
        self.head = nn.Conv2d(width, 1, 1)
        nn.init.constant_(cast("Tensor", self.head.bias), PRIOR_BIAS)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, 1, Y, X] of normalized [N, 3, Y, X], sides divisible by the coarsest reduction."""
        maps = cast("Any", self.encoder).forward_intermediates(images, indices=self.levels, intermediates_only=True)
        fine: Tensor | None = None
        for level in reversed(self.levels):
            joined = self.lateral[level](maps[level])
            if fine is not None:
                joined = joined + F.interpolate(fine, size=joined.shape[2:], mode="nearest")
            fine = self.smooth[level](joined)
        if fine is None:
            raise AssertionError("a network without levels cannot be built")
        return F.interpolate(self.head(fine), size=images.shape[2:], mode="bilinear", align_corners=False)


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def _convnet(name: str) -> nn.Module:
    accepted = "a convnet such as resnet18"
    net = create_2d(name, setting="encoder", accepted=accepted, num_classes=0)
    reductions = [int(each["reduction"]) for each in getattr(net, "feature_info", [])]
    prunes = hasattr(net, "prune_intermediate_layers")
    if not prunes or len(set(reductions)) != len(reductions) or len(reductions) < 2:
        raise ConfigError(f"encoder={name!r} has no map per halving; accepted: {accepted}")
    return net


def gray_to_channels(images: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """Bring gray intensities [N, 1, Y, X] in [0, 1] to three normalized channels [N, 3, Y, X]."""
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
