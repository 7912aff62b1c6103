"""Student `unet3d`: a small, plain 3D U-Net, with tubular blocks, global reasoning and a skeleton head as options.

It mirrors no 2D network, so nothing can be inflated into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast, final

from torch import Tensor, nn

from distill3d.config.registry import STUDENTS
from distill3d.layers.blocks3d import DecoderStep, double_conv, init_leaky, segmentation_head
from distill3d.layers.global_reasoning import GlobalReasoning3d
from distill3d.layers.norm3d import Norm
from distill3d.layers.tubes.conv3d import TubularBlock3d
from distill3d.layers.tubes.geometry import OffsetLaw, Outside
from distill3d.students.base import Student
from distill3d.types import SKELETON, Axis


@dataclass(frozen=True, kw_only=True, slots=True)
class UNet3dConfig:
    """Settings of ``unet3d``."""

    channels: tuple[int, ...] = (8, 16, 32, 64)  # per resolution, full first
    depth_strides: tuple[int, ...] = (2, 2, 2)  # 1 or 2 per halving in the plane, finest first; 1 first for coarse z
    norm: Norm = "instance"  # see distill3d.layers.norm3d
    # Units of global reasoning: on the coarsest map, on every other one that the decoder takes, or on all
    reasoning: Literal["none", "bottleneck", "skips", "both"] = "none"
    reasoning_nodes: int = 16  # per unit, >= 1; each has twice as many states
    skeleton_head: Literal["none", "shared", "own_decoder"] = "none"  # its input; trained by the loss skeleton_head
    tubular: tuple[int, ...] = ()  # encoder stages, 0 the finest, whose second convolution becomes a tubular block
    tubular_kernel: int = 9  # taps of a tube, odd, 3 or more
    tubular_axes: tuple[Axis, ...] = ("z", "y", "x")  # one tube each
    tubular_law: OffsetLaw = "snake"  # of the bending: "snake" adds steps up, "angles" bends both halves once
    tubular_extent: float = 1.0  # snake: voxels a tap may move against its neighbor; angles: share of 45 degrees
    tubular_outside: Outside = "border"  # what a tap beyond the map reads: the nearest voxel, or zeros

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
        if len(set(self.tubular)) < len(self.tubular) or not set(self.tubular) <= set(range(len(self.channels))):
            raise ValueError(
                f"tubular={list(self.tubular)}: accepted: stages from 0 to {len(self.channels) - 1}, each once"
            )
        _check_tubes(self)
        if self.reasoning_nodes < 1:
            raise ValueError(f"reasoning_nodes={self.reasoning_nodes} is too small; accepted: 1 or more")
        if self.reasoning in ("skips", "both") and len(self.channels) == 1:
            raise ValueError(
                f"reasoning={self.reasoning} with a single resolution has no skip; accepted: 2 or more channels"
            )


def _check_tubes(config: UNet3dConfig) -> None:
    kernel, axes, extent = config.tubular_kernel, config.tubular_axes, config.tubular_extent
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"tubular_kernel={kernel} has no center or no neighbors; accepted: odd, 3 or more")
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(f"tubular_axes={list(axes)}: accepted: one or more of z, y, x, each once")
    if not extent > 0 or (config.tubular_law == "angles" and extent > 1):
        raise ValueError(f"tubular_extent={extent} is out of range; accepted: above 0, for law angles at most 1")


@STUDENTS.register("unet3d", config=UNet3dConfig)
@final
class UNet3d(Student):
    """Two convolutions per resolution, strided ones between them, skips by concatenation.

    A unit of global reasoning takes the coarsest map on its way to the decoder, the map of every skip, or both; it
    starts as the identity. The skeleton head is a 1x1x1 convolution on the last map of the decoder, or of a second
    decoder of its own, and works in training mode only, so that prediction costs nothing more. Options draw their
    random values last, so that the same seed gives the same U-Net whatever they are.

    Source: Cicek et al. 2016, 3D U-Net, arXiv 1606.06650; strided convolutions, instance normalization and leaky
    ReLU as in nnU-Net (Isensee et al. 2021), upsampling by repetition. Reasoning and an auxiliary skeleton loss: Wang
    et al. 2021, arXiv 2101.08910, of which only the idea is known; where the units sit and how the head branches off
    are our choice. Tubular blocks: see `TubularBlock3d`.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__()
        widths, norm = config.channels, config.norm
        strides = [(depth, 2, 2) for depth in config.depth_strides]
        self.stride_zyx = (math.prod(config.depth_strides), 2 ** len(strides), 2 ** len(strides))
        inputs = (1, *widths)
        self.encoder = nn.ModuleList(
            double_conv(inputs[i], width, stride=strides[i - 1] if i else (1, 1, 1), norm=norm)
            for i, width in enumerate(widths)
        )
        self.decoder = _decoder(config)
        init_leaky(self)
        self.head = segmentation_head(widths[0])
        last = len(widths) - 1
        skips = set(range(last))
        where = {"none": set(), "bottleneck": {last}, "skips": skips, "both": skips | {last}}[config.reasoning]
        self.reasoning = nn.ModuleList(
            GlobalReasoning3d(width, config.reasoning_nodes) if i in where else nn.Identity()
            for i, width in enumerate(widths)
        )
        for i in config.tubular:
            cast("nn.Sequential", self.encoder[i])[1] = TubularBlock3d(
                widths[i],
                widths[i],
                config.tubular_kernel,
                axes=config.tubular_axes,
                law=config.tubular_law,
                extent=config.tubular_extent,
                outside=config.tubular_outside,
                norm=norm,
            )
        self.skeleton_decoder = _decoder(config) if config.skeleton_head == "own_decoder" else None
        if self.skeleton_decoder is not None:
            init_leaky(self.skeleton_decoder)
        self.skeleton_head = None if config.skeleton_head == "none" else segmentation_head(widths[0])
        self.heads = () if self.skeleton_head is None else (SKELETON,)

    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``."""
        return self.segment_all(image)[0]

    def segment_all(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `segment` does and, in training mode, the logits of the skeleton head."""
        maps: list[Tensor] = []
        for stage, reason in zip(self.encoder, self.reasoning, strict=True):
            image = stage(image)
            maps.append(reason(image))
        fine = _decode(self.decoder, maps)
        logits = self.head(fine)
        if self.skeleton_head is None or not self.training:
            return logits, {}
        features = fine if self.skeleton_decoder is None else _decode(self.skeleton_decoder, maps)
        return logits, {SKELETON: self.skeleton_head(features)}


def _decoder(config: UNet3dConfig) -> nn.ModuleList:
    """Build a step up to every resolution but the coarsest, finest first."""
    widths = config.channels
    return nn.ModuleList(
        DecoderStep(widths[i + 1], widths[i], widths[i], factors=(depth, 2, 2), norm=config.norm)
        for i, depth in enumerate(config.depth_strides)
    )


def _decode(steps: nn.ModuleList, maps: list[Tensor]) -> Tensor:
    """Go up from the last of the maps, which are sorted finest first, and return the finest map."""
    fine = maps[-1]
    for step, skip in zip(reversed(steps), reversed(maps[:-1]), strict=True):
        fine = step(fine, skip)
    return fine
