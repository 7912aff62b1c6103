"""Student `slices2d`: a 2D network that segments a volume slice by slice, to be a teacher later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from distill3d.config.registry import STUDENTS
from distill3d.layers.fpn2d import Segmenter2d, gray_to_channels
from distill3d.layers.recording import main_layers
from distill3d.students.base import Student
from distill3d.types import AXES, Axis


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices2dConfig:
    """Settings of ``slices2d``."""

    encoder: str = "tf_efficientnet_lite0"  # timm's name of a convnet
    axis: Axis = "z"  # that slices are cut across: "z" gives YX slices
    stages: int = 4  # halvings up to the coarsest map used, 2 to 5
    width: int = 32  # channels of the decoder

    def __post_init__(self) -> None:
        if not 2 <= self.stages <= 5:
            raise ValueError(f"stages={self.stages} is out of range; accepted: 2 to 5")
        if self.width < 1:
            raise ValueError(f"width={self.width} is too small; accepted: 1 or more")


@STUDENTS.register("slices2d", config=Slices2dConfig)
@final
class Slices2d(Student):
    """Every slice by itself through a 2D network with a light decoder; the whole 2D encoder can be copied into it.

    Trained on slices of the labelled volumes, it becomes a teacher (`segmenter2d`), and is a 2D baseline by itself.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, config: Slices2dConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture_2d = config.encoder.split(".", maxsplit=1)[0]
        self.net = Segmenter2d(config.encoder, stages=config.stages, width=config.width)
        side = self.net.reductions[-1]
        z, y, x = (1 if axis == config.axis else side for axis in AXES)
        self.stride_zyx = (z, y, x)
        self.register_buffer("input_mean", torch.full((3,), 0.5))
        self.register_buffer("input_std", torch.full((3,), 0.5))

    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``."""
        axis = 2 + AXES.index(self.config.axis)
        slices = image.movedim(axis, 1)
        flat = gray_to_channels(slices.flatten(0, 1), mean=self.input_mean, std=self.input_std)
        return self.net(flat).unflatten(0, slices.shape[:2]).movedim(1, axis)

    def main_layers(self) -> tuple[str, ...]:
        """Paths of the 2D encoder's blocks, in order."""
        return tuple(f"net.encoder.{path}" for path in main_layers(self.net.encoder))

    def is_map(self, value: Tensor) -> bool:
        """Maps of single slices [B * S, C, y, x] are maps too."""
        return value.ndim in {4, 5}

    def as_map(self, path: str, value: Tensor, image: Tensor) -> Tensor:
        """Put the maps of the slices on top of each other again."""
        if value.ndim == 4:
            return value.unflatten(0, (len(image), -1)).movedim(1, 2 + AXES.index(self.config.axis))
        return super().as_map(path, value, image)

    def teacher_key(self, name: str) -> str | None:
        """Drop ``net.encoder.``: the rest is timm's own name."""
        return name.removeprefix("net.encoder.") if name.startswith("net.encoder.") else None

    def set_input_statistics(self, *, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        """Normalize as the 2D network expects, channel by channel."""
        self.input_mean.copy_(torch.tensor(mean))
        self.input_std.copy_(torch.tensor(std))
