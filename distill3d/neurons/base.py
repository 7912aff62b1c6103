"""What all neuron types share: their settings, and the convolutions that are added beside a layer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distill3d.layers.conv3d import PlaneConv3d

Match = Literal["width", "parameters"]
Start = Literal["identity", "random"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronConfig:
    """Settings that every neuron type has; a type adds its own.

    The rate of a type's gates suits AdamW, whose steps have one size whatever the gradient; the published ratios (1e-4
    to 1e-2) belong to SGD. It was measured on small patches with the settings of ``scratch``, so that in its 180 steps
    the nonlinear part grows to a tenth of the linear one or more (`distill3d.neurons.nonlinear`).
    """

    where: tuple[str, ...] = ("encoder.*",)  # fnmatch patterns on the paths of 3D convolutions and linear layers
    ratio: float = 0.5  # share of the matching layers, spread evenly in their order, in (0, 1]
    channels: float = 1.0  # share of a layer's output channels, in (0, 1]; other types in the list may take the rest
    match: Match = "width"  # "parameters": added convolutions have one filter each, see NarrowConv3d
    init: Start = "identity"  # the network computes what it did before; "random": the type's formula, kernels drawn
    gate_lr_ratio: float = 1.0  # learning rate of the gates relative to `optimizer.lr`

    def __post_init__(self) -> None:
        for name, share in (("ratio", self.ratio), ("channels", self.channels)):
            if not 0 < share <= 1:
                raise ValueError(f"{name}={share} is out of range; accepted: above 0, at most 1")
        if self.gate_lr_ratio < 0:
            raise ValueError(f"gate_lr_ratio={self.gate_lr_ratio} is negative; accepted: 0 or more")


class Neuron(nn.Module, ABC):
    """The formula of a neuron type, in place of a layer's affine map; the network's activation stays behind it.

    The layer itself computes the linear part. Branches are convolutions of its geometry. A layer without a bias, which
    is followed by a normalization, gets no other constant either.

    Attributes:
        gated: names of the children and parameters that are zero where the neuron is linear: the gates.
        entry: what the layer is applied to instead of the image, elementwise.

    Args:
        config: settings of the type.
        conv: the layer, or a convolution of the geometry of the part that the neuron takes; it is not kept.
    """

    gated: ClassVar[tuple[str, ...]] = ()
    entry: Callable[[Tensor], Tensor] | None = None

    def __init__(self, config: NeuronConfig, *, conv: nn.Conv3d) -> None:
        super().__init__()
        self.match: Match = config.match
        self.gate_lr_ratio = config.gate_lr_ratio
        self.starts_linear = config.init == "identity"
        self.constant = None if conv.bias is None else 0.0

    @abstractmethod
    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X] and the linear response to it to a tensor of the response's shape."""

    @final
    def gates(self) -> dict[str, float]:
        """Names of the parameters that do not decay -> their learning rate relative to the optimizer's."""
        gates = (name for name, _ in self.named_parameters() if name.split(".")[0] in self.gated)
        return dict.fromkeys(gates, self.gate_lr_ratio)

    @final
    def branch(self, conv: nn.Conv3d, *, bias: float | None, zero: bool) -> nn.Module:
        """Build a convolution of the geometry and output channels of ``conv``.

        Args:
            conv: as the neuron got it.
            bias: initial value of its bias; None for no bias.
            zero: whether its response without the bias starts at zero; else kernels are drawn as torch does.
        """
        if self.match == "width":
            branch = convolution = convolution_like(conv, filters=conv.out_channels)
            start = branch.weight
        else:
            branch = NarrowConv3d(conv)
            convolution, start = branch.kernel, branch.gain
        if zero:
            nn.init.zeros_(start)
        if bias is not None:
            convolution.bias = nn.Parameter(start.new_full((conv.out_channels,), bias))
        return branch

    @final
    def added_gain(self, conv: nn.Conv3d) -> nn.Parameter | None:
        """Build zero factors, one per output channel, of what is added to the linear part; None for init=random."""
        return nn.Parameter(conv.weight.new_zeros(conv.out_channels)) if self.starts_linear else None


@final
class NarrowConv3d(nn.Module):
    """A convolution of a layer's geometry with one filter that all output channels share, each with its own gain.

    Its kernel [O, I, Z, Y, X] has rank 1: ``gain[o] * kernel[i, z, y, x]``, and all groups of a grouped layer share it:
    about 1 / O of the layer's parameters. It takes as long as the layer: on CPUs, depthwise and pointwise layers are
    faster with the composed kernel than with one filter whose response is spread over the channels.

    Args:
        conv: the layer whose geometry and width it takes; its values are not used.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.kernel = convolution_like(conv, filters=1)
        self.gain = nn.Parameter(torch.randn_like(conv.weight[:, 0, 0, 0, 0]))

    def forward(self, image: Tensor) -> Tensor:
        """Convolve [B, C, Z, Y, X]."""
        weight = self.gain.view(-1, 1, 1, 1, 1) * self.kernel.weight
        return functional_call(self.kernel, {"weight": weight}, (image,))


def at_least(minimum: int, **values: int) -> None:
    """Raise ValueError if a named setting is below ``minimum``."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name}={value} is too small; accepted: {minimum} or more")


def per_channel(gain: Tensor, image: Tensor) -> Tensor:
    """Multiply every channel of [B, C, Z, Y, X] by its gain [C]; the result has the image's type."""
    return gain.to(image.dtype).view(-1, 1, 1, 1) * image


def convolution_like(conv: nn.Conv3d, *, filters: int) -> nn.Conv3d:
    """Build a convolution of the class and geometry of ``conv``, without bias, with kernels drawn as torch does.

    Args:
        conv: gives channels, groups, kernel size, stride, padding, dilation and whatever its class adds.
        filters: their number: the output channels, or fewer for `NarrowConv3d`.
    """
    twin = copy.deepcopy(conv)
    twin.weight = nn.Parameter(conv.weight.new_empty(filters, *conv.weight.shape[1:]))
    twin.bias = None
    if isinstance(twin, PlaneConv3d):
        twin.shift = None
    twin.reset_parameters()
    return twin
