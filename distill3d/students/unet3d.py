"""Student `unet3d`: a small, plain 3D U-Net. It mirrors no 2D network, so nothing can be inflated into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from distill3d.layers.blocks3d import ConvNormAct3d, DecoderStep, init_leaky, segmentation_head
from distill3d.layers.norm3d import Norm
from distill3d.registry import STUDENTS
from distill3d.students.base import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class UNet3dConfig:
    """Settings of ``unet3d``."""

    channels: tuple[int, ...] = (8, 16, 32, 64)  # per resolution, full first
    depth_strides: tuple[int, ...] = (2, 2, 2)  # 1 or 2 per halving in the plane, finest first; 1 first for coarse z
    norm: Norm = "instance"  # see distill3d.layers.norm3d

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels={list(self.channels)}: accepted: 1 or more at each resolution")
        if len(self.depth_strides) != len(self.channels) - 1:
            raise ValueError(
                f"depth_strides={list(self.depth_strides)}: accepted: {len(self.channels) - 1} entries, "
                f"one for each step between the {len(self.channels)} resolutions of channels"
            )
        if not set(self.depth_strides) <= {1, 2}:
            raise ValueError(f"depth_strides={list(self.depth_strides)}: accepted: 1 or 2 for each halving")


@STUDENTS.register("unet3d", config=UNet3dConfig)
@final
class UNet3d(Student):
    """Two convolutions per resolution, strided ones between them, skips by concatenation.

    Source: Cicek et al. 2016, 3D U-Net, arXiv 1606.06650; strided convolutions, instance normalization and leaky
    ReLU as in nnU-Net (Isensee et al. 2021), upsampling by repetition.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__()
        widths, norm = config.channels, config.norm
        strides = [(depth, 2, 2) for depth in config.depth_strides]
        self.stride_zyx = (math.prod(config.depth_strides), 2 ** len(strides), 2 ** len(strides))
        inputs = (1, *widths)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                ConvNormAct3d(inputs[i], width, stride=strides[i - 1] if i else (1, 1, 1), norm=norm),
                ConvNormAct3d(width, width, norm=norm),
            )
            for i, width in enumerate(widths)
        )
        self.decoder = nn.ModuleList(
            DecoderStep(widths[i + 1], widths[i], widths[i], factors=stride, norm=norm)
            for i, stride in enumerate(strides)
        )
        init_leaky(self)
        self.head = segmentation_head(widths[0])

    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            image = stage(image)
            skips.append(image)
        fine = skips.pop()
        for step in reversed(self.decoder):
            fine = step(fine, skips.pop())
        return self.head(fine)
