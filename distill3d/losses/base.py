"""The contract of a supervised loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from distill3d.types import Batch, LossTerm, Prediction, SkeletonTarget


class Loss(nn.Module, ABC):
    """Turn a prediction and its batch into named raw terms with weights; voxels that are not ``known`` are ignored.

    Attributes:
        heads: names of the student's further heads whose logits it reads.
    """

    heads: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - each loss has its own config class
        super().__init__()
        self.config = config

    @classmethod
    def wants(cls, config: Any) -> tuple[SkeletonTarget, ...]:  # noqa: ANN401, ARG003 - as above; subclasses use it
        """Return the centerlines that batches for a loss of these settings must carry; the data module makes them."""
        return ()

    @abstractmethod
    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return raw terms, each a finite scalar that has a gradient at the student."""
