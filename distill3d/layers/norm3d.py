"""Normalization layers in 3D that keep the parameter names of their 2D forms.

At batch size 2, which 3D patches allow, the choice matters:

* ``batch``: statistics of the batch in training (two patches hold 10^4 to 10^6 samples per channel, enough), running
  ones in evaluation. Keeps a teacher's running statistics, which its first training steps do not use: on a stack of
  neurons EfficientNet-Lite0 starts as far from ImageNet's function as with ``instance`` (a relative error above 1).
  Training in several processes is NOT the same as in one, but with `synchronize_batch_norm`.
* ``frozen``: running statistics always, affine parameters trained. The network computes in training exactly what its
  teacher does, but one that starts from random values is not normalized at all.
* ``instance``: statistics of each patch and channel. The same in training and evaluation, in one process and several,
  from random values and from a teacher's: its affine parameters still set the mean and spread of a channel.
* ``group``: as ``instance``, over up to 8 groups of channels, which keeps contrasts between channels of one group.
"""

from __future__ import annotations

from typing import Literal, final

import torch.nn.functional as F
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

Norm = Literal["batch", "frozen", "instance", "group"]


def group_count(channels: int, *, at_most: int = 8) -> int:
    """Return the largest number of equal groups, up to ``at_most``.

    Example:
        >>> group_count(24), group_count(20), group_count(7)
        (8, 5, 7)
    """
    return max(n for n in range(1, min(channels, at_most) + 1) if channels % n == 0)


def make_norm(kind: Norm, channels: int, *, eps: float = 1e-5, act: nn.Module | None = None) -> nn.Module:
    """Build a normalization of ``channels``, with trainable scale and offset, followed by ``act``.

    Args:
        kind: see the module's docstring.
        channels: of the input.
        eps: added to the variance.
        act: applied last; None applies nothing.
    """
    if kind in {"batch", "frozen"}:
        return BatchNormAct3d(channels, eps=eps, act=act, frozen=kind == "frozen")
    return GroupNormAct3d(channels if kind == "instance" else group_count(channels), channels, eps=eps, act=act)


@final
class BatchNormAct3d(nn.BatchNorm3d):
    """Batch normalization and an activation under the names of timm's ``BatchNormAct2d``.

    Args:
        channels: of the input.
        eps: added to the variance.
        act: applied last; None applies nothing.
        frozen: use the running statistics in training too, and leave them as they are.
        momentum: of the running statistics.
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        act: nn.Module | None = None,
        frozen: bool = False,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.act = nn.Identity() if act is None else act
        self.frozen = frozen

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Normalize [B, C, Z, Y, X] and activate."""
        if self.frozen:
            mean, var = self.running_mean, self.running_var
            return self.act(F.batch_norm(input, mean, var, self.weight, self.bias, training=False, eps=self.eps))
        return self.act(super().forward(input))


@final
class SyncBatchNormAct3d(nn.SyncBatchNorm):
    """`BatchNormAct3d` with the statistics of the batches of all processes, which are on GPUs.

    Args:
        layer: whose parameters, statistics and activation it takes over; not a frozen one.
    """

    def __init__(self, layer: BatchNormAct3d) -> None:
        super().__init__(layer.num_features, eps=layer.eps, momentum=layer.momentum)
        self.weight, self.bias, self.act = layer.weight, layer.bias, layer.act
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.train(layer.training)  # one whose statistics are held stays so: Lightning goes on with the mode it finds

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Normalize [B, C, Z, Y, X] and activate."""
        return self.act(super().forward(input))


def synchronize_batch_norm(module: nn.Module) -> int:
    """Let the batch norm of a network share its statistics between processes; parameters and names stay.

    Returns:
        How many layers do; those that are frozen have nothing to share.
    """
    count = 0
    for name, child in module.named_children():
        if isinstance(child, BatchNormAct3d):
            if not child.frozen:
                setattr(module, name, SyncBatchNormAct3d(child))
                count += 1
        elif isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, convert_sync_batchnorm(child))  # timm's; torch's would drop an activation
            count += 1
        else:
            count += synchronize_batch_norm(child)
    return count


@final
class GroupNormAct3d(nn.GroupNorm):
    """Group normalization and an activation; with as many groups as channels it is instance normalization.

    Unlike torch's instance normalization it accepts a single voxel, whose normalized value is 0, in a batch of several.

    Args:
        groups: number of groups; divides ``channels``.
        channels: of the input.
        eps: added to the variance.
        act: applied last; None applies nothing.
    """

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5, act: nn.Module | None = None) -> None:
        super().__init__(groups, channels, eps=eps)
        self.act = nn.Identity() if act is None else act

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Normalize [B, C, Z, Y, X] and activate."""
        return self.act(super().forward(input))


@final
class ChannelLayerNorm3d(nn.LayerNorm):
    """Layer normalization over the channels of [B, C, Z, Y, X], voxel by voxel: timm's ``LayerNorm2d`` in 3D."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Normalize every voxel's channels."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)
