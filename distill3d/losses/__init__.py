"""Supervised losses; importing this package registers them. Terms a strategy adds live in `distill3d.transfer`.

Other rooms need `base` alone: losses are built by name.
"""

from distill3d.losses.base import Loss
from distill3d.losses.centerline import (
    SkeletonHead,
    SkeletonHeadConfig,
    SkeletonRecall,
    SkeletonRecallConfig,
    SoftClDice,
    SoftClDiceConfig,
)
from distill3d.losses.overlap import Overlap, OverlapConfig

__all__ = [
    "Loss",
    "Overlap",
    "OverlapConfig",
    "SkeletonHead",
    "SkeletonHeadConfig",
    "SkeletonRecall",
    "SkeletonRecallConfig",
    "SoftClDice",
    "SoftClDiceConfig",
]
