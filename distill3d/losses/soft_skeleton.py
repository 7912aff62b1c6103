"""A centerline that has a gradient: the soft skeleton of a probability map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SPACE = (2, 3, 4)
_Pick = Callable[[Tensor, Tensor], Tensor]


def soft_skeleton(prob: Tensor, known: Tensor, *, iterations: int) -> Tensor:
    """Return the soft skeleton of a map: what an opening would lose, at each of several erosions.

    With ``e_0 = prob``, ``e_k+1 = erode(e_k)`` (least of a voxel and its six face neighbors) and dilation (greatest of
    3 x 3 x 3), ``r_k = relu(e_k - dilate(e_k+1))``, the skeleton is ``1 - prod_k (1 - r_k)``, k = 0 .. ``iterations``.
    Unknown voxels are no neighbors, nor are those outside. In [0, 1] for ``prob`` in [0, 1]; a mask gives a mask.
    Where several voxels attain an extreme, each gets an equal part of its gradient. Only the arguments are kept for the
    gradient; the rest is computed again, which is cheap. It has no second derivative.

    Source: Shit et al. 2021, clDice (CVPR), algorithm 1, arXiv 2003.07311.

    Args:
        prob: [B, 1, Z, Y, X], at least float32.
        known: [B, 1, Z, Y, X] bool.
        iterations: number of further erosions, at least the radius of the widest neurite in voxels.

    Returns:
        [B, 1, Z, Y, X], 0 where unknown.

    Example:
        >>> bar = torch.zeros(1, 1, 3, 5, 9); bar[..., 1:4, 1:8] = 1
        >>> soft_skeleton(bar, bar >= 0, iterations=1)[0, 0, 1].int().tolist()[2]
        [0, 0, 1, 1, 1, 1, 1, 0, 0]
    """
    skeleton = _SoftSkeleton.apply(prob, known, iterations)
    if not isinstance(skeleton, Tensor):
        raise TypeError(f"the soft skeleton is {type(skeleton).__name__}")
    return skeleton


@final
class _SoftSkeleton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prob: Tensor, known: Tensor, iterations: int) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.save_for_backward(prob, known)
        ctx.iterations = iterations
        eroded = prob.masked_fill(~known, 1)
        skeleton = torch.zeros_like(prob)
        for _ in range(iterations + 1):
            following = _erode(eroded).masked_fill_(~known, 0)
            left = (eroded - _dilate(following)).relu_()
            skeleton += left * (1 - skeleton)
            eroded = following.masked_fill_(~known, 1)
        return skeleton.masked_fill_(~known, 0)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the first argument's name
        ctx: Any,  # noqa: ANN401 - torch's context
        *grad_outputs: Tensor,
    ) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        prob, known = ctx.saved_tensors
        unknown = ~known
        eroded, missing = [prob.masked_fill(unknown, 1)], []  # e_k and prod_j<=k (1 - r_j)
        for _ in range(ctx.iterations + 1):
            following = _erode(eroded[-1]).masked_fill_(unknown, 0)
            left = (eroded[-1] - _dilate(following)).relu_()
            missing.append((1 - left) * missing[-1] if missing else 1 - left)
            eroded.append(following.masked_fill_(unknown, 1))
        grad = grad.masked_fill(unknown, 0)
        later = torch.zeros_like(prob)  # gradient at e_k+1
        for k in reversed(range(ctx.iterations + 1)):
            inner = eroded[k + 1].masked_fill(unknown, 0)
            rest = eroded[k] - _dilate(inner)
            at_left = grad * (missing[k - 1] if k else 1) * (rest > 0)
            grad = grad * (1 - rest.relu_())
            later = (later - _undilate(at_left, inner)).masked_fill_(unknown, 0)
            later = at_left + _route(later, eroded[k], eroded[k + 1], _SPACE)
        return later.masked_fill_(unknown, 0), None, None


def _erode(value: Tensor) -> Tensor:
    """Return the least of each voxel and its six face neighbors."""
    z, y, x = (_extreme(value, axis, torch.minimum) for axis in _SPACE)
    return torch.minimum(torch.minimum(z, y), x)


def _dilate(value: Tensor) -> Tensor:
    """Return the greatest of the 3 x 3 x 3 voxels around each."""
    for axis in _SPACE:
        value = _extreme(value, axis, torch.maximum)
    return value


def _undilate(grad: Tensor, value: Tensor) -> Tensor:
    """Return the gradient at the argument of `_dilate` from that at its result."""
    stages = [value]
    for axis in _SPACE:
        stages.append(_extreme(stages[-1], axis, torch.maximum))
    for axis in reversed(_SPACE):
        result = stages.pop()
        grad = _route(grad, stages[-1], result, (axis,))
    return grad


def _extreme(value: Tensor, axis: int, pick: _Pick) -> Tensor:
    """Return the extreme of three neighbors along an axis, of two at its ends."""
    size = value.shape[axis]
    if size == 1:
        return value
    pairs = pick(value.narrow(axis, 0, size - 1), value.narrow(axis, 1, size - 1))
    triples = pick(pairs.narrow(axis, 0, size - 2), pairs.narrow(axis, 1, size - 2))
    return torch.cat([pairs.narrow(axis, 0, 1), triples, pairs.narrow(axis, size - 2, 1)], dim=axis)


def _route(grad: Tensor, value: Tensor, extreme: Tensor, axes: Sequence[int]) -> Tensor:
    """Hand the gradient at an extreme, of a voxel and its neighbors along ``axes``, to those of them that attain it."""
    attains = (value == extreme).to(grad.dtype)
    count, neighbors = attains.clone(), []
    for axis in axes:
        rest = value.shape[axis] - 1
        for here, there in ((0, 1), (1, 0)):
            hit = (value.narrow(axis, there, rest) == extreme.narrow(axis, here, rest)).to(grad.dtype)
            count.narrow(axis, here, rest).add_(hit)
            neighbors.append((axis, here, there, hit))
    share = grad / count
    routed = share * attains
    for axis, here, there, hit in neighbors:
        rest = value.shape[axis] - 1
        routed.narrow(axis, there, rest).addcmul_(share.narrow(axis, here, rest), hit)
    return routed
