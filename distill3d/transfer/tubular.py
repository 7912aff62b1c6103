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
from distill3d.layers.grids import filled_up
from distill3d.layers.inflate2d import ChannelRule
from distill3d.layers.tubes.embed import EmbedLaw, Fusion, Outside, TubularEmbed, taps_from_plane
from distill3d.students.base import Student
from distill3d.students.vit3d import Vit3d
from distill3d.transfer.inflate import Placement, inflated
from distill3d.transfer.tube_guide import guide_loss
from distill3d.transfer.weights import Moved, WeightTransfer
from distill3d.types import Axis, Batch, LossTerm, Prediction, SkeletonTarget

EMBED = "encoder.patch_embed"
OFFSETS = f"{EMBED}.offsets"
PATCH = "patch_embed.proj.weight"  # timm's names
GUIDE_LINE = SkeletonTarget(source="mask", dilation_vox=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TubularConfig:
    """Settings of ``tubular``."""

    axes: tuple[Axis, ...] = ("z", "y", "x")  # one tube per axis and block: the views
    taps: int | None = None  # per tube; None: two blocks long; DINeuro has 256, as many as a patch of 16 x 16 pixels
    tap_spacing: float = 1.0  # voxels between taps
    deformable: bool = True  # False: tubes stay straight
    # Of the bending: "fit" lays a parabola through a learned attention map, "snake" adds free steps up, "angles" bends
    # both halves once
    law: EmbedLaw = "fit"
    extent: float = 1.0  # fit, snake: voxels a tap may move sideways against its neighbor; angles: share of 45 degrees
    guide: float = 0.0  # weight of the mean distance of taps to gold's centerline, in voxels, while training; 0: none
    guide_reach: float = 6.0  # voxels: farther taps are not pulled
    bend_lr_ratio: float = 1.0  # of the network that predicts the bending, to the decoder's learning rate
    fusion: Fusion = "mean"  # of the views: "sum", "mean", or "concat" and a 1x1x1 convolution
    outside: Outside = "border"  # what a tap beyond the patch sees: the nearest voxel, or zeros
    keep_block: bool = False  # keep the inflated block embedding beside the tubes, as one more view
    block: Placement = "center"  # keep_block only: how it is inflated
    init: Literal["teacher", "random", "shuffled"] = "teacher"  # of the tubes; "shuffled" permutes all of the teacher
    channels: ChannelRule = "sum"  # three input channels -> one: "sum" keeps the response to gray, "mean" is a third
    hidden: int = 8  # channels of the network that predicts the bending
    seed: int = 0  # of the permutations

    def __post_init__(self) -> None:
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes={list(self.axes)}: accepted: one or more of z, y, x, each once")
        if self.taps is not None and self.taps < 1:
            raise ValueError(f"taps={self.taps} is too small; accepted: 1 or more")
        for name in ("tap_spacing", "extent", "hidden", "bend_lr_ratio"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name}={value} is too small; accepted: more than 0")
        if self.guide < 0 or (self.guide and not self.deformable):
            raise ValueError(f"guide={self.guide}: accepted: 0, or more with deformable=true")
        if self.guide_reach < 1:
            raise ValueError(f"guide_reach={self.guide_reach} is too small; accepted: 1 or more")
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
        embed = TubularEmbed(
            student.encoder.embed_dim,
            block_zyx=block,
            taps=config.taps or 2 * max(block[1:]) + 1,
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
        student.encoder.patch_embed = embed
        self._embed = (embed,)  # in a tuple: its parameters are the student's alone
        student.input_weight = f"{EMBED}.tubes"
        student.input_shift = f"{EMBED}.bias"

    @classmethod
    def wants(cls, config: TubularConfig) -> tuple[SkeletonTarget, ...]:
        """Ask for the centerline of the gold mask if tubes are guided."""
        return (GUIDE_LINE,) if config.guide else ()

    def student_layers(self) -> tuple[str, ...]:
        """Ask for what the bending is made of if tubes are guided."""
        return (OFFSETS,) if self.config.guide else ()

    def lr_ratios(self) -> dict[str, float]:
        """Let the bending learn at a rate of its own."""
        return {OFFSETS: self.config.bend_lr_ratio}

    def forward(self, *, student: Prediction, teacher: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return the guide's term, if there is one."""
        del teacher
        if not self.config.guide:
            return {}
        (embed,) = self._embed
        image, line, known = (  # as the student saw the patch; nobody labelled what it is filled up with
            filled_up(each, embed.block_zyx) for each in (batch.image, batch.skeletons[GUIDE_LINE.name], batch.known)
        )
        value = guide_loss(
            embed.place(student.features[OFFSETS], image),
            line=line,
            known=known,
            block_zyx=embed.block_zyx,
            reach_vox=self.config.guide_reach,
        )
        return {"tube_guide": LossTerm(value, self.config.guide)}

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
