"""Losses that look at centerlines, where a break costs more than a ragged edge.

As in `distill3d.losses.overlap`, every term is computed per patch over its known voxels and then averaged over the
patches, so that two processes with half a batch each give the mean, and the gradient, of one with the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from distill3d.config.registry import LOSSES
from distill3d.losses.base import Loss
from distill3d.losses.overlap import Overlap, OverlapConfig
from distill3d.losses.soft_skeleton import soft_skeleton
from distill3d.types import SKELETON, Batch, LossTerm, Prediction, SkeletonSource, SkeletonTarget


def _above_zero(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value} is out of range; accepted: above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftClDiceConfig:
    """Settings of ``soft_cldice``."""

    weight: float = 1.0  # of both terms, > 0
    alpha: float = 0.5  # share of clDice, the rest is Dice; above 0, at most 1
    iterations: int = 3  # erosions of the soft skeleton, >= 0; about the radius of the widest neurite in voxels
    smooth: float = 1.0  # voxels added above and below in every ratio, > 0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        _above_zero(weight=self.weight, smooth=self.smooth)
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} is out of range; accepted: above 0, at most 1")
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations} is too small; accepted: 0 or more")


@LOSSES.register("soft_cldice", config=SoftClDiceConfig)
@final
class SoftClDice(Loss):
    """One minus the harmonic mean of topological precision and sensitivity, mixed with Dice.

    Of the probability p and gold y with soft skeletons S_p and S_y: precision ``(sum S_p y + e) / (sum S_p + e)``,
    sensitivity ``(sum S_y p + e) / (sum S_y + e)``. Range [0, 1], 0 is perfect. Without gold the sensitivity is 1 and
    the precision falls with the predicted skeleton; a patch without a known voxel adds 0. In float32, under autocast
    too. Terms: ``soft_cldice`` of weight ``weight * alpha``, and ``soft_dice``, the Dice of `Overlap`, with the rest.

    Source: Shit et al. 2021, clDice (CVPR), equations 1 to 4 and algorithms 1 and 2, arXiv 2003.07311; there the sums
    run over the batch, here over each patch.
    """

    config: SoftClDiceConfig

    def __init__(self, config: SoftClDiceConfig) -> None:
        super().__init__(config)
        # `forward` weights it, and leaves it out where alpha is 1.
        self.dice = Overlap(OverlapConfig(dice=1.0, cross_entropy=0.0, smooth=config.smooth))

    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return both terms.

        Args:
            student: logits [B, 1, Z, Y, X].
            batch: target and known of the same shape.
        """
        config = self.config
        with torch.autocast(student.logits.device.type, enabled=False):
            prob = student.logits.float().masked_fill(~batch.known, -torch.inf).sigmoid()
            gold = batch.target.float().masked_fill(~batch.known, 0.0)
            value = self._cldice(prob, gold, batch.known).mean()
        terms = {"soft_cldice": LossTerm(value, config.weight * config.alpha)}
        if config.alpha < 1:
            dice = self.dice(student=student, batch=batch)["dice"]
            terms["soft_dice"] = LossTerm(dice.value, config.weight * (1 - config.alpha))
        return terms

    def _cldice(self, prob: Tensor, gold: Tensor, known: Tensor) -> Tensor:
        """Return one minus soft clDice per patch, [B]; unknown voxels of ``prob`` and ``gold`` are 0."""
        skeleton = soft_skeleton(prob, known, iterations=self.config.iterations)
        with torch.no_grad():
            gold_skeleton = soft_skeleton(gold, known, iterations=self.config.iterations)
        precision = _share(skeleton, gold, smooth=self.config.smooth)
        sensitivity = _share(gold_skeleton, prob, smooth=self.config.smooth)
        return 1 - 2 * precision * sensitivity / (precision + sensitivity)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkeletonRecallConfig:
    """Settings of ``skeleton_recall``."""

    weight: float = 1.0  # > 0
    source: SkeletonSource = "mask"  # of the gold skeleton: the gold mask, or the tree
    dilation_vox: int = 2  # 0 to 2; the skeleton grown so often, inside the gold mask
    smooth: float = 1.0  # voxels added above and below, > 0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        _above_zero(weight=self.weight, smooth=self.smooth)
        SkeletonTarget(source=self.source, dilation_vox=self.dilation_vox)


@LOSSES.register("skeleton_recall", config=SkeletonRecallConfig)
@final
class SkeletonRecall(Loss):
    """One minus the share of gold's skeleton that the prediction covers; needs another loss beside it for precision.

    Of the probability p and the skeleton s: ``1 - (sum p s + e) / (sum s + e)``. Range [0, 1), 0 is perfect. A patch
    without a known skeleton voxel adds 0 and no gradient. In float32, under autocast too.

    Source: Kirchhoff et al. 2024, Skeleton Recall Loss (ECCV), arXiv 2404.03010. There the skeleton is that of the
    patch, after augmentation; here it is that of the whole case and moves with the patch, so that the border of a patch
    bends no centerline and nothing is thinned in the loader.
    """

    config: SkeletonRecallConfig

    @classmethod
    def wants(cls, config: SkeletonRecallConfig) -> tuple[SkeletonTarget, ...]:
        """Return the one skeleton."""
        return (SkeletonTarget(source=config.source, dilation_vox=config.dilation_vox),)

    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return the term.

        Args:
            student: logits [B, 1, Z, Y, X].
            batch: known and the skeleton of the same shape.
        """
        (target,) = self.wants(self.config)
        with torch.autocast(student.logits.device.type, enabled=False):
            prob = student.logits.float().masked_fill(~batch.known, -torch.inf).sigmoid()
            skeleton = (batch.skeletons[target.name] & batch.known).float()
            value = 1 - _share(skeleton, prob, smooth=self.config.smooth).mean()
        return {"skeleton_recall": LossTerm(value, self.config.weight)}


@dataclass(frozen=True, kw_only=True, slots=True)
class SkeletonHeadConfig:
    """Settings of ``skeleton_head``; which student has such a head is the student's own setting."""

    weight: float = 0.5  # of both terms, > 0
    source: SkeletonSource = "mask"  # of the gold skeleton: the gold mask, or the tree
    dilation_vox: int = 1  # 0 to 2; the skeleton grown so often, inside the gold mask
    positive_weight: float = 1.0  # factor on skeleton voxels in the cross-entropy, > 0
    smooth: float = 1.0  # voxels added above and below in Dice, > 0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        _above_zero(weight=self.weight, positive_weight=self.positive_weight, smooth=self.smooth)
        SkeletonTarget(source=self.source, dilation_vox=self.dilation_vox)


@LOSSES.register("skeleton_head", config=SkeletonHeadConfig)
@final
class SkeletonHead(Loss):
    """Cross-entropy and Dice of a student's skeleton head against gold's skeleton, as an auxiliary task.

    Terms ``skeleton_cross_entropy`` and ``skeleton_dice`` are those of `Overlap` with the skeleton as gold.

    Source: the idea is of Wang et al. 2021, arXiv 2101.08910; its targets, dilation and weights are not known from
    there, and are our choice.
    """

    config: SkeletonHeadConfig
    heads = (SKELETON,)

    def __init__(self, config: SkeletonHeadConfig) -> None:
        super().__init__(config)
        self.overlap = Overlap(OverlapConfig(positive_weight=config.positive_weight, smooth=config.smooth))

    @classmethod
    def wants(cls, config: SkeletonHeadConfig) -> tuple[SkeletonTarget, ...]:
        """Return the one skeleton."""
        return (SkeletonTarget(source=config.source, dilation_vox=config.dilation_vox),)

    def forward(self, *, student: Prediction, batch: Batch) -> dict[str, LossTerm]:
        """Return both terms.

        Args:
            student: in training mode; its auxiliary logits hold "skeleton" [B, 1, Z, Y, X].
            batch: known and the skeleton of the same shape.
        """
        (target,) = self.wants(self.config)
        terms = self.overlap(
            student=Prediction(logits=student.auxiliary[SKELETON]),
            batch=replace(batch, target=batch.skeletons[target.name].float()),
        )
        return {f"skeleton_{name}": LossTerm(term.value, self.config.weight) for name, term in terms.items()}


def _share(of: Tensor, inside: Tensor, *, smooth: float) -> Tensor:
    """Return how much of a map [B, 1, Z, Y, X] lies inside another, smoothed, per patch [B]."""
    return ((of * inside).flatten(1).sum(1) + smooth) / (of.flatten(1).sum(1) + smooth)
