"""The contract of a supervised loss. It knows no formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from distill3d.types import Batch, LossTerm, Prediction


class Loss(nn.Module, ABC):
    """Turns a prediction and its batch into named raw terms with weights. Ignores voxels that are not ``known``."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - each loss has its own config class
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return raw terms, each a finite scalar that has a gradient at the student."""
