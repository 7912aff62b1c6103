"""Strategy `inflate`: a 2D network's weights, made 3D, start the student.

Kernels with a plane, a convnet's and a ViT's patch embedding alike, are inflated by one of the rules of
`distill3d.layers.inflate2d`; everything else is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from distill3d.config.registry import STRATEGIES
from distill3d.layers.inflate2d import (
    ChannelRule,
    inflate_average,
    inflate_center,
    inflate_center_noise,
    inflate_multi_axis,
)
from distill3d.transfer.weights import Moved, WeightTransfer

Placement = Literal["average", "center", "center_noise", "multi_axis"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InflateConfig:
    """Settings of ``inflate``."""

    mode: Literal["average", "center", "center_noise", "multi_axis", "shuffled"] = "center"
    channels: ChannelRule = "sum"  # three input channels -> one: "sum" keeps the response to gray, "mean" is a third
    noise_std: float = 0.01  # center_noise only: relative to each kernel's own standard deviation
    shuffled: Placement = "average"  # mode=shuffled only: the placement this is the control of
    seed: int = 0  # of the noise and of the permutations

    def __post_init__(self) -> None:
        if self.noise_std < 0:
            raise ValueError(f"noise_std={self.noise_std} is negative; accepted: 0 or more")


@STRATEGIES.register("inflate", config=InflateConfig)
@final
class Inflate(WeightTransfer):
    """Start the student's encoder from the teacher's weights.

    ``shuffled`` is the control: the values of each kernel, matrix and table are permuted before they are placed, all
    else is the same. Norms and biases are copied as they are: a permuted variance would change the scale, which the
    control must keep.

    Source: Carreira & Zisserman 2017 (average); Cheng et al. 2024, arXiv 2405.02686 (center); the rest is ours.
    """

    name = "inflate"

    def __init__(self, config: InflateConfig) -> None:
        super().__init__(config)
        self.channels = config.channels
        self.shuffled = config.mode == "shuffled"
        self.seed = config.seed
        self.placement: Placement = config.shuffled if config.mode == "shuffled" else config.mode

    def place(self, name: str, kernel: Tensor, value: Tensor, generator: torch.Generator) -> Moved | None:
        """Inflate a kernel [O, I, Y, X] to [O, I, D, Y, X]."""
        del name
        noise = self.config.noise_std
        return inflated(kernel, value, placement=self.placement, noise_std=noise, generator=generator)


def inflated(
    kernel: Tensor, value: Tensor, *, placement: Placement, noise_std: float, generator: torch.Generator
) -> Moved | None:
    """Inflate a kernel [O, I, Y, X] to the shape [O, I, D, Y, X] of ``value``; None where the planes differ.

    Raises:
        ConfigError: the placement needs a square plane.
    """
    plane_fits = kernel.ndim == 4 and value.ndim == 5 and value.shape[:2] + value.shape[3:] == kernel.shape
    if not plane_fits:
        return None
    depth = value.shape[2]
    if placement == "average":
        result = inflate_average(kernel, depth)
    elif placement == "center":
        result = inflate_center(kernel, depth)
    elif placement == "center_noise":
        result = inflate_center_noise(kernel, depth, noise_std=noise_std, generator=generator)
    else:
        result = inflate_multi_axis(kernel, depth)
    pointwise = value.shape[2:].numel() == 1
    return Moved(result, "copied" if pointwise else ("averaged" if placement == "average" else "inflated"))
