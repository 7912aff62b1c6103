"""What students that mirror a 2D network share: the input statistics they take over, how deep each layer is."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.models import group_parameters
from torch import Tensor

from distill3d.layers.inflate2d import gray_statistics
from distill3d.students.base import Student


class MirrorStudent(Student, ABC):
    """A student whose encoder is a 2D network made 3D; it normalizes its gray image as that network's input.

    Until a transfer sets them, mean and standard deviation are 0.5, for intensities in [0, 1].
    """

    layer_rule: Mapping[str, Any]  # timm's `group_matcher` of the 2D network: which entries are of which block
    input_mean: Tensor
    input_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.tensor(0.5))
        self.register_buffer("input_std", torch.tensor(0.5))

    def depths(self) -> dict[str, int]:
        """Return the depth by parameter: 0 for stem, positions, prefix tokens; k for block k of n; n for a last norm.

        What the 2D network does not have is as deep as it is named, or deeper than all.
        """
        encoder = self.get_submodule("encoder")
        depths = cast("dict[str, int]", group_parameters(encoder, self.layer_rule, reverse=True))
        return {f"encoder.{name}": depth for name, depth in depths.items()}

    def normalize(self, image: Tensor) -> Tensor:
        """Bring intensities in [0, 1] to what the encoder expects."""
        return (image - self.input_mean) / self.input_std

    def set_input_statistics(self, *, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        """Normalize the gray image by the means over the channels; the first layer must absorb their differences."""
        gray = gray_statistics(mean=mean, std=std)
        self.input_mean.fill_(gray.mean)
        self.input_std.fill_(gray.std)
