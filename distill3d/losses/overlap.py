"""Region losses between a prediction and its gold mask: Dice, cross-entropy, focal, Tversky.

Every term is computed per patch over the known voxels and then averaged over the patches, so that two processes with
half a batch each give the same mean, and the same gradient, as one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from distill3d.config.registry import LOSSES
from distill3d.losses.base import Loss
from distill3d.types import Batch, LossTerm, Prediction

_TERMS = ("dice", "cross_entropy", "focal", "tversky")
_Measure = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, target, known, each [B, 1, Z, Y, X] -> [B]


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapConfig:
    """Settings of ``overlap``; a term of weight 0 is not computed."""

    dice: float = 1.0  # weight, >= 0
    cross_entropy: float = 1.0  # weight, >= 0
    focal: float = 0.0  # weight, >= 0
    tversky: float = 0.0  # weight, >= 0
    positive_weight: float = 1.0  # factor on gold voxels in the cross-entropy, > 0
    focal_gamma: float = 2.0  # >= 0; the larger, the less easy voxels count
    focal_alpha: float | None = None  # share of the gold class in [0, 1]; null does not balance
    tversky_alpha: float = 0.3  # cost of a false positive, >= 0
    tversky_beta: float = 0.7  # cost of a false negative, >= 0; thin neurites are missed rather than invented
    smooth: float = (
        1.0  # voxels added above and below in dice and tversky, > 0; keeps a gradient where there is no gold
    )

    def __post_init__(self) -> None:
        """Refuse weights and shapes that mean nothing."""
        for name in (*_TERMS, "focal_gamma", "tversky_alpha", "tversky_beta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} is out of range; accepted: 0 or more")
        for name in ("positive_weight", "smooth"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} is out of range; accepted: above 0")
        if self.focal_alpha is not None and not 0 <= self.focal_alpha <= 1:
            raise ValueError(f"focal_alpha={self.focal_alpha} is out of range; accepted: 0 to 1, or null")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("tversky_alpha=0 and tversky_beta=0 make tversky constant; accepted: at least one above 0")
        if not any(getattr(self, name) for name in _TERMS):
            raise ValueError(f"{', '.join(_TERMS)} are all 0; accepted: at least one weight above 0")


@final
@LOSSES.register("overlap", config=OverlapConfig)
class Overlap(Loss):
    """Weighted sum of region losses over the voxels that somebody labelled.

    Range: dice and tversky [0, 1], cross_entropy and focal [0, inf); 0 is perfect. A patch without a known voxel adds 0
    and no gradient (it still counts in the mean over patches). A patch without gold has
    ``dice = 1 - smooth / (sum p + smooth)``, which falls as the prediction empties. In float32, under autocast too.

    Source: Milletari et al. 2016 (V-Net, Dice); Lin et al. 2017 (arXiv 1708.02002, focal); Salehi et al. 2017
    (arXiv 1706.05721, Tversky); all are MONAI's but the cross-entropy, which is torch's.
    """

    config: OverlapConfig

    def __init__(self, config: OverlapConfig) -> None:
        super().__init__(config)
        makers = {"dice": _dice, "cross_entropy": _cross_entropy, "focal": _focal, "tversky": _tversky}
        self._measures = {name: makers[name](config) for name in _TERMS if getattr(config, name)}

    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of weight above 0.

        Args:
            student: logits [B, 1, Z, Y, X].
            batch: target and known of the same shape.
        """
        with torch.autocast(student.logits.device.type, enabled=False):
            # Filled, not multiplied: an infinite logit on an unknown voxel must not become nan.
            logits = student.logits.float().masked_fill(~batch.known, 0.0)
            target = batch.target.float().masked_fill(~batch.known, 0.0)
            known = batch.known.float()
            return {
                name: LossTerm(measure(logits, target, known).mean(), getattr(self.config, name))
                for name, measure in self._measures.items()
            }


def _dice(config: OverlapConfig) -> _Measure:
    from monai.losses.dice import DiceLoss  # noqa: PLC0415 - seconds of import, wanted only where the term is

    loss = DiceLoss(reduction="none", smooth_nr=config.smooth, smooth_dr=config.smooth)
    return lambda logits, target, known: loss(logits.sigmoid() * known, target).flatten(1).mean(1)


def _tversky(config: OverlapConfig) -> _Measure:
    from monai.losses.tversky import TverskyLoss  # noqa: PLC0415 - as above

    loss = TverskyLoss(
        alpha=config.tversky_alpha,
        beta=config.tversky_beta,
        reduction="none",
        smooth_nr=config.smooth,
        smooth_dr=config.smooth,
    )
    return lambda logits, target, known: loss(logits.sigmoid() * known, target).flatten(1).mean(1)


def _focal(config: OverlapConfig) -> _Measure:
    from monai.losses.focal_loss import FocalLoss  # noqa: PLC0415 - as above

    loss = FocalLoss(gamma=config.focal_gamma, alpha=config.focal_alpha, reduction="none")
    return lambda logits, target, known: _known_mean(loss(logits, target), known)


def _cross_entropy(config: OverlapConfig) -> _Measure:
    def measure(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
        weight = logits.new_tensor(config.positive_weight)
        voxels = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
        return _known_mean(voxels, known)

    return measure


def _known_mean(voxels: Tensor, known: Tensor) -> Tensor:
    """Return the mean of [B, 1, Z, Y, X] over each patch's known voxels, [B]; 0 where there is none."""
    return (voxels * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
