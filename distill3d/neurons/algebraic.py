"""Neuron types of products and squares: what a layer computes before its activation.

With ``init: identity`` every type starts as the linear neuron it was made from, so that transferred weights keep their
meaning: by the ReLinear initialization where the formula allows it, else as the layer plus a factor, zero at first,
times the formula (called ours below). With ``init: random`` the formula stands alone: kernels other than the layer's
are drawn, and the network's output changes. Types that imitate nerve cells are in `distill3d.neurons.biological`, those
that are made of functions of one's choice in `distill3d.neurons.functions`.

Source: Fan et al. 2023, NeuroAI, arXiv 2301.09245, and the work it cites for each type. Squares, products and powers
overflow in half precision: use bf16 or float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from distill3d.config.registry import NEURONS
from distill3d.layers.norm3d import Norm, make_norm
from distill3d.neurons.base import Neuron, NeuronConfig, at_least, per_channel


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig(NeuronConfig):
    """Settings of ``linear``."""

    where: tuple[str, ...] = ()  # nothing is converted: a network as it was built
    gate_lr_ratio: float = 1e-3  # of nothing: it has no gates


@NEURONS.register("linear", config=LinearConfig)
@final
class Linear(Neuron):
    """The conventional neuron, ``w x + b``, which every network has; the control of a conversion."""

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:  # noqa: ARG002 - other types do
        """Return the linear response."""
        return linear


@dataclass(frozen=True, kw_only=True, slots=True)
class QuadraticConfig(NeuronConfig):
    """Settings of ``quadratic``."""

    gate_lr_ratio: float = 0.5  # measured


@NEURONS.register("quadratic", config=QuadraticConfig)
@final
class Quadratic(Neuron):
    """The quadratic neuron, ``(w_r x + b_r)(w_g x + b_g) + w_b (x * x) + c``.

    Identity is ReLinear: w_g = 0, b_g = 1, w_b = 0, c = 0. A layer without bias has neither b_r nor c.

    Source: Fan et al., quadratic neurons and the ReLinear initialization, as reviewed in arXiv 2301.09245.

    Example:
        >>> conv = nn.Conv3d(2, 4, 3, padding=1)
        >>> image = torch.rand(1, 2, 4, 4, 4)
        >>> torch.equal(Quadratic(QuadraticConfig(), conv=conv)(image, linear=conv(image)), conv(image))
        True
    """

    gated = ("gate", "square")

    def __init__(self, config: QuadraticConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.gate = self.branch(conv, bias=1.0, zero=self.starts_linear)
        self.square = self.branch(conv, bias=self.constant, zero=self.starts_linear)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X]."""
        return linear * self.gate(image) + self.square(image * image)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactQuadraticConfig(NeuronConfig):
    """Settings of ``compact_quadratic``."""

    gate_lr_ratio: float = 1.0  # measured


@NEURONS.register("compact_quadratic", config=CompactQuadraticConfig)
@final
class CompactQuadratic(Neuron):
    """The compact quadratic neuron, ``w_r x + w_b (x * x) + c``: two thirds of the quadratic one's parameters.

    Identity: w_b = 0. The layer's own bias is c.

    Source: as `Quadratic`.
    """

    gated = ("square",)

    def __init__(self, config: CompactQuadraticConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.square = self.branch(conv, bias=None, zero=self.starts_linear)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X]."""
        return linear + self.square(image * image)


@dataclass(frozen=True, kw_only=True, slots=True)
class T4LinearConfig(NeuronConfig):
    """Settings of ``t4_linear``."""

    gate_lr_ratio: float = 10.0  # measured; one factor per channel is all there is to open
    norm: Norm = "batch"  # of the responses; published: batch. See distill3d.layers.norm3d


@NEURONS.register("t4_linear", config=T4LinearConfig)
@final
class T4Linear(Neuron):
    """Type 4 and linear, ``BN(W_a x) * BN(W_b x) + BN(W_c x)``; the layer is W_c.

    Identity is ours, since a normalized response is not the layer's: ``W_c x + g * (BN(W_a x) * BN(W_b x))``, g = 0.
    The network's own normalization, where it has one, then stands in for the third BN.

    Source: Xu et al. 2022, QuadraLib.
    """

    gated = ("gain",)

    def __init__(self, config: T4LinearConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.left = nn.Sequential(self.branch(conv, bias=None, zero=False), _normalized(conv, config.norm))
        self.right = nn.Sequential(self.branch(conv, bias=None, zero=False), _normalized(conv, config.norm))
        self.norm = nn.Identity() if self.starts_linear else _normalized(conv, config.norm)
        self.gain = self.added_gain(conv)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X]."""
        product = self.left(image) * self.right(image)
        return self.norm(linear) + (product if self.gain is None else per_channel(self.gain, product))


def _normalized(conv: nn.Conv3d, norm: Norm) -> nn.Module:
    return make_norm(norm, conv.out_channels).to(conv.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolynomialConfig(NeuronConfig):
    """Settings of ``polynomial``."""

    gate_lr_ratio: float = 5.0  # measured, with order 3
    order: int = 2  # K, of the highest products
    rank: int = 1  # R, products of each order

    def __post_init__(self) -> None:
        NeuronConfig.__post_init__(self)
        at_least(2, order=self.order)
        at_least(1, rank=self.rank)


@NEURONS.register("polynomial", config=PolynomialConfig)
@final
class Polynomial(Neuron):
    """A polynomial in CP form, ``b + sum_k C_k sum_r prod_i (u_kir x)``, with k up to K and r up to R.

    The layer is order 1, bias included. C_k is a factor per output channel; identity: C_k = 0 for k > 1, random: 1.

    Source: as in arXiv 2301.09245. That every output channel has its own C_k and u_kir is how we read it.
    """

    gated = ("scales",)

    def __init__(self, config: PolynomialConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.rank = config.rank
        self.products = nn.ModuleList(
            Product(*(self.branch(conv, bias=None, zero=False) for _ in range(order)))
            for order in range(2, config.order + 1)
            for _ in range(config.rank)
        )
        start = torch.zeros if self.starts_linear else torch.ones
        self.scales = nn.Parameter(start(config.order - 1, conv.out_channels).to(conv.weight))

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X]."""
        total = linear
        for index, product in enumerate(self.products):
            total = total + per_channel(self.scales[index // self.rank], product(image))
        return total


@final
class Product(nn.Sequential):
    """Multiply the outputs of its modules for the same image."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Map [B, C, Z, Y, X]."""
        first, *others = self
        product = first(input)
        for module in others:
            product = product * module(input)
        return product
