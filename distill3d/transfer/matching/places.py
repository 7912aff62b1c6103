"""Losses between a student's and a teacher's maps on one grid, place by place, and the table of all by name.

Relations between places are in `relations`. Strategies bring both maps to one grid and call what is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from distill3d.transfer.matching.alignment import cka
from distill3d.transfer.matching.relations import TINY, Examples, float32_maps, relational, similarity_preserving

FeatureKind = Literal["cosine", "mse", "attention", "channelwise", "relational", "cka", "similarity"]


def cosine(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cosine similarity over channels, mean over batch and places.

    Range [0, 2], 0 if all directions agree; blind to the length of either side. A vector of zeros has the similarity 0
    to any other, so it counts 1.

    Args:
        student: [B, C, Z, Y, X].
        teacher: of the same shape.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> features = torch.ones(1, 4, 1, 2, 2)
        >>> [cosine(student=student, teacher=features).item() for student in (2 * features, -features)]
        [0.0, 2.0]
    """
    with float32_maps(student=student, teacher=teacher, same_channels=True) as maps:
        directions = [F.normalize(features, dim=1, eps=TINY) for features in maps]
        return 1 - (directions[0] * directions[1]).sum(1).mean()


def mse(*, student: Tensor, teacher: Tensor, standardize: bool = True) -> Tensor:
    """Mean squared error over batch, channels and places.

    Range [0, inf). Standardized, each of the teacher's channels has mean 0 and standard deviation 1 over this batch's
    places (in each process on its own), and the student is to predict that: always predicting 0, the mean, gives 1. A
    constant channel becomes 0.

    Source: Romero et al. 2015, FitNets: Hints for Thin Deep Nets, arXiv 1412.6550, equation 3. The standardization, and
    the mean in place of half the sum, are ours.

    Args:
        student: [B, C, Z, Y, X].
        teacher: of the same shape.
        standardize: whether the teacher's channels are standardized; the student's never are.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> features = torch.arange(8.0).view(1, 2, 1, 2, 2)
        >>> round(mse(student=torch.zeros_like(features), teacher=features).item(), 6)
        1.0
    """
    with float32_maps(student=student, teacher=teacher, same_channels=True) as (s, t):
        return F.mse_loss(s, _standardized(t) if standardize else t)


def _standardized(features: Tensor) -> Tensor:
    dims = (0, 2, 3, 4)
    centered = features - features.mean(dims, keepdim=True)
    spread = centered.square().mean(dims, keepdim=True).sqrt()
    # The spread of a constant channel is float32 rounding, which must not become a target.
    rounding = 1e-5 * features.square().mean(dims, keepdim=True).sqrt()
    return centered / spread.clamp(min=rounding.clamp(min=1e-12))


def attention(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Compare where the activations are large: half the squared distance of attention maps, mean over batch and places.

    A patch's map is the mean over channels of the squared activations, flattened and scaled to length 1. Range
    [0, 1 / places]: 0 if the maps are proportional, the most if no place is active in both. The weight that goes with
    it is 1000. Blind to the order, the signs and the number of channels and to a scale of either side. A map of zeros
    stays zeros.

    Source: Zagoruyko and Komodakis 2017, Paying More Attention to Attention, arXiv 1612.03928, equation 2,
    activation-based with the sum of squares: beta / 2 with beta 1000 over the places and the patches of a batch. The
    distance is squared as in the authors' code (in the equation it is not), which leaves out the half.

    Args:
        student: [B, C, Z, Y, X].
        teacher: [B, D, Z, Y, X], D may differ from C.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the grids differ.

    Example:
        >>> left = torch.tensor([1.0, 0.0]).expand(1, 3, 1, 1, 2)
        >>> [attention(student=student, teacher=left).item() for student in (-5 * left[:, :1], left.flip(4))]
        [0.0, 0.5]
    """
    with float32_maps(student=student, teacher=teacher, same_channels=False) as maps:
        where = [F.normalize(features.square().mean(1).flatten(1), dim=1, eps=TINY**2) for features in maps]
        return (where[0] - where[1]).square().mean() / 2


def channelwise(*, student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Compare where each channel is active: KL divergence of softmaxes over space, mean over channels and batch.

    ``T ** 2 / C * sum_c KL(softmax(teacher_c / T) | softmax(student_c / T))``. Range [0, inf), 0 if the channels agree
    up to a constant each, to which it is blind.

    Source: Shu et al. 2021, Channel-wise Knowledge Distillation for Dense Prediction, arXiv 2011.13256; over the
    places of a volume instead of an image.

    Args:
        student: [B, C, Z, Y, X].
        teacher: of the same shape.
        temperature: T, above 0.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes differ, or the temperature is out of range.

    Example:
        >>> features = torch.arange(8.0).view(1, 2, 1, 2, 2)
        >>> channelwise(student=features + 3, teacher=features).item() < 1e-6
        True
    """
    _require_temperature(temperature)
    with float32_maps(student=student, teacher=teacher, same_channels=True) as maps:
        s, t = ((features.flatten(2) / temperature).log_softmax(2) for features in maps)
        return F.kl_div(s, t, log_target=True, reduction="none").sum(2).mean() * temperature**2


def soft_binary_kl(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float, known: Tensor) -> Tensor:
    """KL divergence of the teacher's and the student's softened foreground probabilities.

    ``T ** 2 * KL(Bernoulli(sigmoid(teacher / T)) | Bernoulli(sigmoid(student / T)))`` per voxel; mean over the known
    voxels of a patch, then over patches, so that shards of a batch average to the whole. Range [0, inf), 0 if the
    logits agree. A voxel's gradient is at most T before the means. A patch without a known voxel adds 0.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531, for one logit.

    Args:
        student_logits: [B, 1, Z, Y, X].
        teacher_logits: of the same shape.
        temperature: T, above 0.
        known: bool, of the same shape; False where nobody labelled.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes differ, or the temperature is out of range.

    Example:
        >>> logits, known = torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 2, dtype=torch.bool)
        >>> soft_binary_kl(student_logits=logits, teacher_logits=logits, temperature=2.0, known=known).item()
        0.0
    """
    _require_temperature(temperature)
    if known.shape != student_logits.shape:
        raise ValueError(f"known {tuple(known.shape)} must have the logits' shape {tuple(student_logits.shape)}")
    with float32_maps(student=student_logits, teacher=teacher_logits, same_channels=True) as maps:
        # Filled, not multiplied: an infinite logit on an unknown voxel must not become nan.
        s, t = (logits.masked_fill(~known, 0.0) / temperature for logits in maps)
        # Differences of log-sigmoids are exact where the logits agree, and finite where a probability is 0 or 1.
        gold = torch.sigmoid(t) * (F.logsigmoid(t) - F.logsigmoid(s))
        rest = torch.sigmoid(-t) * (F.logsigmoid(-t) - F.logsigmoid(-s))
        per_patch = (gold + rest).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
        return per_patch.mean() * temperature**2


def _require_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature} is out of range; accepted: above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLossConfig:
    """Which loss between feature maps, and its settings; those that the kind has no use for do nothing."""

    kind: FeatureKind = "cosine"  # cosine, mse and channelwise need maps of the same channels
    temperature: float = 4.0  # channelwise: of the softmax over space, > 0
    places: int | None = None  # relational, similarity: sampled per step, >= 3, for cka >= 4; null: 256, for cka 1024
    distance_weight: float = 1.0  # relational: of the distances between places, >= 0
    angle_weight: float = 2.0  # relational: of the angles between places, >= 0
    standardize: bool = True  # mse: the teacher's channels have mean 0 and deviation 1, so that 1 is nothing learned
    examples: Examples = "places"  # similarity: what is compared with one another; "batch" is the paper's

    def __post_init__(self) -> None:
        """Refuse names and values that mean nothing."""
        for name, accepted in (("kind", get_args(FeatureKind)), ("examples", get_args(Examples))):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}={getattr(self, name)} is unknown; accepted: {', '.join(accepted)}")
        _require_temperature(self.temperature)
        least = 4 if self.kind == "cka" else 3
        if self.places is not None and self.places < least:
            raise ValueError(f"places={self.places} is too small; accepted: {least} or more, or null")
        for name in ("distance_weight", "angle_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} is out of range; accepted: 0 or more")
        if not self.distance_weight + self.angle_weight:
            raise ValueError("distance_weight=0 and angle_weight=0 leave nothing; accepted: at least one above 0")


class FeatureLoss(Protocol):
    """A loss between two feature maps, a float32 scalar; ``seed`` alone decides which places are sampled, if any."""

    def __call__(self, *, student: Tensor, teacher: Tensor, seed: int) -> Tensor:
        """Compare [B, C, Z, Y, X] with [B, D, Z, Y, X]; D must be C where `needs_same_channels` says so."""
        ...


@dataclass(frozen=True, slots=True)
class _Row:
    measure: Callable[..., Tensor]
    settings: tuple[str, ...] = ()
    same_channels: bool = False
    sampled: bool = False


_TABLE: dict[FeatureKind, _Row] = {
    "cosine": _Row(cosine, same_channels=True),
    "mse": _Row(mse, ("standardize",), same_channels=True),
    "attention": _Row(attention),
    "channelwise": _Row(channelwise, ("temperature",), same_channels=True),
    "relational": _Row(relational, ("places", "distance_weight", "angle_weight"), sampled=True),
    "cka": _Row(cka, ("places",), sampled=True),
    "similarity": _Row(similarity_preserving, ("places", "examples"), sampled=True),
}


def feature_loss(config: FeatureLossConfig) -> FeatureLoss:
    """Return the loss that the settings name.

    Example:
        >>> loss = feature_loss(FeatureLossConfig(kind="attention"))
        >>> loss(student=torch.ones(1, 2, 1, 2, 2), teacher=torch.ones(1, 3, 1, 2, 2), seed=0).item()
        0.0
    """
    row = _TABLE[config.kind]
    chosen = {name: getattr(config, name) for name in row.settings}
    measure = partial(row.measure, **{name: value for name, value in chosen.items() if value is not None})

    def loss(*, student: Tensor, teacher: Tensor, seed: int) -> Tensor:
        if row.sampled:
            return measure(student=student, teacher=teacher, seed=seed)
        return measure(student=student, teacher=teacher)

    return loss


def needs_same_channels(kind: FeatureKind) -> bool:
    """Say whether a kind compares channel by channel, so that the student's map must be projected to the teacher's."""
    return _TABLE[kind].same_channels
