"""Strategy `tubular`: a 2D ViT's patch embedding becomes tubes that bend along neurites.

The rest of the ViT is transferred as by `inflate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from distill3d.config.registry import STRATEGIES
from distill3d.errors import ConfigError
from distill3d.layers.inflate2d import ChannelRule
from distill3d.layers.tubes.embed import Fusion, OffsetLaw, Outside, TubularEmbed, taps_from_plane
from distill3d.students.base import Student
from distill3d.students.vit3d import Vit3d
from distill3d.transfer.inflate import Placement, inflated
from distill3d.transfer.weights import Moved, WeightTransfer
from distill3d.types import Axis

EMBED = "encoder.patch_embed"
PATCH = "patch_embed.proj.weight"  # timm's names


@dataclass(frozen=True, kw_only=True, slots=True)
class TubularConfig:
    """Settings of ``tubular``."""

    axes: tuple[Axis, ...] = ("z", "y", "x")  # one tube per axis and block: the views
    taps: int | None = None  # per tube; None: as many as the patch has pixels, 256 for 16 x 16
    tap_spacing: float = 1.0  # voxels between taps
    deformable: bool = True  # False: tubes stay straight
    law: OffsetLaw = "snake"  # of the bending: "snake" adds steps up, "angles" bends both halves once
    extent: float = 1.0  # snake: voxels a tap may move sideways against its neighbor; angles: share of 45 degrees
    fusion: Fusion = "mean"  # of the views: "sum", "mean", or "concat" and a 1x1x1 convolution
    outside: Outside = "border"  # what a tap beyond the patch sees: the nearest voxel, or zeros
    keep_block: bool = False  # keep the inflated block embedding beside the tubes, as one more view
    block: Placement = "center"  # keep_block only: how it is inflated
    init: Literal["teacher", "random", "shuffled"] = "teacher"  # of the tubes; "shuffled" permutes all of the teacher
    channels: ChannelRule = "sum"  # three input channels -> one: "sum" keeps the response to gray, "mean" is a third
    hidden: int = 16  # channels of the network that predicts the bending
    seed: int = 0  # of the permutations

    def __post_init__(self) -> None:
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes={list(self.axes)}: accepted: one or more of z, y, x, each once")
        if self.taps is not None and self.taps < 1:
            raise ValueError(f"taps={self.taps} is too small; accepted: 1 or more")
        for name, value in (("tap_spacing", self.tap_spacing), ("extent", self.extent), ("hidden", self.hidden)):
            if value <= 0:
                raise ValueError(f"{name}={value} is too small; accepted: more than 0")
        if self.law == "angles" and self.extent > 1:
            raise ValueError(f"extent={self.extent} is out of range; accepted with law='angles': up to 1")


@STRATEGIES.register("tubular", config=TubularConfig)
@final
class Tubular(WeightTransfer):
    """Replace the block embedding by deformable tubes that start from the teacher's patch embedding.

    The plane of each filter, summed over the color channels, is unrolled row by row into the taps of a straight tube
    along each axis; the tubes start straight and learn to bend.

    Source: Cheng et al. 2024, DINeuro, arXiv 2410.22078, of which only the idea is known; layout of the taps, law of
    the bending, fusion and border are ours.
    """

    name = "tubular"

    def __init__(self, config: TubularConfig) -> None:
        super().__init__(config)
        self.channels = config.channels
        self.shuffled = config.init == "shuffled"
        self.seed = config.seed

    def adapt(self, student: Student) -> None:
        """Swap the block embedding for tubes.

        Raises:
            ConfigError: the student embeds no blocks.
        """
        if not isinstance(student, Vit3d):
            raise ConfigError(
                f"strategy tubular: student {type(student).__name__} has no block embedding; set student.name=vit3d"
            )
        config, block = self.config, student.config.block_zyx
        student.encoder.patch_embed = TubularEmbed(
            student.encoder.embed_dim,
            block_zyx=block,
            taps=config.taps or block[1] * block[2],
            axes=config.axes,
            tap_spacing=config.tap_spacing,
            deformable=config.deformable,
            law=config.law,
            extent=config.extent,
            fusion=config.fusion,
            outside=config.outside,
            keep_block=config.keep_block,
            hidden=config.hidden,
        )
        student.input_weight = f"{EMBED}.tubes"
        student.input_shift = f"{EMBED}.bias"

    def counterpart(self, student: Student, name: str) -> str | None:
        """Give the tubes, and the block beside them, the patch embedding; the predictor of the bending has none."""
        if not name.startswith(f"{EMBED}."):
            return student.teacher_key(name)
        fresh = self.config.init == "random"
        keys = {f"{EMBED}.tubes": None if fresh else PATCH, f"{EMBED}.proj.weight": PATCH}
        return student.teacher_key(f"{EMBED}.proj.bias") if name == f"{EMBED}.bias" else keys.get(name)

    def image_gain(self, student: Student, name: str) -> float:
        """Tubes and block both see the gray image; summed views are felt each, averaged ones by their share."""
        del student
        axes, views = len(self.config.axes), len(self.config.axes) + self.config.keep_block
        felt = {f"{EMBED}.tubes": axes, f"{EMBED}.proj.weight": 1}.get(name, 0)
        return felt / (1 if self.config.fusion == "sum" else views)

    def place(self, name: str, kernel: Tensor, value: Tensor, generator: torch.Generator) -> Moved | None:
        """Unroll a patch [E, 1, Y, X] into tubes [A, E, K], or inflate it into the block beside them."""
        if name != f"{EMBED}.tubes":
            return inflated(kernel, value, placement=self.config.block, noise_std=0.0, generator=generator)
        axes, _, taps = value.shape
        tube = taps_from_plane(kernel, taps)
        pixels = kernel.shape[2] * kernel.shape[3]
        note = f"plane of {pixels} unrolled" + (f", resampled to {taps} taps" if taps != pixels else "")
        return Moved(tube.expand(axes, -1, -1), "inflated" if taps == pixels else "interpolated", note)
