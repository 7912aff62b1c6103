"""The contract of a supervised loss, and of the further gold it may want. It knows no formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from distill3d.types import Batch, LossTerm, Prediction

SkeletonSource = Literal["mask", "tree"]
MAX_DILATION_VOX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonTarget:
    """A centerline as further gold; `distill3d.data.centerline` makes it, `Batch.skeletons` carries it.

    Attributes:
        source: ``mask`` thins the gold mask, ``tree`` draws the gold tree one voxel wide.
        dilation_vox: 0 to 2; how often the line is then grown by its six face neighbors, never beyond the gold mask.

    Example:
        >>> SkeletonTarget(source="mask", dilation_vox=2).name
        'mask_2'
    """

    source: SkeletonSource
    dilation_vox: int

    def __post_init__(self) -> None:
        """Refuse a dilation that is out of range."""
        if not 0 <= self.dilation_vox <= MAX_DILATION_VOX:
            raise ValueError(f"dilation_vox={self.dilation_vox} is out of range; accepted: 0 to {MAX_DILATION_VOX}")

    @property
    def name(self) -> str:
        """Its key in `Batch.skeletons`."""
        return f"{self.source}_{self.dilation_vox}"


class Loss(nn.Module, ABC):
    """Turns a prediction and its batch into named raw terms with weights. Ignores voxels that are not ``known``.

    Attributes:
        heads: names of the student's further heads whose logits it reads.
    """

    heads: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - each loss has its own config class
        super().__init__()
        self.config = config

    @classmethod
    def wants(cls, config: Any) -> tuple[SkeletonTarget, ...]:  # noqa: ANN401, ARG003 - as above; subclasses use it
        """Say which centerlines the batches of a loss with these settings must carry; the data module asks."""
        return ()

    @abstractmethod
    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return raw terms, each a finite scalar that has a gradient at the student."""
