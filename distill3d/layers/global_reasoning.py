"""Reason over a whole feature map as over a small, fully connected graph."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import Function

EPS = 1e-4  # added to the variance; as in the authors' code
MOMENTUM = 0.1  # of the running statistics; torch's default, as there


@final
class GlobalReasoning3d(nn.Module):
    """Project voxels onto M nodes, reason over the nodes, project back, add. It starts as the identity.

    With x [C, V] the V voxels of one patch and M nodes of S = 2M states:

    * projection: ``X = W_x x + b_x`` [S, V], ``B = W_b x + b_b`` [M, V] (no softmax), ``G = X B^T / V`` [S, M];
    * reasoning: ``Z = W_g relu(G A^T + a + G)`` [S, M], A [M, M] the learned adjacency;
    * back: ``y = x + norm(W_e Z B)``, a batch normalization whose scale and offset start at 0.

    X, B and W_e Z B are never formed. G and the batch's statistics follow from the mean of x and its covariance [C, C],
    so that x and y are joined by one C x C matrix and one offset per patch. The result is the same, but only x less its
    mean and y are stored instead of seven maps, and a voxel costs 2 C^2 products instead of 4 C S. What varies is never
    computed as a difference of large numbers, so features far from 0 keep float32's precision. Moments and matrices are
    float32 at least, under autocast too; only the last product has the type of the convolutions around it. In training
    the statistics are those of the process's own batch, as in torch's batch normalization.

    Source: Chen et al. 2019, Graph-based global reasoning networks (CVPR), section 3; in a 3D U-Net: Wang et al. 2021,
    arXiv 2101.08910. Biases, and the BN's eps, are those of the authors' code; initial values are torch's.

    Args:
        channels: C, of the map.
        nodes: M, at least 1.

    Raises:
        ValueError: ``nodes`` is below 1.

    Example:
        >>> unit, features = GlobalReasoning3d(8, nodes=4), torch.rand(2, 8, 3, 4, 5)
        >>> torch.equal(unit(features), features)
        True
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, nodes: int) -> None:
        super().__init__()
        if nodes < 1:
            raise ValueError(f"nodes={nodes} is too small; accepted: 1 or more")
        # Matrices and not convolutions: they are multiplied with each other before they are applied to voxels.
        self.to_states = nn.Linear(channels, 2 * nodes)
        self.to_nodes = nn.Linear(channels, nodes)
        self.adjacency = nn.Linear(nodes, nodes)
        self.update = nn.Linear(2 * nodes, 2 * nodes, bias=False)
        self.extend = nn.Linear(2 * nodes, channels, bias=False)
        self.scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, image: Tensor) -> Tensor:
        """Return [B, C, Z, Y, X] for [B, C, Z, Y, X]."""
        flat = image.flatten(2)
        with torch.autocast(image.device.type, enabled=False):
            precise = flat.to(torch.promote_types(image.dtype, torch.float32))
            mean, varied, covariance = _Moments.apply(precise)
            mixing, offset = self._reason(mean, covariance)
            mixing, offset = self._normalize(mixing, mixing @ mean + offset, covariance, count=varied.shape[2])
        mixing, offset, varied = (each.to(image.dtype) for each in (mixing, offset, varied))
        return _Added.apply(flat, varied, mixing, offset).view(image.shape)

    def _reason(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Return matrix [B, C, C] and offset [B, C, 1] that take x to ``W_e Z B``, from the moments of x."""
        states, nodes = self.to_states, self.to_nodes
        # X B^T / V of two affine maps of x: what varies, and the product of the means.
        varied = states.weight @ covariance @ nodes.weight.T
        graph = varied + (states.weight @ mean + states.bias[:, None]) @ (nodes.weight @ mean + nodes.bias[:, None]).mT
        back = self.extend.weight @ self.update.weight @ (self.adjacency(graph) + graph).relu()
        return back @ nodes.weight, back @ nodes.bias[:, None]

    def _normalize(self, mixing: Tensor, per_patch: Tensor, covariance: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
        """Put the batch normalization of ``mixing (x - mean) + per_patch`` into the matrix and the offset."""
        if self.training:
            center = per_patch.mean(0)
            within = (mixing @ covariance * mixing).sum(2, keepdim=True)
            variance = (within + (per_patch - center).square()).mean(0).clamp(min=0)
            self._track(center[:, 0], variance[:, 0], samples=count * len(per_patch))
        else:
            center, variance = self.running_mean[:, None], self.running_var[:, None]
        scale = self.scale[:, None] * (variance + EPS).rsqrt()
        return scale * mixing, scale * (per_patch - center) + self.shift[:, None]

    @torch.no_grad()
    def _track(self, center: Tensor, variance: Tensor, *, samples: int) -> None:
        unbiased = variance * (samples / max(samples - 1, 1))
        self.running_mean.lerp_(center.to(self.running_mean), MOMENTUM)
        self.running_var.lerp_(unbiased.to(self.running_var), MOMENTUM)


class _Moments(Function):
    """Mean, what is left of x without it, and covariance; a gradient of one product where autograd makes two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - torch's
        mean = x.mean(2, keepdim=True)
        varied = x - mean
        ctx.save_for_backward(varied)
        return mean, varied, torch.bmm(varied, varied.mT) / varied.shape[2]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ANN401
        of_mean, of_varied, of_covariance = grad_outputs
        (varied,) = ctx.saved_tensors
        both = (of_covariance + of_covariance.mT) / varied.shape[2]
        return _affine(both, varied, of_mean / varied.shape[2] - of_varied.mean(2, keepdim=True)).add_(of_varied)


class _Added(Function):
    """``x + mixing varied + offset``; the gradient, often every second channel of a larger one, is made dense first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, varied: Tensor, mixing: Tensor, offset: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(varied, mixing)
        return _affine(mixing, varied, offset).to(x.dtype).add_(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401
        varied, mixing = ctx.saved_tensors
        dense = torch.empty_like(varied).copy_(grad_outputs[0])
        to_varied = torch.bmm(mixing.mT, dense) if varied.is_contiguous() else torch.bmm(dense.mT, mixing).mT
        return dense, to_varied, torch.bmm(dense, varied.mT), dense.sum(2, keepdim=True)


def _affine(matrix: Tensor, x: Tensor, offset: Tensor) -> Tensor:
    """Return ``matrix x + offset`` in the layout of x, channels last as convolutions leave it on a CPU or not."""
    if x.is_contiguous():
        return torch.baddbmm(offset, matrix, x)
    return torch.baddbmm(offset.mT, x.mT, matrix.mT).mT
