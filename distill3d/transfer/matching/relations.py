"""How alike a student's and a teacher's places are to one another: relational, similarity-preserving; sampled places.

They compare relations between sampled places, so the two maps may differ in channels. It compares no single place with
its counterpart (`places`) and lifts no teacher's map to the student's grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Examples = Literal["batch", "places"]

TINY = 1e-4  # a shorter vector is not stretched to length 1, so that a gradient stays below 1 / TINY at zero
_VERTICES = 16  # places at which angles are measured; all pairs of the others seen from each


@contextmanager
def float32_maps(*, student: Tensor, teacher: Tensor, same_channels: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Give both maps in float32, the teacher's cut off from its graph, in a block where autocast is off.

    Args:
        student: [B, C, Z, Y, X], any float dtype.
        teacher: [B, D, Z, Y, X].
        same_channels: whether D must be C.

    Raises:
        ValueError: a map is not 5D or has no value, or they differ in batch, grid or (if it matters) channels.

    Example:
        >>> ones = torch.ones(1, 2, 1, 1, 3, dtype=torch.bfloat16, requires_grad=True)
        >>> with float32_maps(student=ones, teacher=ones, same_channels=True) as (student, teacher):
        ...     student.dtype, student.requires_grad, teacher.requires_grad
        (torch.float32, True, False)
    """
    shapes = f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
    if student.ndim != 5 or teacher.ndim != 5 or not student.numel() or not teacher.numel():
        raise ValueError(f"{shapes} are no feature maps; accepted: [B, C, Z, Y, X] with at least one value")
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"{shapes} differ in batch or grid; accepted: the same B, Z, Y, X")
    if same_channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(f"{shapes} differ in channels; accepted: the same C, for example after a projection")
    with torch.autocast(student.device.type, enabled=False):
        yield student.float(), teacher.detach().float()


def relational(
    *,
    student: Tensor,
    teacher: Tensor,
    places: int = 256,
    distance_weight: float = 1.0,
    angle_weight: float = 2.0,
    seed: int = 0,
) -> Tensor:
    """Compare the distances and angles between places: the shape of the cloud they form in feature space.

    The distances of all pairs of n sampled places, divided by their mean, and the cosines of the angles ijk at 16 of
    them (j, all if n <= 16) over all pairs i, k of the others enter a Huber loss (delta 1) each, averaged over pairs
    and triplets. Range [0, inf), 0 if the clouds are similar figures; memory grows as ``16 * places ** 2``. Invariant
    to rotations, shifts and a scale of either side's feature space. A cloud of one point has distances and cosines 0.

    Source: Park et al. 2019, Relational Knowledge Distillation, arXiv 1904.05068, sections 3.2.1 and 3.2.2, with its
    ratio of weights, 1 to 2. There the examples are the images of a batch and all triplets count; here they are places
    of the whole batch, sampled. Terms are averaged over distinct pairs and triplets (the paper sums).

    Args:
        student: [B, C, Z, Y, X].
        teacher: [B, D, Z, Y, X], D may differ from C.
        places: n, at least 3; all places if there are fewer.
        distance_weight: of the distances.
        angle_weight: of the angles; 0 does not compute them.
        seed: of the sample.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the grids differ, or ``places`` is too small.

    Example:
        >>> triangle = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 3.0]]).view(1, 2, 1, 1, 3)
        >>> line = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 1, 1, 3)
        >>> [round(relational(student=student, teacher=triangle).item(), 3) for student in (triangle * 9 + 1, line)]
        [0.0, 1.399]
    """
    with sampled_clouds(student=student, teacher=teacher, places=places, seed=seed) as clouds:
        apart = [_relative_distances(cloud) for cloud in clouds]
        total = distance_weight * F.huber_loss(*apart, reduction="sum") / max(1, len(apart[0]))
        if angle_weight:
            total = total + angle_weight * _angle_error(*clouds)
        return total


def _relative_distances(cloud: Tensor) -> Tensor:
    """Distances of all pairs of [N, C] over their mean, [N * (N - 1) / 2]."""
    apart = F.pdist(cloud)  # its gradient is 0, not nan, where two places coincide
    return apart / (apart.sum() / max(1, len(apart))).clamp(min=TINY)


def _angle_error(first: Tensor, second: Tensor) -> Tensor:
    """Mean Huber loss between the cosines ijk of two clouds [N, C] and [N, D], over triplets of distinct places."""
    n, vertices = len(first), min(len(first), _VERTICES)
    error = F.huber_loss(_cosines(first, vertices), _cosines(second, vertices), reduction="none")
    # A place and itself make no angle. Where i or k is j, the ray is zero on both sides, and the error too.
    distinct = ~torch.eye(n, dtype=torch.bool, device=first.device)
    return (error * distinct).sum() / max(1, vertices * (n - 1) * (n - 2))


def _cosines(cloud: Tensor, vertices: int) -> Tensor:
    """Cosines of the angles at the first V places between the directions to all N, [V, N, N]."""
    rays = F.normalize(cloud[None] - cloud[:vertices, None], dim=2, eps=TINY)
    return rays @ rays.transpose(1, 2)


def similarity_preserving(
    *, student: Tensor, teacher: Tensor, examples: Examples = "places", places: int = 256, seed: int = 0
) -> Tensor:
    """Compare which examples are similar: the matrices of their inner products, rows scaled to length 1.

    Mean over the n rows of the squared distance between a row of the student's matrix and the teacher's; range [0, 4],
    0 if they agree. Invariant to rotations (about zero) and a scale of either side's feature space.

    * ``batch``: an example is a patch with all its channels and places, as in the paper. With one patch it is constant
      and with two it says next to nothing, which is what fits on a GPU in 3D.
    * ``places``: an example is one of n sampled places of the whole batch (ours).

    Source: Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, arXiv 1907.09682. Theirs is divided by
    n once more; here the value does not shrink with the number of examples.

    Args:
        student: [B, C, Z, Y, X].
        teacher: [B, D, Z, Y, X], D may differ from C.
        examples: "batch" or "places", see above.
        places: at least 3; all places if there are fewer.
        seed: of the sample.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the grids differ, ``places`` is too small, or ``examples`` is unknown.

    Example:
        >>> apart, same = torch.eye(4).view(1, 4, 1, 2, 2), torch.ones(1, 1, 1, 2, 2)
        >>> [similarity_preserving(student=student, teacher=apart).item() for student in (apart.roll(1, 1), same)]
        [0.0, 1.0]
    """
    if examples == "batch":
        with float32_maps(student=student, teacher=teacher, same_channels=False) as maps:
            return _similarity_error(*(features.flatten(1) for features in maps))
    if examples == "places":
        with sampled_clouds(student=student, teacher=teacher, places=places, seed=seed) as clouds:
            return _similarity_error(*clouds)
    raise ValueError(f"examples={examples} is unknown; accepted: batch, places")


def _similarity_error(first: Tensor, second: Tensor) -> Tensor:
    return (_row_similarity(first) - _row_similarity(second)).square().sum(1).mean()


def _row_similarity(rows: Tensor) -> Tensor:
    """Inner products of [N, C] with one another, each row scaled to length 1, [N, N]."""
    products = rows @ rows.T
    # An example of zeros beside long ones: its row of products grows with them, so the bound on the gradient must too.
    longest = rows.detach().norm(dim=1).amax().clamp(min=TINY)
    return products / products.norm(dim=1, keepdim=True).clamp(min=TINY * longest)


@contextmanager
def sampled_clouds(
    *, student: Tensor, teacher: Tensor, places: int, seed: int, least: int = 3
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give both maps at the same sampled places, [N, C] and [N, D], as `float32_maps` does."""
    if places < least:
        raise ValueError(f"places={places} is too small; accepted: {least} or more")
    with float32_maps(student=student, teacher=teacher, same_channels=False) as (s, t):
        index = _sample(s, places=places, seed=seed)
        yield _rows(s, index), _rows(t, index)


def _sample(features: Tensor, *, places: int, seed: int) -> Tensor:
    """Draw distinct places of the whole batch of [B, C, Z, Y, X] in random order, [N] indices into B * Z * Y * X."""
    # Its own generator, so that the global one, and with it data and dropout, goes on as without this loss.
    generator = torch.Generator(features.device).manual_seed(seed)
    count = features[:, 0].numel()
    return torch.randperm(count, generator=generator, device=features.device)[:places]


def _rows(features: Tensor, index: Tensor) -> Tensor:
    """Read [B, C, Z, Y, X] at places, [N, C], without a copy of the whole map."""
    flat = features.flatten(2).transpose(1, 2)
    size = flat.shape[1]
    return flat[index // size, index % size]
