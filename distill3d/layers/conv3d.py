"""3D forms of 2D convolutions and poolings that agree with them exactly in the YX plane."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DepthKernel = Literal["full", "three", "one", "neurino"]
DepthPadding = Literal["zeros", "replicate"]


def depth_kernel_size(plane: int, *, rule: DepthKernel, stride: int) -> int:
    """Choose the depth extent of a kernel that measures ``plane`` x ``plane`` in the plane.

    Odd kernels get ``plane`` ("full"), at most 3 ("three", "neurino"), or 1 ("one"). Even kernels are those of
    patch-like layers (ConvNeXt's stem and downsampling): they are as deep as their depth stride, so that slices are
    neither skipped nor shared; "full" and "neurino" keep them cubic where that leaves a symmetric padding. "one" never
    looks at a neighboring slice, so that a depth stride then drops slices.

    Args:
        plane: extent in the plane, at least 1.
        rule: see above.
        stride: depth stride of the layer.

    Example:
        >>> [depth_kernel_size(5, rule=rule, stride=1) for rule in ("full", "three", "one")]
        [5, 3, 1]
        >>> [depth_kernel_size(4, rule="full", stride=stride) for stride in (1, 2, 4)]
        [1, 4, 4]
    """
    if rule == "one" or plane == 1:
        return 1
    if plane % 2:
        return plane if rule == "full" else min(plane, 3)
    cubic = rule in {"full", "neurino"} and plane >= stride and (plane - stride) % 2 == 0
    return plane if cubic else stride


def depth_padding_size(depth: int, *, stride: int) -> int:
    """Return the padding at both ends that makes ``Z // stride`` slices of Z, for Z divisible by ``stride``.

    Example:
        >>> depth_padding_size(3, stride=2), depth_padding_size(4, stride=2), depth_padding_size(2, stride=2)
        (1, 1, 0)
    """
    return (depth - 1) // 2 if depth % 2 else max(depth - stride, 0) // 2


@final
class PlaneConv3d(nn.Conv3d):
    """A 3D convolution whose padding in the plane is that of a 2D one, and whose depth padding is set apart from it.

    TensorFlow's "same" padding depends on the input's size and is not symmetric; networks trained with it (timm's
    ``tf_`` models) need exactly that padding.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: ZYX.
        stride: ZYX.
        plane_padding: YX, at both ends; None pads as TensorFlow's "same" does.
        depth_padding: what lies beyond the first and last slice.
        dilation: ZYX.
        groups: as in `torch.nn.Conv3d`.
        bias: as in `torch.nn.Conv3d`.
        shift: add a buffer ``shift`` [out_channels], zero at first, that acts like a bias but is never trained. A
            stem without bias keeps there what its teacher's input channels add because their means differ.

    Raises:
        ValueError: both ``bias`` and ``shift`` are set.
    """

    shift: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        plane_padding: tuple[int, int] | None = (0, 0),
        depth_padding: DepthPadding = "zeros",
        dilation: tuple[int, int, int] = (1, 1, 1),
        groups: int = 1,
        bias: bool = True,
        shift: bool = False,
    ) -> None:
        if bias and shift:
            raise ValueError("a convolution with a bias needs no shift: add it to the bias")
        depth = depth_padding_size(kernel_size[0], stride=stride[0])
        self.ends = depth if depth_padding == "replicate" else 0
        self.same = plane_padding is None
        pad_y, pad_x = plane_padding or (0, 0)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(depth - self.ends, pad_y, pad_x),
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.register_buffer("shift", self.weight.new_zeros(out_channels) if shift else None)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Convolve [B, C, Z, Y, X]."""
        image = input
        if image.device.type == "cpu":
            # In the other layout the gradient of a depthwise kernel takes 10 to 50 times as long (oneDNN, torch 2.14).
            image = image.contiguous(memory_format=torch.channels_last_3d)
        if self.ends:
            image = F.pad(image, (0, 0, 0, 0, self.ends, self.ends), mode="replicate")
        if self.same:
            image = F.pad(image, (*self._same(image.shape[4], 2), *self._same(image.shape[3], 1)))
        # Flattening gives the gradient the weight's own strides, which DistributedDataParallel insists on.
        weight = self.weight.flatten().view_as(self.weight)
        maps = self._conv_forward(image, weight, self.bias if self.shift is None else self.shift)
        # A kernel of one voxel or channel has no layout, and torch takes the other one, which what follows would copy
        return maps.contiguous(memory_format=torch.channels_last_3d) if image.device.type == "cpu" else maps

    def _same(self, size: int, axis: int) -> tuple[int, int]:
        kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        total = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        return total // 2, total - total // 2


def pool_depth(plane: int, *, stride: int) -> int:
    """Return the depth extent of a pooling window: one slice where the depth is not strided, so that slices never mix.

    Example:
        >>> pool_depth(3, stride=1), pool_depth(3, stride=2)
        (1, 3)
    """
    return 1 if stride == 1 else max(plane, stride)
