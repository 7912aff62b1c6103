"""Reason over a whole feature map as over a small, fully connected graph."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

EPS = 1e-5  # added to the variance
MOMENTUM = 0.1  # of the running statistics; both are torch's defaults


@final
class GlobalReasoning3d(nn.Module):
    """Project voxels onto M nodes, reason over the nodes, project back, add. It starts as the identity.

    With x [C, V] the V voxels of one patch and M nodes of S = 2M states:

    * projection: ``X = W_x x + b_x`` [S, V], ``B = W_b x + b_b`` [M, V] (no softmax), ``G = X B^T / V`` [S, M];
    * reasoning: ``Z = W_g relu(G A^T + a + G)`` [S, M], A [M, M] the learned adjacency;
    * back: ``y = x + norm(W_e Z B)``, a batch normalization whose scale and offset start at 0.

    X, B and W_e Z B are never formed. G and the batch's statistics follow from the mean of x and its second moments
    [C, C], so that x and y are joined by one C x C matrix and one offset per patch. The result is the same, but only
    x and y are stored instead of seven maps, and a voxel costs 2 C^2 products instead of 4 C S. Moments and matrices
    are float32 at least, under autocast too; only the last product has the type of the convolutions around it. In
    training the statistics are those of the process's own batch, as in torch's batch normalization.

    Source: Chen et al. 2019, Graph-based global reasoning networks (CVPR), section 3; in a 3D U-Net: Wang et al. 2021,
    arXiv 2101.08910. Our choice: projections and adjacency have biases, W_g and W_e none; initial values are torch's.

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
        voxels = image.flatten(2)
        with torch.autocast(image.device.type, enabled=False):
            precise = voxels.to(torch.promote_types(image.dtype, torch.float32))
            mean = precise.mean(2, keepdim=True)
            moments = torch.bmm(precise, precise.transpose(1, 2)) / voxels.shape[2]
            mixing, offset = self._reason(mean, moments)
            mixing, offset = self._normalize(mixing, offset, mean, moments, count=voxels.shape[2])
        mixing, offset = mixing.to(image.dtype), offset.to(image.dtype)
        if image.is_contiguous():
            added = torch.baddbmm(offset, mixing, voxels)
        else:  # channels last, as convolutions leave it on a CPU; the sum is slow unless both terms have one layout
            added = torch.baddbmm(offset.mT, voxels.mT, mixing.mT).mT
        return image + added.to(image.dtype).view(image.shape)

    def _reason(self, mean: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Return matrix [B, C, C] and offset [B, C, 1] that take x to ``W_e Z B``, from the moments of x."""
        states, nodes = self.to_states, self.to_nodes
        # X B^T / V of two affine maps of x.
        linear = (states.weight @ moments + states.bias[:, None] * mean.mT) @ nodes.weight.T
        graph = linear + (states.weight @ mean + states.bias[:, None]) * nodes.bias
        back = self.extend.weight @ self.update.weight @ (self.adjacency(graph) + graph).relu()
        return back @ nodes.weight, back @ nodes.bias[:, None]

    def _normalize(
        self, mixing: Tensor, offset: Tensor, mean: Tensor, moments: Tensor, *, count: int
    ) -> tuple[Tensor, Tensor]:
        """Put the batch normalization of ``mixing x + offset`` into the matrix and the offset."""
        if self.training:
            per_patch = mixing @ mean + offset
            center = per_patch.mean(0)
            within = (mixing @ (moments - mean @ mean.mT) * mixing).sum(2, keepdim=True)
            variance = (within + (per_patch - center).square()).mean(0).clamp(min=0)
            self._track(center[:, 0], variance[:, 0], samples=count * len(mean))
        else:
            center, variance = self.running_mean[:, None], self.running_var[:, None]
        scale = self.scale[:, None] * (variance + EPS).rsqrt()
        return scale * mixing, scale * (offset - center) + self.shift[:, None]

    @torch.no_grad()
    def _track(self, center: Tensor, variance: Tensor, *, samples: int) -> None:
        unbiased = variance * (samples / max(samples - 1, 1))
        self.running_mean.lerp_(center.to(self.running_mean), MOMENTUM)
        self.running_var.lerp_(unbiased.to(self.running_var), MOMENTUM)
