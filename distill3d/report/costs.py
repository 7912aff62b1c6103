"""What an arm costs, and where its tubes lie, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a run of an arm costs, the mean over its runs; None where no run says it.

    Args:
        parameters: of the student as deployed.
        trainable_parameters: in training.
        flops_per_patch: of one forward pass of one training patch.
        seconds_per_step: of training.
        fit_seconds: of training in all.
        peak_memory_gib: of training.
        predict_seconds: for all held-out cases.
    """

    parameters: float | None = None
    trainable_parameters: float | None = None
    flops_per_patch: float | None = None
    seconds_per_step: float | None = None
    fit_seconds: float | None = None
    peak_memory_gib: float | None = None
    predict_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tubes:
    """How closely the tubes of an arm follow neurites in held-out cases, the mean over seeds; None where unknown.

    Args:
        on_neurite: share of all taps within 2 voxels of gold.
        on_neurite_straight: the same were no tube bent.
        followed: as ``on_neurite``, of tubes that start on a neurite.
        followed_straight: likewise.
        saturated: share of their steps that bend as far as the law allows; None where tubes cannot bend.
        bend_vox: mean distance of their taps from the straight tube.
    """

    on_neurite: float | None = None
    on_neurite_straight: float | None = None
    followed: float | None = None
    followed_straight: float | None = None
    saturated: float | None = None
    bend_vox: float | None = None
